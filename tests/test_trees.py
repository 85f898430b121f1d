"""Arithmetic over trees: against plain NumPy on the concatenated vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinopt import trees


def _tree(dtype=jnp.float32):
    return {
        "kernel": jnp.arange(6, dtype=dtype).reshape(2, 3) - 2,
        "scale": jnp.asarray(3, dtype),
        "nothing": None,
        "steps": jnp.arange(4),
        "flag": jnp.array(True),
    }


def _vector(tree):
    return np.concatenate([np.ravel(tree["kernel"]), np.ravel(tree["scale"])]).astype(np.float64)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_inner_is_the_dot_product_of_the_floating_leaves(dtype):
    a, b = _tree(dtype), jax.tree.map(lambda x: x * 2, _tree(dtype))
    result = trees.inner(a, b)
    assert result.dtype == jnp.float32
    assert result == _vector(a) @ _vector(b)
    assert trees.squared_norm(a) == _vector(a) @ _vector(a)


def test_accumulates_in_float32_at_least():
    # 4096 ones in float16 would stop at 2048 if they were added in float16.
    assert trees.squared_norm(jnp.ones(4096, jnp.float16)) == 4096
    assert trees.squared_norm(jnp.full(4, 1e4, jnp.float16)) == 4e8  # beyond float16


def test_float64_stays_float64():
    with jax.enable_x64(True):
        assert trees.squared_norm([jnp.ones(2), jnp.ones(2, jnp.float32)]).dtype == jnp.float64


def test_complex_leaves_have_a_real_norm():
    result = trees.squared_norm(jnp.array([3 + 4j, 1j]))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, 26, rtol=1e-6)


@pytest.mark.parametrize("tree", [{}, None, {"steps": jnp.arange(3)}, {"a": jnp.zeros((0, 3))}])
def test_trees_without_floating_entries_have_norm_zero(tree):
    assert trees.squared_norm(tree) == 0


def test_inner_refuses_another_structure():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        trees.inner({"a": jnp.ones(1)}, {})


def test_random_direction_has_norm_one_over_all_leaves():
    direction = trees.random_direction(jax.random.key(1), _tree())
    np.testing.assert_allclose(trees.squared_norm(direction), 1, rtol=1e-6)
    assert (direction["steps"] == 0).all()
    assert direction["nothing"] is None


def test_random_direction_is_isotropic():
    # For a uniform direction in n dimensions E[x_i^2] = 1/n, E[x_i^4] = 3/(n (n + 2)), E[x_i] = 0.
    n, draws = 3, 20_000
    keys = jax.random.split(jax.random.key(2), draws)
    like = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    directions = jax.vmap(lambda key: trees.random_direction(key, like))(keys)
    x = np.column_stack([directions["a"], directions["b"]])
    deviations = 5 / np.sqrt(draws)  # five standard errors; every spread here is below 1
    np.testing.assert_allclose(x.mean(0), 0, atol=deviations * n**-0.5)
    np.testing.assert_allclose((x**2).mean(0), 1 / n, atol=deviations * 0.3)
    # Directions that prefer the diagonals (cube-shaped draws) have E[x^4] near 0.17, not 0.2.
    np.testing.assert_allclose((x**4).mean(0), 3 / (n * (n + 2)), atol=deviations * 0.27)
    np.testing.assert_allclose((x[:, 0] * x[:, 1]).mean(), 0, atol=deviations * 0.3)


@pytest.mark.parametrize(
    "leaf", [jnp.zeros(5), jnp.zeros(5, jnp.complex64), jnp.zeros(trees.SMALL_LEAF + 1)]
)
def test_leaves_of_equal_shape_draw_differently(leaf):
    noise = trees.random_normal(jax.random.key(0), [leaf, leaf])
    assert not jnp.allclose(noise[0], noise[1])


def test_narrow_leaves_are_drawn_in_float32():
    wide = trees.random_normal(jax.random.key(0), jnp.zeros(7))
    narrow = trees.random_normal(jax.random.key(0), jnp.zeros(7, jnp.bfloat16))
    assert narrow.dtype == jnp.float32
    np.testing.assert_array_equal(wide, narrow)


def test_noise_goes_where_it_is_asked_for(monkeypatch):
    """Leaf by leaf, large and small, with what belongs to them in other trees."""
    monkeypatch.setattr(trees, "SMALL_LEAF", 4)
    tree, key = {"large": jnp.ones((3, 4)), "small": jnp.ones(2), "whole": 7}, jax.random.key(0)
    expected = trees.random_normal(key, tree)

    def made(tree):
        yes = jnp.array(True)
        return trees.map_normal(key, yes, lambda noise, x, y: x + 2 * noise + y, tree, tree)

    alone = jax.vmap(made)(jax.tree.map(lambda x: jnp.asarray(x)[None], tree))
    for drawn in (made(tree), jax.jit(made)(tree), alone):
        for name in ("large", "small"):
            found = np.squeeze(drawn[name])
            np.testing.assert_allclose(found, 2 + 2 * expected[name], rtol=1e-5)
