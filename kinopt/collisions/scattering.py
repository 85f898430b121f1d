"""What accepted pairs do to the velocities: pair by pair, or all at once through a Laplacian.

Both compute the change of Eq. 8,

$$
change_i = sum_j a_ij [(g_j - g_i) / 2 + e |g_i - g_j| n_ij / 2]
$$

the first with a direction n_ij for each accepted pair and differences taken directly. The second
is drift and noise, each from products of whole matrices, at the same cost however many collide:

$$
change = -L G / 2 + C Z,     C_ih = sum over j with h = (i + j) mod N of s_ij eps_ij
$$

with s_ij = a_ij e |g_i - g_j| / (2 sqrt(D)), random signs eps_ij = -eps_ji, and N rows Z_h of
normal numbers. A neuron meets each partner with another row, so that its noise is a Gaussian
vector, and a pair shares a row, with opposite signs, so that each pair keeps its momentum. C is a
random factor of the Laplacian with weights s_ij^2: E[C C^T] = L. Mean and covariance of the noise
are those of the first way; N D numbers are drawn instead of D for each pair.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kinopt._typing import Neurons, Number
from kinopt.collisions.crowd import WHOLE, Crowd, varying_like
from kinopt.collisions.draws import DIRECTION, POOL, SIGN, normals, words
from kinopt.collisions.rows import square_root

__all__ = [
    "factor_rows",
    "laplacian_drift",
    "noise_of_factor",
    "pair_directions",
    "pool_rows",
    "relative_speed",
    "scatter_pairs",
    "scattered",
]

PAIRS_PER_CHUNK = 64
"""Accepted pairs treated at once in a large layer; 16 in the head of a classifier. A draw of random
bits has a fixed cost on a CPU, and the directions of a chunk that is not full are drawn in vain."""

NUMBERS_PER_CHUNK = 2**22
"""Of the directions drawn at once on an accelerator, where a chunk of 64 pairs takes as long as one
of thousands: what takes time is to start its kernels."""

FEW_CANDIDATES = 1024
"""A layer of 32 neurons has so many; above, comparing with all takes memory that shows in cells."""

POOL_ROWS = 256
"""Rows of Z in memory at once: a small part of a large layer, and enough for a matrix product."""


def pair_directions(
    key: Array,
    i: Int[Array, " pairs"],
    j: Int[Array, " pairs"],
    g: Neurons,
    crowd: Crowd = WHOLE,
) -> Float[Array, "pairs features"]:
    """n_ij for pairs i < j of a layer like g: uniform on the unit sphere, from (key, i, j) alone.

    >>> n = pair_directions(jax.random.key(0), jnp.array([0]), jnp.array([1]), jnp.zeros((2, 5)))
    >>> float(jnp.linalg.norm(n).round(6))
    1.0
    """
    _, features = crowd.sizes(g)
    draw = functools.partial(
        normals, number=features, dtype=g.dtype, purpose=DIRECTION, places=crowd.columns
    )
    gaussian = jax.vmap(lambda i, j: draw(key, i, j))(i, j)
    length_sq = crowd.over_features(jnp.sum(gaussian * gaussian, axis=1, keepdims=True))
    return gaussian / jnp.sqrt(length_sq)


def relative_speed(
    g_i: Float[Array, "pairs features"], g_j: Float[Array, "pairs features"], crowd: Crowd = WHOLE
) -> Float[Array, " pairs"]:
    """g_r = |g_i - g_j|, from differences taken directly."""
    g_ij = g_j - g_i
    return square_root(crowd.over_features(jnp.sum(g_ij * g_ij, axis=1)))


def scattered(
    g_i: Float[Array, "pairs features"],
    g_j: Float[Array, "pairs features"],
    g_r: Float[Array, " pairs"],
    n_ij: Float[Array, "pairs features"],
    restitution: Number,
) -> Float[Array, "pairs features"]:
    """(dg)_ij, what a collision does to neuron i; neuron j gets the opposite (Eq. 6)."""
    return (g_j - g_i + restitution * g_r[:, None] * n_ij) / 2


def scatter_pairs(
    change: Neurons,
    g: Neurons,
    neurons: Int[Array, " neurons"] | None,
    draw: Callable[[Array, Array], Array],
    accepted: Bool[Array, " candidates"],
    wanted: Bool[Array, ""],
    pair: Callable[[Array], tuple[Array, Array]],
    weight: Callable[[Array, Array], Array],
    restitution: Number,
    crowd: Crowd = WHOLE,
) -> Neurons:
    """Adds to `change` what the accepted candidates do, a chunk of pairs at a time.

    Args:
        change: the sum of Eq. 8 so far.
        g: velocities before any collision.
        neurons: which neuron of the layer each row of `g` is; None: they lie in order, and of a
            candidate the first comes first.
        draw: numbers of neurons i < j -> n_ij.
        accepted: which candidates collide.
        wanted: whether to do it at all.
        pair: index of a candidate -> its two rows.
        weight: two rows -> a_ij.
        restitution: e.
        crowd: which features are on this device.

    Work and randomness go with the number of accepted pairs, whatever it is: there is no cap that
    could drop some. The result does not depend on the size of a chunk, but for rounding.
    """
    candidates = len(accepted)
    chunk = pairs_per_chunk(candidates, g.shape[1], jax.default_backend())
    ranks = jnp.cumsum(accepted, dtype=jnp.int32)  # the n-th accepted is where this reaches n
    total = jnp.where(wanted, ranks[-1], 0)
    # Comparing with all is cheaper than a search by halves for few, to run and to compile.
    method = "compare_all" if candidates <= FEW_CANDIDATES else "scan"

    def more(carry):
        done, _ = carry
        return done < total

    def collide(carry):
        done, change = carry
        n = done + 1 + jnp.arange(chunk, dtype=jnp.int32)
        i, j = pair(jnp.minimum(jnp.searchsorted(ranks, n, method=method), candidates - 1))
        if neurons is None:
            n_ij = draw(i, j)
        else:
            swapped = neurons[i] > neurons[j]
            i, j = jnp.where(swapped, j, i), jnp.where(swapped, i, j)
            n_ij = draw(neurons[i], neurons[j])
        g_r = relative_speed(g[i], g[j], crowd)
        dg = weight(i, j)[:, None] * scattered(g[i], g[j], g_r, n_ij, restitution)
        dg = jnp.where((n <= total)[:, None], dg, 0)
        both = jnp.concatenate([i, j])
        return done + chunk, change.at[both].add(jnp.concatenate([dg, -dg]))

    start = varying_like((jnp.zeros((), jnp.int32), change), g, total)
    return jax.lax.while_loop(more, collide, start)[1]


def pairs_per_chunk(candidates: int, features: int, platform: str) -> int:
    """How many accepted pairs are treated at once.

    >>> pairs_per_chunk(1000**2, 2048, "cpu"), pairs_per_chunk(1000**2, 2048, "gpu")
    (64, 2048)
    """
    if platform == "cpu":
        return min(candidates, PAIRS_PER_CHUNK, max(16, candidates // 64))
    most = max(PAIRS_PER_CHUNK, NUMBERS_PER_CHUNK // features)
    return min(candidates, most, max(16, candidates // 8))


def laplacian_drift(
    a: Float[Array, "rows neurons"],
    g_rows: Float[Array, "rows features"],
    g: Neurons,
    crowd: Crowd = WHOLE,
) -> Float[Array, "rows features"]:
    """Rows of -L G / 2 for the graph with weights a_ij.

    >>> a = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> g = jnp.array([[1.0], [3.0]])
    >>> g + laplacian_drift(a, g, g)  # both end with the velocity of their centre of mass
    Array([[2.],
           [2.]], dtype=float32)
    """
    degrees = jnp.sum(a, axis=1)[:, None]
    return crowd.entrywise(lambda ag, d, g: (ag - d * g) / 2, crowd.laid(a @ g), degrees, g_rows)


def factor_rows(
    key: Array,
    strength: Float[Array, "rows others"],
    i: Int[Array, " rows"],
    j: Int[Array, " others"],
    neurons: int,
) -> Float[Array, "rows neurons"]:
    """What others j give to the rows of neurons i of C, given s_ij.

    >>> s = 1.0 - jnp.eye(3)
    >>> c = factor_rows(jax.random.key(0), s, jnp.arange(3), jnp.arange(3), 3)
    >>> jnp.sum(c, axis=0)  # each pair keeps its momentum
    Array([0., 0., 0.], dtype=float32)
    """

    def positive(i, j):
        """eps_ij = 1: a random bit of the pair, and turned round for i > j."""
        bits = words(key, jnp.minimum(i, j), jnp.maximum(i, j), 1, SIGN)
        return (bits[0] & jnp.uint32(1) == 1) == (i < j)

    signs = jax.vmap(jax.vmap(positive, (None, 0)), (0, None))(i, j)
    entries = jnp.where(signs, strength, -strength)
    rows = jnp.arange(len(strength))[:, None]
    empty = varying_like(jnp.zeros((len(strength), neurons), strength.dtype), strength)
    return empty.at[rows, (i[:, None] + j[None]) % neurons].add(entries)


def pool_rows(
    key: Array, first: Int[Array, ""] | int, number: int, g: Neurons, crowd: Crowd = WHOLE
) -> Float[Array, "number features"]:
    """So many rows of Z for a layer like g, from row `first` on."""
    _, features = crowd.sizes(g)

    def row(h):
        return normals(key, h, 0, features, g.dtype, POOL, crowd.columns)

    return jax.vmap(row)(first + jnp.arange(number))


def noise_of_factor(
    key: Array, factor: Float[Array, "rows all"], g: Neurons, crowd: Crowd = WHOLE
) -> Float[Array, "rows features"]:
    """Rows of C Z for a layer like g, of which no device holds Z as a whole."""
    neurons, _ = crowd.sizes(g)
    size = min(POOL_ROWS, neurons)
    factor = jnp.pad(factor, ((0, 0), (0, -neurons % size)))

    def add(n, noise):
        part = jax.lax.dynamic_slice_in_dim(factor, n * size, size, axis=1)
        return noise + part @ pool_rows(key, n * size, size, g, crowd)

    start = varying_like(jnp.zeros((len(factor), g.shape[1]), g.dtype), factor, g)
    return jax.lax.fori_loop(0, factor.shape[1] // size, add, start)
