"""Minima and the ways between them, as a tree."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kinopt.plots._axes import PALETTE, Axes, as_numbers, finished, new_axes, noted

__all__ = ["disconnectivity"]


class _Branch(NamedTuple):
    minima: tuple[int, ...]  # in the order in which they stand
    lowest: float
    height: float  # where it begins: of a minimum, its loss
    parts: tuple["_Branch", ...]  # that join there


def disconnectivity(
    values: Any,
    heights: Any,
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Axes:
    """The tree of minima: two are of one branch at each height below which they can be reached.

    A line goes up from each minimum; lines join at the lowest height of a chain of paths between
    them. Minima that nothing joins stand apart.

    Args:
        values: [minima], their losses.
        heights: [minima, minima], symmetric: the highest loss on the path of each pair, or on the
            lowest chain of paths, such as `passes` of `kinopt.basins.barriers`. Infinite or NaN
            where no path is known. These are upper bounds, and so are the joints.
        ax: Where to draw; None makes a new figure.
        names: Of the minima; None: 1, 2, 3, ...

    Returns:
        The axes, with a line for each minimum, in their order, then those of the joints. A note
        where no value is finite.

    Raises:
        TypeError: What is given are no numbers.
        ValueError: Shapes do not fit, or heights are not symmetric or below a minimum.

    Source: Becker, Karplus, "The topology of multidimensional potential energy surfaces", J.
    Chemical Physics 106 (1997) 1495.
    """
    values = as_numbers("values", values, ndim=1)
    heights = as_numbers("heights", heights, ndim=2)
    number = len(values)
    if heights.shape != (number, number) or (names is not None and len(names) != number):
        raise ValueError(
            f"heights must have shape [{number}, {number}], and names {number} entries, as there "
            f"are {number} values; got {list(heights.shape)} and "
            f"{'no names' if names is None else len(names)}."
        )
    heights = np.where(np.isnan(heights), np.inf, heights)
    least = np.maximum.outer(values, values)
    if not (heights == heights.T).all() or (heights < least)[~np.eye(number, dtype=bool)].any():
        raise ValueError("heights must be symmetric, and none below the minima that it joins.")
    ax = noted(new_axes(ax), values, what="values")
    branches = _joined([_Branch((k,), v, v, ()) for k, v in enumerate(values)], heights)
    order = [k for branch in sorted(branches, key=lambda b: b.lowest) for k in branch.minima]
    places = np.argsort(order).astype(float)
    tops: dict[tuple[int, ...], float] = {}
    joints: list[_Branch] = []
    for branch in branches:
        _walk(branch, joints)
    for branch in joints:
        for part in branch.parts:
            tops[part.minima] = branch.height
    finite = np.append(heights[np.isfinite(heights)], values[np.isfinite(values)])
    high, low = (finite.max(), finite.min()) if len(finite) else (1.0, 0.0)
    free = high + 0.08 * (high - low or 1.0)  # of what nothing joins
    for k, value in enumerate(values):
        top = tops.get((k,), free)
        ax.plot([places[k]] * 2, [value, top], color=PALETTE[0], linewidth=1.4)
    for branch in sorted(joints, key=lambda b: b.height):
        ends = [_place(part, places) for part in branch.parts]
        here, top = _place(branch, places), tops.get(branch.minima, free)
        ax.plot(ends, [branch.height] * len(ends), color="black", linewidth=1.2)
        ax.plot([here, here], [branch.height, top], color="black", linewidth=1.2)
    ax.set_xticks(range(number), [str(names[k] if names else k + 1) for k in order])
    return finished(ax, "minimum", "loss")


def _joined(branches: list[_Branch], heights: np.ndarray) -> list[_Branch]:
    """Joins the two that are joined lowest until nothing joins those that are left."""
    while len(branches) > 1:
        number = len(branches)
        between = np.full((number, number), np.inf)
        for i in range(number):
            for j in range(i):
                pairs = np.ix_(branches[i].minima, branches[j].minima)
                between[i, j] = heights[pairs].min()
        i, j = np.unravel_index(np.argmin(between), between.shape)
        if not np.isfinite(between[i, j]):
            break
        parts = sorted((branches[i], branches[j]), key=lambda branch: branch.lowest)
        joint = _Branch(
            parts[0].minima + parts[1].minima, parts[0].lowest, float(between[i, j]), tuple(parts)
        )
        branches = [branch for k, branch in enumerate(branches) if k not in (i, j)] + [joint]
    return branches


def _walk(branch: _Branch, joints: list[_Branch]) -> None:
    if branch.parts:
        joints.append(branch)
        for part in branch.parts:
            _walk(part, joints)


def _place(branch: _Branch, places: np.ndarray) -> float:
    """Where a branch stands: in the middle of its parts."""
    if not branch.parts:
        return float(places[branch.minima[0]])
    return float(np.mean([_place(part, places) for part in branch.parts]))
