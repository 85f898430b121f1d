"""What both laws measure on the rows of a matrix: directions, cosines, safe scales.

Squares of entries beyond 1e19 or below 1e-19 leave float32's range. Rows are therefore divided by
their largest entry before they are squared, and whole matrices by a power of two, which is exact.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kinopt._typing import Neurons, Scalar

__all__ = ["binary_scale", "energy_ratio", "unit_rows"]


def unit_rows(x: Neurons) -> Neurons:
    """Each row divided by its Euclidean norm; a row of zeros stays zero.

    >>> unit_rows(jnp.array([[3e25, 4e25], [0.0, 0.0]]))
    Array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1)
    # The norm is now between 1 and sqrt(D); a row of zeros is divided by one.
    norm = jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True))
    return x / jnp.where(norm > 0, norm, 1)


def binary_scale(x: Float[Array, "*shape"]) -> Scalar:
    """The power of two nearest to the largest |entry|, within the normal numbers.

    Dividing by it, and multiplying later, changes no digit.

    >>> binary_scale(jnp.array([[-5.0, 0.1]]))
    Array(4., dtype=float32)
    """
    info = jnp.finfo(x.dtype)
    # Clipped to normal numbers whose nearest power of two is finite; zeros stay zeros.
    largest = jnp.clip(jnp.max(jnp.abs(x)), info.smallest_normal, 2.0 ** (info.maxexp - 2))
    return jax.lax.reduce_precision(largest, info.nexp, mantissa_bits=0)


def energy_ratio(after: Neurons, before: Neurons) -> Scalar:
    """|g'|^2 / |g|^2 over all neurons, the change of kinetic energy; 1 when g is zero.

    >>> energy_ratio(jnp.full((2, 2), 2e30), jnp.full((2, 2), 1e30))
    Array(4., dtype=float32)
    """
    scale = binary_scale(before)
    old, new = jnp.sum(jnp.square(before / scale)), jnp.sum(jnp.square(after / scale))
    return jnp.where(old > 0, new / jnp.where(old > 0, old, 1), 1)
