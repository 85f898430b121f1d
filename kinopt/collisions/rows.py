"""What both laws measure on the rows of a matrix: directions, cosines, safe scales.

Squares of entries beyond 1e19 or below 1e-19 leave float32's range. Rows are therefore divided by
their largest entry before they are squared, and whole matrices by a power of two, which is exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kinopt._typing import Neurons, Scalar

__all__ = ["Rows", "binary_scale", "energy_ratio", "split_rows", "unit_rows"]


class Rows(NamedTuple):
    """A matrix with each row's length and direction apart, x_i = length_i direction_i.

    The direction of row i is scaled_i inverse_norm_i, and zero for a row of zeros. The two factors
    are kept apart because it is cheaper to scale a product of two such matrices than both factors.
    """

    scaled: Neurons  # each row divided by its largest |entry|
    inverse_norm: Float[Array, " neurons"]  # 1 / |scaled_i|, in [1 / sqrt(D), 1]; or 0
    length: Float[Array, " neurons"]  # |x_i|


def split_rows(x: Neurons) -> Rows:
    """Lengths and directions of the rows of x."""
    # The same on columns: a Flax kernel has its neurons there, and one transposition less to make.
    columns = x.T
    largest = jnp.max(jnp.abs(columns), axis=0)
    columns = columns * (1 / jnp.where(largest == 0, 1, largest))
    norm = jnp.sqrt(jnp.sum(columns * columns, axis=0))
    scaled = columns.T
    return Rows(scaled, jnp.where(norm == 0, 0, 1 / jnp.where(norm == 0, 1, norm)), largest * norm)


def unit_rows(x: Neurons) -> Neurons:
    """Each row divided by its Euclidean norm; a row of zeros stays zero.

    >>> unit_rows(jnp.array([[3e25, 4e25], [0.0, 0.0]]))
    Array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    rows = split_rows(x)
    return rows.scaled * rows.inverse_norm[:, None]


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


def energy_ratio(after: Neurons, lengths: Float[Array, " neurons"]) -> Scalar:
    """|G'|^2 / |G|^2 for rows of G with these lengths: the change of energy; 1 when G is zero.

    A NaN or an infinity anywhere in G' shows up in it.

    >>> energy_ratio(jnp.full((1, 2), 2e30), jnp.array([2e30]))
    Array(2., dtype=float32)
    """
    inverse_scale = 1 / binary_scale(lengths)
    old = jnp.sum(jnp.square(lengths * inverse_scale))
    new = jnp.sum(jnp.square(after * inverse_scale))
    return jnp.where(old == 0, 1 + new, new / jnp.where(old == 0, 1, old))
