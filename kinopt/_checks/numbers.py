"""Numbers, arrays of numbers and whole numbers, each in its range."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks.values import STATIC_HINT, is_concrete, is_real, is_traced, shown

__all__ = ["check_count", "check_number", "check_numbers"]


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
    if not is_real(value):
        raise TypeError(f"{name} must be {wanted}; got {shown(value)}.")
    if not is_traced(value):
        _refuse_outside(f"{name} must be {wanted}", value, least, above, most)


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
    except (TypeError, ValueError):  # ragged, or traced parts
        array = None
        if not is_concrete(value):
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
    if not traced:
        _refuse_outside(wanted, value, least, above, most, finite)


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
        if traced and is_real(value):
            return value
        raise TypeError(
            f"{wanted}; got {shown(value)}, which JAX traces. Shapes or loops depend on it: "
            f"{STATIC_HINT}."
        )
    if not (is_real(value) and jnp.issubdtype(jnp.result_type(value), jnp.integer)):
        raise TypeError(f"{wanted}; got {shown(value)}.")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{wanted}; got {number}.")
    return value if traced and isinstance(value, jax.Array) else number


def _range(least: Any, above: Any, most: Any) -> str:
    parts = {"at least": least, "above": above, "at most": most}
    said = [f"{words} {bound}" for words, bound in parts.items() if bound is not None]
    return " " + " and ".join(said) if said else ""


def _refuse_outside(
    wanted: str, value: Any, least: Any, above: Any, most: Any, finite: bool = True
) -> None:
    """Raises on numbers out of range; NaN passes where not all must be finite."""
    numbers = np.asarray(value, np.float64)
    good = (
        (not finite or np.isfinite(numbers).all())
        and (least is None or not (numbers < least).any())
        and (above is None or not (numbers <= above).any())
        and (most is None or not (numbers > most).any())
    )
    if not good:
        raise ValueError(f"{wanted}; got {shown(value)}.")
