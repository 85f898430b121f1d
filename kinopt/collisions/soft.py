"""Soft collisions: neurons that are alike, and move alike, repel (KO paper, Algorithm 2).

With W, G in R^(N x D), a row of each for every neuron, and c = `coll_coef`,

    G' = (I - c M) G,      M = cos(W, W) o cos(G, G),

where cos(X, X) holds the cosines between the rows of X and o is the elementwise product. A neuron
whose weights and gradient both point like those of neuron j is pushed against j's gradient. M is
positive semidefinite with trace N, so the step is sure to stay a descent direction only while
c <= 1 / lambda_max(M); its infinity norm, the largest sum of absolute values in a row, bounds
lambda_max from above and costs nothing.
"""

from typing import NamedTuple

import jax.numpy as jnp

from kinopt._typing import Neurons, Scalar
from kinopt.collisions.blockwise import rows_per_block, scan_row_blocks
from kinopt.collisions.rows import Directions, directions, energy_ratio

__all__ = ["SoftStats", "soft_law"]


class SoftStats(NamedTuple):
    """What the soft law sees on its way."""

    energy_ratio: Scalar  # |G'|^2 / |G|^2
    gain: Scalar  # c |M|_inf; above 1, G' may point uphill
    mean_abs_cosine: Scalar  # of the weights, over the pairs of neurons
    max_abs_cosine: Scalar


def soft_law(
    w: Neurons,
    g: Neurons,
    coll_coef: Scalar | float,
    *,
    self_term: bool = True,
    normalize: bool = False,
    block_size: int | None = None,
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

    >>> w = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # two copies and another neuron
    >>> g = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> soft_law(w, g, 0.1, self_term=False)[0]  # the copies slow each other down
    Array([[0.9, 0. ],
           [0.9, 0. ],
           [0. , 1. ]], dtype=float32)
    """
    neurons = len(w)
    columns = jnp.arange(neurons)
    towards_w, towards_g = directions(w), directions(g)

    def cosines(rows, inverse_norms, x: Directions):
        return (rows @ x.scaled.T) * (inverse_norms[:, None] * x.inverse_norm)

    def block(carry, rows, fresh, w_rows, w_inverse_norms, g_rows, g_inverse_norms):
        cos_w = cosines(w_rows, w_inverse_norms, towards_w)
        m = cos_w * cosines(g_rows, g_inverse_norms, towards_g)
        if not self_term:
            m = jnp.where(columns == rows[:, None], 0, m)
        # Each pair is counted once, and never a neuron with itself.
        pair_cosines = jnp.where(columns > rows[:, None], jnp.abs(cos_w), 0)
        sums = jnp.sum(jnp.abs(m), axis=1), jnp.sum(pair_cosines, axis=1)
        return carry, ((g.T @ m.T).T, *sums, jnp.max(pair_cosines, axis=1))

    _, (repulsion, row_norms, cosine_sums, cosine_maxima) = scan_row_blocks(
        block,
        None,
        (*towards_w, *towards_g),
        rows_per_block(neurons, block_size),
    )
    norm = jnp.max(row_norms)
    c = jnp.asarray(coll_coef, w.dtype)
    if normalize:
        c = c / jnp.where(norm > 0, norm, 1)
    after = jnp.where(c == 0, g, g - c * repulsion)  # g - 0 would turn -0 into 0
    pairs = max(neurons * (neurons - 1) // 2, 1)
    return after, SoftStats(
        energy_ratio(after, g),
        c * norm,
        jnp.sum(cosine_sums) / pairs,
        jnp.max(cosine_maxima),
    )
