"""Clusters of particles: landscapes whose minima are unchanged by motions and permutations."""

from typing import SupportsIndex

import jax.numpy as jnp
import numpy as np

from kinopt._checks import check_count
from kinopt.landscapes.landscape import Landscape, landscape

__all__ = ["lennard_jones"]

LARGEST = 13
"""Particles of the first icosahedron with its centre: up to it, the global minima are known here"""

SPACING = 1.09
"""From the centre to a corner, about as in the relaxed cluster of 13."""


def lennard_jones(particles: SupportsIndex = 13) -> Landscape:
    """Lennard-Jones cluster: particles in three dimensions that attract, and repel when close.

    $$
    F = 4 sum_{i < j} r_ij^(-12) - r_ij^(-6),    r_ij = |x_i - x_j|
    $$

    A vector x of three coordinates for each particle, one particle after the other. The number of
    minima that differ by more than motions and permutations grows from 1 for up to five particles
    over 2 for six and 4 for seven to more than a thousand for thirteen. The lowest is listed in one
    of its positions (Wales, Doye, J. Phys. Chem. A 101 (1997) 5111): for thirteen, an icosahedron
    around its centre at -44.3268. Six directions, the translations and rotations, are flat (five
    for two particles).

    Args:
      particles: from 2 to 13.

    Raises:
      TypeError: if `particles` is no whole number.
      ValueError: if it is too small or too large.

    >>> float(lennard_jones(2)(jnp.array([0.0, 0, 0, 1, 0, 0]))), round(lennard_jones().minimum, 4)
    (0.0, -44.3268)
    """
    number = check_count("particles", particles, least=2, optional=False)
    if number > LARGEST:
        raise ValueError(
            f"particles must be a whole number from 2 to {LARGEST}, for which the lowest minimum "
            f"is known here; got {number}."
        )
    # Of int32 in any mode: one function may be compiled with and without `jax_enable_x64`.
    first, second = (x.astype(np.int32) for x in np.triu_indices(number, 1))

    def fn(x):
        points = x.reshape(number, 3)
        inverse = 1 / jnp.sum((points[first] - points[second]) ** 2, axis=1) ** 3
        return jnp.sum(4 * inverse * (inverse - 1))

    points, minimum = _relaxed(_octahedron() if number == 6 else _icosahedron()[:number])
    return landscape(fn, points.ravel(), -2.0, 2.0, minimum)


def _icosahedron() -> np.ndarray:
    """Centre, top, upper ring, lower ring, bottom: its first N points relax to the lowest minimum.

    But for six particles, whose lowest is the octahedron.
    """
    turns = 2 * np.pi * np.arange(5) / 5
    ring = np.stack([2 * np.cos(turns), 2 * np.sin(turns), np.ones(5)], axis=1) / np.sqrt(5)
    lower = np.stack([np.cos(turns + np.pi / 5), np.sin(turns + np.pi / 5)], axis=1)
    lower = np.concatenate([2 * lower, -np.ones((5, 1))], axis=1) / np.sqrt(5)
    ends = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    return SPACING * np.concatenate([np.zeros((1, 3)), ends[:1], ring, lower, ends[1:]])


def _octahedron() -> np.ndarray:
    return SPACING / np.sqrt(2) * np.concatenate([np.eye(3), -np.eye(3)])


def _relaxed(points: np.ndarray) -> tuple[np.ndarray, float]:
    """The minimum next to these points, by Newton's method across the flat directions, and F."""
    points = points - points.mean(axis=0)
    number = len(points)
    for _ in range(60):
        away = points[:, None] - points[None]
        square = np.sum(away**2, axis=-1) + np.eye(number)
        inverse = (1 - np.eye(number)) / square**3
        # With s = r^2, F = 4 (s^-6 - s^-3): its first two derivatives.
        slope = 12 * inverse * (1 - 2 * inverse) / square
        bend = 48 * inverse * (3.5 * inverse - 1) / square**2
        gradient = 2 * np.sum(slope[..., None] * away, axis=1).ravel()
        blocks = -4 * bend[..., None, None] * away[..., :, None] * away[..., None, :]
        blocks -= 2 * slope[..., None, None] * np.eye(3)
        blocks[np.arange(number), np.arange(number)] -= blocks.sum(axis=1)
        hessian = np.swapaxes(blocks, 1, 2).reshape(3 * number, 3 * number)
        sizes, modes = np.linalg.eigh(hessian)
        # A curvature's size, so that a bad guess goes downhill; none where it is flat.
        firm = np.abs(sizes) > 1e-6 * sizes.max()
        step = modes @ np.where(firm, modes.T @ gradient / np.where(firm, np.abs(sizes), 1), 0)
        step *= min(1.0, 0.1 / max(np.abs(step).max(), 1e-300))
        points = points - step.reshape(number, 3)
    # Of int32 in any mode: one function may be compiled with and without `jax_enable_x64`.
    first, second = (x.astype(np.int32) for x in np.triu_indices(number, 1))
    inverse = 1 / np.sum((points[first] - points[second]) ** 2, axis=1) ** 3
    return points, float(np.sum(4 * inverse * (inverse - 1)))
