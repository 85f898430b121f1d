"""What all pictures share: Matplotlib, the colours, and new axes where none are given."""

from typing import Any

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

__all__ = ["PALETTE", "Axes", "Figure", "color_of", "finished", "new_axes", "new_figure"]

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


def finished(ax: Axes, xlabel: str, ylabel: str | None = None) -> Axes:
    """The axes with labels, without a box, and with a legend where a curve has a name."""
    ax.set_xlabel(xlabel)
    if ylabel is not None:
        ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax
