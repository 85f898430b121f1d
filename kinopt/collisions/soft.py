"""Soft collisions: neurons that are alike, and move alike, repel (KO paper, Algorithm 2).

With W, G in R^(N x D), a row of each for every neuron, and c = `coll_coef`,

$$
G' = (I - c M) G,      M = cos(W, W) o cos(G, G)
$$

where cos(X, X) holds the cosines between the rows of X and o is the elementwise product. A neuron
whose weights and gradient both point like those of neuron j is pushed against j's gradient. M is
positive semidefinite with trace N, so the step is sure to stay a descent direction only while
c <= 1 / lambda_max(M); its infinity norm, the largest sum of absolute values in a row, bounds
lambda_max from above and costs nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kinopt._typing import Neurons, Scalar
from kinopt.collisions.blockwise import rows_per_block, scan_row_blocks
from kinopt.collisions.devices import WHOLE, Spread
from kinopt.collisions.rows import Directions, directions, energy_ratio

__all__ = ["SoftStats", "soft_law"]


class SoftStats(NamedTuple):
    """What the soft law sees on its way."""

    energy_ratio: Scalar  # |G'|^2 / |G|^2
    gain: Scalar  # c |M|_inf; above 1, G' may point uphill
    mean_abs_cosine: Scalar  # of the weights, over the pairs of neurons
    max_abs_cosine: Scalar


class _Met(NamedTuple):
    """What a neuron's partners do to it, and what it saw of them."""

    repulsion: Neurons  # the rows of M G
    row_norms: Float[Array, " neurons"]  # sum over j of |M_ij|
    cosine_sums: Float[Array, " neurons"]  # of |cos(w_i, w_j)| over the others
    cosine_maxima: Float[Array, " neurons"]


def soft_law(
    w: Neurons,
    g: Neurons,
    coll_coef: Scalar | float,
    *,
    self_term: bool = True,
    normalize: bool = False,
    block_size: int | None = None,
    spread: Spread = WHOLE,
) -> tuple[Neurons, SoftStats]:
    """G' = (I - c M) G, and what was seen on the way (Algorithm 2).

    Args:
        w: W, the weights.
        g: G, the gradients, of the same floating type as `w`.
        coll_coef: c, at least 0.
        self_term: keep M_ii, as Algorithm 2 does. It multiplies each gradient by 1 - c, which is a
            smaller learning rate under SGD and nothing under Adam.
        normalize: use M / |M|_inf, so that any c in [0, 1] gives a descent direction.
        block_size: rows of M in memory at once; None: all, up to 2,048 neurons.
        spread: which part of the layer is on this device.

    >>> w = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # two copies and another neuron
    >>> g = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> soft_law(w, g, 0.1, self_term=False)[0]  # the copies slow each other down
    Array([[0.9, 0. ],
           [0.9, 0. ],
           [0. , 1. ]], dtype=float32)
    """
    towards_w, towards_g = directions(w, spread), directions(g, spread)
    here = spread.neurons_here(w)
    block_rows = rows_per_block(len(w), block_size, spread.num_feature_parts)

    def meet(visitor):
        """What the visiting neurons do to those of this device."""
        to_w, to_g, g, visitors = visitor

        def cosines(rows, inverse_norms, x: Directions):
            product = spread.over_features(rows @ x.scaled.T)
            return product * (inverse_norms[:, None] * x.inverse_norm)

        def block(carry, rows, fresh, w_rows, w_inverse_norms, g_rows, g_inverse_norms, neurons):
            cos_w = cosines(w_rows, w_inverse_norms, to_w)
            m = cos_w * cosines(g_rows, g_inverse_norms, to_g)
            is_self = visitors == neurons[:, None]
            if not self_term:
                m = jnp.where(is_self, 0, m)
            pair_cosines = jnp.where(is_self, 0, jnp.abs(cos_w))
            sums = jnp.sum(jnp.abs(m), axis=1), jnp.sum(pair_cosines, axis=1)
            return carry, _Met((g.T @ m.T).T, *sums, jnp.max(pair_cosines, axis=1))

        return scan_row_blocks(block, None, (*towards_w, *towards_g, here), block_rows)[1]

    def join(a: _Met, b: _Met) -> _Met:
        sums = jax.tree.map(jnp.add, a, b)
        return sums._replace(cosine_maxima=jnp.maximum(a.cosine_maxima, b.cosine_maxima))

    met = spread.tour(meet, join, (towards_w, towards_g, g, here))
    norm = spread.over_neurons(jnp.max(met.row_norms), jax.lax.pmax)
    c = jnp.asarray(coll_coef, w.dtype)
    if normalize:
        c = c / jnp.where(norm > 0, norm, 1)
    after = jnp.where(c == 0, g, g - c * met.repulsion)  # g - 0 would turn -0 into 0
    neurons, _ = spread.sizes(w)
    return after, SoftStats(
        energy_ratio(after, g, spread),
        c * norm,
        spread.over_neurons(jnp.sum(met.cosine_sums)) / max(neurons * (neurons - 1.0), 1.0),
        spread.over_neurons(jnp.max(met.cosine_maxima), jax.lax.pmax),
    )
