"""The demo's picture: one row for each base optimizer, learning curves and classifier heads."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.record import Row
from kinopt.plots import similarity_heatmap, training_curves

__all__ = ["draw"]

PANEL = 2.3  # inches


def draw(rows: list[Row]) -> Figure:
    """The test error of every method while it trains, and how alike its class neurons become."""
    bases = list(dict.fromkeys(row["base"] for row in rows))
    groups = [[row for row in rows if row["base"] == base] for base in bases]
    most = max(map(len, groups))
    figure = Figure(
        figsize=((most + 2.4) * PANEL, (len(groups) + 0.3) * PANEL), layout="constrained"
    )
    grid = figure.add_gridspec(len(groups), most + 1, width_ratios=[2.2, *([1] * most)])
    heatmaps = []
    for number, group in enumerate(groups):
        curves = figure.add_subplot(grid[number, 0])
        _curves(curves, group, last=number == len(groups) - 1)
        for column, row in enumerate(group, start=1):
            ax = figure.add_subplot(grid[number, column])
            similarity_heatmap(np.array(row["head"]), ax, colorbar=False)
            ax.set_title(f"{row['method']}\nmean |cos| {row['mean_abs_cosine']:.3f}", fontsize=9)
            ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
            heatmaps.append(ax)
    scale = figure.colorbar(
        heatmaps[0].images[0], ax=heatmaps, shrink=0.6, aspect=30, ticks=[-1, -0.5, 0, 0.5, 1]
    )
    scale.set_label("cosine of two class neurons' weights", fontsize=9)
    scale.outline.set_visible(False)
    return figure


def _curves(ax, group: list[Row], last: bool) -> None:
    """Test errors of one base's methods, in percent, on a logarithmic axis."""
    errors = {row["method"]: 100 * (1 - np.array(row["test_accuracy"])) for row in group}
    training_curves(group[0]["steps"], errors, ax)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    ax.set_ylabel("test error")
