"""How alike the neurons of a layer are: the heat maps of the kinetics paper's Figs. 2 and 4."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kinopt._checks import shown
from kinopt.metrics import cosine_similarity, weight_correlation
from kinopt.plots._axes import Axes, Figure, as_numbers, new_axes, new_figure, noted

__all__ = ["similarity_heatmap", "similarity_heatmaps"]


def similarity_heatmap(
    weights: Any, ax: Axes | None = None, *, sort: bool = False, colorbar: bool = True
) -> Axes:
    """The cosine of every two neurons' weights: blue opposite, white orthogonal, red parallel.

    The picture of condensation in the kinetics paper's Figures 2 and 4. The scale is always -1 to
    1, so that pictures compare.

    Args:
        weights: [N, D], one row for each neuron. A Flax kernel has neurons last: pass `kernel.T`.
        ax: Where to draw; None makes a new figure.
        sort: Whether neurons are drawn in the order of their cosines with the direction that most
            of them share, so that groups of like neurons show as blocks.
        colorbar: Whether to add the scale.

    Returns:
        The axes; `ax.images[0]` holds the matrix. A note where there is no finite cosine.

    Raises:
        TypeError: The weights are not real numbers.
        ValueError: The weights are not a matrix.
    """
    rows = as_numbers("weights", weights)
    if np.ndim(weights) != 2:
        raise ValueError(
            f"weights must have one row for each neuron, got shape {np.shape(weights)}; reshape "
            "a kernel with `kernel.reshape(-1, kernel.shape[-1]).T`."
        )
    cosines = np.asarray(cosine_similarity(jnp.asarray(rows, dtype=float)))
    if not rows.size:
        cosines = np.full((1, 1), np.nan)
    if sort:
        shared = np.linalg.eigh(np.nan_to_num(cosines))[1][:, -1]
        order = np.argsort(shared, kind="stable")
        cosines = cosines[np.ix_(order, order)]
    ax = noted(new_axes(ax), cosines, what="weights")
    image = ax.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ax.set(xlabel="neuron", ylabel="neuron")
    ax.spines[:].set_visible(False)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="cosine of weights", shrink=0.8)
    return ax


def similarity_heatmaps(
    weights: Mapping[str, Mapping[str, Any]], figure: Figure | Any = None, *, sort: bool = True
) -> np.ndarray:
    """A grid of heat maps with one scale: the kinetics paper's whole Figures 2 and 4.

    Args:
        weights: For each line, and in it for each column, [N, D] as in `similarity_heatmap`:
            `{"none": {"tanh": w, ...}, "soft": {...}}`. Every line has the same columns.
        figure: A figure or subfigure to draw in; None makes a new one.
        sort: As in `similarity_heatmap`.

    Returns:
        The axes, [lines, columns]. Over each map stands its mean |cos|.

    Raises:
        TypeError: What is given is no mapping of mappings to real numbers.
        ValueError: The lines differ in their columns.
    """
    if not (isinstance(weights, Mapping) and all(isinstance(w, Mapping) for w in weights.values())):
        raise TypeError(
            f"weights must be a mapping of mappings, {{line: {{column: w}}}}; got {shown(weights)}."
        )
    columns = list(next(iter(weights.values()), {}))
    if not columns or any(list(line) != columns for line in weights.values()):
        raise ValueError(
            "every line of heat maps needs the same columns in the same order; got "
            f"{ {name: list(line) for name, line in weights.items()} }"
        )
    size = (1.9 * len(columns) + 1, 2.1 * len(weights) + 0.2)
    figure = new_figure(figsize=size) if figure is None else figure
    grid = figure.subplots(len(weights), len(columns), squeeze=False)
    for line, (name, maps) in zip(grid, weights.items(), strict=True):
        for ax, neurons in zip(line, maps.values(), strict=True):
            similarity_heatmap(neurons, ax, sort=sort, colorbar=False)
            ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
            correlation = weight_correlation(jnp.asarray(neurons, dtype=float))
            ax.set_title(f"mean |cos| {float(correlation):.2f}", fontsize=9)
        line[0].set_ylabel(name, fontsize=10)
    for ax, name in zip(grid[0], columns, strict=True):
        ax.set_title(f"{name}\n{ax.get_title()}", fontsize=10)
    scale = figure.colorbar(grid[0, 0].images[0], ax=grid, shrink=0.6, ticks=[-1, 0, 1])
    scale.set_label("cosine of weights", fontsize=9)
    scale.outline.set_visible(False)
    return grid
