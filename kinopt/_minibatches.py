"""Minibatches by counter: which rows a step sees is a function of its key and number alone.

An epoch is a permutation of the rows, cut into batches. A lane cannot hold a permutation of all
rows, nor sort one at every step; it asks where a permutation takes the few places of its batch. A
Feistel network answers that: places are pairs (left, right) on a grid of about sqrt(N) x sqrt(N),

    left  += mix(right) mod rows         one to one, whatever `mix` is
    right += mix(left)  mod columns

a few times, with the words of a key in `mix`. The grid has a few places more than there are rows;
what lands on one of those goes on until it lands on a row (cycle walking): of a permutation of the
grid this makes one of the rows (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains").
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import check_count, check_flag, shown
from kinopt._typing import PyTree

__all__ = ["Minibatches", "minibatches", "permuted"]

ROUNDS = 8
"""Of both halves. All permutations of 4, 5 and 6 rows come equally often (chi squared of 60,000
keys is that of chance); with 6 rounds those of 5 do not."""

SHUFFLE, DRAW = 0x5E1F1E00, 0x5E1F1E01
"""What the keys of shuffles and draws are folded with: far from the small numbers that a loss or an
optimizer may fold the same key with, or split it into."""


def _mix(x: jax.Array, word: jax.Array) -> jax.Array:
    """A number from another, every bit of it from every bit (MurmurHash3's last steps)."""
    x = x ^ word
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def permuted(key: jax.Array, places: jax.Array, number: int) -> jax.Array:
    """Where a random permutation of 0, 1, ..., number - 1 takes some of these.

    >>> sorted(permuted(jax.random.key(0), jnp.arange(5), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    rows = math.isqrt(number - 1) + 1
    columns = -(-number // rows)
    rows, columns = np.uint32(rows), np.uint32(columns)
    words = jax.random.bits(key, (ROUNDS, 2), jnp.uint32)

    def once(place):
        left, right = place // columns, place % columns
        for n in range(ROUNDS):
            left = (left + _mix(right, words[n, 0]) % rows) % rows
            right = (right + _mix(left, words[n, 1]) % columns) % columns
        return left * columns + right

    def outside(place):
        return jnp.any(place >= number)

    place = once(places.astype(jnp.uint32))
    place = jax.lax.while_loop(
        outside, lambda place: jnp.where(place >= number, once(place), place), place
    )
    return place.astype(jnp.int32)


class Minibatches:
    """A function of a key and a step's number; see `minibatches`.

    The engine reads `data` once for all lanes, and calls `of` with them.
    """

    def __init__(self, data: PyTree, batch_size: int, keyed: bool):
        self.data = data
        self.batch_size = batch_size
        self.keyed = keyed

    def __call__(self, key: jax.Array, step: Any) -> PyTree:
        return self.of(self.data, key, step)

    def of(self, data: PyTree, key: jax.Array, step: Any) -> PyTree:
        """The batch of a step out of these data."""
        number = jax.tree.leaves(data)[0].shape[0]
        step = jnp.asarray(step, jnp.int32)
        epoch, place = jnp.divmod(step, number // self.batch_size)
        places = place * self.batch_size + jnp.arange(self.batch_size)
        shuffle = jax.random.fold_in(jax.random.fold_in(key, SHUFFLE), epoch)
        rows = permuted(shuffle, places, number)
        batch = jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), data)
        if not self.keyed:
            return batch
        return batch, jax.random.fold_in(jax.random.fold_in(key, DRAW), step)


def minibatches(data: PyTree, batch_size: Any, *, keyed: bool = False) -> Minibatches:
    """Batches for the trainings of an ensemble, from one copy of the data.

    Each seed shuffles the rows anew for every epoch, by its own key. Where `batch_size` does not
    divide the number of rows, those left over are others in every epoch.

    Args:
      data: a pytree of arrays with a leading axis of rows, such as (images, labels).
      batch_size: rows of a batch, at most as many as there are.
      keyed: True: a batch comes as (batch, key), with another key for every seed and step: for
        dropout, noise, augmentation.

    Returns:
      A function (key, step) -> batch, for `batches=` of `kinopt.ensemble.run`.

    Raises:
      TypeError: if an argument is of the wrong kind.
      ValueError: if the leaves do not have equally many rows, or fewer than `batch_size`.

    >>> rows = minibatches(jnp.arange(6), 3)
    >>> epoch = [rows(jax.random.key(0), step) for step in (0, 1)]
    >>> sorted(jnp.concatenate(epoch).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    size = check_count("batch_size", batch_size, optional=False)
    check_flag("keyed", keyed)
    leaves = jax.tree.leaves(data)
    if not leaves or not all(isinstance(x, jax.Array | np.ndarray) for x in leaves):
        wrong = [x for x in leaves if not isinstance(x, jax.Array | np.ndarray)]
        raise TypeError(
            f"data must be a pytree of arrays with a leading axis of rows, such as (images, "
            f"labels); got {shown(wrong[0] if wrong else data)}."
        )
    numbers = [x.shape[0] if x.ndim else None for x in leaves]
    if None in numbers or len(set(numbers)) > 1:
        raise ValueError(
            f"every leaf of data needs a leading axis of equally many rows; got leaves "
            f"{', '.join(map(shown, leaves))}."
        )
    if numbers[0] < size:
        raise ValueError(
            f"batch_size must be at most the number of rows; got {size} for {numbers[0]} rows."
        )
    return Minibatches(jax.tree.map(jnp.asarray, data), size, bool(keyed))
