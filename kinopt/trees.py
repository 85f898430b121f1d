"""Arithmetic over whole parameter trees, accumulated in float32 or wider."""

import jax.numpy as jnp

__all__ = ["accumulator_dtype"]


def accumulator_dtype(*arrays) -> jnp.dtype:
    """The type to accumulate in: what the arrays promote to, but at least float32.

    >>> accumulator_dtype(jnp.zeros(3, jnp.bfloat16))
    dtype('float32')
    """
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
