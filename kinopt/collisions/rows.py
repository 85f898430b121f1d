"""What both laws measure on the rows of a matrix: directions, cosines, safe scales.

Squares of entries beyond 1e19 or below 1e-19 leave float32's range. Rows are therefore divided by
their largest entry before they are squared, and whole matrices by a power of two, which is exact.

A Flax kernel is [features, neurons], the transpose of what a law sees. Passes over whole matrices
are therefore told in the order in which the layer lies in memory (`Crowd.entrywise`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kinopt._typing import Neurons, Scalar
from kinopt.collisions.crowd import WHOLE, Crowd

__all__ = [
    "Directions",
    "InCommon",
    "Scales",
    "binary_scale",
    "centred",
    "directions",
    "energy_ratio",
    "in_common",
    "in_rows",
    "quotient",
    "row_lengths",
    "scales",
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


class Scales(NamedTuple):
    """How long the rows of X are, and how large X is, in numbers that are safe to square."""

    to: Directions
    inverse: Float[Array, " neurons"]  # what a row was multiplied by; 1 for a row of zeros
    unit: Scalar  # a power of two: the nearest to 1 / the largest |entry| of X; 1 for zeros
    total: Scalar  # |unit X|^2
    number: Scalar  # rows that are not zero


def directions(x: Neurons, crowd: Crowd = WHOLE) -> Directions:
    """Where the rows of x point."""
    return _divided(x, crowd)[0]


def _divided(x: Neurons, crowd: Crowd) -> tuple[Directions, Array, Array]:
    """Where the rows point, what they were divided by, and their squared lengths after that."""
    largest = crowd.per_neuron(jnp.max, jnp.abs, x)
    divisor = _invertible(crowd.over_features(largest, jax.lax.pmax))
    scaled = crowd.entrywise(jnp.multiply, x, (1 / divisor)[:, None])
    squared = crowd.over_features(crowd.per_neuron(jnp.sum, jnp.square, scaled))
    is_zero = squared == 0
    inverse_norm = jnp.where(is_zero, 0, 1 / jnp.sqrt(jnp.where(is_zero, 1, squared)))
    return Directions(scaled, inverse_norm), divisor, squared


def scales(x: Neurons, crowd: Crowd = WHOLE) -> Scales:
    """All that takes two passes over x: one for the largest entries, one for the lengths."""
    to, divisor, squared = _divided(x, crowd)
    is_zero, inverse = squared == 0, 1 / divisor
    smallest = -crowd.largest(jnp.where(is_zero, -jnp.inf, -_power_of_two(inverse)))
    unit = jnp.where(smallest == jnp.inf, 1, smallest)
    lengths = jnp.where(is_zero, 0, jnp.square(divisor * unit) * squared)
    both = jnp.stack([lengths, (~is_zero).astype(lengths.dtype)])
    total, number = crowd.over_neurons(jnp.sum(both, axis=1))
    return Scales(to, inverse, unit, total, number)


def unit_rows(x: Neurons) -> Neurons:
    """Each row divided by its Euclidean norm; a row of zeros stays zero.

    >>> unit_rows(jnp.array([[3e25, 4e25], [0.0, 0.0]]))
    Array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    scaled, inverse_norm = directions(x)
    return scaled * inverse_norm[:, None]


def binary_scale(x: Neurons, crowd: Crowd = WHOLE) -> Scalar:
    """The power of two nearest to the largest |entry|, within the normal numbers.

    Dividing by it, and multiplying later, changes no digit.

    >>> binary_scale(jnp.array([[-5.0, 0.1]]))
    Array(4., dtype=float32)
    """
    return _power_of_two(
        _invertible(crowd.over_all(jnp.max(crowd.entrywise(jnp.abs, x)), jax.lax.pmax))
    )


def _power_of_two(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jax.lax.reduce_precision(x, jnp.finfo(x.dtype).nexp, mantissa_bits=0)


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


def row_lengths(
    x: Neurons, unit: Scalar | float = 1.0, crowd: Crowd = WHOLE
) -> Float[Array, " neurons"]:
    """|unit x_i| for entries that are safe to square in that unit."""
    squares = crowd.per_neuron(jnp.sum, lambda x: jnp.square(x * unit), x)
    return square_root(crowd.over_features(squares))


def centred(x: Neurons, unit: Scalar | float = 1.0, crowd: Crowd = WHOLE) -> Neurons:
    """The rows times a power of two, minus their mean row: same differences, smaller numbers."""
    share = jnp.full((1, len(x)), unit / len(x), x.dtype)
    mean = crowd.over_neurons(share @ x, jax.lax.pmean)
    return crowd.entrywise(lambda x, mean: x * unit - mean, x, mean)


def squared_ratio(x: Neurons, g: Scales, crowd: Crowd = WHOLE) -> Scalar:
    """|X|^2 / |G|^2, and |X|^2 in the unit of G where G is zero.

    A NaN or an infinity anywhere in X shows up in it.

    >>> squared_ratio(jnp.full((2, 2), 2e30), scales(jnp.full((2, 2), 1e30)))
    Array(4., dtype=float32)
    """
    squares = crowd.entrywise(lambda x: jnp.square(x * g.unit), x)
    squared = crowd.over_all(jnp.sum(squares))
    return squared / jnp.where(g.total == 0, 1, g.total)


def energy_ratio(after: Neurons, g: Neurons, of_g: Scales, crowd: Crowd = WHOLE) -> Scalar:
    """|G'|^2 / |G|^2, the change of kinetic energy; 1 when both are zero.

    Written 1 + <G' - G, G' + G> / |G|^2, it is exactly 1 where nothing changes.

    >>> energy_ratio(jnp.zeros((2, 2)), jnp.zeros((2, 2)), scales(jnp.zeros((2, 2))))
    Array(1., dtype=float32)
    """

    def gain(after: Array, g: Array) -> Array:
        new, old = after * of_g.unit, g * of_g.unit
        return (new - old) * (new + old)

    gained = crowd.over_all(jnp.sum(crowd.entrywise(gain, after, g)))
    return jnp.maximum(1 + gained / jnp.where(of_g.total == 0, 1, of_g.total), 0)


class InCommon(NamedTuple):
    """What the rows g_i of a matrix have in common."""

    mode: Scalar  # N |mean g|^2 / sum |g|^2, in [0, 1]; about 1/N for independent rows
    cosine: Scalar  # the mean of cos(g_i, g_j) over pairs i != j, with its sign; 0 without pairs


def in_common(g: Neurons, of_g: Scales, crowd: Crowd = WHOLE) -> InCommon:
    """The share of the gradient that all neurons have in common, and the mean of their cosines.

    No matrix of pairs is needed: with unit vectors u of the n rows that are not zero, the sum over
    i != j of u_i u_j is |sum u|^2 - n. Rows of zeros have no direction and are left out of it. Both
    sums of rows are one product, one pass over G, and their squares another.

    >>> g = jnp.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    >>> [round(float(share), 4) for share in in_common(g, scales(g))]
    [0.2045, -0.3333]
    """
    neurons, _ = crowd.sizes(g)
    inverse_norm = of_g.to.inverse_norm
    weights = jnp.stack([jnp.full_like(inverse_norm, of_g.unit), inverse_norm * of_g.inverse])
    precision = jax.lax.Precision.HIGHEST
    sums = crowd.over_neurons(jnp.matmul(weights, g, precision=precision))
    squares = crowd.dot(sums, sums, precision)
    number = of_g.number
    pairs = number * (number - 1)
    return InCommon(
        squares[0, 0] / (neurons * jnp.where(of_g.total == 0, 1, of_g.total)),
        jnp.where(pairs == 0, 0, (squares[1, 1] - number) / jnp.where(pairs == 0, 1, pairs)),
    )


def quotient(numerator: Array, denominator: Array) -> Array:
    """Their ratio, and 0 for neurons of length zero; NaN stays NaN."""
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))
