"""`suggest_dt` against known curvatures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kinopt
from tests.descents import rosenbrock


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quadratic_has_its_largest_eigenvalue(dtype):
    params = {"w": jnp.ones((3, 2), dtype), "b": jnp.ones(2, dtype), "n": jnp.arange(3), "no": None}
    loss = lambda p: 50 * jnp.sum(p["w"][0] ** 2) + jnp.sum(p["w"] ** 2) + p["b"][0] ** 2  # noqa: E731
    dt = kinopt.suggest_dt(loss, params)
    assert type(dt) is float
    np.testing.assert_allclose(dt, 0.75 / np.sqrt(102), rtol=float(jnp.finfo(dtype).eps) + 1e-3)


def test_a_dense_hessian():
    x = jnp.array([-1.2, 1.0, 0.5, 2.0])
    largest = float(jnp.linalg.eigvalsh(jax.hessian(rosenbrock)(x))[-1])
    for key in (0, jax.random.key(1)):
        dt = kinopt.suggest_dt(rosenbrock, x, key, iterations=60)
        np.testing.assert_allclose(dt, 0.75 / np.sqrt(largest), rtol=1e-3)


def test_a_saddle_has_its_positive_curvature():
    """Power iteration alone would find the eigenvalue -20."""
    loss = lambda x: x[0] ** 2 - 10 * x[1] ** 2  # noqa: E731
    dt = kinopt.suggest_dt(loss, jnp.ones(2), iterations=100)
    np.testing.assert_allclose(dt, 0.75 / np.sqrt(2), rtol=1e-3)


def test_a_descent_with_it_reaches_the_minimum():
    loss = lambda x: jnp.sum(jnp.array([1.0, 30.0, 200.0]) * x**2)  # noqa: E731
    x = jnp.array([1.0, 1.0, 1.0])
    tx = kinopt.bbi(kinopt.suggest_dt(loss, x))

    @jax.jit
    def step(x, state):
        value, gradient = jax.value_and_grad(loss)(x)
        update, state = tx.update(gradient, state, x, value=value)
        return x + update, state

    state = tx.init(x)
    for _ in range(500):
        x, state = step(x, state)
    assert loss(x) < 1e-6


@pytest.mark.parametrize(
    ("loss", "x", "error", "message"),
    [
        (lambda x: -jnp.sum(x**2), jnp.ones(2), ValueError, "no positive curvature.*-2"),
        (lambda x: jnp.sum(x), jnp.ones(2), ValueError, "no positive curvature"),
        (lambda x: jnp.sum(jnp.log(x)), -jnp.zeros(2), ValueError, "curvature.*nan"),
        (lambda x: x**2, jnp.ones(2), ValueError, r"scalar; got shape \(2,\)"),
        (lambda x: 1.0, jnp.arange(3), ValueError, "no floating leaf"),
        (lambda x: jnp.sum(jnp.abs(x)), jnp.ones(2) * 1j, TypeError, "complex"),
    ],
)
def test_where_there_is_no_step_it_says_so(loss, x, error, message):
    with pytest.raises(error, match=message):
        kinopt.suggest_dt(loss, x)


def test_under_jit():
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: kinopt.suggest_dt(rosenbrock, x))(jnp.ones(2))
