"""Arguments that make no sense are refused where they are given, not steps later.

Every error names the argument, what was given, and what would work. NumPy's numbers, and arrays
with one entry, are numbers; True, "1e-3", None and NaN are not. A number that JAX traces has no
value yet, and passes; so do schedules where a schedule is taken.
"""

import operator
from collections.abc import Iterable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = [
    "STATIC_HINT",
    "check_choice",
    "check_count",
    "check_dtype",
    "check_flag",
    "check_function",
    "check_key",
    "check_number",
    "check_numbers",
    "is_plain",
    "is_traced",
    "shown",
]

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


def is_plain(value: Any) -> bool:
    """Whether a value can be looked into: not traced, and not a schedule."""
    return not is_traced(value) and not callable(value)


def _is_real(value: Any) -> bool:
    """A real number, concrete or traced: Python's, NumPy's, or an array of shape []."""
    if isinstance(value, bool | np.bool_ | str | bytes | None):
        return False
    if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
        return False
    dtype = jnp.result_type(value)
    return np.shape(value) == () and (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )


def _range(least: Any, above: Any, most: Any) -> str:
    parts = {"at least": least, "above": above, "at most": most}
    said = [f"{words} {bound}" for words, bound in parts.items() if bound is not None]
    return " " + " and ".join(said) if said else ""


def check_number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    schedule: bool = False,
    optional: bool = False,
) -> None:
    """Raises on what is not a finite real number in a range.

    Args:
        name: of the argument, for the error.
        value: what was given.
        least: smallest allowed; None: any.
        above: what it must exceed; None: any.
        most: largest allowed; None: any.
        schedule: whether a function of the step count will do.
        optional: whether None will do.

    Raises:
        TypeError: not a number.
        ValueError: out of range, NaN or infinite.

    >>> check_number("rate", np.float32(0.1), above=0)
    >>> check_number("rate", "1e-3", above=0, schedule=True)
    Traceback (most recent call last):
    TypeError: rate must be a number above 0, or a schedule (a function of the step count); got
    '1e-3'.
    """
    if (optional and value is None) or (
        schedule and callable(value) and not isinstance(value, type)
    ):
        return
    wanted = f"a number{_range(least, above, most)}"
    wanted += ", or a schedule (a function of the step count)" if schedule else ""
    wanted += ", or None" if optional else ""
    if not _is_real(value):
        raise TypeError(f"{name} must be {wanted}; got {shown(value)}.")
    if is_traced(value):
        return
    number = float(np.asarray(value))
    good = (
        np.isfinite(number)
        and (least is None or number >= least)
        and (above is None or number > above)
        and (most is None or number <= most)
    )
    if not good:
        raise ValueError(f"{name} must be {wanted}; got {shown(value)}.")


def check_numbers(
    name: str,
    value: Any,
    *,
    shape: tuple[int | str, ...] | None = None,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    finite: bool = True,
) -> None:
    """Raises on what is not an array of real numbers in a range.

    Args:
        name: of the argument, for the error.
        value: what was given: a number, an array, or nested lists of numbers.
        shape: its shape, a word where any length will do; None: any shape.
        least: smallest allowed; None: any.
        above: what all must exceed; None: any.
        most: largest allowed; None: any.
        finite: whether NaN and infinities are refused.

    Raises:
        TypeError: not real numbers.
        ValueError: of another shape, out of range, NaN or infinite.

    >>> check_numbers("curvature", [1.0, -2.0], above=0)
    Traceback (most recent call last):
    ValueError: curvature must be real numbers above 0; got [1.0, -2.0].
    """
    wanted = f"{name} must be real numbers{_range(least, above, most)}"
    if shape is not None:
        wanted += f" of shape [{', '.join(map(str, shape))}]"
    traced = is_traced(value)
    try:
        array = value if traced else np.asarray(value)
    except (
        TypeError,
        ValueError,
        jax.errors.TracerArrayConversionError,
    ):  # ragged, or traced parts
        array = None
        if any(is_traced(x) for x in jax.tree.leaves(value)):
            return
    if array is None or not (
        jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    ):
        raise TypeError(f"{wanted}; got {shown(value)}.")
    fits = shape is None or (
        len(shape) == array.ndim
        and all(isinstance(n, str) or n == size for n, size in zip(shape, array.shape, strict=True))
    )
    if not fits:
        raise ValueError(f"{wanted}; got shape {list(array.shape)}.")
    if traced:
        return
    numbers = np.asarray(array, np.float64)
    good = (
        (not finite or np.isfinite(numbers).all())
        and (least is None or not (numbers < least).any())
        and (above is None or not (numbers <= above).any())
        and (most is None or not (numbers > most).any())
    )
    if not good:
        raise ValueError(f"{wanted}; got {shown(value)}.")


def check_count(
    name: str, value: Any, *, least: int = 1, optional: bool = True, traced: bool = False
) -> Any:
    """The whole number that was given, as an int; raises on anything else.

    Args:
        name: of the argument, for the error.
        value: what was given.
        least: smallest allowed.
        optional: whether None will do; it is returned.
        traced: whether a traced number will do, because no shape depends on it; it is returned.

    Raises:
        TypeError: not a whole number.
        ValueError: too small.

    >>> check_count("steps", np.int64(3))
    3
    >>> check_count("steps", 2.5, optional=False)
    Traceback (most recent call last):
    TypeError: steps must be a whole number of at least 1; got 2.5.
    """
    if optional and value is None:
        return None
    wanted = f"{name} must be a whole number of at least {least}{', or None' if optional else ''}"
    if is_traced(value):
        if traced and _is_real(value):
            return value
        raise TypeError(
            f"{wanted}; got {shown(value)}, which JAX traces. Shapes or loops depend on it: "
            f"{STATIC_HINT}."
        )
    if not (_is_real(value) and jnp.issubdtype(jnp.result_type(value), jnp.integer)):
        raise TypeError(f"{wanted}; got {shown(value)}.")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{wanted}; got {number}.")
    return value if traced and isinstance(value, jax.Array) else number


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
