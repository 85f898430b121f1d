"""Hard collisions with every pair as a candidate, from N x N quantities only.

Three looks at the layer, each a block of rows at a time against every visitor: the largest g_r of
Eq. 7; a census of who collides; and the collisions. Gradients change pair by pair where few
collide, and all at once through a factor of the Laplacian where many do.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kinopt._batching import any_lane
from kinopt._typing import Neurons, Number, Scalar
from kinopt.collisions.crowd import Crowd, varying_like
from kinopt.collisions.partners import (
    Gas,
    Points,
    accepts,
    closing_speeds,
    points,
    squared_distances,
)
from kinopt.collisions.rows import centred, quotient, row_lengths, square_root
from kinopt.collisions.scattering import (
    factor_rows,
    laplacian_drift,
    noise_of_factor,
    pair_directions,
    pool_rows,
    scatter_pairs,
)

__all__ = ["Scatter", "collide_all_pairs", "many"]

Scatter = Literal["auto", "pairs", "gaussian"]


class _Neuron(NamedTuple):
    """What must be known of a neuron to collide with it."""

    w: Points  # centred
    g: Points  # likewise
    length: Float[Array, " neurons"]  # |w_i|, not centred
    number: Int[Array, " neurons"]  # its number in the layer
    degree: Int[Array, " neurons"]  # accepted partners; 1 where Metropolis does not ask


class _Fastest(NamedTuple):
    max_squared_g: Float[Array, " neurons"]


class _Census(NamedTuple):
    degree: Int[Array, " neurons"]  # accepted partners
    cosines: Float[Array, " neurons"]  # sum over the others of |cos(w_i, w_j)|
    max_cosine: Float[Array, " neurons"]


class _Moved(NamedTuple):
    drift: Float[Array, "rows features"]
    factor: Float[Array, "rows neurons"] | None  # of the Laplacian; None without scattering


def many(accepted: Scalar, neurons: int) -> Bool[Array, ""]:
    """Whether so many accepted pairs cost less through the Laplacian than pair by pair.

    A pair costs D numbers. The Laplacian costs N D numbers and about two matrix products, in the
    time of which two cores draw directions for one pair in a hundred.

    >>> bool(many(jnp.array(45.0), 10)), bool(many(jnp.array(6000.0), 1000))
    (True, False)
    """
    return accepted > 2 * neurons + neurons * (neurons - 1) // 200


def collide_all_pairs(
    gas: Gas,
    key: Array,
    coll_coef: Scalar,
    approaching_only: bool,
    metropolis: bool,
    restitution: Number,
    scatter: Scatter,
    crowd: Crowd,
) -> tuple[Neurons, Scalar, Scalar, Scalar]:
    """The change of G, the accepted fraction of pairs, and their mean and largest |cos|."""
    neurons, features = crowd.sizes(gas.g)
    pairs = neurons * (neurons - 1) / 2
    me = _Neuron(
        points(centred(gas.w, gas.of_w, crowd), crowd),
        points(centred(gas.g, gas.of_g, crowd), crowd),
        row_lengths(gas.w, gas.of_w, crowd),
        crowd.numbers(gas.g),
        varying_like(jnp.ones(len(gas.g), jnp.int32), gas.g),
    )

    def fastest(mine: _Neuron, other: _Neuron) -> _Fastest:
        return _Fastest(jnp.max(squared_distances(mine.g, other.g, crowd), axis=1))

    g_max = square_root(crowd.largest(crowd.meet(fastest, me).max_squared_g))

    def compare(mine: _Neuron, other: _Neuron) -> tuple[Array, Array, Array]:
        """Who is accepted, g_r, and the squared distance of the weights."""
        squared_w = squared_distances(mine.w, other.w, crowd)
        g_r = square_root(squared_distances(mine.g, other.g, crowd))
        accepted = accepts(g_r, square_root(squared_w) * gas.unit, g_max, coll_coef)
        if approaching_only:
            accepted &= closing_speeds(mine.w, mine.g, other.w, other.g, crowd) > 0
        return accepted & (mine.number[:, None] != other.number[None]), g_r, squared_w

    # A compiler does not see that what is asked again in a branch or a loop has been answered.
    answer = compare(me, me) if crowd.is_one_block(len(gas.g)) else None

    def look(mine: _Neuron, other: _Neuron) -> tuple[Array, Array, Array]:
        return compare(mine, other) if answer is None else answer

    def count(mine: _Neuron, other: _Neuron) -> _Census:
        accepted, _, squared_w = look(mine, other)
        cosines = jnp.abs(_cosines(squared_w, mine.length[:, None], other.length[None]))
        cosines = jnp.where(mine.number[:, None] == other.number[None], 0, cosines)
        degree = jnp.sum(accepted, axis=1, dtype=jnp.int32)
        return _Census(degree, jnp.sum(cosines, axis=1), jnp.max(cosines, axis=1))

    census = crowd.in_smaller_blocks(len(gas.g), 2).meet(count, me)
    number = crowd.total(census.degree.astype(gas.g.dtype)) / 2
    if metropolis:
        me = me._replace(degree=census.degree)

    def weight(degree_i, degree_j):
        """a_ij of an accepted pair: 1, or Metropolis' 1 / max(deg_i, deg_j)."""
        if not metropolis:
            return jnp.ones(jnp.broadcast_shapes(degree_i.shape, degree_j.shape), gas.g.dtype)
        return 1 / jnp.maximum(jnp.maximum(degree_i, degree_j), 1).astype(gas.g.dtype)

    scatters = not (isinstance(restitution, int | float) and restitution == 0)

    def at_once() -> Neurons:
        """Drift, and noise from a factor of the Laplacian."""

        def how(mine: _Neuron, other: _Neuron) -> _Moved:
            accepted, g_r, _ = look(mine, other)
            a = weight(mine.degree[:, None], other.degree[None])
            a = jnp.where(accepted, a, 0)
            drift = laplacian_drift(a, mine.g.rows, other.g.rows, crowd)
            if not scatters:
                return _Moved(drift, None)
            strength = a * restitution * g_r / (2 * features**0.5)
            return _Moved(drift, factor_rows(key, strength, mine.number, other.number, neurons))

        alone = crowd.num_parts == 1
        pool = pool_rows(key, 0, neurons, gas.g, crowd) if scatters and alone else None

        def then(mine: _Neuron, moved: _Moved) -> Neurons:
            if moved.factor is None:
                return moved.drift
            if pool is None:
                return moved.drift + noise_of_factor(key, moved.factor, gas.g, crowd)
            return moved.drift + crowd.laid(moved.factor @ pool)

        # A factor and its signs take several times the memory of a look.
        return crowd.in_smaller_blocks(len(gas.g), 8).meet(how, me, then)

    def pair_by_pair(wanted: Bool[Array, ""]) -> Neurons:
        """Each accepted pair in its turn, if wanted at all."""

        def add(change, everyone, rows, fresh, mine, other, first):
            i, j = mine.number[:, None], other.number[None]
            # One of (i, j) and (j, i). Parts of equal size get equal work, unlike from i < j.
            once = i < j if crowd.num_parts == 1 else (i < j) == ((i + j) % 2 == 0)
            columns = jnp.int32(len(other.number))
            return scatter_pairs(
                change,
                everyone.g.rows,
                None if crowd.num_parts == 1 else everyone.number,
                lambda i, j: pair_directions(key, i, j, gas.g, crowd),
                (look(mine, other)[0] & (once & fresh[:, None])).ravel(),
                wanted,
                pair=lambda n: (rows[0] + jax.lax.div(n, columns), first + jax.lax.rem(n, columns)),
                weight=lambda i, j: weight(everyone.degree[i], everyone.degree[j]),
                restitution=restitution,
                crowd=crowd,
            )

        return crowd.add_pairs(varying_like(jnp.zeros_like(gas.g), gas.g), add, me)

    if not scatters or scatter == "gaussian":
        change = at_once()
    elif scatter == "pairs":
        change = pair_by_pair(jnp.ones((), bool))
    else:
        by_factor = many(number, neurons)
        # Pair by pair there is nothing to do where the factor does it; under `vmap` the factor is
        # made where any member needs it.
        change = jax.lax.cond(
            crowd.anywhere(any_lane(by_factor)),
            lambda change: jnp.where(by_factor, at_once(), change),
            lambda change: change,
            pair_by_pair(~by_factor),
        )
    return (
        change,
        number / pairs,
        crowd.total(census.cosines) / 2 / pairs,
        crowd.largest(census.max_cosine),
    )


def _cosines(squared_distance: Array, length_i: Array, length_j: Array) -> Array:
    """Law of cosines: distances are at hand, so the angles cost no further product.

    They are good to a few eps times (longest row)^2 / (length_i length_j).
    """
    numerator = length_i**2 + length_j**2 - squared_distance
    return quotient(numerator, 2 * length_i * length_j).clip(-1, 1)
