"""What both laws measure on the rows of a matrix: directions, cosines, safe scales.

Squares of entries beyond 1e19 or below 1e-19 leave float32's range. Rows are therefore divided by
their largest entry before they are squared, and whole matrices by a power of two, which is exact.

A Flax kernel is [features, neurons], the transpose of what a law sees. Passes over whole matrices
are therefore written on columns, x.T, where XLA finds the kernel as it lies in memory instead of
transposing it anew in each pass; for a layer of 1000 x 2048 that saves a third of the time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kinopt._typing import Neurons, Scalar
from kinopt.collisions.devices import WHOLE, Spread

__all__ = [
    "Directions",
    "binary_scale",
    "centred",
    "directions",
    "energy_ratio",
    "in_rows",
    "quotient",
    "row_lengths",
    "unit_rows",
]


class Directions(NamedTuple):
    """The unit vectors of the rows of a matrix, scaled_i inverse_norm_i; zero for rows of zeros.

    The two factors are kept apart because it is cheaper to scale the product of two such matrices
    than both of them.
    """

    scaled: Neurons  # each row divided by its largest |entry|
    inverse_norm: Float[Array, " neurons"]  # 1 / |scaled_i|, in [1 / sqrt(D), 1]; or 0


def directions(x: Neurons, spread: Spread = WHOLE) -> Directions:
    """Where the rows of x point."""
    columns = x.T
    largest = spread.over_features(jnp.max(jnp.abs(columns), axis=0), jax.lax.pmax)
    columns = columns * (1 / _invertible(largest))
    norm = jnp.sqrt(spread.over_features(jnp.sum(columns * columns, axis=0)))
    scaled = columns.T
    return Directions(scaled, jnp.where(norm == 0, 0, 1 / jnp.where(norm == 0, 1, norm)))


def unit_rows(x: Neurons) -> Neurons:
    """Each row divided by its Euclidean norm; a row of zeros stays zero.

    >>> unit_rows(jnp.array([[3e25, 4e25], [0.0, 0.0]]))
    Array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    scaled, inverse_norm = directions(x)
    return scaled * inverse_norm[:, None]


def binary_scale(x: Float[Array, "*shape"], spread: Spread = WHOLE) -> Scalar:
    """The power of two nearest to the largest |entry|, within the normal numbers.

    Dividing by it, and multiplying later, changes no digit.

    >>> binary_scale(jnp.array([[-5.0, 0.1]]))
    Array(4., dtype=float32)
    """
    nexp = jnp.finfo(x.dtype).nexp
    largest = spread.over_all(jnp.max(jnp.abs(x)), jax.lax.pmax)
    return jax.lax.reduce_precision(_invertible(largest), nexp, mantissa_bits=0)


def _invertible(largest: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Clipped so that it and its inverse are normal numbers; 1 for zero. Not differentiated.

    What is divided by it is multiplied later, so that its derivative is void; and that of a maximum
    is NaN where the compiler computes the entries twice, and rounds them differently.

    A tiny number in place of that 1 would do as well, but for weights that are a constant of the
    program: XLA squares its inverse on its own, which overflows.
    """
    info = jnp.finfo(largest.dtype)
    largest = jax.lax.stop_gradient(largest)
    clipped = jnp.clip(largest, info.smallest_normal, 2.0 ** (info.maxexp - 2))
    return jnp.where(largest == 0, 1, clipped)


def in_rows(*arrays: Array) -> tuple[Array, ...]:
    """The same, in memory row after row: for rows that are picked out one by one.

    Otherwise XLA picks each entry of each row from a kernel's columns, anew in every pass over the
    rows picked: five times the time of a matching. It keeps what goes through a barrier.
    """
    return jax.lax.optimization_barrier(arrays)


def row_lengths(x: Neurons, spread: Spread = WHOLE) -> Float[Array, " neurons"]:
    """|x_i| for entries that are safe to square."""
    return jnp.sqrt(spread.over_features(jnp.sum(jnp.square(x.T), axis=0)))


def centred(x: Neurons, spread: Spread = WHOLE) -> Neurons:
    """The rows minus their mean row: same differences, smaller numbers."""
    columns = x.T
    mean = spread.over_neurons(jnp.mean(columns, axis=1, keepdims=True), jax.lax.pmean)
    return (columns - mean).T


def energy_ratio(after: Neurons, before: Neurons, spread: Spread = WHOLE) -> Scalar:
    """|G'|^2 / |G|^2, the change of kinetic energy; 1 when G is zero.

    A NaN or an infinity anywhere in G' shows up in it.

    >>> energy_ratio(jnp.full((2, 2), 2e30), jnp.full((2, 2), 1e30))
    Array(4., dtype=float32)
    """
    inverse_scale = 1 / binary_scale(before.T, spread)
    old, new = (spread.over_all(jnp.sum(jnp.square(x.T * inverse_scale))) for x in (before, after))
    return jnp.where(old == 0, 1 + new, new / jnp.where(old == 0, 1, old))


def quotient(numerator: Array, denominator: Array) -> Array:
    """Their ratio, and 0 for neurons of length zero; NaN stays NaN."""
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))
