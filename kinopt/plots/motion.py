"""A descent in motion: landscapes, the ways across them, and energy and speed along a way."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import check_function, shown
from kinopt.plots._axes import (
    PALETTE,
    Axes,
    as_numbers,
    color_of,
    finished,
    new_axes,
    new_figure,
    noted,
)

__all__ = ["energy_curve", "landscape_surface", "speed_curve", "trajectories"]

GREYS = tuple(str(grey) for grey in np.linspace(0.5, 0.98, 20).round(3))
"""Contours of a landscape, from the lowest to the highest: light, so that paths stand out."""

GRID = 200
"""Points along each side of the box in which a landscape is drawn."""


def _heights(loss_fn: Callable[[Any], Any], low: Any, high: Any) -> tuple[np.ndarray, ...]:
    """Coordinates [GRID] along both sides of a box, and the landscape in it [GRID, GRID]."""
    x, y = (np.linspace(low[axis], high[axis], GRID) for axis in (0, 1))
    points = jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1), dtype=float)
    return x, y, np.asarray(jax.vmap(jax.vmap(loss_fn))(points))


def _box(domain: Any) -> np.ndarray:
    """The corners of what is drawn, [2, 2]."""
    corners = as_numbers("domain", domain)
    if corners.shape != (2, 2) or not (corners[0] < corners[1]).all():
        raise ValueError(
            f"domain must be the lower and upper corner of a rectangle, [[-2, -2], [2, 2]]; "
            f"got {domain!r}."
        )
    return corners


def landscape_surface(loss_fn: Any, ax: Axes | None = None, *, domain: Any = None) -> Axes:
    """A landscape of two parameters in perspective.

    The picture of the BBI paper's Figure 1.

    Args:
        loss_fn: x [2] -> loss [], for instance a `kinopt.landscapes.Landscape`.
        ax: Where to draw, with `projection="3d"`; None makes a new figure.
        domain: Lower and upper corner of what is drawn, [2, 2]; None: that of the landscape.

    Returns:
        The axes.

    Raises:
        TypeError: The landscape is no function.
        ValueError: There is no domain, or the axes are flat.
    """
    check_function("loss_fn", loss_fn, "x [2] -> loss []")
    domain = getattr(loss_fn, "domain", None) if domain is None else domain
    if np.shape(domain) != (2, 2):
        raise ValueError(
            "a surface needs the lower and upper corner of a rectangle, "
            f"domain=[[-2, -2], [2, 2]]; got {domain!r}"
        )
    ax = new_figure().add_subplot(projection="3d") if ax is None else ax
    if not hasattr(ax, "plot_surface"):
        raise ValueError("a surface needs axes made with projection='3d'; these are flat.")
    x, y, heights = _heights(loss_fn, *_box(domain))
    if not np.isfinite(heights).any():
        raise ValueError("loss_fn has no finite value in the domain: there is nothing to draw.")
    ax.plot_surface(  # pyright: ignore[reportAttributeAccessIssue]
        *np.meshgrid(x, y), heights, cmap="viridis", rcount=GRID, ccount=GRID, linewidth=0
    )
    ax.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
    return ax


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
        TypeError: What is given are no numbers, or the landscape is no function.
        ValueError: A path is not in the plane, no point is finite and there is no domain, or there
            are minimizers without Hessians.
    """
    check_function("loss_fn", loss_fn, "x [2] -> loss []")
    if getattr(paths, "ndim", 3) == 2:
        paths = [paths]
    paths = [as_numbers("paths", path) for path in paths]
    for path in paths:
        if path.ndim != 2 or path.shape[1] != 2:
            raise ValueError(
                f"a path over a landscape is [steps, 2], got shape {path.shape}; choose two "
                "coordinates, `paths[..., :2]`."
            )
    if (minimizers is None) != (hessians is None):
        raise ValueError("an outline needs both: give minimizers and hessians, or neither.")
    low, high = _corners(paths) if domain is None else _box(domain)
    ax = noted(new_axes(ax), *paths, what="paths")
    x, y, heights = _heights(loss_fn, low, high)
    heights = np.where(np.isfinite(heights), heights, np.nan)
    known = heights[~np.isnan(heights)]
    if known.size and known.max() > known.min():  # a plain has no contours
        above = known - known.min()
        smallest = np.quantile(above, 1e-3) or above[above > 0].min()
        logarithm = np.log(heights - known.min() + smallest)
        levels = np.linspace(np.nanmin(logarithm), np.nanmax(logarithm), len(GREYS) + 1)
        ax.contourf(x, y, logarithm, levels, colors=GREYS)
    for number, path in enumerate(path for path in paths if len(path)):
        color = color_of(number)
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
    points = np.concatenate([np.zeros((0, 2)), *paths])
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise ValueError("paths has no finite point: say what to draw, domain=[[-2, -2], [2, 2]].")
    margin = 0.1 * np.ptp(points, axis=0).max() + 1e-3
    return points.min(axis=0) - margin, points.max(axis=0) + margin


def energy_curve(stats: Any, ax: Axes | None = None, *, steps: Any = None) -> Axes:
    """The potential V along a descent, under its energy E; a thin line at each bounce.

    Without friction V can come back to E, where the particle is at rest, and never above it
    (BBI paper, section 2). The axis is logarithmic.

    Args:
        stats: A `kinopt.ECDStats` with a leading axis of steps, as `jax.lax.scan` stacks what
            `kinopt.ecd_stats` finds.
        ax: Where to draw; None makes a new figure.
        steps: [points], the steps at which the statistics were taken; None: 0, 1, 2, ...

    Returns:
        The axes; the first line is the potential, the second the energy. An energy that is not
        positive, as a separable Hamiltonian's may be, is out of the picture. A note where no
        potential is finite.

    Raises:
        TypeError: These are no statistics.
        ValueError: They have no axis of steps, or another length than `steps`.
    """
    seen, steps = _along(stats, "potential", steps)
    ax = noted(new_axes(ax), seen, what="stats.potential")
    ax.plot(steps, seen, color=PALETTE[0], linewidth=1.2, label="V")
    ax.plot(steps, np.asarray(stats.energy), "--", color=PALETTE[5], linewidth=1.2, label="E")
    return _with_bounces(ax, steps, seen, stats, "energy")


def speed_curve(stats: Any, ax: Axes | None = None, *, steps: Any = None) -> Axes:
    """The speed along a descent, under the limit that the potential sets it.

    For Born-Infeld the limit is sqrt(V) (BBI paper, section 2): the particle slows down towards a
    potential of zero and cannot cross it.

    Args:
        stats: As in `energy_curve`.
        ax: Where to draw; None makes a new figure.
        steps: As in `energy_curve`.

    Returns:
        The axes; the first line is the speed, the second its limit, if there is one. A note where
        no speed is finite.

    Raises:
        TypeError: These are no statistics.
        ValueError: They have no axis of steps, or another length than `steps`.
    """
    seen, steps = _along(stats, "speed", steps)
    ax = noted(new_axes(ax), seen, what="stats.speed")
    ax.plot(steps, seen, color=PALETTE[2], linewidth=1.2, label="speed")
    limit = np.asarray(stats.speed_limit, dtype=np.float64)
    if np.isfinite(limit).any():
        ax.plot(steps, limit, "--", color="black", linewidth=1.0, label="limit")
    return _with_bounces(ax, steps, seen, stats, r"$|d\theta/dt|$")


def _along(stats: Any, field: str, steps: Any) -> tuple[np.ndarray, np.ndarray]:
    """A field of the statistics along a descent, and the steps they were taken at."""
    if not hasattr(stats, field):
        raise TypeError(
            f"stats must be a kinopt.ECDStats with an axis of steps, as jax.lax.scan stacks what "
            f"kinopt.ecd_stats finds; got {shown(stats)}."
        )
    seen = as_numbers(f"stats.{field}", getattr(stats, field), ndim=1)
    steps = np.arange(len(seen)) if steps is None else as_numbers("steps", steps, ndim=1)
    if len(steps) != len(seen):
        raise ValueError(
            f"steps must have one entry for each of the {len(seen)} statistics; got {len(steps)}."
        )
    return seen, steps


def _with_bounces(ax: Axes, steps: np.ndarray, seen: np.ndarray, stats: Any, label: str) -> Axes:
    """The axes, finished: a thin line at each step that added a bounce, and a logarithmic axis."""
    count = np.asarray(stats.num_bounces)
    bounced = np.diff(count, prepend=0) > 0
    for number, step in enumerate(steps[bounced]):
        said = None if number else "bounce"
        ax.axvline(step, color="0.75", linewidth=0.7, zorder=0, label=said)
    if (seen > 0).any():
        ax.set_yscale("log")
    return finished(ax, "step", label)
