"""What is measured of one layer, rows of neurons: similarity, correlation and entropy."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from kinopt._typing import Scalar
from kinopt.collisions.rows import unit_rows
from kinopt.trees import accumulator_dtype

__all__ = [
    "cosine_similarity",
    "effective_rank",
    "entropy",
    "near_copies",
    "neuron_similarity",
    "weight_correlation",
]


NEAR_COPY = 0.9
"""Two neurons of a larger cosine are near copies (of opposite signs they are not)."""


Layer: TypeAlias = Inexact[Array, "neurons features"]
"""A layer to be measured: real or complex, a row for each neuron."""


def _directions(w: Layer) -> Layer:
    if jnp.iscomplexobj(w):
        # The norm of a complex row is that of its real and imaginary parts in one row.
        unit = _directions(jnp.concatenate([w.real, w.imag], axis=1))
        return jax.lax.complex(*jnp.split(unit, 2, axis=1))
    w = w.astype(accumulator_dtype(w))
    return unit_rows(w) if w.size else w


def cosine_similarity(w: Layer) -> Inexact[Array, "neurons neurons"]:
    """Cosines between all pairs of neurons.

    $$
    C_ij = <w_i, w_j> / (|w_i| |w_j|)      (KO paper, Eq. 14)
    $$

    and 0 where either neuron is zero.

    Args:
        w: neurons as rows, [N, D], of any norms that their type can hold.

    Returns:
        [N, N], symmetric, in [-1, 1]; for complex neurons Hermitian, of absolute values in [0, 1].

    >>> cosine_similarity(jnp.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    Array([[ 1.,  0., -1.],
           [ 0.,  1.,  0.],
           [-1.,  0.,  1.]], dtype=float32)
    """
    unit = _directions(w)
    cosines = jnp.matmul(unit.conj(), unit.T, precision="highest")
    if jnp.iscomplexobj(cosines):
        return cosines / jnp.maximum(jnp.abs(cosines), 1).astype(cosines.dtype)
    return jnp.clip(cosines, -1, 1)


def _off_diagonal(cosines: Float[Array, "neurons neurons"]) -> Float[Array, "neurons neurons"]:
    return jnp.where(jnp.eye(len(cosines), dtype=bool), 0, cosines)


def neuron_similarity(w: Layer) -> Scalar:
    """Largest similarity of two different neurons.

    $$
    max_{i != j} |C_ij|
    $$

    The "neuron similarity" of KO's section 4.2 and Fig. 3, where it is called an upper bound of
    the similarity level.

    Args:
        w: neurons as rows, [N, D].

    Returns:
        A number in [0, 1]; 0 for fewer than two neurons.

    >>> float(neuron_similarity(jnp.array([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))).__round__(3)
    0.8
    """
    return jnp.max(_off_diagonal(jnp.abs(cosine_similarity(w))), initial=0)


def weight_correlation(w: Layer) -> Scalar:
    """Mean similarity of two different neurons.

    $$
    mean_{i != j} |C_ij|
    $$

    The "weight correlation" that KO's section 3.4 bounds the generalization error with, there an
    absolute sum, here a mean, so that layers of different widths compare.

    Args:
        w: neurons as rows, [N, D].

    Returns:
        A number in [0, 1]; 0 for fewer than two neurons. Independent Gaussian neurons have about
        sqrt(2 / (pi D)).

    >>> float(weight_correlation(jnp.array([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))).__round__(3)
    0.467
    """
    return jnp.sum(_off_diagonal(jnp.abs(cosine_similarity(w)))) / max(len(w) * (len(w) - 1), 1)


def entropy(w: Layer) -> Scalar:
    """Disorder of the neurons: Shannon entropy of their normalized singular values.

    $$
    S = -sum_k p_k log p_k,    p_k = sigma_k / sum_l sigma_l
    $$

    where sigma_k are the singular values of the matrix of unit neurons (Roy & Vetterli 2007, "The
    effective rank"). This is the entropy of KO's section 3.5 (Eq. 11): least when all neurons are
    alike, most when they are random. It uses singular values, not the Gram matrix's eigenvalues,
    which lose half the digits.

    Args:
        w: neurons as rows, [N, D].

    Returns:
        A number in [0, log min(N, D)], in nats: 0 when all neurons are parallel (or zero), log N
        when they are orthogonal, close to log N when they are random and D >> N.

    >>> alike, orthogonal = jnp.ones((4, 8)), jnp.eye(4, 8)
    >>> round(abs(float(entropy(alike))), 3), round(float(jnp.exp(entropy(orthogonal))), 3)
    (0.0, 4.0)
    """
    unit = _directions(w)
    if unit.size == 0:
        return jnp.zeros((), unit.dtype)
    singular_values = jnp.linalg.svd(unit, compute_uv=False)
    total = jnp.sum(singular_values)
    share = singular_values / jnp.where(total > 0, total, 1)
    return -jnp.sum(jax.scipy.special.xlogy(share, share))


def effective_rank(w: Layer) -> Scalar:
    """How many directions the neurons use: exp(S), with S their `entropy`.

    Args:
        w: neurons as rows, [N, D].

    Returns:
        A number in [1, min(N, D)]: 1 when all neurons are parallel (or zero), N when they are
        orthogonal (Roy & Vetterli 2007, Definition 1).

    >>> round(float(effective_rank(jnp.eye(4, 8))), 3)
    4.0
    """
    return jnp.exp(entropy(w))


def near_copies(w: Layer) -> Scalar:
    """Share of the neurons that are near copies of another."""
    largest = jnp.max(_off_diagonal(cosine_similarity(w).real), axis=1)
    return jnp.mean(largest > NEAR_COPY)
