"""Pictures of neurons, training and motion; needs Matplotlib (`pip install 'kinopt[plots]'`).

Every function draws on the axes it is given, or on a new figure, and returns the axes. None shows
a window or changes Matplotlib's settings.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
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

__all__ = [
    "PALETTE",
    "loss_curves",
    "potential_histogram",
    "running_ratio",
    "similarity_heatmap",
    "training_curves",
    "trajectories",
]

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


def loss_curves(steps: Any, curves: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Medians over seeds on a logarithmic axis, with a band from quartile to quartile.

    The picture of optimizers compared in the BBI paper's Figures 3 and 4. A seed that has diverged
    (its loss is not finite) counts as infinitely high.

    Args:
        steps: [points], where the losses were measured.
        curves: For each name in the legend [seeds, points], or [points] for a single seed.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes, with one line for each curve.
    """
    ax = _axes(ax)
    for number, (name, values) in enumerate(curves.items()):
        values = np.atleast_2d(np.asarray(values, dtype=np.float64))
        values = np.where(np.isnan(values), np.inf, values)
        # "nearest": a quartile half way to a diverged seed would be infinite.
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0, method="nearest")
        color = PALETTE[number % len(PALETTE)]
        ax.plot(steps, median, color=color, label=name, linewidth=1.6)
        if len(values) > 1:
            high = np.minimum(high, np.finfo(np.float64).max)  # to the top of the picture
            ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    lines = np.concatenate([line.get_ydata() for line in ax.lines])
    lines = lines[np.isfinite(lines) & (lines > 0)]
    if lines.size:
        ax.set_ylim(lines.min() / 3, lines.max() * 3)
    ax.set(xlabel="step", ylabel="loss", yscale="log")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


LEVELS = 24
"""Contours of a landscape."""

GRID = 200
"""Points along each side of the box in which a landscape is drawn."""


def trajectories(
    loss_fn: Callable[[Any], Any],
    paths: Any,
    ax: Axes | None = None,
    *,
    domain: Any = None,
    minimizers: Any = None,
    hessians: Any = None,
) -> Axes:
    """Paths over the contours of a landscape: a circle where each starts, a star where it ends.

    The picture of the BBI paper's Figures 2 and 5. Contours are equally spaced in the logarithm of
    the height above the lowest point drawn, so that deep basins and high ground both show.

    Args:
        loss_fn: x [2] -> loss [], for instance a `kinopt.landscapes.Landscape`.
        paths: Points along each run, [runs, steps, 2], or a list of [steps, 2]; [steps, 2] for one.
        ax: Where to draw; None makes a new figure.
        domain: Lower and upper corner of what is drawn, [2, 2]; None: what the paths need.
        minimizers: [basins, 2], centres of basins to outline.
        hessians: [basins, 2, 2]. The outline is |eta| = 1, (x - x_I)^T H_I (x - x_I) = 1, which
            ends a run in `kinopt.basins.quadratic_basins`.

    Returns:
        The axes, with one line for each path, then one for each outline.

    Raises:
        ValueError: A path is not in the plane, or there are minimizers without Hessians.
    """
    if getattr(paths, "ndim", 3) == 2:
        paths = [paths]
    paths = [np.asarray(path) for path in paths]
    for path in paths:
        if path.ndim != 2 or path.shape[1] != 2:
            raise ValueError(
                f"a path over a landscape is [steps, 2], got shape {path.shape}; choose two "
                "coordinates, `paths[..., :2]`."
            )
    if (minimizers is None) != (hessians is None):
        raise ValueError("an outline needs both: give minimizers and hessians, or neither.")
    ax = _axes(ax)
    low, high = _corners(paths) if domain is None else np.asarray(domain)
    x, y = (np.linspace(low[axis], high[axis], GRID) for axis in (0, 1))
    points = jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1), dtype=float)
    heights = np.asarray(jax.vmap(jax.vmap(loss_fn))(points))
    above = heights - heights.min()
    smallest = np.quantile(above, 1e-3)
    ax.contourf(x, y, np.log(above + smallest), LEVELS, cmap="Greys_r", alpha=0.5)
    for number, path in enumerate(paths):
        color = PALETTE[number % len(PALETTE)]
        ax.plot(*path.T, color=color, linewidth=0.9, alpha=0.9)
        ax.scatter(*path[0], s=45, facecolors="white", edgecolors=color, zorder=3)
        ax.scatter(*path[-1], s=110, marker="*", color=color, edgecolors="white", zorder=4)
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for minimizer, hessian in zip(
        () if minimizers is None else np.asarray(minimizers),
        () if hessians is None else np.asarray(hessians),
        strict=True,
    ):
        outline = np.linalg.solve(np.linalg.cholesky(hessian).T, circle)
        ax.plot(*(minimizer[:, None] + outline), color="black", linewidth=1.2)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    ax.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
    return ax


def _corners(paths: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A box around all finite points, with a margin."""
    points = np.concatenate(paths)
    points = points[np.isfinite(points).all(axis=1)]
    margin = 0.1 * np.ptp(points, axis=0).max() + 1e-3
    return points.min(axis=0) - margin, points.max(axis=0) + margin


def running_ratio(
    ratio: Any,
    ax: Axes | None = None,
    *,
    interval: Any = None,
    predictions: Mapping[str, float] | None = None,
) -> Axes:
    """The ratio of runs that ended in one basin to those in another, as runs accumulate.

    The picture of the BBI paper's Figure 6.

    Args:
        ratio: [runs], the ratio after each run, as `kinopt.basins.statistics` gives it. Not finite
            while one of the basins is empty.
        ax: Where to draw; None makes a new figure.
        interval: Lower and upper end of its interval, [2] for the last one or [runs, 2].
        predictions: For each name in the legend, the value of a horizontal line.

    Returns:
        The axes; the first line is the ratio.
    """
    ax = _axes(ax)
    ratio = np.asarray(ratio, dtype=np.float64)
    runs = np.arange(1, 1 + len(ratio))
    ax.plot(runs, ratio, color=PALETTE[0], linewidth=1.6, label="runs so far")
    levels = list(ratio[len(ratio) // 4 :])  # what must be seen; the first runs jump about
    if interval is not None:
        low, high = np.broadcast_to(np.asarray(interval, np.float64), (len(ratio), 2)).T
        ax.fill_between(runs, low, high, color=PALETTE[0], alpha=0.2, linewidth=0, label="95 %")
        levels += [low[-1], high[-1]]
    for number, (name, value) in enumerate((predictions or {}).items(), start=1):
        color = PALETTE[number % len(PALETTE)]
        ax.axhline(value, color=color, linestyle="--", linewidth=1.4, label=name)
        levels.append(value)
    levels = [level for level in levels if np.isfinite(level)]
    if levels:
        margin = 0.25 * (max(levels) - min(levels)) + 0.02 * max(levels)
        ax.set_ylim(max(0, min(levels) - margin), max(levels) + margin)
    ax.set(xlabel="run", ylabel="ratio of the basins")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


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
        The axes; the first patch is what was visited, the second the prediction.
    """
    ax = _axes(ax)
    edges = np.asarray(edges, dtype=np.float64)
    counts, _ = np.histogram(np.ravel(np.asarray(values)), edges)
    logarithmic = edges[0] > 0 and edges[-1] > 100 * edges[0]
    widths = np.diff(np.log(edges) if logarithmic else edges)
    fractions = counts / max(1, counts.sum())
    ax.stairs(fractions / widths, edges, fill=True, color=PALETTE[0], alpha=0.35, label="visited")
    if predicted is not None:
        density = np.asarray(predicted) / widths
        ax.stairs(density, edges, baseline=None, color="black", linewidth=1.4, label="predicted")
    ax.set_xlabel("potential V")
    ax.set_ylabel("density of log V" if logarithmic else "density of V")
    if logarithmic:
        ax.set_xscale("log")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax
