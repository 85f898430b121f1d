"""Arguments of one kind: a choice, a flag, a function, a random key, a type of number."""

from collections.abc import Iterable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks.values import shown

__all__ = ["check_choice", "check_dtype", "check_flag", "check_function", "check_key"]


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises on a value that is none of those of a `Literal` type, or of a collection.

    >>> check_choice("colour", "blue", ("red", "green"))
    Traceback (most recent call last):
    ValueError: colour must be one of 'red', 'green'; got 'blue'.
    """
    allowed: Iterable = get_args(choices) or choices
    if not (isinstance(value, str) and value in allowed):
        names = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} must be one of {names}; got {shown(value)}.")


def check_flag(name: str, value: Any) -> None:
    """Raises on anything but True and False.

    >>> check_flag("stacked", "no")
    Traceback (most recent call last):
    TypeError: stacked must be True or False; got 'no'.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {shown(value)}.")


def check_function(name: str, value: Any, wanted: str) -> None:
    """Raises on what cannot be called; `wanted` says what it takes and gives.

    >>> check_function("loss_fn", 3.0, "params -> loss")
    Traceback (most recent call last):
    TypeError: loss_fn must be a function, params -> loss; got 3.0.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, {wanted}; got {shown(value)}.")


def check_key(name: str, value: Any) -> None:
    """Raises on what is no random key: not an int, a typed key or a raw one.

    >>> check_key("key", jax.random.key(0))
    >>> check_key("key", 0.5)
    Traceback (most recent call last):
    TypeError: key must be an int, one jax.random.key, or its uint32 data; got 0.5.
    """
    wanted = f"{name} must be an int, one jax.random.key, or its uint32 data"
    dtype = getattr(value, "dtype", np.dtype(int) if type(value) is int else np.dtype(object))
    shape = np.shape(value) if dtype != np.dtype(object) else None
    is_key = jnp.issubdtype(dtype, jax.dtypes.prng_key) or jnp.issubdtype(dtype, jnp.integer)
    if (is_key and shape == ()) or (dtype == np.uint32 and shape and len(shape) == 1):
        return
    many = " For many seeds, vmap over the function that builds the optimizer." if shape else ""
    raise TypeError(f"{wanted}; got {shown(value)}.{many}")


def check_dtype(name: str, value: Any) -> None:
    """Raises on anything but None and a real floating type.

    >>> check_dtype("mu_dtype", "bfloat16")
    >>> check_dtype("mu_dtype", int)
    Traceback (most recent call last):
    TypeError: mu_dtype must be a real floating type such as jnp.bfloat16, or None; got the class
    int.
    """
    try:
        good = value is None or jnp.issubdtype(jnp.dtype(value), jnp.floating)
    except TypeError:
        good = False
    if not good:
        raise TypeError(
            f"{name} must be a real floating type such as jnp.bfloat16, or None; got "
            f"{shown(value)}."
        )
