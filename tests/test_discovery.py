"""Basins that are discovered: minima that are known, symmetries, determinants, what is unseen."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from kinopt import basins, landscapes, theory
from kinopt.basins import curvature


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _rastrigin_holes(lowest: int, highest: int) -> np.ndarray:
    """The minima in one coordinate, roots of 2 x + 20 pi sin(2 pi x) next to whole numbers."""

    def slope(x):
        return 2 * x + 20 * np.pi * np.sin(2 * np.pi * x)

    whole = range(lowest, highest + 1)
    return np.array([scipy.optimize.brentq(slope, k - 0.2, k + 0.2, xtol=1e-14) for k in whole])


@pytest.mark.slow
def test_rastrigin_has_the_minima_of_the_closed_form():
    """Points within a fifth of 20 known minima in five dimensions, and 200 from a box.

    Those lead to these and no other, these to true minima only, and none appears twice.
    """
    holes = _rastrigin_holes(-3, 3)
    rng = np.random.default_rng(0)
    which = np.unique(rng.integers(0, 7, (20, 5)), axis=0)
    truth = holes[which]
    rastrigin = landscapes.rastrigin(5)
    near = np.repeat(truth, 3, axis=0)
    box = np.random.default_rng(1).uniform(-1.5, 1.5, (200, 5))
    points = np.concatenate([near + rng.uniform(-0.05, 0.05, near.shape), box])
    found = basins.discover(rastrigin, jnp.asarray(points))
    minimizers = np.asarray(found.minimizers)
    np.testing.assert_allclose(found.values, jax.vmap(rastrigin)(minimizers), atol=1e-12)
    assert (np.diff(found.values) >= -1e-12).all()
    ended = minimizers[found.label[: len(near)] - 1]
    np.testing.assert_allclose(ended, near, rtol=0, atol=1e-9)
    away = np.abs(minimizers[..., None] - _rastrigin_holes(-8, 8)).min(axis=-1)
    assert (away < 1e-9).all()
    assert (found.label > 0).all()
    whole = np.round(minimizers).astype(int)
    assert len(np.unique(whole, axis=0)) == len(whole), "no minimum appears twice"
    assert set(np.asarray(found.label)) == set(range(1, 1 + len(whole)))
    # Each coordinate bends by itself: log det is a sum of logarithms.
    bends = 2 + 40 * np.pi**2 * np.cos(2 * np.pi * minimizers)
    np.testing.assert_allclose(found.log_det, np.log(bends).sum(axis=1), rtol=1e-10)
    assert not found.log_det_error.any()
    assert not found.num_zero_modes.any()
    singles = np.bincount(np.asarray(found.label))[1:] == 1
    assert found.unseen_mass == singles.sum() / len(points)


@pytest.mark.slow
def test_himmelblau_feeds_what_counts_and_predicts():
    """Four minima; NaN and infinity lead nowhere; the saddle and maximum are no minima."""
    himmelblau = landscapes.himmelblau()
    rng = np.random.default_rng(2)
    saddle = scipy.optimize.root(jax.grad(himmelblau.fn), [0.08668, 2.88426], tol=1e-13).x
    top = scipy.optimize.root(jax.grad(himmelblau.fn), [-0.27084, -0.92304], tol=1e-13).x
    special = [[np.nan, 0], [np.inf, 0], saddle, top]
    points = np.concatenate([special, rng.uniform(-5, 5, (96, 2))])
    found = basins.discover(himmelblau, {"xy": jnp.asarray(points)}["xy"])
    assert found.label[:4].tolist() == [0, 0, 0, 0]
    assert (found.label[4:] > 0).all()
    assert found.minimizers.shape == (4, 2)
    for x in found.minimizers:
        assert np.abs(himmelblau.minimizers - x).max(axis=1).min() < 1e-9
    stats = basins.statistics(found.label, len(found.values))
    assert int(stats.counts.sum()) == 96
    assert int(stats.num_undecided) == 4
    stop = basins.quadratic_basins(found.minimizers, found.hessians)
    assert jax.vmap(lambda x: stop(x, 0.0))(found.minimizers).tolist() == [1, 2, 3, 4]
    hessians = jax.vmap(jax.hessian(himmelblau))(found.minimizers)
    np.testing.assert_allclose(found.hessians, hessians, rtol=1e-9)
    np.testing.assert_allclose(found.log_det, np.linalg.slogdet(hessians)[1], rtol=1e-10)
    volume = theory.basin_volume(found.values[0] + 0.1, found.hessians[0], 1.0)
    exact = theory.basin_volume(himmelblau.minimum + 0.1, hessians[0], 1.0)
    np.testing.assert_allclose(volume, exact, rtol=1e-9)
    times = (found.label.reshape(10, 10, 1) == 1 + jnp.arange(4)).sum(axis=1)
    shares = basins.occupancy(times)
    np.testing.assert_allclose(shares.fractions, stats.fractions, rtol=1e-12)


@pytest.mark.slow
def test_points_that_are_trees_come_back_as_trees():
    points = {"a": jnp.array([0.9, -1.2, 0.8]), "b": jnp.zeros((3, 2, 1), jnp.float32)}
    found = basins.discover(
        lambda p: (p["a"] ** 2 - 1) ** 2 + p["a"] / 10 + jnp.sum((p["b"] - 2) ** 2), points
    )
    assert found.label.tolist() == [2, 1, 2]
    assert found.minimizers["b"].shape == (2, 2, 1)
    np.testing.assert_allclose(found.minimizers["b"], 2, rtol=1e-9)
    slope = 4 * found.minimizers["a"] * (found.minimizers["a"] ** 2 - 1) + 0.1
    np.testing.assert_allclose(slope, 0, atol=1e-9)


@pytest.mark.slow
def test_no_minimum_at_all():
    slope = lambda x: jnp.sum(x)  # noqa: E731
    found = basins.discover(slope, jnp.zeros((3, 2)), num_steps=20)
    assert found.label.tolist() == [0, 0, 0]
    assert found.minimizers.shape == (0, 2)
    assert found.hessians is not None
    assert found.hessians.shape == (0, 2, 2)
    nothing = basins.discover(slope, jnp.full((3, 2), jnp.nan), num_steps=20)
    assert nothing.label.tolist() == [0, 0, 0]
    assert nothing.values.shape == (0,)


# Minima of LJ7 but for motions, permutations and mirror images: Wales, Doye, J. Phys. Chem. A 101
# (1997) 5111, and the Cambridge Cluster Database.
LJ7 = [-16.505384, -15.935043, -15.593211, -15.533060]


@pytest.mark.slow
def test_the_four_minima_of_seven_particles():
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.uniform(-1.2, 1.2, (60, 21)))
    found = basins.discover(landscapes.lennard_jones(7), points, symmetry=basins.rigid_motions())
    np.testing.assert_allclose(found.values, LJ7, atol=6e-7)
    assert found.num_zero_modes.tolist() == [6, 6, 6, 6]
    sizes = np.linalg.eigvalsh(found.hessians)[:, 6:]
    np.testing.assert_allclose(found.log_det, np.log(sizes).sum(axis=1), rtol=1e-8)


INPUTS = np.random.default_rng(5).normal(size=(40, 2))


def _network(params, inputs=INPUTS):
    hidden = jnp.tanh(inputs @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])
    return hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def _teacher():
    rng = np.random.default_rng(6)
    return {
        "Dense_0": {"kernel": rng.normal(size=(2, 3)) * 1.5, "bias": rng.normal(size=3)},
        "Dense_1": {"kernel": rng.normal(size=(3, 1)), "bias": rng.normal(size=1)},
    }


def _shuffled(params, order, signs):
    first, second = params["Dense_0"], params["Dense_1"]
    return {
        "Dense_0": {
            "kernel": (first["kernel"] * signs)[:, order],
            "bias": (first["bias"] * signs)[order],
        },
        "Dense_1": {
            "kernel": (second["kernel"] * signs[:, None])[order],
            "bias": second["bias"],
        },
    }


@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.slow
def test_permuted_neurons_of_either_sign_have_one_form(seed):
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], 3)
    other = _shuffled(_teacher(), rng.permutation(3), signs)
    with jax.enable_x64(True):
        np.testing.assert_allclose(_network(other), _network(_teacher()), rtol=1e-12)
        form = basins.permuted_neurons("Dense_0/", "Dense_1/kernel", odd=True)
        jax.tree.map(np.testing.assert_array_equal, form(other), form(_teacher()))
        np.testing.assert_allclose(_network(form(other)), _network(_teacher()), rtol=1e-12)


@pytest.mark.slow
def test_networks_of_one_function_are_one_basin():
    rng = np.random.default_rng(7)
    targets = _network(_teacher())

    def loss(params):
        return jnp.mean((_network(params) - targets) ** 2)

    starts = []
    for _ in range(12):
        noise = jax.tree.map(lambda x: x + 0.03 * rng.normal(size=x.shape), _teacher())
        starts.append(_shuffled(noise, rng.permutation(3), rng.choice([-1.0, 1.0], 3)))
    points = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *starts)
    form = basins.permuted_neurons("Dense_0/", "Dense_1/kernel", odd=True)
    found = basins.discover(loss, points, symmetry=form)
    assert found.label.tolist() == [1] * 12
    apart = basins.discover(loss, points)
    assert len(apart.values) > 6
    np.testing.assert_allclose(apart.log_det, found.log_det[0], rtol=1e-3)


def test_signs_and_motions_have_one_form():
    rng = np.random.default_rng(8)
    x = jnp.asarray(rng.normal(size=12))
    flip = basins.sign_flips()
    np.testing.assert_array_equal(flip(x), flip(-x))
    np.testing.assert_array_equal(jnp.abs(flip(x)), jnp.abs(x))
    signs = rng.choice([-1.0, 1.0], 12)
    each = basins.sign_flips(each=True)
    np.testing.assert_array_equal(each(x), each(signs * x))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = (x.reshape(4, 3)[rng.permutation(4)] @ turn + rng.normal(size=3)).ravel()
    form = basins.rigid_motions()
    np.testing.assert_allclose(form(x), form(moved), rtol=1e-12)
    labelled = basins.rigid_motions(permutations=False)
    assert np.abs(labelled(x) - labelled(moved)).max() > 0.1
    np.testing.assert_allclose(labelled(x), labelled(x.reshape(4, 3) @ turn), rtol=1e-12)


def _chain(n: int, flat: int):
    """A quadratic of known eigenvalues, reflected so that no axis is special."""
    sizes = np.concatenate([np.zeros(flat), np.geomspace(0.1, 50, n - flat)])
    mirror = np.random.default_rng(9).normal(size=n)
    mirror /= np.linalg.norm(mirror)

    def loss(x):
        y = x - 2 * mirror * (mirror @ x)
        return jnp.sum(sizes * y**2) / 2

    return loss, sizes


@pytest.mark.slow
def test_determinants_from_products_are_those_of_all_eigenvalues():
    flat = 5
    loss, sizes = _chain(400, flat)
    points = jnp.asarray(np.random.default_rng(10).normal(size=(2, 400)))
    found = basins.discover(loss, points, symmetry=lambda x: loss(x))
    assert found.hessians is None
    assert found.label.tolist() == [1, 1]
    assert abs(found.num_zero_modes[0] - flat) <= 4 * np.sqrt(2 * flat / 16)
    exact = np.log(sizes[flat:]).sum()
    assert 0 < found.log_det_error[0] < 0.05 * abs(exact)
    assert abs(found.log_det[0] - exact) < 4 * found.log_det_error[0]


@pytest.mark.slow
def test_products_and_eigenvalues_agree_on_what_is_low():
    loss, sizes = _chain(60, 0)
    x = jnp.zeros(60)
    tilted = lambda x: loss(x) + 0.01 * x[0]  # noqa: E731
    slope = jax.grad(tilted)(x)
    exact = np.linalg.norm(np.linalg.solve(jax.hessian(loss)(x), slope))
    bend = curvature.from_products(tilted, x, slope, jax.random.key(0))
    np.testing.assert_allclose(bend.distance, exact, rtol=1e-8)
    np.testing.assert_allclose(bend.lowest, sizes[0], rtol=1e-8)
    saddle = curvature.from_products(
        lambda x: loss(x) - 0.2 * x[3] ** 2, x, 0 * x, jax.random.key(0)
    )
    assert saddle.lowest < 0


@pytest.mark.slow
def test_a_saddle_of_many_parameters_is_dropped():
    """What comes to rest at the origin does not stay."""
    kept, _ = curvature.minima(
        lambda x: jnp.sum(x[1:] ** 2) - x[0] ** 2 + x[0] ** 4,
        jnp.zeros((1, 400)),
        jnp.zeros((1, 400)),
        1e-3,
        jax.random.key(0),
    )
    assert kept.tolist() == [False]


@pytest.mark.slow
def test_the_bound_on_what_is_unseen_holds():
    """2000 samples of 100 from 50 basins of unequal mass: it fails in 5 % at most.

    And the estimate has no bias but that of one point.
    """
    rng = np.random.default_rng(11)
    masses = rng.dirichlet(np.full(50, 0.5))
    failures, difference = 0, []
    for _ in range(2000):
        counts = rng.multinomial(100, masses)
        estimate, bound = basins.unseen_mass(counts[counts > 0], 100)
        truth = masses[counts == 0].sum()
        failures += truth > bound
        difference.append(float(estimate) - truth)
    assert failures <= 100
    error = np.std(difference) / np.sqrt(2000)
    assert -4 * error < np.mean(difference) < 4 * error + 0.01


def test_arguments_that_make_no_sense():
    points = jnp.zeros((2, 2))
    loss = lambda x: jnp.sum(x**2)  # noqa: E731
    discover = inspect.unwrap(basins.discover)  # without the type checker of the tests
    for arguments, message in [
        ((3, points), "loss_fn must be a function"),
        ((loss, jnp.zeros((2, 2), int)), "points must be floating"),
        ((loss, {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3)}), "as many in each leaf"),
        ((loss, jnp.zeros((0, 2))), "at least one"),
        ((loss, {}), "points must be floating"),
        ((loss, jnp.array(1.0)), "points must be floating"),
        ((lambda x: x, points), "loss_fn must be a function, params -> scalar loss; it returned"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            discover(*arguments)
    with pytest.raises(ValueError, match="tolerance must be a number above 0"):
        discover(loss, points, tolerance=0.0)
    with pytest.raises(TypeError, match=r"under jax\.jit"):
        jax.jit(lambda p: discover(loss, p).label)(points)
    with pytest.raises(ValueError, match="count the same neurons"):
        basins.permuted_neurons("a", "b")({"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 3))})
    with pytest.raises(ValueError, match="no whole number"):
        basins.rigid_motions()(jnp.zeros(4))
    with pytest.raises(ValueError, match="at least the sum"):
        basins.unseen_mass([3], 2)
