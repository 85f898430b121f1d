"""The momentum as one vector, against plain NumPy on the concatenated entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinopt import momenta, trees


def tree(seed):
    a, b = np.split(np.random.default_rng(seed).normal(size=7), [4])
    return {"a": jnp.asarray(a.reshape(2, 2), jnp.float32), "b": jnp.asarray(b, jnp.float32)}


def vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def scalar(x):
    return jnp.asarray(x, jnp.float32)


def kicked_sq(momentum, kick, gradient):
    squares = trees.squared_norm(momentum), trees.squared_norm(gradient)
    return momenta.kicked_sq(momentum, squares[0], scalar(kick), gradient, squares[1])


def test_the_length_after_a_kick():
    momentum, gradient = tree(0), tree(1)
    for kick in (0.0, 0.3, -2.0):
        expected = np.sum((vector(momentum) - kick * vector(gradient)) ** 2)
        np.testing.assert_allclose(kicked_sq(momentum, kick, gradient), expected, rtol=1e-5)


def test_a_kick_that_all_but_stops_keeps_its_digits():
    """|Pi - k g|^2 is 1e-8 of |Pi|^2, below the rounding of the inner products."""
    gradient = tree(1)
    momentum = jax.tree.map(lambda g: g * jnp.float32(0.5 * (1 + 1e-4)), gradient)
    expected = np.sum((vector(momentum) - 0.5 * vector(gradient)) ** 2)
    np.testing.assert_allclose(kicked_sq(momentum, 0.5, gradient), expected, rtol=1e-3)


def test_a_draw_keeps_pulls_and_mixes():
    momentum, gradient, key = tree(0), tree(1), jax.random.key(3)
    noise = vector(trees.random_normal(key, momentum))
    yes, keep, pull, mix = jnp.array(True), *map(scalar, (0.8, 0.3, 0.6))
    base, size = momenta.draw(key, momentum, yes, keep, pull, gradient, mix)
    expected = 0.8 * (vector(momentum) - 0.3 * vector(gradient)) + 0.6 * noise
    np.testing.assert_allclose(vector(base), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(size, np.linalg.norm(expected), rtol=1e-6)
    base, size = momenta.draw(key, momentum, yes, None, pull, gradient, mix)
    np.testing.assert_allclose(vector(base), noise, rtol=0, atol=1e-6)
    np.testing.assert_allclose(size, np.linalg.norm(noise), rtol=1e-6)
    base, size = momenta.draw(key, momentum, ~yes, keep, pull, gradient, mix)
    np.testing.assert_array_equal(vector(base), vector(momentum))
    assert size == 1


def test_the_root_has_no_slope_at_zero():
    values, slopes = jax.vmap(jax.value_and_grad(momenta.root))(jnp.array([0.0, 4.0, jnp.nan]))
    np.testing.assert_array_equal(values, [0, 2, np.nan])
    np.testing.assert_array_equal(slopes, [0, 0.25, np.nan])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_largest_momentum_fits_its_type_and_its_square_the_scalars(dtype):
    leaf = jnp.zeros(2, dtype)
    largest = np.float32(momenta.largest_momentum([leaf, jnp.arange(2)], jnp.float32))
    assert np.isfinite(2 * largest**2)
    assert np.isfinite(2 * largest.astype(leaf.dtype))
    assert largest > 3e4
    assert momenta.is_narrow(leaf, jnp.float32) == (dtype == "float16")
    assert not momenta.is_narrow(jnp.arange(2), jnp.float32)
