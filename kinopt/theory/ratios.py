"""Two basins of a true landscape against each other: in time spent, and in rate of entry."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kinopt._checks import check_numbers
from kinopt._typing import Scalar
from kinopt.hamiltonians import Hamiltonian
from kinopt.theory._numerics import floating
from kinopt.theory.regions import LossFunction, entry_flux, region_volume

__all__ = ["entry_flux_ratio", "occupancy_ratio"]


def entry_flux_ratio(
    loss_fn: LossFunction,
    minimizers: ArrayLike,
    hessians: ArrayLike,
    energy: ArrayLike,
    f_min: ArrayLike = 0.0,
    hamiltonian: Hamiltonian | None = None,
    **quadrature: Any,
) -> Scalar:
    """Rate of entries into the first basin over that into the second, for a mixed start.

    The ratio J_1 / J_2 of `entry_flux`. Runs that start from the predicted measure and end at
    their first entry divide in this ratio as long as their start lies far from the basins; runs
    that start elsewhere do not, unless they mix before they enter. For quadratic basins of equal
    depth it is the ratio of the areas of the two ellipsoids.

    Args:
      loss_fn: F, parameters [n] -> loss [].
      minimizers: [2, n].
      hessians: [2, n, n].
      energy: E.
      f_min: Delta V.
      hamiltonian: H; by default Born-Infeld.
      **quadrature: `num_directions` and `key`; both basins see the same directions.

    Returns:
      The ratio, shape []; NaN where either is, or where the second is 0.

    Raises:
      TypeError: if an argument is no number, or loss_fn no function.
      ValueError: if there are not two basins, or shapes do not fit.

    >>> from kinopt import landscapes
    >>> basins = landscapes.two_basins()
    >>> hessians = jnp.array([0.864 * jnp.eye(2), 1.664 * jnp.eye(2)])
    >>> f"{float(entry_flux_ratio(basins, basins.minimizers, hessians, 44.26)):.3f}"
    '1.375'
    """
    return _ratio(
        entry_flux, loss_fn, minimizers, hessians, energy, f_min, hamiltonian, **quadrature
    )


def occupancy_ratio(
    loss_fn: LossFunction,
    minimizers: ArrayLike,
    hessians: ArrayLike,
    energy: ArrayLike,
    f_min: ArrayLike = 0.0,
    hamiltonian: Hamiltonian | None = None,
    **quadrature: Any,
) -> Scalar:
    """Time in the first basin over time in the second, for long trajectories that mix.

    The ratio of `region_volume`; `basin_ratio` approximates it.

    Args:
      loss_fn: F, parameters [n] -> loss [].
      minimizers: [2, n].
      hessians: [2, n, n].
      energy: E.
      f_min: Delta V, below the loss at both minimizers.
      hamiltonian: H; by default Born-Infeld.
      **quadrature: `num_directions` and `key`; both basins see the same directions.

    Returns:
      The ratio, shape []; NaN where either is, or where the second is 0.

    Raises:
      TypeError: if an argument is no number, or loss_fn no function.
      ValueError: if there are not two basins, or shapes do not fit.

    >>> from kinopt import landscapes
    >>> basins = landscapes.two_basins()
    >>> hessians = jnp.array([0.864 * jnp.eye(2), 1.664 * jnp.eye(2)])
    >>> f"{float(occupancy_ratio(basins, basins.minimizers, hessians, 44.26, f_min=-0.01)):.3f}"
    '1.918'
    """
    return _ratio(
        region_volume, loss_fn, minimizers, hessians, energy, f_min, hamiltonian, **quadrature
    )


def _ratio(measure, loss_fn, minimizers, hessians, *rest, **quadrature):
    check_numbers("minimizers", minimizers, shape=("basins", "n"))
    check_numbers("hessians", hessians, shape=("basins", "n", "n"))
    minimizers, hessians = floating(minimizers, hessians)
    if len(minimizers) != 2 or len(hessians) != 2:
        raise ValueError(
            f"a ratio is between two basins, got {len(minimizers)} minimizers and "
            f"{len(hessians)} Hessians. Take entry_flux or region_volume of each."
        )
    first, second = jax.vmap(
        lambda minimizer, hessian: measure(loss_fn, minimizer, hessian, *rest, **quadrature)
    )(minimizers, hessians)
    return jnp.where(second > -jnp.inf, jnp.exp(first - second), jnp.nan)
