"""Threefry-2x32 as one elementwise expression: JAX's random numbers, to the bit, in one pass.

On a CPU `jax.random` keeps the rounds of its generator in a loop, and every round of all numbers
goes through memory. Written out, they are one loop over the numbers, fused with what is made of
them: `ecdsep`, which draws at each step, takes half of the time (`speed.steps`). Of keys of another
kind, and where `jax_threefry_partitionable` is off, JAX draws.

Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_prng_impl
from jaxtyping import Array, UInt32

__all__ = ["Word", "block", "is_threefry", "normal", "normal_of", "word"]

ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
"""By how many bits, in the rounds of even and of odd groups of four."""

Word: TypeAlias = Array | int | np.integer
"""A whole number that fits into 32 bits."""

PARITY = np.uint32(0x1BD11BDA)


def is_threefry(dtype: Any) -> bool:
    """Whether it is the type of keys of this generator."""
    return dtype.name == f"key<{threefry_prng_impl.tag}>"


@jax.jit
def block(
    key: Sequence[Word] | Array, counter: Sequence[Word]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Two words, uint32, for the two words of a key and the two of a counter.

    >>> [hex(word) for word in block((0, 0), (0, 0))]
    ['0x6b200159', '0x99ba4efe']
    """
    first, second, x, y = (jnp.asarray(word, jnp.uint32) for word in (*key, *counter))
    schedule = first, second, first ^ second ^ PARITY
    x, y = x + first, y + second
    for group in range(5):
        for bits in ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << bits) | (y >> (32 - bits)))
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def word(x: Array, y: Array, bits: int) -> Array:
    """One word of 32 or 64 bits of two of 32, as JAX makes it."""
    return x ^ y if bits == 32 else x.astype(jnp.uint64) << 32 | y


def normal_of(words: Array, dtype) -> Array:
    """Standard normal numbers, float32 or float64, of random words of as many bits."""
    info = jnp.finfo(dtype)
    one = jnp.ones((), dtype).view(words.dtype)
    shift = jnp.asarray(info.bits - info.nmant, words.dtype)
    fraction = ((words >> shift) | one).view(dtype) - 1  # random, in [0, 1)
    low = np.nextafter(np.array(-1, dtype), np.array(0, dtype))
    uniform = jnp.maximum(low, fraction * (1 - low) + low)
    return jnp.asarray(np.sqrt(2), dtype) * jax.lax.erf_inv(uniform)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def normal(key: Array, shape: tuple[int, ...], dtype) -> Array:
    """`jax.random.normal(key, shape, dtype)`.

    >>> key = jax.random.key(0)
    >>> bool(jnp.all(normal(key, (3,), jnp.float32) == jax.random.normal(key, (3,))))
    True
    """
    partitionable = getattr(jax.config, "jax_threefry_partitionable", True)
    real = dtype in (jnp.float32, jnp.float64)
    size = int(np.prod(shape))
    if not (real and partitionable and is_threefry(key.dtype) and size < 2**32):
        return jax.random.normal(key, shape, dtype)
    # A barrier, or XLA works out again for each number how the key was made.
    data = jax.lax.optimization_barrier(jax.random.key_data(key))
    counter = jnp.arange(size, dtype=jnp.uint32).reshape(shape)
    x, y = block((data[0], data[1]), (jnp.zeros_like(counter), counter))
    return normal_of(word(x, y, jnp.finfo(dtype).bits), dtype)
