"""Random numbers by counter: what a pair of neurons draws depends on the key and the pair alone.

Threefry is a function of a key and a counter, two words each. Neuron i goes into the key, neuron j
and the number of the draw into the counter: one call for all pairs, half the work of folding each
pair into a key and drawing from that, and half the time to compile.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, UInt32

__all__ = ["derived_key", "normals", "random_order", "words"]

ODD = 2654435769
"""2^32 over the golden ratio: multiples of it, modulo 2^32, come back only after 2^32 steps."""

ORDER = np.uint32(2**32 - 1)
"""Stands where a neuron's number does, for draws that belong to the whole layer."""


def derived_key(key: Array, *steps: Array | int) -> Array:
    """Another key for each combination of at most two numbers, at no cost.

    Keys may be as near as they like: Threefry's outputs are unrelated. Seeds that count from zero
    and numbers that count from zero do not meet, because steps are multiples of `ODD`.
    """
    data = jax.random.key_data(key)
    for n, step in enumerate(steps):
        data = data.at[n].add(jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(ODD))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def words(
    key: Array,
    i: Array | np.uint32,
    j: Array | int,
    number: int,
    places: Int[Array, " places"] | None = None,
) -> UInt32[Array, " drawn"]:
    """So many random words for neurons i and j, or those at some places among them."""
    data = jax.random.key_data(key)
    i, j = (jnp.asarray(n).astype(jnp.uint32) for n in (i, j))
    half = -(-number // 2)
    # Each counter gives two words, one for either half of the places.
    place = jnp.arange(half) if places is None else places % half
    counters = jnp.stack([jnp.full(place.shape, j), place.astype(jnp.uint32)])
    # Under vmap over i, JAX wants both words of the key to have the same shape.
    key_words = data[0] + i * jnp.uint32(ODD), data[1] + i * jnp.uint32(0)
    drawn = threefry_2x32(key_words, counters)
    return drawn.ravel()[:number] if places is None else jnp.where(places < half, *drawn)


def normals(
    key: Array,
    i: Array | np.uint32,
    j: Array | int,
    number: int,
    dtype,
    places: Int[Array, " places"] | None = None,
) -> Float[Array, " drawn"]:
    """So many normal numbers for neurons i and j, float32 or float64, or those at some places."""
    info = jnp.finfo(dtype)
    if info.bits == 64:
        both = None if places is None else jnp.concatenate([places, number + places])
        high, low = jnp.split(words(key, i, j, 2 * number, both).astype(jnp.uint64), 2)
        drawn = high << 32 | low
    else:
        drawn = words(key, i, j, number, places)
    # Random fractions of the numbers from 1 to 2; the same but for the least bit up to 1 as down.
    one = jnp.ones((), dtype).view(drawn.dtype)
    fraction = ((drawn >> (info.bits - info.nmant)) | one).view(dtype) - 1
    uniform = jnp.maximum(2 * fraction - 1, jnp.nextafter(jnp.array(-1, dtype), 0))
    return jnp.sqrt(jnp.array(2, dtype)) * jax.lax.erf_inv(uniform)


def random_order(key: Array, number: int) -> Int[Array, " number"]:
    """A permutation of so many, all equally likely but for a tie in 2^32.

    >>> random_order(jax.random.key(0), 5).sort().tolist()
    [0, 1, 2, 3, 4]
    """
    return jnp.argsort(words(key, ORDER, 0, number))
