"""Arguments that make no sense are refused where they are given, not steps later."""

import math
from typing import Any, get_args

import numpy as np

__all__ = ["check_block_size", "check_choice", "check_number"]


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


def check_block_size(block_size: Any) -> None:
    """Raises on anything but None and positive whole numbers."""
    if block_size is not None and not (isinstance(block_size, int | np.integer) and block_size > 0):
        raise ValueError(
            f"block_size must be a positive int or None, got {block_size!r}. It sets array shapes: "
            "under optax.inject_hyperparams, name it in static_args."
        )
