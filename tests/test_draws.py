"""Random numbers by counter: distributions, and no two alike where they must differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kinopt.collisions.draws import derived_key, normals, random_order, words


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normals_are_normal_and_uncorrelated(dtype):
    with jax.enable_x64(True):
        key = jax.random.key(0)

        def row(i, j):
            return normals(key, i, j, 101, jnp.dtype(dtype))

        i, j = (x.ravel() for x in np.mgrid[:50, :40])
        drawn = np.asarray(jax.vmap(row)(jnp.asarray(i), jnp.asarray(j)))
        assert drawn.dtype == dtype
        assert np.all(np.isfinite(drawn))
        assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
        flat = drawn.reshape(50, 40, 101)
        for axis in range(3):
            neighbours = np.moveaxis(flat, axis, 0)
            for function in (np.copy, np.square):
                a, b = (function(neighbours[part]).ravel() for part in (slice(1, None), slice(-1)))
                assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_words_differ_with_everything_they_depend_on(impl):
    seen = {}
    for seed in range(4):
        base = jax.random.key(seed, impl=impl)
        for step in range(4):
            key = derived_key(base, jnp.uint32(7), step)
            assert jax.random.key_impl(key) == jax.random.key_impl(base)
            for i in range(3):
                for j in range(3):
                    for word in np.asarray(words(key, jnp.int32(i), j, 4)):
                        seen.setdefault(int(word), []).append((seed, step, i, j))
    assert max(map(len, seen.values())) == 1


def test_a_word_does_not_depend_on_how_many_come_with_it():
    """Under `vmap` too, over any of its arguments."""
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    i = jnp.arange(3)
    together = jax.vmap(lambda key, i: jax.vmap(lambda j: words(key, i, j, 6))(i + jnp.arange(4)))
    for n, row in enumerate(together(keys, i)):
        for m, drawn in enumerate(row):
            np.testing.assert_array_equal(drawn, words(keys[n], i[n], i[n] + m, 6))


def test_every_order_is_as_likely():
    keys = jax.random.split(jax.random.key(0), 6000)
    orders = np.asarray(jax.vmap(lambda key: random_order(key, 3))(keys))
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", [7, 8])
def test_some_places_hold_what_all_places_hold(dtype, number):
    with jax.enable_x64(True):
        key, dtype = jax.random.key(3), jnp.dtype(dtype)
        whole = normals(key, jnp.uint32(2), 5, number, dtype)
        places = jnp.array([6, 0, 3])
        assert (normals(key, jnp.uint32(2), 5, number, dtype, places) == whole[places]).all()
