"""Hard collisions with every pair as a candidate, from N x N quantities only.

Three looks at the layer, each a block of rows at a time against every visitor: the largest g_r of
Eq. 7; the degrees, where Metropolis asks for them; and the collisions. Gradients change pair by
pair, or all at once through a Laplacian.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kinopt._typing import Neurons, Scalar
from kinopt.collisions.blockwise import rows_per_block, scan_row_blocks
from kinopt.collisions.devices import Spread, varying_like
from kinopt.collisions.partners import Gas, accepts, closing_speeds, squared_distances
from kinopt.collisions.rows import centred, quotient, row_lengths
from kinopt.collisions.scattering import (
    gaussian_noise,
    laplacian_drift,
    pair_directions,
    scatter_pairs,
)

__all__ = ["Scatter", "collide_all_pairs"]

Scatter = Literal["pairs", "gaussian"]


class _Visitor(NamedTuple):
    """What must be known of a neuron to collide with it."""

    w: Neurons  # centred
    g: Neurons  # likewise
    length: Float[Array, " neurons"]  # |w_i|, not centred
    neuron: Int[Array, " neurons"]  # its number in the layer
    degree: Int[Array, " neurons"]  # accepted partners; 1 where Metropolis does not ask


class _Look(NamedTuple):
    """What a block of rows sees of a visitor."""

    accepted: Bool[Array, "rows neurons"]
    g_r: Float[Array, "rows neurons"]
    squared_w: Float[Array, "rows neurons"]
    above: Bool[Array, "rows neurons"]  # picks one of (i, j) and (j, i), never (i, i)


class _Met(NamedTuple):
    """What was done to each neuron at once, and seen by it."""

    moved: Neurons | None
    accepted: Int[Array, " neurons"]
    cosine_sums: Float[Array, " neurons"]
    cosine_maxima: Float[Array, " neurons"]


def collide_all_pairs(
    gas: Gas,
    key: Array,
    coll_coef: Scalar,
    approaching_only: bool,
    metropolis: bool,
    restitution: Scalar | float,
    scatter: Scatter,
    block_size: int | None,
    spread: Spread,
) -> tuple[Neurons, Scalar, Scalar, Scalar]:
    """The change of G, the accepted fraction of pairs, and their mean and largest |cos|."""
    neurons, features = spread.sizes(gas.g)
    scatters = not (isinstance(restitution, int | float) and restitution == 0)
    block = rows_per_block(len(gas.g), block_size, spread.num_feature_parts)
    if scatters and scatter == "gaussian":
        block = neurons  # a factorisation needs all of the Laplacian, on one device
        if spread.num_parts > 1:
            whole = Gas(spread.all_rows(gas.w), spread.all_rows(gas.g), gas.unit)
            change, accepted, mean, largest = collide_all_pairs(
                whole,
                key,
                coll_coef,
                approaching_only,
                metropolis,
                restitution,
                scatter,
                None,
                spread._replace(neuron_axes=(), rows=None),
            )
            return change[spread.rows], accepted, mean, largest
    me = _Visitor(
        centred(gas.w, spread),
        centred(gas.g, spread),
        row_lengths(gas.w, spread),
        spread.neurons_here(gas.g),
        varying_like(jnp.ones(len(gas.g), jnp.int32), gas.g),
    )

    def fastest(g):
        def largest(so_far, rows, fresh, g_rows):
            return jnp.maximum(so_far, jnp.max(squared_distances(g_rows, g, spread))), None

        start = varying_like(jnp.zeros((), g.dtype), g)
        return scan_row_blocks(largest, start, [me.g], block)[0]

    g_max = jnp.sqrt(spread.over_neurons(spread.tour(fastest, jnp.maximum, me.g), jax.lax.pmax))

    def look(mine: _Visitor, other: _Visitor) -> _Look:
        squared_w = squared_distances(mine.w, other.w, spread)
        g_r = jnp.sqrt(squared_distances(mine.g, other.g, spread))
        accepted = accepts(g_r, jnp.sqrt(squared_w) * gas.unit, g_max, coll_coef)
        if approaching_only:
            accepted &= closing_speeds(mine.w, mine.g, other.w, other.g, spread) > 0
        i, j = mine.neuron[:, None], other.neuron
        # On several devices i < j would leave all the work to the first of them.
        above = i < j if spread.num_parts == 1 else (i < j) == ((i + j) % 2 == 0)
        return _Look(accepted & (i != j), g_r, squared_w, above & (i != j))

    def count(other):
        def block_of(carry, rows, fresh, *mine):
            return carry, jnp.sum(look(_Visitor(*mine), other).accepted, axis=1)

        return scan_row_blocks(block_of, None, me, block)[1]

    if metropolis:
        me = me._replace(degree=spread.tour(count, jnp.add, me))

    def weight(degree_i, degree_j):
        """a_ij of an accepted pair: 1, or Metropolis' 1 / max(deg_i, deg_j)."""
        return 1 / jnp.maximum(jnp.maximum(degree_i, degree_j), 1).astype(gas.g.dtype)

    def see(seen: _Look, mine: _Visitor, other: _Visitor) -> tuple[Array, Array, Array]:
        cosines = _cosines(seen.squared_w, mine.length[:, None], other.length)
        cosines = jnp.where(seen.above, jnp.abs(cosines), 0)
        number = jnp.sum(seen.accepted & seen.above, axis=1)
        return number, jnp.sum(cosines, axis=1), jnp.max(cosines, axis=1)

    def at_once(other: _Visitor) -> _Met:
        """Drift, and noise from the Laplacian, for which the visitor is the whole layer."""

        def block_of(carry, rows, fresh, *mine):
            mine = _Visitor(*mine)
            seen = look(mine, other)
            a = weight(mine.degree[:, None], other.degree)
            a = jnp.where(seen.accepted, a, 0)
            moved = laplacian_drift(a, mine.g, other.g)
            if scatters:
                variances = jnp.square(a * restitution * seen.g_r) / (4 * features)
                moved += gaussian_noise(key, variances, mine.g, spread)
            return carry, _Met(moved, *see(seen, mine, other))

        return scan_row_blocks(block_of, None, me, block)[1]

    def pair_by_pair(change, all_rows: _Visitor, other: _Visitor, first: int):
        """Adds what the pairs of own neurons with a visitor's do, whose rows begin at `first`."""

        def block_of(change, rows, fresh, *mine):
            mine = _Visitor(*mine)
            seen = look(mine, other)
            columns = len(other.g)
            change = scatter_pairs(
                change,
                all_rows.g,
                all_rows.neuron,
                lambda i, j: pair_directions(key, i, j, gas.g, spread),
                (seen.accepted & seen.above & fresh[:, None]).ravel(),
                pair=lambda n: (rows[n // columns], first + n % columns),
                weight=lambda i, j: weight(all_rows.degree[i], all_rows.degree[j]),
                restitution=restitution,
                spread=spread,
            )
            return change, _Met(None, *see(seen, mine, other))

        return scan_row_blocks(block_of, change, me, block)

    if scatters and scatter == "pairs":
        change = varying_like(jnp.zeros_like(gas.g), gas.g)
        change, met = pair_by_pair(change, me, me, 0)
        if spread.num_parts > 1:
            here = len(change)

            def meet(carry, other, theirs):
                change, met = carry
                both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), me, other)
                joined = jnp.concatenate([change, theirs])
                joined, more = pair_by_pair(joined, both, other, here)
                return (joined[:here], _join(met, more)), joined[here:]

            theirs = varying_like(jnp.zeros_like(change), change)
            (change, met), own = spread.round_trip(meet, (change, met), me, theirs)
            change += own
    else:
        met = spread.tour(at_once, _join, me)
        assert met.moved is not None
        change = met.moved
    pairs = neurons * (neurons - 1) / 2
    return (
        change,
        spread.over_neurons(jnp.sum(met.accepted)) / pairs,
        spread.over_neurons(jnp.sum(met.cosine_sums)) / pairs,
        spread.over_neurons(jnp.max(met.cosine_maxima), jax.lax.pmax),
    )


def _join(a: _Met, b: _Met) -> _Met:
    sums = jax.tree.map(jnp.add, a, b)
    return sums._replace(cosine_maxima=jnp.maximum(a.cosine_maxima, b.cosine_maxima))


def _cosines(squared_distance: Array, length_i: Array, length_j: Array) -> Array:
    """Law of cosines: distances are at hand, so the angles cost no further product.

    They are good to a few eps times (longest row)^2 / (length_i length_j).
    """
    numerator = length_i**2 + length_j**2 - squared_distance
    return quotient(numerator, 2 * length_i * length_j).clip(-1, 1)
