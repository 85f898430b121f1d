"""Hard collisions: neurons scatter like the hard spheres of DSMC (KO paper, Algorithm 1).

Weights are positions and gradients velocities. A pair that Eq. 7 accepts (`partners`) keeps the
velocity of its centre of mass and leaves in a random direction with its relative speed (Eqs. 5, 6):

    (dg)_ij = (g_i + g_j) / 2 + e |g_i - g_j| n_ij / 2 - g_i,      n_ji = -n_ij,  |n_ij| = 1,

and a neuron adds up what its collisions do to it, all from the old gradients (Eq. 8):

    g_i' = g_i + sum over accepted j of a_ij (dg)_ij.

The paper has restitution e = 1 and weights a_ij = 1. Its sum conserves momentum but not energy:
with all pairs of N neurons accepted, |g|^2 grows about N^2/4 times. Two other ways to combine:
`metropolis`, a_ij = 1 / max(deg_i, deg_j), which keeps momentum and never raises the expected
energy; and `matching`, in which a neuron meets one candidate at most, as in DSMC, and momentum and
energy are conserved exactly.

In matrix form, with L the Laplacian of the graph with weights a_ij, G' = (I - L/2) G + noise, and
the noise's rows have the covariance of the Laplacian with weights (a_ij e |g_i - g_j|)^2 / (4 D).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kinopt._typing import Neurons, Scalar
from kinopt.collisions.blockwise import rows_per_block, scan_row_blocks
from kinopt.collisions.partners import (
    accepts,
    closing_speeds,
    random_matching,
    squared_distances,
)
from kinopt.collisions.rows import binary_scale, centred, energy_ratio, row_lengths
from kinopt.collisions.scattering import gaussian_noise, laplacian_drift, scatter_pairs

__all__ = ["Combine", "Distance", "HardStats", "Scatter", "hard_law"]

Distance = Literal["rms", "l2"]
Combine = Literal["sum", "metropolis", "matching"]
Scatter = Literal["pairs", "gaussian"]


class HardStats(NamedTuple):
    """What the hard law sees on its way."""

    accepted_fraction: Scalar  # of all pairs, or of the matching's candidates
    energy_ratio: Scalar  # |G'|^2 / |G|^2
    mean_abs_cosine: Scalar  # of the weights, over the pairs looked at
    max_abs_cosine: Scalar


class _Gas(NamedTuple):
    """A layer in scales that are safe to square."""

    w: Neurons  # divided by a power of two
    g: Neurons  # likewise
    unit: Scalar  # a distance in the scale of w, times this, is w_r


def hard_law(
    w: Neurons,
    g: Neurons,
    key: Array,
    coll_coef: Scalar | float,
    *,
    distance: Distance = "rms",
    approaching_only: bool = False,
    combine: Combine = "sum",
    restitution: Scalar | float = 1.0,
    scatter: Scatter = "pairs",
    block_size: int | None = None,
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
        scatter: a direction for each accepted pair, or `"gaussian"`: the noise of all pairs in one
            draw of the right mean and covariance, through a Cholesky factor.
        block_size: rows of the N x N quantities in memory at once; None: all, up to 2,048.

    >>> w = jnp.array([[0.0, 0.0], [0.1, 0.0]])
    >>> g = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    >>> after, stats = hard_law(w, g, jax.random.key(0), 0.5)
    >>> jnp.sum(after, axis=0), jnp.linalg.norm(after, axis=1)  # momentum, speeds
    (Array([0., 0.], dtype=float32), Array([1., 1.], dtype=float32))
    """
    w_scale, g_scale = binary_scale(w.T), binary_scale(g.T)
    unit = w_scale / (w.shape[1] ** 0.5 if distance == "rms" else 1.0)
    gas = _Gas(w * (1 / w_scale), g * (1 / g_scale), unit)
    c = jnp.asarray(coll_coef, w.dtype)
    if combine == "matching":
        change, *seen = _matching(gas, key, c, approaching_only, restitution)
    else:
        block = rows_per_block(len(w), block_size)
        change, *seen = _all_pairs(
            gas, key, c, approaching_only, combine == "metropolis", restitution, scatter, block
        )
    # Where nothing happens not a bit changes: g + 0 would turn -0 into 0.
    after = jnp.where(change.T == 0, g.T, g.T + change.T * g_scale).T
    fraction, mean_cosine, max_cosine = seen
    return after, HardStats(fraction, energy_ratio(after, g), mean_cosine, max_cosine)


def _matching(gas: _Gas, key: Array, c: Scalar, approaching_only: bool, restitution):
    """Change and statistics with one random matching as candidates: O(N D) work."""
    key_matching, key_scatter = jax.random.split(key)
    i, j = random_matching(key_matching, len(gas.w))
    w_i, w_j = gas.w[i], gas.w[j]
    dw, dg = w_i - w_j, gas.g[i] - gas.g[j]
    w_r, g_r = jnp.linalg.norm(dw, axis=1) * gas.unit, jnp.linalg.norm(dg, axis=1)
    accepted = accepts(g_r, w_r, jnp.max(g_r), c)
    if approaching_only:
        accepted &= jnp.sum(dw * dg, axis=1) > 0
    change = scatter_pairs(
        jnp.zeros_like(gas.g),
        gas.g,
        key_scatter,
        accepted,
        pair=lambda n: (i[n], j[n]),
        weight=lambda i, j: jnp.ones_like(i, gas.g.dtype),
        restitution=restitution,
    )
    lengths = jnp.linalg.norm(w_i, axis=1), jnp.linalg.norm(w_j, axis=1)
    cosines = jnp.abs(_over(jnp.sum(w_i * w_j, axis=1), lengths[0] * lengths[1]))
    return change, jnp.mean(accepted), jnp.mean(cosines), jnp.max(cosines)


def _all_pairs(
    gas: _Gas,
    key: Array,
    c: Scalar,
    approaching_only: bool,
    metropolis: bool,
    restitution,
    scatter: Scatter,
    block: int,
):
    """Change and statistics with every pair as a candidate, from N x N quantities only."""
    neurons, features = gas.w.shape
    columns = jnp.arange(neurons)
    w, g, length = centred(gas.w), centred(gas.g), row_lengths(gas.w)
    scattered = not (isinstance(restitution, int | float) and restitution == 0)

    def largest(so_far, rows, fresh, g_rows):
        return jnp.maximum(so_far, jnp.max(squared_distances(g_rows, g))), None

    g_max_squared, _ = scan_row_blocks(largest, jnp.zeros((), g.dtype), [g], block)

    def look(rows, w_rows, g_rows):
        """Accepted pairs, |g_i - g_j| and |w_i - w_j|^2 for a block of rows."""
        squared_w = squared_distances(w_rows, w)
        g_r = jnp.sqrt(squared_distances(g_rows, g))
        accepted = accepts(g_r, jnp.sqrt(squared_w) * gas.unit, jnp.sqrt(g_max_squared), c)
        if approaching_only:
            accepted &= closing_speeds(w_rows, g_rows, w, g) > 0
        accepted &= rows[:, None] != columns
        return accepted, g_r, squared_w

    def count(carry, rows, fresh, w_rows, g_rows):
        return carry, jnp.sum(look(rows, w_rows, g_rows)[0], axis=1)

    if metropolis:
        _, degrees = scan_row_blocks(count, None, [w, g], block)
    else:
        degrees = jnp.ones(neurons, jnp.int32)

    def weight(i, j):
        """a_ij of an accepted pair: 1, or Metropolis' 1 / max(deg_i, deg_j)."""
        return 1 / jnp.maximum(jnp.maximum(degrees[i], degrees[j]), 1).astype(g.dtype)

    def collide(change, rows, fresh, w_rows, g_rows, lengths):
        accepted, g_r, squared_w = look(rows, w_rows, g_rows)
        above = rows[:, None] < columns  # each pair once
        cosines = jnp.where(above, jnp.abs(_cosines(squared_w, lengths[:, None], length)), 0)
        seen = jnp.sum(accepted & above, axis=1), jnp.sum(cosines, axis=1), jnp.max(cosines, axis=1)
        if scattered and scatter == "pairs":
            change = scatter_pairs(
                change,
                gas.g,
                key,
                (accepted & above & fresh[:, None]).ravel(),
                pair=lambda n: (rows[n // neurons], n % neurons),
                weight=weight,
                restitution=restitution,
            )
            return change, (None, *seen)
        a = jnp.where(accepted, weight(rows[:, None], columns), 0)
        moved = laplacian_drift(a, g_rows, g)
        if scattered:
            variances = jnp.square(a * restitution * g_r) / (4 * features)
            moved += gaussian_noise(key, variances, features)
        return change, (moved, *seen)

    change, (moved, accepted, cosine_sums, cosine_maxima) = scan_row_blocks(
        collide, jnp.zeros_like(g), [w, g, length], block
    )
    pairs = neurons * (neurons - 1) / 2
    return (
        change if moved is None else moved,
        jnp.sum(accepted) / pairs,
        jnp.sum(cosine_sums) / pairs,
        jnp.max(cosine_maxima),
    )


def _cosines(squared_distance: Array, length_i: Array, length_j: Array) -> Array:
    """Law of cosines: distances are at hand, so the angles cost no further product.

    They are good to a few eps times (longest row)^2 / (length_i length_j).
    """
    numerator = length_i**2 + length_j**2 - squared_distance
    return _over(numerator, 2 * length_i * length_j).clip(-1, 1)


def _over(numerator: Array, denominator: Array) -> Array:
    """Their ratio, and 0 for neurons of length zero; NaN stays NaN."""
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))
