"""How high the ways between minima go: barriers along paths, and the lowest chain of them.

Along a path of images x_0 = a, x_1, ..., x_P = b that are joined by straight lines, the highest
loss is at least the barrier between a and b, which is that of the lowest path. A straight path is
the plainest bound. A *nudged elastic band* comes down from it: each image feels

$$
F_i = -grad V + (grad V . tau_i) tau_i + k (|x_(i+1) - x_i| - |x_i - x_(i-1)|) tau_i
$$

the slope across the path, and springs along it, with tau_i its tangent; the highest image climbs,

$$
F_i = -grad V + 2 (grad V . tau_i) tau_i
$$

to the saddle. Bands move by FIRE, a descent with inertia that stops where it would go uphill.

What is known of all pairs makes a tree. With chains of paths over other minima,

$$
pass(a, b) = min over chains a = m_0, ..., m_k = b of max_j barrier(m_j, m_(j+1))
$$

is an ultrametric: at each height, minima that can reach each other below it form one branch (a
disconnectivity graph, `kinopt.plots.disconnectivity`).

References: Henkelman, Uberuaga, Jónsson, "A climbing image nudged elastic band method", J. Chemical
Physics 113 (2000) 9901, and Henkelman, Jónsson, 9978, for tangents; Bitzek et al., "Structural
relaxation made simple", Physical Review Letters 97 (2006) 170201; Becker, Karplus, "The topology of
multidimensional potential energy surfaces", J. Chemical Physics 106 (1997) 1495.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

import jax
import numpy as np
from jax.typing import ArrayLike

from kinopt._checks import (
    check_choice,
    check_count,
    check_function,
    check_number,
    check_numbers,
    shown,
)
from kinopt._lane_checks import check_outside, outside_meshes
from kinopt._programs import programs_of
from kinopt._typing import PyTree
from kinopt.basins.bands import peaks, relaxed
from kinopt.basins.discovery import LOSS, Discovered, loss_of
from kinopt.basins.points import rows_of

__all__ = ["Barriers", "barriers", "lowest_passes"]


class Barriers(NamedTuple):
    """Upper bounds of barriers, symmetric; on the diagonal are the losses of the minima."""

    heights: Any  # float [basins, basins]: highest loss on a pair's path; inf where there is none
    passes: Any  # float [basins, basins]: of the lowest chain of such paths
    at_rest: Any  # bool [basins, basins]: whether a nudged path came to rest; True if straight


def barriers(
    loss_fn: Callable[[PyTree], Any],
    found: Discovered,
    *,
    path: str = "straight",
    pairs: ArrayLike | None = None,
    images: SupportsIndex = 16,
    num_steps: SupportsIndex = 3000,
    tolerance: SupportsFloat = 1e-3,
) -> Barriers:
    """The highest loss on a path between each two minima, and on the lowest chain of such paths.

    Heights are those of paths, so that they are **upper bounds** of barriers. Each path is searched
    for its highest point, by 16 points on each of its pieces and then around the highest. A nudged
    path that has come to rest gives the height of a saddle; whether there is a lower one elsewhere,
    it does not know. Where it ends higher than the straight path, the straight one counts.

    Under a symmetry, the paths are those between the copies of the minima that are given: turn and
    permute them beforehand. Particles that pass through each other give useless bounds.

    Args:
      loss_fn: as in `discover`.
      found: what `discover` returned, for the same loss.
      path: `"straight"` or `"nudged"`.
      pairs: int [pairs, 2], which minima to join, 1-based as labels are; None: each with each.
      images: pieces of a path, at least 2.
      num_steps: most steps of a band, of `images` - 1 gradients each.
      tolerance: a band is at rest where no image has a force larger than this times the largest
        curvature at the ends times the distance of images, and where no piece is higher than the
        highest image V by more than this times 1 + |V|; > 0.

    Returns:
      `Barriers`. A path on which the loss is not finite has an infinite height.

    Raises:
      TypeError: if an argument is of the wrong kind, or under `jax.jit` and the like.
      ValueError: if a number is out of range, or `pairs` names what is no minimum.

    Sources: see `kinopt.basins.passes`.

    >>> import jax.numpy as jnp
    >>> from kinopt.basins import discover
    >>> def loss(x):  # (x^2 - 1)^2, at the bottom of a valley that is bent
    ...     return (x[0]**2 - 1)**2 + 10 * (x[1] + x[0]**2)**2
    >>> found = discover(loss, jnp.array([[-1.0, -1.2], [1.0, -0.9]]))
    >>> for path in ("straight", "nudged"):
    ...     print(f"{barriers(loss, found, path=path).heights[0, 1]:.3f}")
    11.000
    1.000
    """
    check_function("loss_fn", loss_fn, LOSS)
    if not isinstance(found, Discovered):
        raise TypeError(f"found must be what kinopt.basins.discover returned; got {shown(found)}.")
    check_choice("path", path, ("straight", "nudged"))
    number = check_count("images", images, least=2, optional=False)
    most = check_count("num_steps", num_steps, optional=False)
    check_number("tolerance", tolerance, above=0)
    check_outside(found)
    values = np.asarray(found.values)
    first, second = _joined(pairs, len(values))
    heights = np.full((len(values), len(values)), np.inf, values.dtype)
    at_rest = np.zeros(heights.shape, bool)
    if len(first):
        layout, x = rows_of(found.minimizers, "found.minimizers", "basins")
        loss, ends = loss_of(loss_fn, layout), (np.asarray(x)[first], np.asarray(x)[second])
        with outside_meshes():
            programs = programs_of((loss_fn,), ("barriers", layout, number, most))
            part = np.linspace(0, 1, number + 1, dtype=values.dtype)[:, None]
            paths = ends[0][:, None] * (1 - part) + ends[1][:, None] * part
            highest, _ = map(np.asarray, programs.call(peaks, (loss,), paths))
            rests = np.ones(len(first), bool)
            if path == "nudged":
                paths, rests = relaxed(loss, paths, most, float(tolerance), programs)
                lower, images_only = map(np.asarray, programs.call(peaks, (loss,), paths))
                rests &= lower - images_only <= float(tolerance) * (1 + np.abs(images_only))
                highest = np.minimum(lower, highest)
        highest = np.maximum(highest, np.maximum(values[first], values[second]))
        for k, m in ((first, second), (second, first)):
            heights[k, m], at_rest[k, m] = highest, rests
    np.fill_diagonal(heights, values)
    np.fill_diagonal(at_rest, True)
    return jax.device_put(Barriers(heights, lowest_passes(heights), at_rest))


def _joined(pairs: ArrayLike | None, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs, 0-based, the smaller first and each once."""
    if pairs is None:
        first, second = np.triu_indices(number, 1)
        return first, second
    check_numbers("pairs", pairs, shape=("pairs", "2"))
    given = np.asarray(pairs)
    if (
        given.ndim != 2
        or given.shape[1] != 2
        or not np.issubdtype(given.dtype, np.integer)
        or (given < 1).any()
        or (given > number).any()
    ):
        raise ValueError(
            f"pairs must be whole numbers [pairs, 2] from 1 to {number}, the number of minima; got "
            f"{shown(given)}."
        )
    joined = np.unique(np.sort(given[given[:, 0] != given[:, 1]] - 1, axis=1), axis=0)
    return joined[:, 0], joined[:, 1]


def lowest_passes(heights: np.ndarray) -> np.ndarray:
    """The lowest of the highest over all chains, for symmetric heights [basins, basins].

    >>> heights = np.array([[0.0, 9, 4], [9, 1, 5], [4, 5, 2]])
    >>> lowest_passes(heights).tolist()  # from 1 over 3 to 2
    [[0.0, 5.0, 4.0], [5.0, 1.0, 5.0], [4.0, 5.0, 2.0]]
    """
    passes = heights.copy()
    for k in range(len(passes)):
        passes = np.minimum(passes, np.maximum(passes[:, k, None], passes[k]))
    return passes
