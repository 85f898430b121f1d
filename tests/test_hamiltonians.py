"""Each Hamiltonian: inverse, factors against the paper's closed forms, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinopt import hamiltonians
from kinopt.hamiltonians import force_factor, velocity_factor

FAMILY = {
    "born_infeld": hamiltonians.born_infeld(),
    "massive": hamiltonians.massive(),
    "logarithmic": hamiltonians.logarithmic(),
    "separable": hamiltonians.separable(),
    "separable, s=0.3": hamiltonians.separable(0.3),
}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _grid():
    v = np.logspace(-8, 3, 23)
    q = np.logspace(-6, 6, 25)
    return (jnp.asarray(x) for x in map(np.ravel, np.meshgrid(v, q)))


@pytest.mark.parametrize("name", FAMILY)
def test_momentum_is_the_inverse_of_the_energy(name):
    h = FAMILY[name]
    v, q = _grid()
    energy = h.energy(v, q)
    # Where the momentum hardly contributes, H does not hold it to full precision.
    by_v, by_q = jax.vmap(jax.grad(h.energy, (0, 1)))(v, q)
    conditioning = (jnp.abs(energy) + jnp.abs(by_v * v)) / (by_q * q)
    error = jnp.abs(jax.vmap(h.momentum_sq)(v, energy) / q - 1)
    assert jnp.all(error < 1e-13 * jnp.maximum(1, conditioning))


def _w(v, e):
    return 1 + _newton_free_w(e / v)


def _newton_free_w(h):
    """Root of d - log(1 + d)/2 = h by bisection, as an independent check."""
    low, high = 0.0, 2 * h + 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle - np.log1p(middle) / 2 < h:
            low = middle
        else:
            high = middle
    return middle


CLOSED_FORMS = {
    # velocity and force factor on the shell: Eqs. 3, 35, section A.2, ECDSep
    "born_infeld": (lambda v, e: v / e, lambda v, e: (v / e + e / v) / 2),
    "massive": (lambda v, e: v, lambda v, e: e / v),
    "logarithmic": (
        lambda v, e: 1 / _w(v, e),
        lambda v, e: (_w(v, e) - 1 - np.log(_w(v, e))) / 2,
    ),
    "separable": (lambda v, e: 2 * v / np.exp(e), lambda v, e: 1 / v),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize(("v", "e"), [(0.5, 2.0), (1e-6, 1.0), (3.0, 3.5)])
def test_factors_are_those_of_the_paper(name, v, e):
    h = FAMILY[name]
    q = h.momentum_sq(jnp.asarray(v), jnp.asarray(e))
    velocity, force = CLOSED_FORMS[name]
    np.testing.assert_allclose(velocity_factor(h, v, q), velocity(v, e), rtol=1e-10)
    np.testing.assert_allclose(force_factor(h, v, q), force(v, e), rtol=1e-10)


@pytest.mark.parametrize("name", ["born_infeld", "massive", "logarithmic", "separable"])
def test_speed_stays_below_its_limit(name):
    h = FAMILY[name]
    v, q = _grid()
    speed = jax.vmap(lambda v, q: velocity_factor(h, v, q))(v, q) * jnp.sqrt(q)
    limit = jax.vmap(h.speed_limit)(v, h.energy(v, q))
    assert jnp.all(speed <= limit * (1 + 1e-14))
    assert jnp.any(speed > 0.99 * limit)


def test_legendre_transform_of_the_logarithmic_action():
    # H = Pi dTheta/dt - L with L = -V/2 log(1 - u^2/V) and Pi = dL/du.
    h, v = FAMILY["logarithmic"], jnp.asarray(0.7)
    lagrangian = lambda u: -v / 2 * jnp.log(1 - u**2 / v)  # noqa: E731
    for u in np.linspace(0.01, 0.83, 12):
        momentum = jax.grad(lagrangian)(u)
        np.testing.assert_allclose(
            h.energy(v, momentum**2), momentum * u - lagrangian(u), rtol=1e-12
        )
        np.testing.assert_allclose(velocity_factor(h, v, momentum**2) * momentum, u, rtol=1e-12)


@pytest.mark.parametrize("h", np.logspace(-30, 30, 13))
def test_logarithmic_inverse_over_sixty_decades(h):
    log = FAMILY["logarithmic"]
    q = log.momentum_sq(jnp.asarray(1.0), jnp.asarray(h))
    d = q / (0.5 + np.sqrt(0.25 + q))  # q = d (1 + d)
    # d - log1p(d)/2 loses digits at small d only in the difference, where d/2 + d^2/4 is exact.
    value = d / 2 + d**2 / 4 if h < 1e-8 else d - np.log1p(d) / 2
    np.testing.assert_allclose(value, h, rtol=1e-13)


def test_born_infeld_in_float32_where_squares_would_fail():
    h = FAMILY["born_infeld"]
    v, e = jnp.float32(1e-25), jnp.float32(1e3)
    q = h.momentum_sq(v, e)
    np.testing.assert_allclose(q, 1e31, rtol=1e-6)
    np.testing.assert_allclose(h.energy(v, q), 1e3, rtol=1e-6)
    close = jnp.float32(1) + jnp.finfo(jnp.float32).eps
    np.testing.assert_allclose(h.momentum_sq(jnp.float32(1), close), 2 * 2**-23, rtol=1e-6)
    np.testing.assert_allclose(h.momentum_sq(jnp.float32(1e20), jnp.float32(1e25)), 1e30, rtol=1e-6)
    v = np.float32(1.1)
    e = np.nextafter(v, np.float32(2))  # the squares lose what they differ by
    expected = 2 * (np.float64(e) - np.float64(v))
    np.testing.assert_allclose(h.momentum_sq(jnp.asarray(v), jnp.asarray(e)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "v", "extra", "expected"),
    [
        ("born_infeld", 3.0, 0.5, 3.5),
        ("massive", 3.0, 0.5, 0.5),
        ("logarithmic", 3.0, 0.5, 0.5),
        ("separable", 3.0, 0.5, np.log(3) + np.log(1.5)),
    ],
)
def test_energy_at_the_start(name, v, extra, expected):
    start = FAMILY[name].start(jnp.asarray(v), jnp.asarray(extra))
    np.testing.assert_allclose(start, expected, rtol=1e-14)


@pytest.mark.parametrize("name", FAMILY)
def test_force_at_rest_is_what_moves_from_rest_says(name):
    h = FAMILY[name]
    assert h.moves_from_rest == bool(force_factor(h, 2.0, 0.0) > 0)
