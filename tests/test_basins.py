"""Basins: the stop rule, counts with intervals that cover, and shares of time with their errors."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import kinopt
from kinopt import basins, ensemble


def test_quadratic_basins_are_ellipsoids_of_the_hessian():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 4)) * 5
    roots = rng.normal(size=(3, 4, 4))
    hessians = roots @ np.swapaxes(roots, 1, 2) + 0.1 * np.eye(4)
    stop = jax.jit(basins.quadratic_basins(centers, hessians))
    for k in range(3):
        direction = rng.normal(size=4)
        radius = 1 / np.sqrt(direction @ hessians[k] @ direction)
        for factor, outcome in ((0.99, k + 1), (1.01, 0)):
            point = jnp.asarray(centers[k] + factor * radius * direction, jnp.float32)
            assert int(stop(point, 0.0)) == outcome
            tree = {"a": point[:1].reshape(()), "b": point[1:].reshape(3, 1)}
            assert int(stop(tree, 0.0)) == outcome


def test_the_nearest_of_overlapping_basins_is_taken():
    stop = basins.quadratic_basins([[0.0], [1.0]], [[[1.0]], [[1.0]]])
    assert [int(stop(jnp.array([x]), 0.0)) for x in (-0.9, 0.4, 0.6, 1.9, 2.1)] == [1, 1, 2, 2, 0]


@pytest.mark.parametrize(
    ("centers", "hessians", "message"),
    [
        (np.zeros(2), np.eye(2)[None], "must have shape"),
        (np.zeros((1, 2)), np.eye(3)[None], "must have shape"),
        (np.zeros((1, 2)), np.array([[[1.0, 1.0], [0.0, 1.0]]]), "symmetric"),
        (np.zeros((1, 2)), -np.eye(2)[None], "positive semidefinite"),
    ],
)
def test_bad_basins_are_refused(centers, hessians, message):
    with pytest.raises(ValueError, match=message):
        basins.quadratic_basins(centers, hessians)
    with pytest.raises(ValueError, match="2 dimensions"):
        basins.quadratic_basins(np.zeros((1, 2)), np.eye(2)[None])(jnp.zeros(3), 0.0)


@given(st.integers(0, 400), st.integers(0, 400))
def test_wilson_interval_is_scipys(k, rest):
    if k + rest == 0:
        assert basins.wilson_interval(0, 0).tolist() == [0, 1]
        return
    exact = scipy.stats.binomtest(k, k + rest).proportion_ci(method="wilson")
    np.testing.assert_allclose(
        basins.wilson_interval(k, k + rest), [exact.low, exact.high], atol=2e-6
    )


@pytest.mark.slow
@given(st.lists(st.integers(-1, 3), min_size=20, max_size=20))
def test_statistics_count_every_seed_once(outcome):
    found = basins.statistics(jnp.array(outcome, jnp.int32), 3)
    assert found.counts.tolist() == [outcome.count(k) for k in (1, 2, 3)]
    assert int(found.num_undecided) == outcome.count(0)
    assert int(found.num_failed) == outcome.count(-1)
    total = int(found.counts.sum() + found.num_undecided + found.num_failed)
    assert total == len(outcome)
    one = two = 0
    for seed, running in zip(outcome, found.running_ratio.tolist(), strict=True):
        one, two = one + (seed == 1), two + (seed == 2)
        if two:
            np.testing.assert_allclose(running, one / two, rtol=1e-6)
        else:
            assert running == np.inf if one else np.isnan(running)


@pytest.mark.slow
def test_intervals_of_fractions_and_ratio_cover_what_they_say():
    """In 400 experiments of 300 seeds with p = (.6, .3, .1), 95 % of the intervals hold the truth.

    0.90 and 0.99 are 4 standard errors of the 400 away.
    """
    p = jnp.array([0.6, 0.3, 0.1])
    draws = jax.random.choice(jax.random.key(3), 3, (400, 300), p=p) + 1
    found = jax.vmap(lambda outcome: basins.statistics(outcome, 3))(draws)
    inside = (found.intervals[..., 0] <= p) & (p <= found.intervals[..., 1])
    covered = jnp.mean(inside, axis=0)
    assert ((covered > 0.90) & (covered < 0.99)).all()
    low, high = found.ratio_interval.T
    covered = jnp.mean((low <= 2.0) & (high >= 2.0))
    assert 0.90 < covered < 0.99
    z = jax.vmap(lambda counts: basins.z_score(counts, p))(found.counts)
    np.testing.assert_allclose(jnp.std(z, axis=0), 1, atol=0.15)


def test_z_score_is_zero_at_the_prediction_and_scales():
    np.testing.assert_allclose(basins.z_score(jnp.array([20, 10]), jnp.array([2.0, 1.0])), 0)
    z = basins.z_score(jnp.array([30, 10]), jnp.array([1.0, 1.0]))
    np.testing.assert_allclose(z, [10 / np.sqrt(10), -10 / np.sqrt(10)], rtol=1e-6)
    with pytest.raises(ValueError, match="one number for each basin"):
        basins.z_score(jnp.array([1, 2]), jnp.array([1.0]))


def test_statistics_refuse_what_they_cannot_count():
    with pytest.raises(ValueError, match="outcome 3 occurs"):
        basins.statistics(jnp.array([1, 3]), 2)
    with pytest.raises(ValueError, match="shape"):
        basins.statistics(jnp.ones((2, 2), int), 2)
    with pytest.raises(ValueError, match="num_basins"):
        basins.statistics(jnp.ones(2, int), 0)


def test_dwell_counts_steps_by_block_and_label():
    tx = basins.dwell(lambda x, value: x, 2, num_steps=11, burn_in=3, num_blocks=2)
    labels = [1, 1, 1, 2, 2, 1, 0, 1, 1, 5, 2, 1, 1]  # 3 burnt in, 2 blocks of 4, 2 too many
    state = tx.init(jnp.zeros(()))
    for x in labels:
        updates, state = tx.update(jnp.array(1.0), state, jnp.array(x), value=0.0)
        assert updates == 1.0
    assert state.num_steps.tolist() == [[1, 2], [2, 1]]
    assert int(state.time) == len(labels)
    with pytest.raises(ValueError, match="num_steps must leave at least one step"):
        basins.dwell(lambda x, value: x, 2, num_steps=3, burn_in=3)
    with pytest.raises(ValueError, match="call update"):
        tx.update(jnp.array(1.0), state, jnp.array(1))


@pytest.mark.slow
def test_occupancy_knows_about_autocorrelation():
    """A two-state chain that stays with probability .98: 49 to 51 steps are one sample.

    The error must be that of the truth, not the binomial one, which is 7 times smaller.
    """

    def chain(key):
        def step(here, key):
            flips = jax.random.bernoulli(key, jnp.where(here, 0.03, 0.01))
            here = here ^ flips
            return here, here

        return jax.lax.scan(step, jnp.zeros((), bool), jax.random.split(key, 4200))[1][200:]

    labels = jax.vmap(chain)(jax.random.split(jax.random.key(5), 100))  # pi = (.75, .25)
    counts = jnp.stack([(~labels).sum(1), labels.sum(1)], axis=1)
    times = basins.occupancy(counts)
    assert abs(float(times.fractions[0]) - 0.75) < 4 * float(times.errors[0])
    assert abs(float(times.ratio) - 3) < 4 * float(times.ratio_error)
    binomial = np.sqrt(0.75 * 0.25 / labels.size)
    true_error = binomial * np.sqrt((1 + 0.96) / (1 - 0.96))  # autocorrelation 1 - .01 - .03
    np.testing.assert_allclose(times.errors[0], true_error, rtol=0.35)
    assert float(times.errors[0]) > 4 * binomial
    with pytest.raises(ValueError, match="at least two"):
        basins.occupancy(jnp.array([3, 4]))


@pytest.mark.slow
def test_dwell_in_an_ensemble_counts_every_step_of_every_seed():
    """The shares of time of a chain of seeds, through the public path."""
    loss = kinopt.landscapes.two_basins()
    hessians = jax.vmap(jax.hessian(loss.fn))(jnp.asarray(loss.minimizers, jnp.float32))
    basin = basins.quadratic_basins(loss.minimizers, hessians)

    def optimizer(key):
        rules = kinopt.bounces.periodic(25, 10**6)
        return optax.chain(
            basins.dwell(basin, 2, num_steps=400, burn_in=100, num_blocks=3),
            kinopt.ecd(0.05, f_min=-1e-2, bounces=rules, integrator="leapfrog", key=key),
        )

    seeds = jax.random.split(jax.random.key(0), 20)
    result = ensemble.run(loss.fn, optimizer, jnp.array([3.0, -3.0]), seeds, num_steps=400)
    counted = result.opt_state[0]
    assert counted.num_steps.shape == (20, 3, 2)
    assert (counted.time == 400).all()
    path = ensemble.trajectories(loss.fn, optimizer, jnp.array([3.0, -3.0]), seeds, num_steps=400)
    labels = jax.vmap(jax.vmap(basin))(path.params, path.value)[:, 100:400].reshape(20, 3, 100)
    expected = jnp.stack([(labels == k).sum(-1) for k in (1, 2)], axis=-1)
    np.testing.assert_array_equal(counted.num_steps, expected)


def test_each_hessian_is_judged_by_its_own_scale():
    """A fine tiny one beside a huge one; a bad tiny one is found there, and a bad huge one."""
    tiny, huge = 1e-12 * np.array([[2.0, 1.0], [1.0, 2.0]]), 1e9 * np.eye(2)
    stop = basins.quadratic_basins([[0.0, 0.0], [1e7, 1e7]], [tiny, huge])
    assert int(stop(jnp.array([5e5, 0.0]), 0.0)) == 1  # |eta|^2 = 1e-12 2 (5e5)^2 = 0.5
    assert int(stop(jnp.array([8e5, 0.0]), 0.0)) == 0
    assert int(stop(jnp.array([1e7, 1e7]), 0.0)) == 2
    for bad, message in (
        (np.diag([1.0, -0.5]), "eigenvalue"),
        (np.array([[1, 1], [0, 1]]), "symm"),
    ):
        for scale, other in ((1e-12, huge), (1e9, tiny)):
            with pytest.raises(ValueError, match=rf"{message}.*|hessians\[1\]"):
                basins.quadratic_basins(np.zeros((2, 2)), [other, scale * bad])
            with pytest.raises(ValueError, match=r"hessians\[0\]"):
                basins.quadratic_basins(np.zeros((2, 2)), [scale * bad, other])


def test_the_rim_is_outside_and_the_first_of_two_equals_is_taken():
    stop = basins.quadratic_basins([[0.0], [0.5]], [[[1.0]], [[1.0]]])
    assert [int(stop(jnp.array([x]), 0.0)) for x in (-1.0, 1.5, 0.25)] == [0, 0, 1]


def test_wilson_against_the_quadratic_equation():
    """Its ends are where |k/n - p| = z sqrt(p (1 - p) / n)."""
    z = scipy.stats.norm.ppf(0.975)
    for k, n in ((0, 5), (1, 7), (3, 7), (7, 7), (40, 100)):
        a, b, c = 1 + z**2 / n, -(2 * k / n + z**2 / n), (k / n) ** 2
        expected = np.sort(np.roots([a, b, c]).real)
        interval = basins.wilson_interval(k, n)
        np.testing.assert_allclose(interval, expected, atol=2e-6)
        assert interval[0] < interval[1]
    assert basins.wilson_interval(0, 0).tolist() == [0, 1]


def test_statistics_by_hand():
    """Three seeds in basin 1, one in 2, two in 3; one undecided, two failed."""
    found = basins.statistics(jnp.array([1, 3, 0, 1, 2, -1, 3, 1, -2]), np.int64(3))
    assert found.counts.tolist() == [3, 1, 2]
    np.testing.assert_allclose(found.fractions, [1 / 2, 1 / 6, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(found.ratio, 3)
    np.testing.assert_array_equal(found.running_ratio, [np.inf] * 4 + [2, 2, 2, 3, 3])
    assert (int(found.num_undecided), int(found.num_failed)) == (1, 2)
    low, high = np.float64(basins.wilson_interval(3, 4))
    np.testing.assert_allclose(
        found.ratio_interval, [low / (1 - low), high / (1 - high)], rtol=1e-5
    )
    np.testing.assert_allclose(found.intervals[1], basins.wilson_interval(1, 6))
    one = basins.statistics(jnp.array([1, 1, 0]), 1)
    assert one.counts.tolist() == [2]
    assert one.ratio == jnp.inf
    none = basins.statistics(jnp.array([0, -1]), 2)
    assert jnp.isnan(none.fractions).all()
    assert none.intervals.tolist() == [[0, 1], [0, 1]]


raw = {name: inspect.unwrap(getattr(basins, name)) for name in basins.__all__}


def test_the_whole_result_is_not_its_outcomes():
    result = ensemble.run(
        lambda x: x**2,
        optax.sgd(0.1),
        jnp.array(1.0),
        jax.random.split(jax.random.key(0), 3),
        num_steps=1,
    )
    with pytest.raises(TypeError, match=r"EnsembleResult: pass result.outcome"):
        raw["statistics"](result, 2)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "2", None, True], ids=repr)
def test_numbers_of_basins_labels_and_steps(wrong):
    with pytest.raises((TypeError, ValueError), match="num_basins must be a whole number"):
        raw["statistics"](jnp.array([1]), wrong)
    label = lambda x, value: 1  # noqa: E731
    for name in ("num_labels", "num_steps", "num_blocks", "burn_in"):
        given = {"num_labels": 2, "num_steps": 5, name: wrong}
        if name == "burn_in" and wrong == 0 and wrong is not True:
            continue
        with pytest.raises((TypeError, ValueError), match=f"{name} must be a whole number"):
            raw["dwell"](label, **given)
    with pytest.raises(TypeError, match="label must be a function"):
        raw["dwell"](3, 2, num_steps=5)


@pytest.mark.parametrize("wrong", ["1", None, [True], 1j, jnp.array([0.5]), [[1]]], ids=repr)
def test_outcomes_that_are_none(wrong):
    with pytest.raises((TypeError, ValueError), match="outcome must be"):
        raw["statistics"](wrong, 2)


def test_counts_that_cannot_be():
    with pytest.raises(ValueError, match="successes must be at most trials"):
        raw["wilson_interval"](3, 2)
    with pytest.raises(ValueError, match="successes must be real numbers at least 0"):
        raw["wilson_interval"](-1, 2)
    with pytest.raises(ValueError, match="prediction must be real numbers above 0"):
        raw["z_score"]([1, 2], [1.0, 0.0])
    with pytest.raises(ValueError, match="num_steps must be real numbers at least 0"):
        raw["occupancy"]([[1, -2], [3, 4]])
    for name in ("minimizers", "hessians"):
        given = {"minimizers": np.zeros((1, 2)), "hessians": np.eye(2)[None], name: "x"}
        with pytest.raises(TypeError, match=f"{name} must be real numbers"):
            raw["quadratic_basins"](**given)


def test_z_and_occupancy_by_hand():
    z = basins.z_score(jnp.array([30, 50, 20]), jnp.array([1.0, 2.0, 1.0]))
    np.testing.assert_allclose(z, [5 / np.sqrt(18.75), 0, -5 / np.sqrt(18.75)], rtol=1e-5)
    times = basins.occupancy(jnp.array([[6, 2], [2, 2]]))
    np.testing.assert_allclose(times.fractions, [2 / 3, 1 / 3], rtol=1e-6)
    # pieces minus f T: 6 - 16/3, 2 - 8/3; error^2 = 2/1 (4/9 + 4/9) / 144
    np.testing.assert_allclose(times.errors, np.sqrt(2 * 8 / 9 / 144), rtol=1e-5)
    np.testing.assert_allclose(times.ratio, 2)
    np.testing.assert_allclose(times.ratio_error, np.sqrt(2 * (4 + 4) / 16), rtol=1e-5)
    assert times.num_samples == 2
