"""Random numbers by counter: what a pair of neurons draws depends on the key and the pair alone.

Threefry is a function of a key and a counter, two words each, and for one key a bijection of the
counters. Two things are made of it here. `fold` makes a key from a key and two numbers; `words`
draws from a key, for a pair of neurons and a purpose:

    base key      the user's, of two words; the four of another generator are folded into two
    leaf key      fold(base key, 64-bit digest of the law's name and the leaf's path)
    slice key     fold(leaf key, step, batch slice)
    cell key      fold(slice key, cell, CELL)                    where there are cells
    a word of a   Threefry(slice or cell key + (i, j),           word by word, modulo 2^32
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

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kinopt._threefry import Word, block, normal_of, word

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


def _two_words(key: Array) -> Array:
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    if data.shape[-1] == 2:
        return data
    # The keys of other generators have four words, and all of them count.
    return jnp.stack(block((data[0], data[1]), (data[2], data[3])))


def fold(key: Array, first: Word, second: Word) -> Array:
    """Another key for each pair of numbers below 2^32, none of them twice.

    >>> key = jax.random.key(0)
    >>> bool(jnp.any(jax.random.key_data(fold(key, 0, 1)) == jax.random.key_data(fold(key, 1, 0))))
    False
    """
    words = jnp.stack(block(_two_words(key), (first, second)))
    # A barrier, or XLA makes the key anew for each number that is drawn from it.
    words = jax.lax.optimization_barrier(words)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


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
    bits: int = 32,
) -> Array:
    """So many random words of 32 or 64 bits for neurons i and j, or those at some places."""
    first, second = _two_words(key)
    first, second = first + jnp.asarray(i, first.dtype), second + jnp.asarray(j, first.dtype)
    place = jnp.arange(number) if places is None else places
    x, y = block((first, second), (place, jnp.full(place.shape, purpose)))
    return word(x, y, bits)


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
    bits = jnp.finfo(dtype).bits
    return normal_of(words(key, i, j, number, purpose, places, bits), dtype)


def random_order(key: Array, number: int) -> Int[Array, " number"]:
    """A permutation of so many, all equally likely but for a tie in 2^32.

    >>> random_order(jax.random.key(0), 5).sort().tolist()
    [0, 1, 2, 3, 4]
    """
    return jnp.argsort(words(key, 0, 0, number, ORDER))
