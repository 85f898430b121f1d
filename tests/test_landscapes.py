"""Landscapes: what is known of their minima, textbook formulas, derivatives, float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
from hypothesis import given
from hypothesis import strategies as st

from kinopt import landscapes


def _prod_cos(x):
    return np.prod(np.cos(x / np.sqrt(np.arange(1, x.size + 1))))


def _levy(x):
    w = 1 + (x - 1) / 4
    inner = (w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)
    last = (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)
    return np.sin(np.pi * w[0]) ** 2 + np.sum(inner) + last


def _zakharov(x):
    s = np.sum(0.5 * np.arange(1, x.size + 1) * x)
    return np.sum(x**2) + s**2 + s**4


def _ackley(x, decay):
    funnel = -20 * np.exp(-decay * np.sqrt(0.5 * np.sum(x**2)))
    return funnel - np.exp(0.5 * np.sum(np.cos(2 * np.pi * x))) + np.e + 20


def _two_basins(x, epsilon=2.75e-6):
    d1, d2 = np.sum((x + 2) ** 2), np.sum((x - 2) ** 2)
    return -np.exp(-0.4 * d1) - (1 - epsilon) * np.exp(-0.8 * d2) + 1e-3 * d1 * d2 + 1


def _lennard_jones(x):
    distances = scipy.spatial.distance.pdist(x.reshape(-1, 3))
    return np.sum(4 * (distances**-12.0 - distances**-6.0))


# (landscape, its formula as the literature has it, of a NumPy vector)
CASES = {
    "ackley": (landscapes.ackley(), lambda x: _ackley(x, 0.2)),
    "ackley, code": (landscapes.ackley(decay=0.02), lambda x: _ackley(x, 0.02)),
    "zakharov": (landscapes.zakharov(), _zakharov),
    "two_basins": (landscapes.two_basins(), _two_basins),
    "two_basins, 0.1": (landscapes.two_basins(0.1), lambda x: _two_basins(x, 0.1)),
    "rosenbrock": (
        landscapes.rosenbrock(5),
        lambda x: np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2),
    ),
    "rastrigin": (
        landscapes.rastrigin(3),
        lambda x: 10 * x.size + np.sum(x**2 - 10 * np.cos(2 * np.pi * x)),
    ),
    "griewank": (landscapes.griewank(4), lambda x: 1 + np.sum(x**2) / 4000 - _prod_cos(x)),
    "levy": (landscapes.levy(4), _levy),
    "levy, one": (landscapes.levy(1), _levy),
    "styblinski_tang": (
        landscapes.styblinski_tang(3),
        lambda x: np.sum(x**4 - 16 * x**2 + 5 * x) / 2,
    ),
    "himmelblau": (
        landscapes.himmelblau(),
        lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
    ),
    "beale": (
        landscapes.beale(),
        lambda x: (
            (1.5 - x[0] + x[0] * x[1]) ** 2
            + (2.25 - x[0] + x[0] * x[1] ** 2) ** 2
            + (2.625 - x[0] + x[0] * x[1] ** 3) ** 2
        ),
    ),
    "booth": (
        landscapes.booth(),
        lambda x: (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2,
    ),
    "three_hump_camel": (
        landscapes.three_hump_camel(),
        lambda x: 2 * x[0] ** 2 - 1.05 * x[0] ** 4 + x[0] ** 6 / 6 + x[0] * x[1] + x[1] ** 2,
    ),
    "six_hump_camel": (
        landscapes.six_hump_camel(),
        lambda x: (
            (4 - 2.1 * x[0] ** 2 + x[0] ** 4 / 3) * x[0] ** 2
            + x[0] * x[1]
            + (-4 + 4 * x[1] ** 2) * x[1] ** 2
        ),
    ),
    "lennard_jones": (landscapes.lennard_jones(4), _lennard_jones),
}
each = pytest.mark.parametrize("name", CASES)
UNEQUAL = {"two_basins": 1.1e-8, "two_basins, 0.1": 0.11}
"""How far apart in height the points are that are listed as minimizers."""
FLAT = {"lennard_jones": 6}
"""Directions in which nothing changes: translations and rotations."""


@functools.cache
def compiled(name):
    """Values and gradients of points."""
    return jax.jit(jax.vmap(jax.value_and_grad(CASES[name][0])))


def test_every_public_landscape_is_here():
    assert {name.partition(",")[0] for name in CASES} == set(landscapes.__all__) - {"Landscape"}


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


@each
@pytest.mark.usefixtures("_float64")
def test_minimizers_are_minima_of_the_value_given(name):
    landscape, _ = CASES[name]
    low, high = landscape.domain
    values, gradients = compiled(name)(landscape.minimizers)
    hessians = jax.jit(jax.vmap(jax.hessian(landscape)))(landscape.minimizers)
    assert np.all((low < landscape.minimizers) & (landscape.minimizers < high))
    for gradient, hessian in zip(gradients, hessians, strict=True):
        curvatures = np.linalg.eigvalsh(hessian)
        flat, firm = np.split(curvatures, [FLAT.get(name, 0)])
        assert firm[0] > 0
        np.testing.assert_allclose(flat, 0, atol=1e-12 * curvatures[-1])
        np.testing.assert_allclose(gradient, 0, atol=2e-14 * curvatures[-1])
    np.testing.assert_allclose(values, landscape.minimum, rtol=1e-15, atol=UNEQUAL.get(name, 1e-15))
    np.testing.assert_allclose(np.min(values), landscape.minimum, rtol=2e-15, atol=1e-20)


@each
@given(seed=st.integers(0, 2**32 - 1), distance=st.floats(1e-3, 0.05))
def test_neighbours_and_far_points_are_higher(name, seed, distance):
    landscape, _ = CASES[name]
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        points = landscape.minimizers
        directions = rng.normal(size=points.shape)
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        far = rng.uniform(*landscape.domain)[None]
        every = np.concatenate([points, points + distance * directions / lengths, far])
        values = np.asarray(compiled(name)(every)[0])
        lowest, neighbours = values[: len(points)], values[len(points) : -1]
        assert (neighbours > lowest).all()
        assert values[-1] > landscape.minimum


@each
@pytest.mark.usefixtures("_float64")
def test_the_formula_is_that_of_the_literature(name):
    landscape, formula = CASES[name]
    rng = np.random.default_rng(0)
    points = rng.uniform(*landscape.domain, size=(50, landscape.n))
    points = np.concatenate([points, points / 10, rng.normal(size=(50, landscape.n))])
    values = jax.vmap(landscape)(points)
    np.testing.assert_allclose(values, [formula(x) for x in points], rtol=1e-12, atol=1e-13)


# The Cambridge Cluster Database (Wales, Doye, Dullweber, Hodges, Naumkin, Calvo,
# Hernandez-Rojas, Middleton).
LOWEST_CLUSTERS = {
    **{2: -1.0, 3: -3.0, 4: -6.0, 5: -9.103852, 6: -12.712062, 7: -16.505384, 8: -19.821489},
    **{9: -24.113360, 10: -28.422532, 11: -32.765970, 12: -37.967600, 13: -44.326801},
}


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("particles", LOWEST_CLUSTERS)
def test_clusters_are_the_lowest_that_are_known(particles):
    cluster = landscapes.lennard_jones(particles)
    np.testing.assert_allclose(cluster.minimum, LOWEST_CLUSTERS[particles], atol=6e-7)
    np.testing.assert_allclose(_lennard_jones(cluster.minimizers[0]), cluster.minimum, rtol=1e-14)


def test_a_cluster_whose_lowest_minimum_is_not_known_here_is_refused():
    with pytest.raises(ValueError, match=r"from 2 to 13.*got 14"):
        landscapes.lennard_jones(14)


@each
@given(seed=st.integers(0, 2**32 - 1))
def test_float32_stays_float32_and_has_finite_derivatives(name, seed):
    landscape, _ = CASES[name]
    rng = np.random.default_rng(seed)
    anywhere = rng.uniform(*landscape.domain, size=(3, landscape.n))
    points = np.concatenate([anywhere, landscape.minimizers]).astype(np.float32)
    for x64 in (False, True):
        with jax.enable_x64(x64):
            values, gradients = compiled(name)(points)
            assert values.dtype == gradients.dtype == jnp.float32
            assert np.all(np.isfinite(values))
            assert np.all(np.isfinite(gradients))


MINIMIZERS_ON_THE_GRID = [
    *("ackley", "ackley, code", "zakharov", "rosenbrock", "rastrigin"),
    *("griewank", "levy", "beale", "booth", "three_hump_camel"),
]


def _in_both_precisions(name, points):
    """Values and gradients at float32 points: computed in float32, and in float64."""
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(True):
            yield tuple(np.asarray(x) for x in compiled(name)(points.astype(dtype)))


@pytest.mark.parametrize("name", MINIMIZERS_ON_THE_GRID)
def test_float32_keeps_its_relative_precision_next_to_the_minimizer(name):
    landscape, _ = CASES[name]
    rng = np.random.default_rng(1)
    steps = np.logspace(-6, -1, 200)[:, None] * rng.normal(size=(200, landscape.n))
    points = (landscape.minimizers[0] + steps).astype(np.float32)
    (values, slopes), (exact, exact_slopes) = _in_both_precisions(name, points)
    np.testing.assert_allclose(values, exact, rtol=1e-5)
    size = np.linalg.norm(exact_slopes, axis=1, keepdims=True)
    np.testing.assert_allclose(slopes / size, exact_slopes / size, atol=1e-5)


def test_two_basins_in_float32_knows_the_depth_of_its_basins():
    landscape, _ = CASES["two_basins"]
    rng = np.random.default_rng(2)
    for point in landscape.minimizers:
        points = (point + 1e-4 * rng.normal(size=(100, 2))).astype(np.float32)
        (values, _), (exact, _) = _in_both_precisions("two_basins", points)
        np.testing.assert_allclose(values, exact, rtol=1e-5, atol=1e-11)


@pytest.mark.usefixtures("_float64")
def test_two_basins_has_the_published_curvatures_and_shifts():
    wide, narrow = (jnp.asarray(x) for x in landscapes.two_basins().minimizers)
    hessian = jax.hessian(landscapes.two_basins())
    np.testing.assert_allclose(jnp.linalg.eigvalsh(hessian(wide)), 0.8640, atol=5e-5)
    np.testing.assert_allclose(jnp.linalg.eigvalsh(hessian(narrow)), 1.6640, atol=1e-4)
    # The minima on the diagonal, computed with 40 digits.
    np.testing.assert_allclose(wide + 2, 5.645810548e-11, rtol=1e-5)
    np.testing.assert_allclose(narrow - 2, -5.309366237e-6, rtol=1e-9)
    np.testing.assert_allclose(landscapes.two_basins()(wide), -7.62184423713763e-12, rtol=1e-11)
    np.testing.assert_allclose(landscapes.two_basins().minimum, -1.08194774833787e-8, rtol=1e-12)


@pytest.mark.usefixtures("_float64")
def test_two_basins_is_smooth_where_its_two_forms_meet():
    """Where 0.4 d1 = 0.8 d2 the larger exponential changes; the Hessian must not."""
    landscape = landscapes.two_basins()
    on_the_seam = -2 + 4 * np.sqrt(2) / (1 + np.sqrt(2))  # 0.4 (t + 2)^2 = 0.8 (2 - t)^2
    points = np.array([[t, t] for t in on_the_seam + np.array([-1e-9, 0, 1e-9])])
    hessians = jax.vmap(jax.hessian(landscape))(points)
    np.testing.assert_allclose(hessians, hessians[1:2].repeat(3, 0), rtol=1e-7)


def test_ackley_has_a_finite_subgradient_at_its_tip():
    for decay in (0.2, 0.02):
        gradient = jax.grad(landscapes.ackley(3, decay))
        np.testing.assert_array_equal(gradient(jnp.zeros(3)), 0)
        slope = jnp.linalg.norm(gradient(jnp.full(3, 1e-7)))
        np.testing.assert_allclose(slope, 20 * decay / np.sqrt(3), rtol=1e-4)


@each
def test_works_over_any_leading_axes(name):
    landscape, _ = CASES[name]
    points = np.random.default_rng(3).normal(size=(2, 3, landscape.n)).astype(np.float32)
    values = jax.jit(jax.vmap(jax.vmap(landscape)))(points)
    assert values.shape == (2, 3)
    np.testing.assert_allclose(values[1, 2], landscape(points[1, 2]), rtol=1e-5)


def test_many_points_at_once_are_refused():
    with pytest.raises(ValueError, match=r"\(10,\), got \(4, 10\).*jax.vmap"):
        landscapes.zakharov()(jnp.zeros((4, 10)))


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="at least 2; got 1"):
        landscapes.rosenbrock(1)
    with pytest.raises(ValueError, match="decay must be a number above 0"):
        landscapes.ackley(decay=0.0)
    with pytest.raises(ValueError, match="epsilon"):
        landscapes.two_basins(0.5)


def test_a_landscape_can_be_a_static_argument_and_does_not_change():
    landscape = landscapes.booth()
    assert jax.jit(lambda f, x: f(x), static_argnums=0)(landscape, jnp.zeros(2)) == 74
    with pytest.raises(ValueError, match="read-only"):
        landscape.minimizers[0, 0] = 7.0
