"""Something measured along training, for several methods: KO Fig. 3, BBI Figs. 3, 4 and 7."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kinopt.plots._axes import Axes, as_curves, as_numbers, color_of, finished, new_axes, noted

__all__ = ["loss_curves", "solution_profiles", "training_curves"]


def training_curves(
    steps: Any,
    curves: Mapping[str, Any],
    ax: Axes | None = None,
) -> Axes:
    """Means over seeds, with a band of one standard error on either side.

    The picture of the kinetics paper's Figure 3: test accuracy, or the similarity of neurons.

    Args:
        steps: [points], where the curves were measured.
        curves: For each name in the legend [seeds, points], or [points] for a single seed.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes, with one line for each curve; a note where there is nothing to see.

    Raises:
        TypeError: What is given are no numbers.
        ValueError: A curve has another number of points than there are steps.
    """
    steps = as_numbers("steps", steps, ndim=1)
    lines = as_curves("curves", curves, len(steps))
    ax = noted(new_axes(ax), *lines.values(), what="curves")
    for number, (name, values) in enumerate(lines.items()):
        values = np.where(np.isfinite(values), values, np.nan)  # a gap in the line
        mean, num_seeds = values.mean(axis=0), len(values)
        color = color_of(number)
        ax.plot(steps, mean, color=color, label=name, linewidth=1.6)
        if num_seeds > 1:
            error = values.std(axis=0, ddof=1) / np.sqrt(num_seeds)
            ax.fill_between(steps, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
    return finished(ax, "step")


def loss_curves(steps: Any, curves: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Medians over seeds on a logarithmic axis, with a band from quartile to quartile.

    The picture of optimizers compared in the BBI paper's Figures 3 and 4. A seed that has diverged
    (its loss is not finite) counts as infinitely high.

    Args:
        steps: [points], where the losses were measured.
        curves: For each name in the legend [seeds, points], or [points] for a single seed.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes, with one line for each curve; a note where there is nothing to see.

    Raises:
        TypeError: What is given are no numbers.
        ValueError: A curve has another number of points than there are steps.
    """
    steps = as_numbers("steps", steps, ndim=1)
    losses = as_curves("curves", curves, len(steps))
    ax = noted(new_axes(ax), *losses.values(), what="curves")
    for number, (name, values) in enumerate(losses.items()):
        values = np.where(np.isnan(values), np.inf, values)
        # "nearest": a quartile half way to a diverged seed would be infinite.
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0, method="nearest")
        color = color_of(number)
        ax.plot(steps, median, color=color, label=name, linewidth=1.6)
        if len(values) > 1:
            high = np.minimum(high, np.finfo(np.float64).max)  # to the top of the picture
            ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    lines = np.concatenate([np.zeros(0), *(np.asarray(line.get_ydata()) for line in ax.lines)])
    lines = lines[np.isfinite(lines) & (lines > 0)]
    if lines.size:
        ax.set_ylim(lines.min() / 3, lines.max() * 3)
        ax.set_yscale("log")
    return finished(ax, "step", "loss")


def solution_profiles(
    x: Any,
    profiles: Mapping[str, Any],
    ax: Axes | None = None,
    *,
    exact: Mapping[str, Any] | None = None,
) -> Axes:
    """Solutions of a differential equation along a line, run by run, over the exact ones.

    The picture of the BBI paper's Figure 7.

    Args:
        x: [points], places along the line.
        profiles: For each name in the legend [runs, points], or [points] for a single run.
        ax: Where to draw; None makes a new figure.
        exact: For each name in the legend [points]: dashed lines on top.

    Returns:
        The axes; lines for all runs of the first name, then of the next, then the exact ones. A
        note where there is nothing to see.

    Raises:
        TypeError: What is given are no numbers.
        ValueError: A profile has another number of points than there are places.
    """
    x = as_numbers("x", x, ndim=1)
    drawn = as_curves("profiles", profiles, len(x))
    dashed = as_curves("exact", {} if exact is None else exact, len(x))
    ax = noted(new_axes(ax), *drawn.values(), *dashed.values(), what="profiles")
    for number, (name, runs) in enumerate(drawn.items()):
        faint = 1.0 if len(runs) == 1 else 0.5
        for line, run in enumerate(runs):
            label = None if line else name  # one entry in the legend
            ax.plot(x, run, color=color_of(number), linewidth=1.2, alpha=faint, label=label)
    for number, (name, values) in enumerate(dashed.items()):
        style = ("--", ":", "-.")[number % 3]
        ax.plot(x, values.T, style, color="black", linewidth=1.2, label=name)
    return finished(ax, "x", "u")
