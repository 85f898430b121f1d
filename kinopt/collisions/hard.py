"""Hard collisions: neurons scatter like the hard spheres of DSMC (KO paper, Algorithm 1).

Weights are positions and gradients velocities. A pair that Eq. 7 accepts (`partners`) keeps the
velocity of its centre of mass and leaves in a random direction with its relative speed (Eqs. 5, 6):

$$
(dg)_ij = (g_i + g_j) / 2 + e |g_i - g_j| n_ij / 2 - g_i,    n_ji = -n_ij,    |n_ij| = 1
$$

and a neuron adds up what its collisions do to it, all from the old gradients:

$$
g_i' = g_i + sum_j a_ij (dg)_ij      over accepted pairs (Eq. 8)
$$

The paper has restitution e = 1 and weights a_ij = 1. Its sum conserves momentum but not energy:
with all pairs of N neurons accepted, |g|^2 grows about N^2/4 times. Two other ways to combine:
`metropolis`, a_ij = 1 / max(deg_i, deg_j), which keeps momentum and never raises the expected
energy; and `matching`, in which a neuron meets one candidate at most, as in DSMC, and momentum and
energy are conserved exactly.

In matrix form, with L the Laplacian of the graph with weights a_ij, G' = (I - L/2) G + noise, and
the noise's rows have the covariance of the Laplacian with weights (a_ij e |g_i - g_j|)^2 / (4 D).

Eq. 7 accepts the pairs that are fastest relative to each other: copies, which move together, meet
last. In a fresh layer nearly all pairs are near, and at c = 0.2 most of them collide.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from kinopt._typing import Neurons, Number, Scalar
from kinopt.collisions.all_pairs import Scatter, collide_all_pairs
from kinopt.collisions.crowd import WHOLE, Crowd
from kinopt.collisions.matching import collide_matching
from kinopt.collisions.partners import Gas
from kinopt.collisions.rows import binary_scale, scales, squared_ratio

__all__ = ["Combine", "Distance", "HardStats", "Scatter", "hard_law"]

Distance = Literal["rms", "l2"]
Combine = Literal["sum", "metropolis", "matching"]


class HardStats(NamedTuple):
    """What the hard law sees on its way."""

    accepted_fraction: Scalar  # of all pairs, or of the matching's candidates
    pair_effect: Scalar  # |G' - G|^2 / |G|^2
    mean_abs_cosine: Scalar  # of the weights, over the pairs looked at
    max_abs_cosine: Scalar


def hard_law(
    w: Neurons,
    g: Neurons,
    key: Array,
    coll_coef: Scalar | float,
    *,
    distance: Distance = "rms",
    approaching_only: bool = False,
    combine: Combine = "sum",
    restitution: Number = 1.0,
    scatter: Scatter = "pairs",
    crowd: Crowd = WHOLE,
) -> tuple[Neurons, HardStats]:
    """G' of Eq. 8, and what was seen on the way (Algorithm 1, Eqs. 5-8).

    Args:
        w: the weights, positions.
        g: the gradients, velocities, of the same floating type as `w`.
        key: a typed key; the same key gives the same result.
        coll_coef: c of Eq. 7, in [0, 1].
        distance: w_r as `"l2"`, |w_i - w_j| (the paper), or `"rms"`, |w_i - w_j| / sqrt(D).
        approaching_only: also ask for (w_i - w_j).(g_i - g_j) > 0, which the paper's proof assumes.
        combine: a_ij: `"sum"` (the paper), `"metropolis"` or `"matching"`.
        restitution: e, in [0, 1]; 1 is elastic (the paper), 0 leaves no scattering.
        scatter: `"pairs"`: a direction for each accepted pair; `"gaussian"`: the noise of all
            pairs through a factor of the Laplacian; `"auto"`: what costs less.
        crowd: the neurons of the layer, and how they meet.

    >>> import jax, jax.numpy as jnp
    >>> w = jnp.array([[0.0, 0.0], [0.1, 0.0]])
    >>> g = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    >>> after, stats = hard_law(w, g, jax.random.key(0), 0.5)
    >>> jnp.sum(after, axis=0), jnp.linalg.norm(after, axis=1)  # momentum, speeds
    (Array([0., 0.], dtype=float32), Array([1., 1.], dtype=float32))
    """
    neurons, features = crowd.sizes(w)
    if neurons == 1:  # a cell may hold one; it has no partner
        zero = jnp.zeros((), w.dtype)
        return g, HardStats(zero, zero, zero, zero)
    w_scale, of_g = binary_scale(w, crowd), scales(g, crowd)
    unit = w_scale / (features**0.5 if distance == "rms" else 1.0)
    gas = Gas(w, g, 1 / w_scale, of_g.unit, unit)
    c = jnp.asarray(coll_coef, w.dtype)
    if combine == "matching":
        change, *seen = collide_matching(gas, key, c, approaching_only, restitution, crowd)
    else:
        change, *seen = collide_all_pairs(
            gas,
            key,
            c,
            approaching_only,
            combine == "metropolis",
            restitution,
            scatter,
            crowd,
        )

    def moved(g: Array, change: Array) -> Array:
        # Where nothing happens not a bit changes: g + 0 would turn -0 into 0.
        return jnp.where(change == 0, g, g + change * (1 / of_g.unit))

    # The change is in the unit of g, and that of a matching lies in rows.
    lies = crowd._replace(by_rows=crowd.by_rows or combine == "matching")
    effect = squared_ratio(change, of_g._replace(unit=jnp.ones_like(of_g.unit)), lies)
    fraction, mean_cosine, max_cosine = seen
    after = crowd.entrywise(moved, g, change)
    return after, HardStats(fraction, effect, mean_cosine, max_cosine)
