"""Who collides with whom: Eq. 7 of the KO paper, over all pairs or over a random matching.

Neurons i and j, at distance w_r = |w_i - w_j| and with relative velocity g_r = |g_i - g_j|, collide
when

$$
g_r e^{-w_r} / max g_r > 1 - c      (Eq. 7)
$$

Here the test is a product, g_r e^{-w_r} > (1 - c) max g_r: when all gradients are equal nobody
collides and nothing is divided by zero; c = 0 accepts nobody, c = 1 everybody who moves.

Over all pairs, distances come from a Gram matrix, |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, so that no
N x N x D array is ever formed. In float32 the subtraction loses a third of the digits for each
factor of 30 between the rows and their spread, which is why rows are centred on their mean first.
What remains in float32 is an error of about 1e-3 of the longest centred row in a distance: it can
decide about a pair only at c above 0.999, or between weights of norm 1e2 and more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kinopt._typing import Neurons, Scalar
from kinopt.collisions.crowd import WHOLE, Crowd
from kinopt.collisions.draws import random_order

__all__ = [
    "Gas",
    "Points",
    "accepts",
    "closing_speeds",
    "points",
    "random_matching",
    "squared_distances",
]

GRAM_ROUNDING = 8
"""A squared distance below this many rounding errors of its terms counts as zero: the terms of two
equal rows differ by about that much, and equal gradients must never collide."""


class Gas(NamedTuple):
    """A layer, and the powers of two by which it is multiplied before it is squared."""

    w: Neurons
    g: Neurons
    of_w: Scalar
    of_g: Scalar
    unit: Scalar  # a distance in the scale of w, times this, is w_r


def accepts(
    g_r: Float[Array, "*pairs"],
    w_r: Float[Array, "*pairs"],
    g_max: Scalar,
    coll_coef: Scalar | float,
) -> Bool[Array, "*pairs"]:
    """Eq. 7 for pairs with relative velocity `g_r` at distance `w_r`.

    >>> g_r, w_r = jnp.array([1.0, 1.0, 0.5]), jnp.array([0.1, 3.0, 0.1])
    >>> accepts(g_r, w_r, jnp.max(g_r), 0.3)  # fast and near, far, slow
    Array([ True, False, False], dtype=bool)
    """
    by_eq_7 = g_r * jnp.exp(-w_r) > (1 - coll_coef) * g_max
    # At c = 1 every moving pair collides, also where e^{-w_r} is zero in this precision; at c = 0
    # none does, also where two roundings of the largest g_r differ.
    return jnp.where(coll_coef >= 1, g_r > 0, by_eq_7) & (coll_coef > 0)


class Points(NamedTuple):
    """Rows as points: centred ones, or small distances between them are lost."""

    rows: Neurons
    squared_lengths: Float[Array, " neurons"]


def points(rows: Neurons, crowd: Crowd = WHOLE) -> Points:
    """Such rows, whose squares are summed up once."""
    return Points(rows, crowd.over_features(crowd.per_neuron(jnp.sum, jnp.square, rows)))


def squared_distances(a: Points, b: Points, crowd: Crowd = WHOLE) -> Float[Array, "a b"]:
    """|a_i - b_j|^2 from one matrix product.

    >>> x = points(jnp.array([[0.0, 3.0], [4.0, 0.0]]))
    >>> squared_distances(x, x)
    Array([[ 0., 25.],
           [25.,  0.]], dtype=float32)
    """
    # Distances are small differences of large numbers: no shortened factors, on any device.
    product = crowd.dot(a.rows, b.rows, jax.lax.Precision.HIGHEST)
    squares = a.squared_lengths[:, None] + b.squared_lengths[None]
    difference = squares - 2 * product
    rounding = GRAM_ROUNDING * jnp.finfo(product.dtype).eps * squares
    return jnp.where(difference <= rounding, 0, difference)  # NaN stays NaN


def closing_speeds(
    w: Points, g: Points, other_w: Points, other_g: Points, crowd: Crowd = WHOLE
) -> Float[Array, "rows neurons"]:
    """(w_i - w_j).(g_i - g_j): positive where neurons that move along -g approach each other."""

    def inner(w: Points, g: Points) -> Array:
        return crowd.per_neuron(jnp.sum, jnp.multiply, w.rows, g.rows)

    own = inner(w, g)[:, None] + inner(other_w, other_g)[None]
    return crowd.over_features(own - w.rows @ other_g.rows.T - g.rows @ other_w.rows.T)


def random_matching(key: Array, neurons: int) -> tuple[Int[Array, " pairs"], Int[Array, " pairs"]]:
    """Disjoint pairs (i, j), i < j: any perfect matching, all equally likely.

    Of an odd number, one neuron stays out.

    >>> i, j = random_matching(jax.random.key(0), 5)
    >>> len(set(i.tolist() + j.tolist()))
    4
    """
    order = random_order(key, neurons)[: neurons // 2 * 2].reshape(-1, 2)
    return jnp.min(order, axis=1), jnp.max(order, axis=1)
