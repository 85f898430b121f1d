"""The demo's picture: one row for each base optimizer, learning curves and classifier heads."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.record import Row
from benchmarks.statistics import mean_and_error
from kinopt.plots import PALETTE, similarity_heatmap, training_curves

__all__ = ["draw", "final_differences"]

PANEL = 2.3  # inches, the side of a heat map with its title
SMALL = 8  # points
GREY = "#555555"


def final_differences(rows: list[Row]) -> dict[str, np.ndarray]:
    """Test accuracy after the last step less that of the plain base, seed by seed, in percent."""
    final = {row["method"]: 100 * np.array(row["test_accuracy"])[:, -1] for row in rows}
    return {row["method"]: final[row["method"]] - final[row["base"]] for row in rows}


def draw(rows: list[Row]) -> Figure:
    """The test error of every method while it trains, and how alike its class neurons become."""
    bases = list(dict.fromkeys(row["base"] for row in rows))
    groups = [[row for row in rows if row["base"] == base] for base in bases]
    most = max(map(len, groups))
    size = ((most + 2.6) * PANEL, (len(groups) + 0.25) * PANEL)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.07, hspace=0.04))
    num_seeds = len(rows[0]["test_accuracy"])
    figure.suptitle(
        f"Collisions between the class neurons: {rows[0]['data']}, {num_seeds} paired seeds",
        fontsize=13,
    )
    grid = figure.add_gridspec(len(groups), most + 1, width_ratios=[2.3, *([1] * most)])
    heatmaps, curves = [], None
    for number, group in enumerate(groups):
        curves = figure.add_subplot(grid[number, 0], sharey=curves)  # so that bases compare
        _curves(curves, group, last=group is groups[-1])
        for column, row in enumerate(group):
            ax = figure.add_subplot(grid[number, column + 1])
            _heatmap(ax, row, PALETTE[column % len(PALETTE)])
            heatmaps.append(ax)
    scale = figure.colorbar(
        heatmaps[0].images[0], ax=heatmaps, shrink=0.7, aspect=35, ticks=[-1, -0.5, 0, 0.5, 1]
    )
    scale.set_label("cosine of two class neurons' weights, first seed", fontsize=SMALL)
    scale.ax.tick_params(labelsize=SMALL, length=0)
    scale.outline.set_visible(False)
    return figure


def _curves(ax: Axes, group: list[Row], last: bool) -> None:
    """Test errors of one base's methods, in percent, on a logarithmic axis."""
    differences = final_differences(group)
    curves = {}
    for row in group:
        name = row["method"]
        if name != row["base"]:
            name += f"   accuracy {mean_and_error(differences[name], '+')} points"
        curves[name] = 100 * (1 - np.array(row["test_accuracy"]))
    training_curves(group[0]["steps"], curves, ax)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(labelsize=SMALL, which="both", color=GREY)
    ax.grid(axis="y", color="#eeeeee", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_ylabel("test error", fontsize=SMALL + 1)
    ax.set_xlabel("step, band: one standard error" if last else "", fontsize=SMALL + 1)
    ax.legend(frameon=False, fontsize=SMALL + 1, loc="upper right")


def _heatmap(ax: Axes, row: Row, color: str) -> None:
    """One classifier; its title has the colour of the method's curve."""
    head = np.array(row["head"])
    similarity_heatmap(head, ax, colorbar=False)
    ax.set_title(row["method"], fontsize=SMALL + 2, color=color, fontweight="bold", pad=4)
    ax.set_xlabel(f"mean |cos| {row['mean_abs_cosine']:.2f} (all seeds)", fontsize=SMALL)
    ax.set(ylabel="", xticks=range(len(head)), yticks=range(len(head)))
    ax.tick_params(length=0, labelsize=SMALL - 2, pad=1, labelcolor=GREY)
