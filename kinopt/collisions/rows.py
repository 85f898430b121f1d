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
from kinopt.collisions.crowd import WHOLE, Crowd

__all__ = [
    "Directions",
    "binary_scale",
    "centred",
    "common_mode",
    "directions",
    "energy_ratio",
    "in_rows",
    "mean_cosine",
    "quotient",
    "row_lengths",
    "square_root",
    "squared_ratio",
    "unit_rows",
]


class Directions(NamedTuple):
    """The unit vectors of the rows of a matrix, scaled_i inverse_norm_i; zero for rows of zeros.

    The two factors are kept apart because it is cheaper to scale the product of two such matrices
    than both of them.
    """

    scaled: Neurons  # each row divided by its largest |entry|
    inverse_norm: Float[Array, " neurons"]  # 1 / |scaled_i|, in [1 / sqrt(D), 1]; or 0


def directions(x: Neurons, crowd: Crowd = WHOLE) -> Directions:
    """Where the rows of x point."""
    columns = x.T
    largest = crowd.over_features(jnp.max(jnp.abs(columns), axis=0), jax.lax.pmax)
    columns = columns * (1 / _invertible(largest))[None]
    norm = square_root(crowd.over_features(jnp.sum(columns * columns, axis=0)))
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


def binary_scale(x: Float[Array, "*shape"], crowd: Crowd = WHOLE) -> Scalar:
    """The power of two nearest to the largest |entry|, within the normal numbers.

    Dividing by it, and multiplying later, changes no digit.

    >>> binary_scale(jnp.array([[-5.0, 0.1]]))
    Array(4., dtype=float32)
    """
    nexp = jnp.finfo(x.dtype).nexp
    largest = crowd.over_all(jnp.max(jnp.abs(x)), jax.lax.pmax)
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


def square_root(x: Array) -> Array:
    """The root of numbers that are not negative; its derivative at 0 counts as 0."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def row_lengths(x: Neurons, crowd: Crowd = WHOLE) -> Float[Array, " neurons"]:
    """|x_i| for entries that are safe to square."""
    return square_root(crowd.over_features(jnp.sum(jnp.square(x.T), axis=0)))


def centred(x: Neurons, crowd: Crowd = WHOLE) -> Neurons:
    """The rows minus their mean row: same differences, smaller numbers."""
    columns = x.T
    mean = crowd.over_neurons(jnp.mean(columns, axis=1, keepdims=True), jax.lax.pmean)
    return (columns - mean).T


def _squares(x: Neurons, g: Neurons, crowd: Crowd) -> tuple[Scalar, Scalar]:
    """|X|^2 and |G|^2, in units in which the largest entry of G is about 1."""
    inverse_scale = 1 / binary_scale(g.T, crowd)
    x_sq, g_sq = (crowd.over_all(jnp.sum(jnp.square(y.T * inverse_scale))) for y in (x, g))
    return x_sq, g_sq


def squared_ratio(x: Neurons, g: Neurons, crowd: Crowd = WHOLE) -> Scalar:
    """|X|^2 / |G|^2, and |X|^2 where G is zero.

    A NaN or an infinity anywhere in X shows up in it.

    >>> squared_ratio(jnp.full((2, 2), 2e30), jnp.full((2, 2), 1e30))
    Array(4., dtype=float32)
    """
    x_sq, g_sq = _squares(x, g, crowd)
    return x_sq / jnp.where(g_sq == 0, 1, g_sq)


def energy_ratio(after: Neurons, before: Neurons, crowd: Crowd = WHOLE) -> Scalar:
    """|G'|^2 / |G|^2, the change of kinetic energy; 1 when both are zero.

    >>> energy_ratio(jnp.zeros((2, 2)), jnp.zeros((2, 2)))
    Array(1., dtype=float32)
    """
    new, old = _squares(after, before, crowd)
    return jnp.where(old == 0, 1 + new, new / jnp.where(old == 0, 1, old))


def common_mode(g: Neurons, crowd: Crowd = WHOLE) -> Scalar:
    """N |mean g|^2 / sum |g|^2: the share of the gradient that all neurons have in common.

    In [0, 1], and about 1/N for independent gradients.

    >>> common_mode(jnp.array([[1.0, 2.0], [1.0, 2.0]]))
    Array(1., dtype=float32)
    """
    columns = g.T * (1 / binary_scale(g.T, crowd))
    sums = crowd.over_neurons(jnp.sum(columns, axis=1))
    neurons, _ = crowd.sizes(g)
    mean_sq = crowd.over_features(jnp.sum(jnp.square(sums))) / neurons
    energy = crowd.over_all(jnp.sum(jnp.square(columns)))
    return mean_sq / jnp.where(energy == 0, 1, energy)


def mean_cosine(g: Neurons, crowd: Crowd = WHOLE) -> Scalar:
    """The mean of cos(g_i, g_j) over pairs i != j, with its sign; 0 where there is no pair.

    Rows of zeros have no direction and are left out. It takes no matrix of pairs: with unit rows u,
    sum over i != j of u_i u_j = |sum u|^2 - n.

    >>> mean_cosine(jnp.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]))
    Array(-0.33333334, dtype=float32)
    """
    scaled, inverse_norm = directions(g, crowd)
    sums = crowd.over_neurons(jnp.sum(scaled.T * inverse_norm[None], axis=1))
    total = crowd.over_features(jnp.sum(jnp.square(sums)))
    number = crowd.total((inverse_norm != 0).astype(total.dtype))
    pairs = number * (number - 1)
    return jnp.where(pairs == 0, 0, (total - number) / jnp.where(pairs == 0, 1, pairs))


def quotient(numerator: Array, denominator: Array) -> Array:
    """Their ratio, and 0 for neurons of length zero; NaN stays NaN."""
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))
