"""The stop rule of a basin: inside |eta| < 1 of a quadratic minimum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kinopt._checks import check_numbers
from kinopt._typing import PyTree

__all__ = ["quadratic_basins"]


def quadratic_basins(minimizers, hessians) -> Callable[[PyTree, Any], jax.Array]:
    """A stop rule: outcome k inside |eta_k| < 1, the k-th basin (BBI paper, sections 3.1 and A.3).

    $$
    |eta_k|^2 = (theta - theta_k)^T H_k (theta - theta_k)
    $$

    Where basins overlap, the nearest minimum in this distance is taken.

    Args:
      minimizers: theta_k, shape [basins, n].
      hessians: H_k at them, shape [basins, n, n], symmetric and positive semidefinite.

    Returns:
      `(params, value) -> int32 []`: 0 outside all basins, k = 1, ..., basins inside one. `params`
      is an array of n entries, or a pytree that ravels to one.

    Raises:
      TypeError: if they are not real numbers.
      ValueError: if the shapes do not fit, or a Hessian is not symmetric positive semidefinite,
        each judged by its own largest entry.

    >>> stop = quadratic_basins([[-2.0, -2.0], [2.0, 2.0]], [0.864 * np.eye(2), 1.664 * np.eye(2)])
    >>> [int(stop(jnp.array(x), 0.0)) for x in ([-2.0, -1.0], [0.0, 0.0], [2.0, 2.5])]
    [1, 0, 2]
    """
    check_numbers("minimizers", minimizers)
    check_numbers("hessians", hessians)
    centers = np.asarray(minimizers, np.float64)
    curvatures = np.asarray(hessians, np.float64)
    if (
        centers.ndim != 2
        or not centers.size
        or curvatures.shape != centers.shape + centers.shape[1:]
    ):
        raise ValueError(
            f"minimizers must have shape [basins, n] and hessians [basins, n, n]; got "
            f"{centers.shape} and {curvatures.shape}"
        )
    # Each by its own scale: basins may differ in curvature by any factor.
    rounding = 1e-5 * np.abs(curvatures).max(axis=(1, 2))
    skew = np.abs(curvatures - np.swapaxes(curvatures, 1, 2)).max(axis=(1, 2))
    if (skew > rounding).any():
        number = int(np.argmax(skew > rounding))
        raise ValueError(
            f"hessians must be symmetric, as matrices of second derivatives are; hessians[{number}]"
            f" is not"
        )
    lowest = np.linalg.eigvalsh(curvatures).min(axis=1)
    if (lowest < -rounding).any():
        number = int(np.argmax(lowest < -rounding))
        raise ValueError(
            f"hessians must be positive semidefinite, as they are at a minimum; hessians[{number}] "
            f"has the eigenvalue {lowest[number]:.3g}"
        )
    n = centers.shape[1]

    def stop(params, value):
        del value
        theta, _ = ravel_pytree(params)
        if theta.shape != (n,):
            raise ValueError(f"the basins are in {n} dimensions, the parameters in {theta.size}")
        away = theta[None] - jnp.asarray(centers, theta.dtype)
        # Not a matrix product: products of a few numbers are quicker one by one, and exact.
        products = jnp.asarray(curvatures, theta.dtype) * away[:, :, None] * away[:, None, :]
        eta_sq = jnp.sum(products, axis=(1, 2))
        return jnp.where(jnp.min(eta_sq) < 1, 1 + jnp.argmin(eta_sq), 0).astype(jnp.int32)

    return stop
