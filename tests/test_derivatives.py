"""Derivatives through a collision: finite, and those of finite differences, in both modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kinopt

COLLISIONS = {
    "soft": lambda c, **_: kinopt.soft_collision(c),
    "soft, normalized": lambda c, **_: kinopt.soft_collision(c, normalize=True, self_term=False),
    "soft, gradients": lambda c, **_: kinopt.soft_collision(c, alike="gradients"),
    "soft, cells": lambda c, **_: kinopt.soft_collision(c, cell_size=3),
    "hard, gaussian": lambda c, e: kinopt.hard_collision(0.9, restitution=e, scatter="gaussian"),
    "hard, sum": lambda c, e: kinopt.hard_collision(
        0.9, restitution=e, scatter="gaussian", combine="sum", distance="l2"
    ),
    "hard, matching": lambda c, e: kinopt.hard_collision(0.9, restitution=e, combine="matching"),
}
PAIRS = {
    "hard": lambda c, e: kinopt.hard_collision(0.9, restitution=e),
    "hard, pairs": lambda c, e: kinopt.hard_collision(0.9, restitution=e, scatter="pairs"),
}


def objective(make):
    """A number from an update, as a function of weights, gradients, coefficient, restitution."""

    def of(w, g, c, e):
        tx = make(c, e=e)
        after, _ = tx.update(g, tx.init(w), w)
        return jnp.sum(jnp.sin(after) * jnp.arange(after.size).reshape(after.shape))

    return of


def point(zero_row):
    keys = jax.random.split(jax.random.key(3), 2)
    w, g = (jax.random.normal(key, (4, 7)) for key in keys)
    if zero_row:
        w, g = w.at[:, 2].set(0), g.at[:, 4].set(0)
    return w, g, jnp.asarray(0.2), jnp.asarray(0.7)


def tangent():
    keys = jax.random.split(jax.random.key(5), 2)
    w, g = (jax.random.normal(key, (4, 7)) for key in keys)
    return w.at[:, 2].set(0), g.at[:, 4].set(0), jnp.asarray(0.3), jnp.asarray(-0.2)


@pytest.mark.parametrize("name", COLLISIONS | PAIRS)
@pytest.mark.slow
def test_derivatives_agree_with_finite_differences(name):
    """Zero rows stay zero along the direction: a cosine has no derivative at a row of length 0."""
    with jax.enable_x64(True):
        f, v, step = objective((COLLISIONS | PAIRS)[name]), tangent(), 1e-6
        value_and_slope = jax.jit(lambda x, v: jax.jvp(f, x, v))
        gradient = jax.jit(jax.grad(f, argnums=(0, 1, 2, 3)))
        for x in (point(zero_row=False), point(zero_row=True)):
            _, forward = value_and_slope(x, v)
            ahead, behind = (
                value_and_slope(jax.tree.map(lambda x, v, s=s: x + s * v, x, v), v)[0]
                for s in (step, -step)
            )
            np.testing.assert_allclose(forward, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)
            if name in PAIRS:
                continue
            gradients = gradient(*x)
            assert all(np.all(np.isfinite(part)) for part in gradients)
            products = jax.tree.map(lambda a, b: jnp.sum(a * b), gradients, v)
            np.testing.assert_allclose(sum(products), forward, rtol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.slow
def test_reverse_mode_pair_by_pair_is_refused_by_jax(name):
    """Documented, with what works instead; JAX says why."""
    assert "reverse mode with" in " ".join(kinopt.hard_collision.__doc__.split())
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work for"):
        jax.grad(objective(PAIRS[name]), argnums=1)(*point(False))
