"""Pictures of neurons and of training; needs Matplotlib (`pip install 'kinopt[plots]'`).

Every function draws on the axes it is given, or on a new figure, and returns the axes. None shows
a window or changes Matplotlib's settings.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kinopt.metrics import cosine_similarity

try:
    from matplotlib.axes import Axes
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "matplotlib":
        raise
    raise ModuleNotFoundError(
        "kinopt.plots needs Matplotlib, which is not installed: pip install 'kinopt[plots]'",
        name="matplotlib",
    ) from None

__all__ = ["PALETTE", "similarity_heatmap", "training_curves"]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Okabe and Ito's colours, told apart with every kind of colour vision."""


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot  # only here: pyplot picks a backend for the whole process

    return pyplot.figure(layout="constrained").add_subplot()


def similarity_heatmap(weights: Any, ax: Axes | None = None, *, colorbar: bool = True) -> Axes:
    """The cosine of every two neurons' weights: blue opposite, white orthogonal, red parallel.

    The picture of condensation in the kinetics paper's Figure 2. The scale is always -1 to 1, so
    that pictures compare.

    Args:
        weights: [N, D], one row for each neuron. A Flax kernel has neurons last: pass `kernel.T`.
        ax: Where to draw; None makes a new figure.
        colorbar: Whether to add the scale.

    Returns:
        The axes; `ax.images[0]` holds the matrix.

    Raises:
        ValueError: The weights are not a matrix.
    """
    if np.ndim(weights) != 2:
        raise ValueError(
            f"weights must have one row for each neuron, got shape {np.shape(weights)}; reshape "
            "a kernel with `kernel.reshape(-1, kernel.shape[-1]).T`."
        )
    cosines = np.asarray(cosine_similarity(jnp.asarray(weights, dtype=float)))
    ax = _axes(ax)
    image = ax.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set(xlabel="neuron", ylabel="neuron")
    ax.spines[:].set_visible(False)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="cosine of weights", shrink=0.8)
    return ax


def training_curves(
    steps: Any,
    curves: Mapping[str, Any],
    ax: Axes | None = None,
) -> Axes:
    """Means over seeds, with a band of one standard error on either side.

    Args:
        steps: [points], where the curves were measured.
        curves: For each name in the legend [seeds, points], or [points] for a single seed.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes, with one line for each curve.
    """
    ax = _axes(ax)
    for number, (name, values) in enumerate(curves.items()):
        values = np.atleast_2d(np.asarray(values, dtype=np.float64))
        mean, num_seeds = values.mean(axis=0), len(values)
        color = PALETTE[number % len(PALETTE)]
        ax.plot(steps, mean, color=color, label=name, linewidth=1.6)
        if num_seeds > 1:
            error = values.std(axis=0, ddof=1) / np.sqrt(num_seeds)
            ax.fill_between(steps, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
    ax.set_xlabel("step")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax
