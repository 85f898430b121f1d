"""Derivatives through the update: reverse, forward and finite differences agree from step one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kinopt
from kinopt import hamiltonians

NUM_STEPS = 3
CURVATURE = np.array([1.0, 3.0, 0.5])
NAMES = ("x0", "x1", "x2", "learning_rate", "f_min", "extra_energy")

FAMILY = {
    "paper": kinopt.bbi,
    "leapfrog, bouncing": lambda *args, **more: kinopt.bbi(
        *args, fixed_bounce_every=1, num_fixed_bounces=None, integrator="leapfrog", **more
    ),
    "massive": lambda *args, **more: kinopt.ecd(*args, hamiltonians.massive(), **more),
    "logarithmic": lambda *args, **more: kinopt.ecd(*args, hamiltonians.logarithmic(), **more),
    "ecdsep": lambda *args, **more: kinopt.ecdsep(*args, eta=2.0, nu=1e-2, **more),
}


def positions(make):
    """(x, learning_rate, f_min, extra_energy) -> the parameters after each step."""
    curvature = jnp.asarray(CURVATURE)

    def loss(x):
        return 0.3 + jnp.sum(curvature * x**2) + 0.1 * jnp.sum(x**4)

    def run(z):
        tx = make(z[3], f_min=z[4], extra_energy=z[5])

        def step(carry, _):
            x, state = carry
            value, gradient = jax.value_and_grad(loss)(x)
            update, state = tx.update(gradient, state, x, value=value)
            return (x + update, state), x + update

        start = z[:3], tx.init(z[:3])
        return jnp.ravel(jax.lax.scan(step, start, length=NUM_STEPS)[1])

    return run


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.slow
def test_derivatives_agree_with_finite_differences(name):
    with jax.enable_x64(True):
        run = positions(FAMILY[name])
        each = jax.jit(jax.jacrev(run)), jax.jit(jax.jacfwd(run)), jax.jit(jax.vmap(run))
        for extra_energy in (0.0, 0.5):
            if extra_energy or name not in ("massive", "logarithmic"):  # no force at rest
                check(*each, extra_energy)


def check(jacrev, jacfwd, runs, extra_energy):
    z, h = jnp.array([1.0, -0.5, 0.7, 0.05, 0.1, extra_energy]), 1e-6
    reverse, forward = jacrev(z), jacfwd(z)
    moved = z + h * np.concatenate([np.eye(6), -np.eye(6)])
    # Below zero extra energy there is no run; the column of that one is not compared.
    ends = runs(moved.at[:, 5].set(jnp.maximum(moved[:, 5], 0)))
    differences = (ends[:6] - ends[6:]).T / (2 * h)
    assert np.isfinite(reverse).all()
    np.testing.assert_allclose(reverse, forward, rtol=1e-9, atol=1e-12)
    known = 6 if extra_energy else 5  # from rest, |Pi| is the root of the extra energy: no slope
    for n in range(known):
        scale = np.abs(differences[:, n]).max()
        np.testing.assert_allclose(
            reverse[:, n], differences[:, n], atol=1e-6 * scale, err_msg=NAMES[n]
        )
        assert scale > 1e-5, NAMES[n]  # or the comparison would be one of zeros
