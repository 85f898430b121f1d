"""What a seed goes through, step by step, against arithmetic that can be done by hand."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

import kinopt
from kinopt import _engine, _workers, ensemble

KEYS = jax.random.split(jax.random.key(7), 7)
UP = optax.GradientTransformation(lambda params: (), lambda g, s, p=None: (jnp.ones_like(g), s))
"""It adds one at every step, so that a parameter tells the time."""


def rising(x):
    """A loss; programs of the same functions are compiled once."""
    return x


def from_zero_on(x, value):
    return jnp.where(x >= 0, 1, 0)


def clock(loss_fn, starts, **options):
    """Runs from these starts, one unit a step."""
    starts = jnp.asarray(starts, float)
    keys = jax.random.split(jax.random.key(0), len(starts))
    arguments = {"num_steps": 9, "lanes": 2, "chunk": 4, **options}
    return ensemble.run(loss_fn, UP, starts, keys, stacked=True, **arguments)


@pytest.mark.parametrize(("lanes", "chunk"), [(2, 1), (2, 5), (7, 6), (2, 50)])
@pytest.mark.slow
def test_a_seed_that_turns_non_finite_failed_wherever_it_was(chunk, lanes):
    """Seed k fails when it reaches 6, after 6 - k steps; NaN and infinity alike."""
    bad = {"nan": jnp.nan, "inf": jnp.inf, "-inf": -jnp.inf}
    for value in bad.values():
        result = clock(
            lambda x, value=value: jnp.where(x >= 6, value, 10 - x),
            range(7),
            lanes=lanes,
            chunk=chunk,
        )
        assert result.outcome.tolist() == [-1] * 7
        assert result.num_steps.tolist() == [6, 5, 4, 3, 2, 1, 0]
        assert result.params.tolist() == [6] * 7
        assert not np.isfinite(result.value).any()
        # The lowest finite loss on the way; none was seen by the seed that starts at 6.
        assert result.best_value[:6].tolist() == [5] * 6
        if chunk > 1:
            break


@pytest.mark.slow
def test_the_best_value_counts_the_start_and_the_end():
    """Rising, falling, and a valley: the lowest is at the start, at the end, in the middle."""
    assert clock(rising, [2.0, 3.0]).best_value.tolist() == [2.0, 3.0]
    assert clock(lambda x: 20 - x, [2.0, 3.0]).best_value.tolist() == [9.0, 8.0]
    assert clock(lambda x: (x - 5) ** 2, [2.0, 3.0]).best_value.tolist() == [0.0, 0.0]
    assert clock(rising, [2.0], num_steps=0).best_value.tolist() == [2.0]


def test_the_best_parameters_are_those_of_the_best_value():
    """Whatever a lane does after its seed has ended, and whichever seed it has next."""
    for chunk in (1, 4, 20):
        result = clock(lambda x: (x - 5) ** 2, [2.0, 3.0, 7.0, -9.0], chunk=chunk, num_steps=9)
        assert result.best_params.tolist() == [5.0, 5.0, 7.0, 0.0]
        assert result.best_value.tolist() == [0.0, 0.0, 4.0, 25.0]
        assert result.params.tolist() == [11.0, 12.0, 16.0, 0.0]
    broken = clock(lambda x: jnp.where(x > 5, -jnp.inf, 10 - x), [-3.0, 8.0])
    assert broken.outcome.tolist() == [-1, -1]
    assert broken.best_params.tolist() == [5.0, 8.0]


@pytest.mark.parametrize(("num_steps", "chunk"), [(0, 4), (1, 4), (4, 1), (4, 4), (5, 4)])
def test_num_steps_is_the_number_of_updates(num_steps, chunk):
    result = clock(rising, [1.0, 2.0, 3.0], num_steps=num_steps, chunk=chunk)
    assert result.params.tolist() == [1.0 + num_steps, 2.0 + num_steps, 3.0 + num_steps]
    assert result.value.tolist() == result.params.tolist()
    assert result.num_steps.tolist() == [num_steps] * 3
    assert result.outcome.tolist() == [0, 0, 0]


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.slow
def test_a_stop_rule_wins_over_the_last_step_and_loses_to_a_failure(chunk):
    """Asked from the first update on, at the last one too."""
    stop = lambda x, value: jnp.where(x >= 9, 5, jnp.where(x >= 8, 2, 0))  # noqa: E731
    result = clock(rising, [0.0, 5.0, 8.0, 9.0], num_steps=8, stop=stop, chunk=chunk)
    assert result.outcome.tolist() == [2, 2, 5, 5]
    assert result.num_steps.tolist() == [8, 3, 1, 1]
    never = clock(rising, [0.0, 5.0], num_steps=2, stop=stop, chunk=chunk)
    assert never.outcome.tolist() == [0, 0]
    both = clock(lambda x: jnp.where(x >= 8, jnp.nan, x), [0.0], num_steps=8, stop=stop)
    assert both.outcome.tolist() == [-1]


@pytest.mark.parametrize("lanes", [2, 5, 40])
def test_seeds_come_back_in_the_order_of_their_keys(lanes):
    """Seeds of very unequal length, that end in another order than they started."""
    lengths = np.array([9, 1, 7, 2, 2, 8, 3, 1, 6, 1, 5])
    result = clock(rising, -lengths, stop=from_zero_on, lanes=lanes, num_steps=50, chunk=2)
    assert result.num_steps.tolist() == lengths.tolist()
    assert result.seed.tolist() == list(range(11))
    np.testing.assert_allclose(result.best_value, -lengths.astype(float))


def test_an_interrupted_run_keeps_the_order(monkeypatch):
    """The programs are cut off after their first call."""
    monkeypatch.setattr(_engine, "FIRST_ROUNDS", 2)

    def cut(workers, progress):
        lines = [w.program(w.source, w.line, np.int32(2)) for w in workers]
        return lines, True

    monkeypatch.setattr(_engine, "drive", cut)
    lengths = np.array([9, 1, 7, 2, 2, 8, 3, 1, 6, 1, 5, 4, 4, 9, 9, 1])
    with pytest.warns(UserWarning, match="Interrupted: .* of 16 seeds"):
        result = clock(rising, -lengths, stop=from_zero_on, chunk=2, num_steps=50)
    assert 0 < len(result.seed) < 16
    assert (np.diff(result.seed) > 0).all()
    assert result.num_steps.tolist() == lengths[result.seed].tolist()


@pytest.mark.parametrize("every", [1, 2, 10])
def test_records_are_what_they_say(every):
    path = ensemble.trajectories(
        lambda x: 2 * x, UP, jnp.array([0.0, 5.0]), KEYS[:2], num_steps=9, every=every, stacked=True
    )
    times = np.arange(0, 10, every)
    np.testing.assert_array_equal(path.num_steps, [times, times])
    np.testing.assert_array_equal(path.params, [times, 5 + times])
    np.testing.assert_array_equal(path.value, [2 * times, 10 + 2 * times])
    ended = ensemble.trajectories(
        lambda x: 2 * x,
        UP,
        jnp.array(0.0),
        KEYS[:2],
        num_steps=9,
        every=every,
        stop=lambda x, value: jnp.where(x >= 4, 1, 0),
    )
    np.testing.assert_array_equal(ended.params[0], np.minimum(times, 4))
    np.testing.assert_array_equal(ended.num_steps[1], np.minimum(times, 4))


class TestComplex:
    """The gradient that Optax expects is the conjugate of JAX's."""

    target = 1.0 - 2.0j

    def distance(self, z):
        return jnp.abs(z["z"] - self.target) ** 2 + jnp.sum((z["x"] - 3) ** 2)

    @pytest.mark.parametrize(
        "make",
        [optax.adam, optax.sgd],
        ids=lambda f: f.__name__,
    )
    @pytest.mark.slow
    def test_complex_and_real_leaves_find_their_minimum(self, make):
        start = {"z": jnp.array(-2.0 + 3.0j), "x": jnp.zeros(2)}
        result = ensemble.run(self.distance, make(0.1), start, KEYS, num_steps=400)
        np.testing.assert_allclose(result.params["z"], [self.target] * 7, atol=0.1)
        np.testing.assert_allclose(result.params["x"], 3, atol=0.1)
        assert (result.value < 0.02).all()
        path = ensemble.trajectories(
            self.distance, make(0.1), start, KEYS, num_steps=400, every=400
        )
        np.testing.assert_allclose(path.params["z"][:, -1], result.params["z"])

    def test_a_step_of_sgd_is_straight_towards_the_target(self):
        start = jnp.array(-2.0 + 3.0j)
        result = ensemble.run(
            lambda z: jnp.abs(z - self.target) ** 2, optax.sgd(0.25), start, KEYS, num_steps=1
        )
        np.testing.assert_allclose(result.params, [(-2 + 3j + self.target) / 2] * 7, rtol=1e-6)

    @pytest.mark.slow
    def test_it_is_two_real_parameters(self):
        def split(p):
            return jnp.sum((p @ jnp.array([[1.0, 2.0], [0.5, -1.0]]) - 1) ** 2)

        real = ensemble.run(split, optax.sgd(0.05), jnp.array([1.0, 2.0]), KEYS, num_steps=20)
        joined = ensemble.run(
            lambda z: split(jnp.stack([z.real, z.imag])),
            optax.sgd(0.05),
            jnp.array(1.0 + 2.0j),
            KEYS,
            num_steps=20,
        )
        np.testing.assert_allclose(joined.params.real, real.params[:, 0], rtol=1e-5)
        np.testing.assert_allclose(joined.params.imag, real.params[:, 1], rtol=1e-5)

    def test_a_line_search_is_refused(self):
        with pytest.raises(TypeError, match=r"line search \(optax.lbfgs\) cannot be used"):
            ensemble.run(
                lambda z: jnp.abs(z - self.target) ** 2,
                optax.lbfgs(),
                jnp.array(1.0j),
                KEYS,
                num_steps=2,
            )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU alone makes one function")
def test_number_of_lanes_in_a_single_function(monkeypatch):
    """No more than it takes, whatever is asked for."""
    made = []
    real = _engine.make_workers
    monkeypatch.setattr(_engine, "make_workers", lambda *a: made.extend(real(*a)) or made)
    monkeypatch.setattr(_workers, "CPU_LANES", (2, 3))
    mesh = jax.make_mesh((1,), ("a",), axis_types=(AxisType.Auto,))
    assert clock(rising, range(5), mesh=mesh, lanes=5, num_steps=2).params.tolist() == [
        2,
        3,
        4,
        5,
        6,
    ]
    (worker,) = made
    assert {x.shape[0] for x in jax.tree.leaves(worker.line.lanes)} == {3}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize(
    ("shape", "number", "lengths"),
    [
        ((3,), 7, [3, 3, 1]),
        ((2, 2), 3, [1, 1, 1, 0]),
    ],
    ids=str,
)
@pytest.mark.slow
def test_seeds_over_meshes_of_any_shape(shape, number, lengths, kind, monkeypatch):
    """Seven or three seeds never divide evenly; with more devices than seeds some have none."""
    made = []
    real = _engine.make_workers
    monkeypatch.setattr(_engine, "make_workers", lambda *a: made.extend(real(*a)) or made)
    devices = np.array(jax.devices()[: math.prod(shape)]).reshape(shape)
    mesh = Mesh(devices, ("a", "b", "c")[: len(shape)], axis_types=(kind,) * len(shape))
    starts = np.arange(1.0, 1 + number)
    result = clock(rising, starts, mesh=mesh, num_steps=3)
    assert result.params.tolist() == (starts + 3).tolist()
    assert result.seed.tolist() == list(range(number))
    where = [next(iter(worker.source.length.devices())) for worker in made]
    assert where == list(mesh.devices.flat)
    assert [int(worker.source.length) for worker in made] == lengths


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.slow
def test_a_mesh_that_is_set_changes_nothing(kind):
    mesh = jax.make_mesh((1, 2), ("a", "b"), axis_types=(kind,) * 2)
    starts = np.arange(1.0, 4)
    expected = clock(rising, starts, mesh=mesh, num_steps=3)
    with jax.set_mesh(mesh):
        found = clock(lambda x: x, starts, mesh=mesh, num_steps=3)  # compiled anew
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_under_strict_promotion():
    """Of ranks and of types."""
    basins = kinopt.landscapes.two_basins()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        stop = kinopt.basins.quadratic_basins(basins.minimizers, [np.eye(2), 2 * np.eye(2)])
        dwell = kinopt.basins.dwell(stop, 2, num_steps=4, burn_in=1, num_blocks=3)
        arguments = basins.fn, optax.chain(dwell, UP), jnp.array([-4.0, -4.0]), KEYS
        result = ensemble.run(*arguments, num_steps=4, stop=stop, lanes=2)
        ensemble.trajectories(*arguments, num_steps=4, stop=stop)
        kinopt.basins.statistics(result.outcome, 2)
        kinopt.basins.z_score(jnp.array([3, 4]), jnp.array([1.0, 2.0]))
        kinopt.basins.occupancy(result.opt_state[0].num_steps)
        kinopt.basins.wilson_interval(3, 4)
    assert result.outcome.tolist() == [1] * 7
    assert result.num_steps.tolist() == [2] * 7


def test_signatures_say_none_for_doubt():
    for function in (ensemble.run, ensemble.trajectories):
        assert inspect.signature(function).parameters["stacked"].default is None


@pytest.mark.slow
def test_what_is_not_kept_changes_nothing_else():
    """Least of all the statistics of a state, which are not even computed then."""

    def made(key):
        bbi = kinopt.bbi(0.02, extra_energy=0.1, patience=7, key=key)
        return optax.chain(kinopt.soft_collision(0.1), bbi)

    def loss(w):
        return jnp.sum((w - jnp.arange(12.0).reshape(4, 3)) ** 2) / 12

    given = {"num_steps": 60, "stop": lambda w, value: jnp.where(value < 0.5, 1, 0), "lanes": 3}
    start = 0.1 * jax.random.normal(jax.random.key(1), (4, 3))
    whole = ensemble.run(loss, made, start, KEYS, **given)
    least = ensemble.run(loss, made, start, KEYS, keep=("params",), **given)
    for name in ("params", "value", "best_value", "outcome", "num_steps"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(least, name))
    assert least.opt_state is None
