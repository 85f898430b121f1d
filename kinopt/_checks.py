"""Arguments that make no sense are refused where they are given, not steps later."""

import math
from typing import Any, get_args

import numpy as np

__all__ = ["check_choice", "check_count", "check_number"]


def check_number(name: str, value: Any, low: float, high: float | None) -> None:
    """Raises on a plain number out of range; arrays and schedules cannot be looked into."""
    if isinstance(value, str) or value is None:
        raise ValueError(f"{name} must be a number or a schedule, got {value!r}.")
    if not isinstance(value, int | float | np.number):
        return
    if not (low <= value and (value <= high if high is not None else math.isfinite(value))):
        upper = "" if high is None else f" and at most {high}"
        raise ValueError(f"{name} must be at least {low}{upper}, got {value}.")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises on a value that is none of those of a `Literal` type."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}.")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises on anything but whole numbers from `least` on, and None."""
    if value is not None and not (isinstance(value, int | np.integer) and value >= least):
        raise ValueError(
            f"{name} must be an int of at least {least}, or None; got {value!r}. It sets array "
            "shapes: under optax.inject_hyperparams, name it in static_args."
        )
