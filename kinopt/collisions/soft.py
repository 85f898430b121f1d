"""Soft collisions: neurons that are alike, and move alike, slow each other (KO paper, Algorithm 2).

With W, G in R^(N x D), a row of each for every neuron, and c = `coll_coef`,

$$
G' = (I - c M) G,      M = cos(W, W) o cos(G, G)
$$

where cos(X, X) holds the cosines between the rows of X and o is the elementwise product. A neuron
whose weights and gradient both point like those of neuron j loses a part of j's gradient. M is
positive semidefinite with trace N, so the step is sure to stay a descent direction while
c <= 1 / lambda_max(M); c = 1/N always is such a c. M's infinity norm, the largest sum of absolute
values in a row, bounds lambda_max from above and costs nothing.

The paper speaks of a repulsion. What is measured is a brake: for two near copies M_12 is about 1,
their common motion is slowed, and their relative motion is left as it is. Nothing pushes them
apart, and a neuron without gradient stays without.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kinopt._typing import Neurons, Scalar
from kinopt.collisions.crowd import WHOLE, Crowd
from kinopt.collisions.rows import Directions, directions, scales, squared_ratio

__all__ = ["Alike", "SoftGradientStats", "SoftStats", "soft_law"]

Alike = Literal["both", "gradients"]


class SoftStats(NamedTuple):
    """What the soft law sees on its way."""

    gain: Scalar  # c |M|_inf; above 1, G' may point uphill
    pair_effect: Scalar  # |G' - G|^2 / |G|^2 without the diagonal of M
    mean_abs_cosine: Scalar  # of the weights, over the pairs of neurons
    max_abs_cosine: Scalar


class SoftGradientStats(NamedTuple):
    """The same for `alike="gradients"`, which does not look at the weights."""

    gain: Scalar
    pair_effect: Scalar


class _Neuron(NamedTuple):
    """What must be known of a neuron to meet it."""

    w: Directions
    g: Directions
    gradient: Neurons
    number: Int[Array, " neurons"]


class _Met(NamedTuple):
    """What a neuron's partners do to it, and what it saw of them."""

    brake: Neurons  # the rows of M G, without M_ii
    row_norms: Float[Array, " neurons"]  # sum over the others of |M_ij|
    cosines: Float[Array, " neurons"]  # sum over the others of |cos(w_i, w_j)|
    max_cosine: Float[Array, " neurons"]


def soft_law(
    w: Neurons,
    g: Neurons,
    coll_coef: Scalar | float | None = None,
    *,
    self_term: bool = True,
    normalize: bool = False,
    alike: Alike = "both",
    crowd: Crowd = WHOLE,
) -> tuple[Neurons, SoftStats | SoftGradientStats]:
    """G' = (I - c M) G, and what was seen on the way (Algorithm 2).

    Args:
        w: W, the weights.
        g: G, the gradients, of the same floating type as `w`.
        coll_coef: c, at least 0; None: 1/N.
        self_term: keep M_ii, as Algorithm 2 does. It multiplies each gradient by 1 - c, which is a
            smaller learning rate under SGD and nothing under Adam.
        normalize: use M / |M|_inf, so that any c in [0, 1] gives a descent direction.
        alike: `"both"`: M as above; `"gradients"`: M = cos(G, G).
        crowd: the neurons of the layer, and how they meet.

    >>> w = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # two copies and another neuron
    >>> g = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> soft_law(w, g, 0.1, self_term=False)[0]  # the copies slow each other down
    Array([[0.9, 0. ],
           [0.9, 0. ],
           [0. , 1. ]], dtype=float32)
    """
    neurons, _ = crowd.sizes(w)
    looks_at_weights = alike == "both"
    of_g = scales(g, crowd)
    me = _Neuron(
        directions(w, crowd) if looks_at_weights else of_g.to, of_g.to, g, crowd.numbers(g)
    )

    def cosines(mine: Directions, other: Directions) -> Array:
        scale = mine.inverse_norm[:, None] * other.inverse_norm[None]
        return crowd.dot(mine.scaled, other.scaled) * scale

    def how(mine: _Neuron, other: _Neuron) -> _Met:
        itself = mine.number[:, None] == other.number[None]
        cos_w = cosines(mine.w, other.w) if looks_at_weights else jnp.ones((), g.dtype)
        m = jnp.where(itself, 0, cos_w * cosines(mine.g, other.g))
        pairs = jnp.where(itself, 0, jnp.abs(cos_w))
        return _Met(
            crowd.laid(m @ other.gradient),
            jnp.sum(jnp.abs(m), axis=1),
            jnp.sum(pairs, axis=1),
            jnp.max(pairs, axis=1),
        )

    met = crowd.meet(how, me)
    itself = jnp.sign(me.w.inverse_norm * me.g.inverse_norm)  # M_ii: 1, or 0 for a row of zeros
    norm = crowd.largest(met.row_norms + itself if self_term else met.row_norms)
    c = jnp.asarray(1 / neurons if coll_coef is None else coll_coef, w.dtype)
    if normalize:
        c = c / jnp.where(norm > 0, norm, 1)

    def braked(g: Array, brake: Array, itself: Array) -> Array:
        whole = brake + itself * g if self_term else brake
        return jnp.where(c == 0, g, g - c * whole)  # g - 0 would turn -0 into 0

    after = crowd.entrywise(braked, g, met.brake, itself[:, None])
    gain, pair_effect = c * norm, squared_ratio(c * met.brake, of_g, crowd)
    if not looks_at_weights:
        return after, SoftGradientStats(gain, pair_effect)
    return after, SoftStats(
        gain,
        pair_effect,
        crowd.total(met.cosines) / max(neurons * (neurons - 1.0), 1.0),
        crowd.largest(met.max_cosine),
    )
