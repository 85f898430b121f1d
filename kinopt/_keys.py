"""Random keys in optimizer states: any kind of key in, plain uint32 data stored.

Typed keys pass through most of JAX, but not through `flax.serialization`, `np.asarray` or
`optax.tree.norm`. A state therefore holds the key's raw data, and a transformation remembers
which generator it belongs to.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._typing import Key

__all__ = ["key_data", "typed_key"]


def _is_typed(key: Key) -> bool:
    return isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def key_data(key: Key) -> jax.Array:
    """Raw data of a seed, a typed key or a raw key, in a buffer of its own.

    A fresh buffer, because a state may be donated while the key lives on in the transformation.

    >>> key_data(7)
    Array([0, 7], dtype=uint32)
    """
    shape, dtype = jnp.shape(key), jnp.result_type(key)
    if _is_typed(key) and not shape:
        return jnp.array(jax.random.key_data(key), copy=True)
    if not shape and jnp.issubdtype(dtype, jnp.integer):
        return jax.random.key_data(jax.random.key(key))
    if len(shape) == 1 and dtype == np.uint32:
        return jnp.array(key, copy=True)
    raise TypeError(
        f"key must be an int, one jax.random.key, or its uint32 data; got {dtype} of shape "
        f"{shape}. For many seeds, vmap over the function that builds the optimizer."
    )


def typed_key(data: jax.Array, like: Key) -> jax.Array:
    """The typed key of stored `data`, of the same generator as `like`."""
    return jax.random.wrap_key_data(
        data, impl=jax.random.key_impl(like) if _is_typed(like) else None
    )
