"""What can be known of a value before it is judged, and how an error shows it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = ["STATIC_HINT", "is_concrete", "is_plain", "is_real", "is_traced", "is_zero", "shown"]


STATIC_HINT = (
    "under optax.inject_hyperparams, which turns numbers into arrays and functions into schedules, "
    "keep it as it is with static_args=kinopt.static_args(FACTORY)"
)
"""What to do about an argument that `optax.inject_hyperparams` has changed."""


def shown(value: Any) -> str:
    """A value as an error shows it: in one short line, arrays by type and shape.

    >>> shown("1e-3"), shown(jnp.zeros((2, 3)))
    ("'1e-3'", 'float32[2,3]')
    """
    if isinstance(value, jax.Array | np.ndarray) and (is_traced(value) or value.ndim):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:117] + "..."


def is_traced(value: Any) -> bool:
    """Whether JAX traces a value, so that it has none yet."""
    return isinstance(value, Tracer)


def is_concrete(*values: Any) -> bool:
    """Whether nothing in them is traced: outside jit, vmap and grad."""
    return not any(map(is_traced, jax.tree.leaves(values)))


def is_plain(value: Any) -> bool:
    """Whether a value can be looked into: not traced, and not a schedule."""
    return not is_traced(value) and not callable(value)


def is_zero(value: Any) -> bool:
    """Whether a number is known to be 0 for good, so that what it scales can be left out."""
    return is_plain(value) and float(value) == 0


def is_real(value: Any) -> bool:
    """A real number, concrete or traced: Python's, NumPy's, or an array of shape []."""
    if isinstance(value, bool | np.bool_ | str | bytes | None):
        return False
    if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
        return False
    dtype = jnp.result_type(value)
    return np.shape(value) == () and (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )
