"""Where runs end and where they stay: the BBI paper's Fig. 6, and the density of the potential."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kinopt.plots._axes import PALETTE, Axes, as_numbers, color_of, finished, new_axes, noted

__all__ = ["potential_histogram", "running_ratio"]

PAPER_RUNS = 2000
"""Runs in the BBI paper's Figure 6, whose axis is linear."""

SETTLED = 100
"""Runs after which a ratio must be in the picture on a logarithmic axis."""


def running_ratio(
    ratio: Any,
    ax: Axes | None = None,
    *,
    runs: Any = None,
    interval: Any = None,
    predictions: Mapping[str, float] | None = None,
) -> Axes:
    """The ratio of runs that ended in one basin to those in another, as runs accumulate.

    The picture of the BBI paper's Figure 6.

    Args:
        ratio: [points], the ratio as runs accumulate, from `kinopt.basins.statistics`. Not finite
            while one of the basins is empty.
        ax: Where to draw; None makes a new figure.
        runs: How many runs each ratio is of, increasing; None: 1, 2, 3, ... With more of them than
            the paper's 2,000 the axis is logarithmic.
        interval: Lower and upper end of its interval, [2] for the last one or [points, 2].
        predictions: For each name in the legend, the value of a horizontal line.

    Returns:
        The axes; the first line is the ratio. A note where no ratio is finite.

    Raises:
        TypeError: What is given are no numbers.
        ValueError: Shapes do not fit.
    """
    ratio = as_numbers("ratio", ratio, ndim=1)
    runs = np.arange(1, 1 + len(ratio)) if runs is None else as_numbers("runs", runs, ndim=1)
    if len(runs) != len(ratio):
        raise ValueError(
            f"runs must have an entry for each of {len(ratio)} ratios; got {len(runs)}."
        )
    ax = noted(new_axes(ax), ratio, what="ratio")
    ax.plot(runs, ratio, color=PALETTE[0], linewidth=1.6, label="runs so far")
    logarithmic = len(runs) > 0 and runs[-1] > PAPER_RUNS
    settled = runs > (SETTLED if logarithmic else len(runs) / 4)  # the first runs jump about
    levels = list(ratio[settled])  # what must be seen
    ends = None if interval is None else as_numbers("interval", interval)
    if ends is not None and ends.shape not in ((2,), (len(ratio), 2)):
        raise ValueError(
            f"interval must have shape [2] or [{len(ratio)}, 2]; got {list(ends.shape)}."
        )
    if ends is not None and len(ratio):
        low, high = np.broadcast_to(ends, (len(ratio), 2)).T
        ax.fill_between(runs, low, high, color=PALETTE[0], alpha=0.2, linewidth=0, label="95 %")
        levels += [low[-1], high[-1]]
    for number, (name, value) in enumerate((predictions or {}).items(), start=1):
        color = color_of(number)
        ax.axhline(value, color=color, linestyle="--", linewidth=1.4, label=name)
        levels.append(value)
    levels = [level for level in levels if np.isfinite(level)]
    if levels:
        margin = 0.25 * (max(levels) - min(levels)) + 0.02 * max(levels) or 1.0
        ax.set_ylim(max(0, min(levels) - margin), max(levels) + margin)
    if logarithmic:
        ax.set(xscale="log", xlim=(SETTLED / 3, runs[-1]))
    return finished(ax, "run", "ratio of the basins")


def potential_histogram(
    values: Any,
    edges: Any,
    predicted: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """How often each potential V was visited, beside how often it should have been.

    Where the bins cover more than two decades, the axis is logarithmic and the density is that of
    log V; then equal areas mean equal times on either axis.

    Args:
        values: V along trajectories, any shape; those outside the bins are left out.
        edges: [bins + 1], increasing.
        predicted: [bins], the fraction of time in each bin, such as
            `kinopt.theory.potential_fractions`; None: no prediction.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes; the first patch is what was visited, the second the prediction. A note where no
        value is in the bins.

    Raises:
        TypeError: What is given are no numbers.
        ValueError: The edges do not increase, or the prediction has another number of bins.
    """
    edges = as_numbers("edges", edges, ndim=1)
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges must increase, and bound at least one bin; got {edges}.")
    counts, _ = np.histogram(np.ravel(as_numbers("values", values)), edges)
    if predicted is not None:
        predicted = as_numbers("predicted", predicted, ndim=1)
        if len(predicted) != len(counts):
            raise ValueError(
                f"predicted must have a fraction for each of {len(counts)} bins; got "
                f"{len(predicted)}."
            )
    seen = np.zeros(counts.sum())
    ax = noted(new_axes(ax), seen, what="values, in the bins")
    logarithmic = edges[0] > 0 and edges[-1] > 100 * edges[0]
    widths = np.diff(np.log(edges) if logarithmic else edges)
    fractions = counts / max(1, counts.sum())
    ax.stairs(fractions / widths, edges, fill=True, color=PALETTE[0], alpha=0.35, label="visited")
    if predicted is not None:
        density = predicted / widths
        ax.stairs(density, edges, baseline=None, color="black", linewidth=1.4, label="predicted")
    if logarithmic:
        ax.set_xscale("log")
    return finished(ax, "potential V", f"density of {'log ' if logarithmic else ''}V")
