"""Random numbers by counter: what a pair of neurons draws depends on the key and the pair alone.

Threefry is a function of a key and a counter, two words each, and for one key a bijection of the
counters. Two things are made of it here. `fold` makes a key from a key and two numbers; `words`
draws from a key, for a pair of neurons and a purpose:

    base key      the user's, of two words; the four of another generator are folded into two
    leaf key      fold(base key, 64-bit digest of the law's name and the leaf's path)
    slice key     fold(leaf key, step, batch slice)
    cell key      fold(slice key, cell, CELL)                    where there are cells
    words of a    Threefry(slice or cell key + (i, j),           word by word, modulo 2^32
    pair (i, j)            (place, purpose))

No two levels can meet. Leaf, step and slice, and cell are the counters of folds: under one key,
different ones have different keys. Below a slice's or a cell's key, (i, j) stands in the key and
(place, purpose) in the counter: a word is read once. Draws of a layer as a whole, and the fold of
cells, have i = j = 0, which is no pair, and purposes of their own. What is left is chance: keys of
different slices, leaves or seeds are outputs of Threefry, and two sets of N^2 keys around such
outputs overlap with a probability of about N^2 / 2^64.

A fold costs one block of Threefry for each leaf, slice or cell; a pair costs nothing but its words.
"""

import hashlib
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, UInt32

__all__ = [
    "CELL",
    "DIRECTION",
    "HASH",
    "ORDER",
    "POOL",
    "SIGN",
    "fold",
    "leaf_key",
    "normals",
    "random_order",
    "words",
]

DIRECTION, ORDER, CELL, HASH, POOL, SIGN = map(np.uint32, range(6))
"""What words are drawn for: the second word of the counter."""

Word: TypeAlias = Array | int | np.integer
"""A whole number that fits into 32 bits."""


def _threefry(key: tuple, first, second) -> tuple[Array, Array]:
    """Threefry of one counter, or of a row of them under one key."""
    first, second = (jnp.asarray(word).astype(jnp.uint32) for word in (first, second))
    # Under vmap over one word of the key, JAX wants the other to have the same shape.
    nothing = (key[0] ^ key[0]) | (key[1] ^ key[1])
    counters = jnp.stack(jnp.broadcast_arrays(first, second))
    high, low = threefry_2x32((key[0] | nothing, key[1] | nothing), counters)
    return high, low


def _two_words(key: Array) -> Array:
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    if data.shape[-1] == 2:
        return data
    # The keys of other generators have four words, and all of them count.
    return jnp.stack(_threefry((data[0], data[1]), data[2], data[3]))


def fold(key: Array, first: Word, second: Word) -> Array:
    """Another key for each pair of numbers below 2^32, none of them twice.

    >>> key = jax.random.key(0)
    >>> bool(jnp.any(jax.random.key_data(fold(key, 0, 1)) == jax.random.key_data(fold(key, 1, 0))))
    False
    """
    data = _two_words(key)
    return jax.random.wrap_key_data(
        jnp.stack(_threefry((data[0], data[1]), first, second)), impl="threefry2x32"
    )


def leaf_key(base: Array, law: str, path: str) -> Array:
    """The key of a leaf for a law, whatever else is in the tree."""
    digest = hashlib.blake2b(f"{law} {path}".encode(), digest_size=8).digest()
    return fold(base, *np.frombuffer(digest, "<u4"))


def words(
    key: Array,
    i: Word,
    j: Word,
    number: int,
    purpose: np.uint32,
    places: Int[Array, " places"] | None = None,
) -> UInt32[Array, " drawn"]:
    """So many random words for neurons i and j, or those at some places among them."""
    data = _two_words(key)
    i, j = (jnp.asarray(n).astype(jnp.uint32) for n in (i, j))
    half = -(-number // 2)
    # Each counter gives two words, one for either half of the places.
    place = jnp.arange(half) if places is None else places % half
    high, low = _threefry((data[0] + i, data[1] + j), place, jnp.full(place.shape, purpose))
    if places is None:
        return jnp.concatenate([high, low])[:number]
    return jnp.where(places < half, high, low)


def normals(
    key: Array,
    i: Word,
    j: Word,
    number: int,
    dtype,
    purpose: np.uint32,
    places: Int[Array, " places"] | None = None,
) -> Float[Array, " drawn"]:
    """So many normal numbers for neurons i and j, float32 or float64, or those at some places."""
    info = jnp.finfo(dtype)
    if info.bits == 64:
        both = None if places is None else jnp.concatenate([places, number + places])
        drawn = words(key, i, j, 2 * number, purpose, both).astype(jnp.uint64)
        high, low = jnp.split(drawn, 2)
        drawn = high << jnp.uint64(32) | low
    else:
        drawn = words(key, i, j, number, purpose, places)
    # Random fractions of the numbers from 1 to 2; the same but for the least bit up to 1 as down.
    one = jnp.ones((), dtype).view(drawn.dtype)
    shift = jnp.asarray(info.bits - info.nmant, drawn.dtype)
    fraction = ((drawn >> shift) | one).view(dtype) - 1
    uniform = jnp.maximum(
        2 * fraction - 1, jnp.nextafter(jnp.array(-1, dtype), jnp.array(0, dtype))
    )
    return jnp.sqrt(jnp.array(2, dtype)) * jax.lax.erf_inv(uniform)


def random_order(key: Array, number: int) -> Int[Array, " number"]:
    """A permutation of so many, all equally likely but for a tie in 2^32.

    >>> random_order(jax.random.key(0), 5).sort().tolist()
    [0, 1, 2, 3, 4]
    """
    return jnp.argsort(words(key, 0, 0, number, ORDER))
