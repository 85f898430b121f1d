"""What all pictures share: Matplotlib, the colours, and new axes where none are given."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kinopt._checks import shown

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "matplotlib":
        raise
    raise ModuleNotFoundError(
        "kinopt.plots needs Matplotlib, which is not installed: pip install 'kinopt[plots]'",
        name="matplotlib",
    ) from None

__all__ = [
    "PALETTE",
    "Axes",
    "Figure",
    "as_curves",
    "as_numbers",
    "color_of",
    "finished",
    "new_axes",
    "new_figure",
    "noted",
]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Okabe and Ito's colours, told apart with every kind of colour vision."""


def color_of(number: int) -> str:
    """The colour of the curve with this number."""
    return PALETTE[number % len(PALETTE)]


def new_figure(**settings: Any) -> Figure:
    """An empty figure that pyplot, and so a notebook, knows of."""
    from matplotlib import pyplot  # only here: pyplot picks a backend for the whole process

    return pyplot.figure(layout="constrained", **settings)


def new_axes(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure."""
    return new_figure().add_subplot() if ax is None else ax


def as_numbers(name: str, values: Any, *, ndim: int | None = None) -> np.ndarray:
    """The values as float64, None as NaN.

    Raises:
        TypeError: They are not real numbers.
        ValueError: They have another number of axes.
    """
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array) or array.dtype.kind in "SU":
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an array of real numbers; got {shown(values)}.") from None
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes; got shape {list(array.shape)}.")
    return array


def as_curves(name: str, curves: Any, points: int) -> dict[str, np.ndarray]:
    """For each name [lines, points].

    Raises:
        TypeError: It is no mapping from names to numbers.
        ValueError: A curve has no line, or another number of points.
    """
    if not isinstance(curves, Mapping):
        raise TypeError(f"{name} must be a mapping, {{name: values}}; got {shown(curves)}.")
    arrays = {key: as_numbers(f"{name}[{key!r}]", values) for key, values in curves.items()}
    for key, array in arrays.items():
        if array.ndim not in (1, 2) or array.shape[-1] != points or not len(np.atleast_2d(array)):
            raise ValueError(
                f"{name}[{key!r}] must have shape [{points}] or [lines, {points}], as there are "
                f"{points} points along the axis; got shape {list(array.shape)}."
            )
    return {key: np.atleast_2d(array) for key, array in arrays.items()}


def noted(ax: Axes, *arrays: np.ndarray, what: str) -> Axes:
    """The axes, with a note where no number of these arrays is finite, so that nothing is seen."""
    if not any(np.isfinite(array).any() for array in arrays):
        ax.text(
            0.5, 0.5, f"nothing to draw: no finite number in {what}", transform=ax.transAxes, **NOTE
        )
    return ax


NOTE: dict[str, Any] = {"ha": "center", "va": "center", "color": "0.4", "fontsize": 9}


def finished(ax: Axes, xlabel: str, ylabel: str | None = None) -> Axes:
    """The axes with labels, without a box, and with a legend where a curve has a name."""
    ax.set_xlabel(xlabel)
    if ylabel is not None:
        ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax
