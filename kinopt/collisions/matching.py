"""Hard collisions of disjoint pairs: one random perfect matching as candidates, as in DSMC.

Every neuron meets one other at most, so momentum and energy are conserved exactly, and the work is
O(N D). Directions are drawn for all candidates at once, also for those that Eq. 7 then refuses:
one wide draw is cheaper than picking the accepted ones first.
"""

import jax.numpy as jnp
from jaxtyping import Array

from kinopt._typing import Neurons, Number, Scalar
from kinopt.collisions.crowd import Crowd
from kinopt.collisions.partners import Gas, accepts, random_matching
from kinopt.collisions.rows import in_rows, quotient, square_root
from kinopt.collisions.scattering import pair_directions, relative_speed, scattered

__all__ = ["collide_matching"]


def collide_matching(
    gas: Gas,
    key: Array,
    coll_coef: Scalar,
    approaching_only: bool,
    restitution: Number,
    crowd: Crowd,
) -> tuple[Neurons, Scalar, Scalar, Scalar]:
    """The change of G, the accepted fraction of candidates, and their mean and largest |cos|."""
    neurons, _ = crowd.sizes(gas.g)
    pairs = jnp.stack(random_matching(key, neurons), axis=1)
    mine, unique = crowd.share(len(pairs))
    i, j = pairs[mine].T
    rows = in_rows(gas.w * gas.of_w, gas.g * gas.of_g)
    w, g = crowd.fetch(rows, jnp.concatenate([i, j]))
    (w_i, w_j), (g_i, g_j) = jnp.split(w, 2), jnp.split(g, 2)

    def dot(a, b):
        return crowd.over_features(jnp.sum(a * b, axis=1))

    w_r = square_root(dot(w_i - w_j, w_i - w_j)) * gas.unit
    g_r = relative_speed(g_i, g_j, crowd)
    accepted = accepts(g_r, w_r, crowd.largest(g_r), coll_coef)
    if approaching_only:
        accepted &= dot(w_i - w_j, g_i - g_j) > 0
    n_ij = pair_directions(key, i, j, gas.g, crowd)
    (dg,) = in_rows(jnp.where(accepted[:, None], scattered(g_i, g_j, g_r, n_ij, restitution), 0))

    # The place of each neuron in the list of pairs; -1 for the one that stays out.
    places = jnp.full(neurons, -1).at[pairs.ravel()].set(jnp.arange(pairs.size))
    place = places[crowd.numbers(gas.g)][:, None]
    (change,) = in_rows(crowd.fetch_shared(dg, jnp.maximum(place[:, 0], 0) // 2))
    change = jnp.where(place < 0, 0, jnp.where(place % 2 == 0, change, -change))

    length_i, length_j = jnp.split(square_root(dot(w, w)), 2)
    cosines = jnp.abs(quotient(dot(w_i, w_j), length_i * length_j))
    return (
        change,
        crowd.total(accepted & unique) / len(pairs),
        crowd.total(jnp.where(unique, cosines, 0)) / len(pairs),
        crowd.largest(cosines),
    )
