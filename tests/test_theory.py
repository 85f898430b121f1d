"""Predictions: against closed forms, quadrature with forty digits, Monte Carlo and trajectories."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

import kinopt
from kinopt import hamiltonians, landscapes, theory

FAMILY = {
    "born_infeld": hamiltonians.born_infeld(),
    "massive": hamiltonians.massive(),
    "logarithmic": hamiltonians.logarithmic(),
    "separable": hamiltonians.separable(0.3),
    "newton": hamiltonians.Hamiltonian(lambda v, p2: v + p2 / 2, lambda v, e: 2 * (e - v)),
}
BORN_INFELD, NEWTON = FAMILY["born_infeld"], FAMILY["newton"]

# Compiled once a shape: one call by one primitive takes longer than the whole.
_jit_density = functools.partial(jax.jit, static_argnums=(0, 3))
phase_space_density = _jit_density(theory.phase_space_density, static_argnames="log")
potential_density = _jit_density(theory.potential_density, static_argnames="log")
potential_fractions = _jit_density(theory.potential_fractions)
_jit_region = functools.partial(jax.jit, static_argnums=0)
entry_flux = _jit_region(theory.entry_flux, static_argnames=("hamiltonian", "log"))
region_volume = _jit_region(theory.region_volume, static_argnames=("hamiltonian", "log"))
entry_flux_ratio = _jit_region(theory.entry_flux_ratio, static_argnames="num_directions")
occupancy_ratio = _jit_region(theory.occupancy_ratio, static_argnames="num_directions")
basin_volume = jax.jit(theory.basin_volume, static_argnames="log")
basin_ratio = jax.jit(theory.basin_ratio)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def sphere_area(n):
    return 2 * math.pi ** (n / 2) / math.gamma(n / 2)


# Density


@pytest.mark.parametrize("n", [1, 2, 3, 10, 101])
def test_eq_40_is_the_density_of_born_infeld(n):
    v, energy = np.logspace(-5, 0.2, 30), 2.0
    expected = sphere_area(n) * energy / v * (energy**2 / v - v) ** ((n - 2) / 2)
    density = phase_space_density(BORN_INFELD, v, energy, n)
    np.testing.assert_allclose(density, np.log(expected), rtol=1e-12, atol=1e-11)
    density = phase_space_density(BORN_INFELD, v, energy, n, log=False)
    np.testing.assert_allclose(density, expected, rtol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_eq_41_is_the_density_without_a_speed_limit(n):
    v, energy = np.linspace(0.01, 1.9, 30), 2.0
    density = phase_space_density(NEWTON, v, energy, n, log=False)
    np.testing.assert_allclose(density, sphere_area(n) * (2 * (energy - v)) ** ((n - 2) / 2))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_density_is_how_the_ball_of_momenta_grows_with_the_energy(name, n):
    """int d^n Pi delta(H - E) = d/dE of the volume of {H < E}, a ball of radius sqrt(q)."""
    ball = lambda v, e: sphere_area(n) / n * FAMILY[name].momentum_sq(v, e) ** (n / 2)  # noqa: E731
    for v in (0.01, 0.3):
        expected = jax.grad(ball, argnums=1)(v, 0.7)
        density = phase_space_density(FAMILY[name], v, 0.7, n, log=False)
        np.testing.assert_allclose(density, expected, rtol=1e-12)


def test_outside_the_shell_there_is_nothing_and_gradients_are_finite():
    for v in (-1.0, 0.0, 2.5):
        assert phase_space_density(BORN_INFELD, v, 2.0, 3) == -jnp.inf
        assert potential_density(BORN_INFELD, v, 2.0, 3, log=False) == 0
        assert jax.grad(theory.phase_space_density, argnums=1)(BORN_INFELD, v, 2.0, 3) == 0
    assert potential_density(BORN_INFELD, 0.1, 2.0, 3, v_min=0.2) == -jnp.inf
    assert jnp.isfinite(jax.grad(theory.phase_space_density, argnums=1)(BORN_INFELD, 0.5, 2.0, 2))


def test_the_density_broadcasts_and_keeps_float32():
    v = jnp.asarray([[0.1], [0.2]], jnp.float32)
    density = phase_space_density(BORN_INFELD, v, jnp.ones(3, jnp.float32), 10**6)
    assert (density.shape, density.dtype) == ((2, 3), jnp.float32)
    exact = phase_space_density(BORN_INFELD, np.float64([[0.1], [0.2]]), np.ones(3), 10**6)
    np.testing.assert_allclose(density, exact, rtol=1e-6)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(("n", "v_min"), [(1, 0.02), (2, 1e-10), (3, 1e-3), (7, 0.02), (40, 1e-6)])
def test_fractions_are_integrals_of_the_density(name, n, v_min):
    energy = 0.9
    edges = v_min + np.array([0, 1e-4, 1e-2, 0.1, 0.2, 0.45])

    # By eta, V = V_I + eta^2/2: nothing is singular; panels from far below sqrt(V_I) up.
    ends = np.unique([0, *np.sqrt(2 * (edges - v_min)), *np.geomspace(1e-9, 0.9, 150)])
    points, weights = np.polynomial.legendre.leggauss(20)
    low, half = ends[:-1, None], np.diff(ends)[:, None] / 2
    eta = low + half * (1 + points)
    density = phase_space_density(FAMILY[name], v_min + eta**2 / 2, energy, n)
    density = np.exp(density - np.max(density)) * eta ** (n - 1)
    panels = np.sum(density * half * weights, axis=1)
    bins = np.searchsorted(np.sqrt(2 * (edges - v_min)), ends[:-1], side="right") - 1
    integrals = np.bincount(bins, panels, minlength=5)[:5]
    fractions = potential_fractions(FAMILY[name], edges, energy, n, v_min)
    np.testing.assert_allclose(fractions, integrals / np.sum(integrals), rtol=1e-9, atol=1e-300)


def test_fractions_up_to_where_the_particle_turns():
    """n = 3: the density falls as a root at V = E; n = 2: it jumps to 0."""
    for n in (2, 3):
        edges = np.linspace(0.05, 1, 41)
        fractions = potential_fractions(BORN_INFELD, edges, 1.0, n, 0.05)
        halves = potential_fractions(BORN_INFELD, edges[[0, 20, 40]], 1.0, n, 0.05)
        np.testing.assert_allclose(np.sum(fractions[:20]), halves[0], rtol=1e-5)


# A long trajectory, the prediction's own test


def _potentials(integrator, dimensions, num_steps=5000, lanes=1024):
    """V along bouncing trajectories in a bowl, once they have forgotten their start."""
    v_min, every = 0.05, 25
    bowl = lambda x: jnp.sum(x**2) / 2  # noqa: E731

    def potentials(key):
        optimizer = kinopt.ecd(
            0.05,
            f_min=-v_min,
            bounces=kinopt.bounces.periodic(every, 10**9),
            initial_direction="random",
            integrator=integrator,
            key=key,
        )

        def step(carry, _):
            x, state = carry
            value, gradient = jax.value_and_grad(bowl)(x)
            update, state = optimizer.update(gradient, state, x, value=value)
            return (optax.apply_updates(x, update), state), value + v_min

        start = jnp.zeros(dimensions).at[0].set(jnp.sqrt(2 * (1 - v_min)))  # E = V = 1
        _, values = jax.lax.scan(step, (start, optimizer.init(start)), length=num_steps)
        return values[num_steps // 4 :]

    return np.ravel(jax.jit(jax.vmap(potentials))(jax.random.split(jax.random.key(0), lanes)))


def _distance(integrator, dimensions, n):
    """Kolmogorov-Smirnov distance of the time histogram of V from the prediction for n."""
    edges = np.linspace(0.05, 1, 201)
    counts, _ = np.histogram(_potentials(integrator, dimensions), edges)
    predicted = potential_fractions(BORN_INFELD, edges, 1.0, n, 0.05)
    return np.max(np.abs(np.cumsum(counts) / np.sum(counts) - np.cumsum(predicted)))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_trajectories_spend_their_time_as_predicted(n):
    assert _distance("leapfrog", n, n) < 0.006


@pytest.mark.slow
def test_the_comparison_can_fail():
    """The paper's step is biased at bounces, and another n has another density."""
    assert _distance("paper", 2, 2) > 0.02
    assert _distance("leapfrog", 2, 3) > 0.05


# Volumes


def log_volume(v_min, eigenvalues, energy):
    """Eq. 47 with forty digits, 2F1 after Pfaff's transformation where that converges better."""
    mpmath.mp.dps = 40
    n, v = len(eigenvalues), mpmath.mpf(float(v_min))
    a = mpmath.mpf(n) / 2
    if n <= 20:
        function = mpmath.hyp2f1(a, a, a + 1, -1 / (2 * v))
        integral = -a * mpmath.log(v) - mpmath.log(n) + mpmath.log(function)
    else:
        integral = (a - 1) * mpmath.log(2) + _log_incomplete_beta(a, v)
    area = mpmath.log(2) + a * mpmath.log(mpmath.pi) - mpmath.loggamma(a)
    masses = mpmath.mpf(float(np.sum(np.log(eigenvalues)))) / 2
    return float(2 * area + (n - 1) * mpmath.log(energy) - masses + integral)


def _log_incomplete_beta(a, v):
    """log int_0^S (1 - e^-s)^(a-1) ds, S = log(1 + 1/(2 V)): by its series, or by quadrature."""
    if v > mpmath.mpf("1e-3"):  # sum_k X^(a+k) / (a+k), X = 1/(1 + 2 V)
        x = 1 / (1 + 2 * v)
        terms = int(80 / mpmath.log1p(2 * v)) + 1
        return a * mpmath.log(x) + mpmath.log(sum(x**k / (a + k) for k in range(terms)))
    end, step = mpmath.log1p(1 / (2 * v)), mpmath.log(a)
    points = [mpmath.mpf(0), *(step + k for k in range(-4, 40, 2) if step + k < end), end]
    return mpmath.log(mpmath.quad(lambda s: (-mpmath.expm1(-s)) ** (a - 1), points))


@pytest.mark.parametrize("v_min", [1e-48, 1e-12, 1e-6, 1e-2, 0.5, 100.0])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 400, 10**6])
def test_eq_47_with_forty_digits(n, v_min):
    eigenvalues = np.linspace(0.3, 2.0, n)
    expected = log_volume(v_min, eigenvalues, 1.7)
    terms = n * (1 + abs(np.log(n)))  # rounding is that of the largest terms
    volume = basin_volume(v_min, eigenvalues, 1.7)
    np.testing.assert_allclose(volume, expected, atol=4e-16 * terms + 1e-14, rtol=4e-16)
    if n <= 10:
        matrix = basin_volume(v_min, np.diag(eigenvalues), 1.7, log=False)
        np.testing.assert_allclose(matrix, np.exp(expected), rtol=1e-13 * max(1, abs(expected)))
    if v_min > 1e-30:
        volume = basin_volume(np.float32(v_min), eigenvalues.astype(np.float32), 1.7)
        assert volume.dtype == jnp.float32
        expected = log_volume(np.float32(v_min), eigenvalues, np.float32(1.7))
        np.testing.assert_allclose(volume, expected, atol=4e-7 * terms + 2e-6, rtol=4e-7)


def test_the_volume_grows_as_the_logarithm_of_the_depth():
    """Eq. 10: for V_I -> 0, Omega_n^2 2^(n/2-1) E^(n-1) / prod m_i log(1/V_I)."""
    for n in (2, 5):
        v_min = np.array([1e-20, 1e-30])
        volumes = [basin_volume(v, np.ones(n), 2.0, log=False) for v in v_min]
        slope = np.diff(volumes) / np.diff(np.log(1 / v_min))
        expected = sphere_area(n) ** 2 * 2 ** (n / 2 - 1) * 2.0 ** (n - 1)
        np.testing.assert_allclose(slope, expected, rtol=1e-10)
    assert jnp.isnan(basin_volume(0.0, np.ones(2), 1.0))


@pytest.mark.parametrize("n", [2, 7, 1000])
def test_the_derivative_of_the_volume(n):
    """Under Eq. 46: d Vol / d V_I = -n/2 int eta^(n-1) / (V_I + eta^2/2)^(n/2+1) d eta, closed."""
    for v_min in (1e-6, 0.03, 2.0):
        slope = jax.grad(theory.basin_volume)(v_min, np.ones(n), 1.0)
        # int_0^1 eta^(n-1) (V + eta^2/2)^(-n/2-1) d eta = (V + 1/2)^(-n/2) / (n V)
        log_integral = basin_volume(v_min, np.ones(n), 1.0) - 2 * (
            np.log(2) + n / 2 * np.log(np.pi) - special.gammaln(n / 2)
        )
        expected = -np.exp(-n / 2 * np.log(v_min + 0.5) - np.log(2 * v_min) - log_integral)
        np.testing.assert_allclose(slope, expected, rtol=1e-9)


def test_the_volume_of_what_is_no_minimum_is_nan():
    assert jnp.isnan(basin_volume(0.1, np.diag([1.0, -1.0]), 1.0))
    assert jnp.isnan(basin_volume(0.1, np.array([1.0, -1.0]), 1.0))
    by_rounding = np.array([[1.0, 1.0], [1.0, 1.0 + 2.0**-52]])  # singular, but for one last digit
    assert jnp.isnan(basin_volume(0.1, by_rounding, 1.0))
    scales = np.array([1.0, 1e-30])  # each is judged by its own
    np.testing.assert_allclose(
        basin_volume(0.1, np.diag(scales), 1.0), basin_volume(0.1, scales, 1.0), rtol=1e-12
    )


def test_eq_18_the_ratio_of_the_two_basins():
    wide, narrow = 0.864 * np.eye(2), 1.664 * np.eye(2)
    assert basin_ratio(wide, narrow) == pytest.approx(1.9259, abs=5e-5)
    assert basin_ratio(narrow, wide) == pytest.approx(1 / 1.9259, abs=5e-5)
    for v_min in (1e-9, 0.3):
        ratio = basin_ratio(wide, narrow, v_min, v_min, energy=44.0)
        assert ratio == pytest.approx(1.664 / 0.864, rel=1e-12)
        deeper = basin_ratio(wide, narrow, v_min / 2, v_min)
        volumes = [
            basin_volume(v_min / 2, wide, 3.0),
            basin_volume(v_min, narrow, 3.0),
        ]
        assert deeper == pytest.approx(np.exp(volumes[0] - volumes[1]), rel=1e-12)
        assert jax.grad(theory.basin_ratio, argnums=2)(wide, narrow, v_min, v_min) < 0
    assert jnp.isnan(basin_ratio(wide, narrow, 0.0, 1e-3))
    assert jnp.isnan(basin_ratio(wide, narrow, 1e-3, 0.0))


def test_volumes_under_jit_and_vmap():
    v_min = jnp.asarray([1e-3, 1e-2])
    hessians = jnp.stack([jnp.eye(3), 2 * jnp.eye(3)])
    volumes = jax.jit(jax.vmap(theory.basin_volume, (0, 0, None)))(v_min, hessians, 2.0)
    for volume, v, hessian in zip(volumes, v_min, hessians, strict=True):
        np.testing.assert_allclose(volume, theory.basin_volume(v, hessian, 2.0), rtol=1e-12)


# Regions of a true landscape


def bowl(eigenvalues, v_min):
    return lambda x: v_min + jnp.sum(jnp.asarray(eigenvalues) * x**2) / 2


@pytest.mark.parametrize("v_min", [1e-10, 0.3])
@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_the_region_of_a_quadratic_basin_has_the_volume_of_eq_47(n, v_min):
    """Far above the basin, E >> V, and exactly with the integral of the density over V."""
    eigenvalues = np.linspace(0.5, 2, n)
    region = bowl(eigenvalues, v_min), np.zeros(n), np.diag(eigenvalues)
    volume = region_volume(*region, energy=1e8)
    np.testing.assert_allclose(volume, basin_volume(v_min, eigenvalues, 1e8), rtol=1e-12)
    # E near the rim: dVol/dV over the bins of a fine histogram
    volume = region_volume(*region, energy=1.0, log=False)
    eta, weights = np.polynomial.legendre.leggauss(400)
    eta, weights = (1 + eta) / 2, weights / 2
    v = v_min + eta**2 / 2
    if v_min > 1e-6:
        density = potential_density(BORN_INFELD, v, 1.0, n, v_min, log=False)
        expected = np.sum(density * eta * weights) / np.sqrt(np.prod(eigenvalues))
        np.testing.assert_allclose(volume, expected, rtol=1e-10)


def test_the_flux_into_an_ellipse_is_momentum_times_circumference():
    """n = 2: J = 2 sqrt(q) times the circumference 4 a E(1 - (b/a)^2), for q constant on it."""
    curvatures, v_min, energy = np.array([0.5, 3.0]), 0.1, 2.0
    b, a = np.sort(1 / np.sqrt(curvatures))
    momentum = np.sqrt(BORN_INFELD.momentum_sq(v_min + 0.5, energy))
    circumference = 4 * a * special.ellipe(1 - (b / a) ** 2)
    flux = entry_flux(bowl(curvatures, v_min), np.zeros(2), np.diag(curvatures), energy, log=False)
    np.testing.assert_allclose(flux, 2 * momentum * circumference, rtol=1e-13)


def test_the_flux_into_a_ball_in_three_dimensions():
    """c_3 = 1/4 and J = 1/4 (4 pi) q (4 pi r^2); random directions are exact on a ball."""
    energy, curvature = 2.0, 4.0
    q = NEWTON.momentum_sq(0.5, energy)
    flux = entry_flux(
        bowl(np.full(3, curvature), 0.0),
        np.zeros(3),
        curvature * np.eye(3),
        energy,
        hamiltonian=NEWTON,
        log=False,
    )
    np.testing.assert_allclose(flux, 4 * math.pi**2 * q / curvature, rtol=1e-13)


@pytest.mark.parametrize("n", [2, 3])
def test_an_ellipsoid_that_is_turned_is_the_same(n):
    """Its axes need not be those of the parameters: V is 1/2 above the minimum on all of it."""
    curvatures, v_min = np.array([0.5, 3.0, 8.0])[:n], 0.1
    turn = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0]
    hessian = turn @ np.diag(curvatures) @ turn.T
    tilted = lambda x: v_min + x @ jnp.asarray(hessian) @ x / 2  # noqa: E731
    volume = region_volume(tilted, np.zeros(n), hessian, 1e8)
    np.testing.assert_allclose(volume, basin_volume(v_min, curvatures, 1e8), rtol=1e-12)
    if n == 2:
        flux = entry_flux(tilted, np.zeros(2), hessian, 2.0)
        straight = entry_flux(bowl(curvatures, v_min), np.zeros(2), np.diag(curvatures), 2.0)
        np.testing.assert_allclose(flux, straight, rtol=1e-12)


def test_a_slope_across_a_ball_lets_through_as_much_as_none():
    """n = 3, Newton: q is linear in V, and random directions come with their opposites."""
    flux = [
        entry_flux(lambda x, b=b: 1 + b * x[0], np.zeros(3), np.eye(3), 3.0, hamiltonian=NEWTON)
        for b in (0.0, 0.7)
    ]
    np.testing.assert_allclose(flux[1], flux[0], rtol=1e-13)


@pytest.mark.parametrize(
    ("name", "width"), [("born_infeld", 0.008), ("separable", 0.012), ("newton", 0.016)]
)
@pytest.mark.slow
def test_the_flux_is_what_crosses_the_surface(name, width):
    """Monte Carlo: states of the energy shell just outside a region, moved for a short time."""
    hamiltonian, energy, time, points = FAMILY[name], 3.0, 0.005, 400_000
    hessian = np.array([[1.5, 0.4], [0.4, 0.7]])
    region = jnp.array([0.3, -0.2]), hessian
    warped = lambda x: 0.05 + jnp.sum((x - 0.1) ** 2) / 3 + 0.2 * jnp.sin(2 * x[0]) ** 2  # noqa: E731
    rng = np.random.default_rng(0)

    def states(smallest, largest):
        """Uniform points between two ellipses: position, density of momenta, velocity."""
        eta = np.sqrt(rng.uniform(smallest**2, largest**2, points))
        angle, turn = 2 * np.pi * rng.uniform(size=(2, points))
        unit = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        x = region[0] + (eta[:, None] * unit) @ np.linalg.inv(np.linalg.cholesky(hessian))
        v = jax.vmap(warped)(x)
        weight = phase_space_density(hamiltonian, v, energy, 2, log=False)
        q = jax.vmap(lambda v: hamiltonian.momentum_sq(v, energy))(v)
        factor = jax.vmap(lambda v, q: hamiltonians.velocity_factor(hamiltonian, v, q))(v, q)
        heading = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
        area = np.pi * (largest**2 - smallest**2) / np.sqrt(np.linalg.det(hessian))
        return x, weight * area, (factor * jnp.sqrt(q))[:, None] * heading

    x, weight, velocity = states(1.0, 1.0 + width)
    assert 1.3 * time * jnp.max(jnp.linalg.norm(velocity, axis=-1)) < width  # nobody is left out
    eta = (x + time * velocity - region[0]) @ np.linalg.cholesky(hessian)
    enters = weight * (jnp.sum(eta**2, axis=-1) < 1) / time
    error = jnp.std(enters) / np.sqrt(points)
    flux = entry_flux(warped, *region, energy, hamiltonian=hamiltonian, log=False)
    assert error < 0.01 * flux
    assert abs(jnp.mean(enters) - flux) < 4 * error

    _, weight, _ = states(0.0, 1.0)
    volume = region_volume(warped, *region, energy, hamiltonian=hamiltonian, log=False)
    error = jnp.std(weight) / np.sqrt(points)
    assert abs(jnp.mean(weight) - volume) < 4 * error + 1e-12 * volume < 0.01 * volume


def two_basins():
    landscape = landscapes.two_basins()
    hessians = jax.vmap(jax.hessian(landscape))(jnp.asarray(landscape.minimizers))
    energy = landscape(np.array([10.0, -10.0]))  # the paper's start
    return landscape, landscape.minimizers, hessians, energy


@pytest.mark.slow
def test_the_two_basins_of_section_4_3():
    """Time divides as 1.92, entries of mixed starts as 1.375; quadratic: 1.926 and 1.388."""
    assert occupancy_ratio(*two_basins(), f_min=-0.01) == pytest.approx(1.918, abs=5e-4)
    for f_min in (0.0, 1e-3, -0.01):
        assert entry_flux_ratio(*two_basins(), f_min=f_min) == pytest.approx(1.375, abs=5e-4)
    ratio = basin_ratio(*two_basins()[2])
    assert ratio == pytest.approx(1.92585, abs=5e-5)


@pytest.mark.slow
def test_the_quadrature_has_converged():
    for ratio in (entry_flux_ratio, occupancy_ratio):
        few = ratio(*two_basins(), f_min=-0.01, num_directions=24)
        np.testing.assert_allclose(few, ratio(*two_basins(), f_min=-0.01), rtol=1e-10)


def test_random_directions_in_many_dimensions():
    """The volume of a warped region in 4 dimensions with other directions: a small spread."""
    warped = lambda x: 0.02 + jnp.sum(x**2) / 2 + 0.1 * jnp.sum(x**4)  # noqa: E731
    volumes = [region_volume(warped, np.zeros(4), np.eye(4), 2.0, key=key) for key in (0, 1)]
    assert volumes[0] != volumes[1]
    np.testing.assert_allclose(volumes[0], volumes[1], atol=0.01)
    typed = region_volume(warped, np.zeros(4), np.eye(4), 2.0, key=jax.random.key(1))
    assert typed == volumes[1]


def test_regions_where_the_energy_cannot_go():
    nowhere = entry_flux(bowl(np.ones(2), 5.0), np.zeros(2), np.eye(2), 1.0)
    assert nowhere == -jnp.inf
    below = region_volume(bowl(np.ones(2), 0.0), np.zeros(2), np.eye(2), 1.0, f_min=0.1)
    assert jnp.isnan(below)


def test_a_ratio_needs_two_basins():
    loss, minimizers, hessians, energy = two_basins()
    with pytest.raises(ValueError, match="got 1 minimizers"):
        entry_flux_ratio(loss, minimizers[:1], hessians[:1], energy)


# Rates


def test_born_infeld_descends_a_shallow_valley_at_its_rate():
    """Eq. 8 against Eq. 7: kinopt.bbi and gradient flow in the same valley for the same time."""
    curvature, time_step, num_steps = 1e-2, 0.02, 8000
    valley = lambda x: curvature * jnp.sum(x**2) / 2  # noqa: E731
    optimizer = kinopt.bbi(time_step, fixed_bounce_every=None, patience=None)

    def step(carry, _):
        x, state = carry
        value, gradient = jax.value_and_grad(valley)(x)
        update, state = optimizer.update(gradient, state, x, value=value)
        return (optax.apply_updates(x, update), state), x[0]

    x = jnp.ones(1)
    _, path = jax.lax.scan(step, (x, optimizer.init(x)), length=num_steps)
    half, end = path[num_steps // 2], path[-1]
    rate = np.log(half / end) / (time_step * (num_steps - 1 - num_steps // 2))
    np.testing.assert_allclose(rate, theory.born_infeld_rate(curvature), rtol=3e-3)
    flow = (1 - time_step * curvature) ** np.arange(num_steps)
    rate = np.log(flow[1] / flow[-1]) / (time_step * (num_steps - 2))
    np.testing.assert_allclose(rate, theory.gradient_descent_rate(curvature), rtol=1e-3)
    assert theory.gradient_descent_rate(curvature, friction=2.0) == curvature / 2


# Generalization


def test_theorem_3_1_is_eq_9():
    bound = theory.pac_bayes_bound(0.1, 250.0, num_samples=10_000, delta=0.01)
    np.testing.assert_allclose(bound, 0.1 + np.sqrt((250 + np.log(1e6)) / 19_998), rtol=1e-14)
    many = theory.pac_bayes_bound(jnp.zeros(3), jnp.asarray([1.0, 2.0, 3.0]), 10_000)
    assert jnp.all(jnp.diff(many) > 0)
    with pytest.raises(ValueError, match="at least 2; got 1"):
        theory.pac_bayes_bound(0.1, 1.0, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        theory.pac_bayes_bound(0.1, 1.0, 100, delta=1.0)


@pytest.mark.parametrize("neurons", [1, 2, 7])
def test_the_kl_term_is_that_of_the_two_gaussians(neurons):
    """KL(N(W, s^2 R x I) | N(W_0, s^2 I)) from the general formula, with its determinant."""
    features, rho, sigma = 5, 0.35, 0.7
    rng = np.random.default_rng(0)
    shift = rng.normal(size=neurons * features)
    correlation = np.full((neurons, neurons), rho) + (1 - rho) * np.eye(neurons)
    posterior = sigma**2 * np.kron(correlation, np.eye(features))
    prior = sigma**2 * np.eye(neurons * features)
    kl = 0.5 * (
        np.trace(np.linalg.solve(prior, posterior))
        - len(prior)
        + shift @ np.linalg.solve(prior, shift)
        + np.linalg.slogdet(prior)[1]
        - np.linalg.slogdet(posterior)[1]
    )
    rest = theory.correlation_kl(rho, neurons, features)
    np.testing.assert_allclose(np.sum(shift**2) / (2 * sigma**2) + rest, kl, rtol=1e-12)


@given(
    st.floats(1e-3, 0.99),
    st.floats(1e-4, 0.01),
    st.integers(2, 1000),
    st.integers(1, 1000),
)
def test_theorem_3_2_less_correlation_is_a_lower_bound(rho, less, neurons, features):
    with jax.enable_x64(True):
        high = theory.correlation_kl(rho, neurons, features)
        low = theory.correlation_kl(max(rho - less, 0), neurons, features)
        assert 0 <= low < high
        assert theory.pac_bayes_bound(0.1, low, 60_000) < theory.pac_bayes_bound(0.1, high, 60_000)


def test_the_kl_term_at_its_ends():
    assert theory.correlation_kl(0.0, 10, 64) == 0
    assert theory.correlation_kl(1.0, 10, 64) == jnp.inf
    assert theory.correlation_kl(1.0, 1, 64) == 0  # a single neuron has nobody to resemble
