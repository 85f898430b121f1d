"""Random keys as numbers: what `kinopt._scalars` draws for small arrays.

A key of Threefry is two numbers, and JAX's functions of it are operations on these and on the
numbers of a counter, like any other: they are worked out here on the data of keys, and what they
draw is the same. Keys of another kind, and arrays of many draws, stay whole.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_prng_impl as threefry

__all__ = ["DRAWS", "KeyParts"]


class KeyParts(NamedTuple):
    """A value: typed keys of Threefry."""

    data: np.ndarray  # object array of numbers, [..., 2]

    def whole(self) -> jax.Array:
        """The keys."""
        data = jnp.stack(list(self.data.flat)).reshape(self.data.shape)
        return jax.random.wrap_key_data(data, impl=threefry.name)


DRAWS: dict[str, Callable[[dict], Callable[..., Any]]] = {
    "random_bits": lambda params: functools.partial(
        threefry.random_bits, bit_width=params["bit_width"], shape=params["shape"]
    ),
    "random_fold_in": lambda params: threefry.fold_in,
    "random_split": lambda params: functools.partial(threefry.split, shape=params["shape"]),
}
"""Parameters of an equation with a key -> what it makes of the key's data, and of numbers."""
