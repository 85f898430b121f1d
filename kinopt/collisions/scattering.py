"""What accepted pairs do to the velocities: pair by pair, or all at once through a Laplacian.

Both compute the change of Eq. 8,

$$
change_i = sum_j a_ij [(g_j - g_i) / 2 + e |g_i - g_j| n_ij / 2]
$$

the first with a direction n_ij for each accepted pair and differences taken directly, the second
as drift plus noise: -L G / 2, and one Gaussian draw with the same mean and covariance.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kinopt._typing import Neurons, Scalar
from kinopt.collisions.devices import WHOLE, Spread, varying_like
from kinopt.collisions.draws import normals

__all__ = [
    "gaussian_noise",
    "laplacian_drift",
    "pair_directions",
    "scatter_pairs",
    "scattered",
]

PAIRS_PER_CHUNK = 64
"""Accepted pairs treated at once in a large layer; 16 in the head of a classifier. A draw of random
bits has a fixed cost on a CPU, and the directions of a chunk that is not full are drawn in vain."""

FEW_CANDIDATES = 1024
"""A layer of 32 neurons has so many; above, comparing with all takes memory that shows in cells."""


def pair_directions(
    key: Array,
    i: Int[Array, " pairs"],
    j: Int[Array, " pairs"],
    g: Neurons,
    spread: Spread = WHOLE,
) -> Float[Array, "pairs features"]:
    """n_ij for pairs i < j of a layer like g: uniform on the unit sphere, from (key, i, j) alone.

    >>> n = pair_directions(jax.random.key(0), jnp.array([0]), jnp.array([1]), jnp.zeros((2, 5)))
    >>> float(jnp.linalg.norm(n).round(6))
    1.0
    """
    _, features = spread.sizes(g)
    draw = functools.partial(normals, number=features, dtype=g.dtype, places=spread.columns)
    gaussian = jax.vmap(lambda i, j: draw(key, i, j))(i, j)
    length_sq = spread.over_features(jnp.sum(gaussian * gaussian, axis=1, keepdims=True))
    return gaussian / jnp.sqrt(length_sq)


def scattered(
    g_i: Float[Array, "pairs features"],
    g_j: Float[Array, "pairs features"],
    n_ij: Float[Array, "pairs features"],
    restitution: Scalar | float,
    spread: Spread = WHOLE,
) -> Float[Array, "pairs features"]:
    """(dg)_ij, what a collision does to neuron i; neuron j gets the opposite (Eq. 6)."""
    g_ij = g_j - g_i
    g_r = jnp.sqrt(spread.over_features(jnp.sum(g_ij * g_ij, axis=1, keepdims=True)))
    return (g_ij + restitution * g_r * n_ij) / 2


def scatter_pairs(
    change: Neurons,
    g: Neurons,
    neurons: Int[Array, " neurons"],
    draw: Callable[[Array, Array], Array],
    accepted: Bool[Array, " candidates"],
    pair: Callable[[Array], tuple[Array, Array]],
    weight: Callable[[Array, Array], Array],
    restitution: Scalar | float,
    spread: Spread = WHOLE,
) -> Neurons:
    """Adds to `change` what the accepted candidates do, a chunk of pairs at a time.

    Args:
        change: the sum of Eq. 8 so far.
        g: velocities before any collision.
        neurons: which neuron of the layer each row of `g` is.
        draw: numbers of neurons i < j -> n_ij.
        accepted: which candidates collide.
        pair: index of a candidate -> its two rows.
        weight: two rows -> a_ij.
        restitution: e.
        spread: which features are on this device.

    Work and randomness go with the number of accepted pairs, whatever it is: there is no cap that
    could drop some. The result does not depend on the size of a chunk, but for rounding.
    """
    candidates = len(accepted)
    chunk = min(candidates, PAIRS_PER_CHUNK, max(16, candidates // 64))
    ranks = jnp.cumsum(accepted, dtype=jnp.int32)  # the n-th accepted is where this reaches n
    total = ranks[-1]
    # Comparing with all is cheaper than a search by halves for few, to run and to compile.
    method = "compare_all" if candidates <= FEW_CANDIDATES else "scan"

    def more(carry):
        done, _ = carry
        return done < total

    def collide(carry):
        done, change = carry
        n = done + 1 + jnp.arange(chunk, dtype=jnp.int32)
        a, b = pair(jnp.minimum(jnp.searchsorted(ranks, n, method=method), candidates - 1))
        swapped = neurons[a] > neurons[b]
        i, j = jnp.where(swapped, b, a), jnp.where(swapped, a, b)
        n_ij = draw(neurons[i], neurons[j])
        dg = weight(i, j)[:, None] * scattered(g[i], g[j], n_ij, restitution, spread)
        dg = jnp.where((n <= total)[:, None], dg, 0)
        return done + chunk, change.at[i].add(dg).at[j].add(-dg)

    start = varying_like((jnp.zeros((), jnp.int32), change), g, total)
    return jax.lax.while_loop(more, collide, start)[1]


def laplacian_drift(
    a: Float[Array, "rows neurons"], g_rows: Float[Array, "rows features"], g: Neurons
) -> Float[Array, "rows features"]:
    """Rows of -L G / 2 for the graph with weights a_ij.

    >>> a = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> g = jnp.array([[1.0], [3.0]])
    >>> g + laplacian_drift(a, g, g)  # both end with the velocity of their centre of mass
    Array([[2.],
           [2.]], dtype=float32)
    """
    return (a @ g - jnp.sum(a, axis=1)[:, None] * g_rows) / 2


def gaussian_noise(
    key: Array, weights: Float[Array, "neurons neurons"], g: Neurons, spread: Spread = WHOLE
) -> Neurons:
    """Columns of N(0, L), L the Laplacian of a graph with these weights, through L = C C^T.

    L is singular: a connected set of neurons keeps its momentum. A small multiple of the identity
    makes Cholesky's factorisation safe, and what it leaks is projected out: neurons without a
    partner get exactly nothing, and the others' noise sums to zero.
    """
    degrees = jnp.sum(weights, axis=1)
    largest = jnp.max(degrees)
    # Rounding in the factorisation is a few eps per eliminated neuron, of the largest diagonal.
    jitter = len(weights) * jnp.finfo(weights.dtype).eps * jnp.where(largest > 0, largest, 1)
    laplacian = jnp.diag(degrees + jitter) - weights
    factor = jnp.linalg.cholesky(laplacian, symmetrize_input=False)
    gaussian = jax.random.normal(key, spread.sizes(g), weights.dtype)
    noise = factor @ (gaussian if spread.columns is None else gaussian[:, spread.columns])
    has_partner = (degrees > 0)[:, None]
    noise = jnp.where(has_partner, noise, 0)
    leak = jnp.sum(noise, axis=0) / jnp.maximum(jnp.sum(has_partner), 1)
    return jnp.where(has_partner, noise - leak, 0)
