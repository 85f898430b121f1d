"""Threefry written out: known answers, and what `jax.random` draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from kinopt import _threefry


def test_known_answers():
    """Those that come with the authors' code, for 20 rounds."""
    ones = 0xFFFFFFFF
    pi = (0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344)  # counter and key
    for key, counter, expected in (
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((ones, ones), (ones, ones), (0x1CB996FC, 0xBB002BE7)),
        (pi[1], pi[0], (0xC4923A9C, 0x483DF7A0)),
    ):
        words = [np.uint32(word) for word in (*key, *counter)]
        assert tuple(map(int, _threefry.block(words[:2], words[2:]))) == expected


def test_a_block_is_that_of_jax_under_vmap_too():
    rng = np.random.default_rng(0)
    keys, counters = rng.integers(2**32, size=(2, 2, 7), dtype=np.uint32)
    ours = jax.vmap(_threefry.block)((*keys,), (*counters,))
    for n in range(7):
        theirs = threefry_2x32(jnp.asarray(keys[:, n]), jnp.asarray(counters[:, n]))
        assert [int(words[n]) for words in ours] == theirs.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (0,)])
def test_normal_numbers_are_those_of_jax_to_the_bit(dtype, shape):
    with jax.enable_x64(True):
        keys, dtype = jax.random.split(jax.random.key(7), 3), jnp.dtype(dtype)
        ours = jax.jit(jax.vmap(lambda key: _threefry.normal(key, shape, dtype)))(keys)
        theirs = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
        assert ours.dtype == dtype
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_not_written_out_is_left_to_jax(monkeypatch):
    """Keys of another generator, complex numbers, and the older order of counters."""
    other = jax.random.key(0, impl="rbg")
    np.testing.assert_array_equal(
        _threefry.normal(other, (3,), jnp.dtype("float32")), jax.random.normal(other, (3,))
    )
    key = jax.random.key(1)
    np.testing.assert_array_equal(
        _threefry.normal(key, (3,), jnp.dtype("complex64")),
        jax.random.normal(key, (3,), jnp.complex64),
    )
    with jax.threefry_partitionable(False):
        older = jax.random.normal(key, (3,))
        np.testing.assert_array_equal(_threefry.normal(key, (3,), jnp.dtype("float32")), older)
    assert not np.array_equal(older, jax.random.normal(key, (3,)))
