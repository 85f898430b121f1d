"""How condensed a layer is: similarity, correlation and entropy of its neurons.

Neurons condense when the rows of a layer w [N, D] gather on a few directions (KO paper, sections
3.3 and 4.1). Every measure here starts from the neurons' unit vectors u_i = w_i / |w_i|:

$$
C_ij = <u_i, u_j>           `cosine_similarity`, the matrix drawn in Figs. 2 and 4
max_{i != j} |C_ij|         `neuron_similarity`, the curves of Fig. 3
mean_{i != j} |C_ij|        `weight_correlation`, what Theorem 3.3 is about
S = -sum_k p_k log p_k      `entropy`, with p_k = sigma_k(u) / sum_l sigma_l(u)
exp(S)                      `effective_rank`
$$

The last two make the paper's section 3.5 a number: S = 0 when all neurons are alike, and its
largest value log N when they point in independent directions. The maximum saturates early, since
one pair of twins is enough; the mean and the entropy tell layers apart (report both).

A neuron of weight zero has no direction: its cosines are 0. All measures are invariant to the
lengths and the signs of the neurons except `cosine_similarity`, which keeps the sign. They work
under `jax.jit` and `jax.vmap`, in float32 or wider; `report` is for people.
"""

import html
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kinopt._typing import Neurons, PyTree, Scalar
from kinopt.collisions.rows import unit_rows
from kinopt.layers import collidable_leaves, to_neurons
from kinopt.trees import accumulator_dtype

__all__ = [
    "NeuronReport",
    "Report",
    "cosine_similarity",
    "effective_rank",
    "entropy",
    "neuron_similarity",
    "report",
    "weight_correlation",
]


def _directions(w: Neurons) -> Neurons:
    w = w.astype(accumulator_dtype(w))
    return unit_rows(w) if w.size else w


def cosine_similarity(w: Neurons) -> Float[Array, "neurons neurons"]:
    """Cosines between all pairs of neurons.

    $$
    C_ij = <w_i, w_j> / (|w_i| |w_j|)      (KO paper, Eq. 14)
    $$

    and 0 where either neuron is zero.

    Args:
        w: neurons as rows, [N, D], of any norms that their type can hold.

    Returns:
        [N, N], symmetric, in [-1, 1].

    >>> cosine_similarity(jnp.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    Array([[ 1.,  0., -1.],
           [ 0.,  1.,  0.],
           [-1.,  0.,  1.]], dtype=float32)
    """
    unit = _directions(w)
    return jnp.clip(jnp.matmul(unit, unit.T, precision="highest"), -1, 1)


def _absolute_off_diagonal(w: Neurons) -> Float[Array, "neurons neurons"]:
    return jnp.where(jnp.eye(len(w), dtype=bool), 0, jnp.abs(cosine_similarity(w)))


def neuron_similarity(w: Neurons) -> Scalar:
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
    return jnp.max(_absolute_off_diagonal(w), initial=0)


def weight_correlation(w: Neurons) -> Scalar:
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
    return jnp.sum(_absolute_off_diagonal(w)) / max(len(w) * (len(w) - 1), 1)


def entropy(w: Neurons) -> Scalar:
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


def effective_rank(w: Neurons) -> Scalar:
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


class NeuronReport(NamedTuple):
    """One layer in numbers. Over batch axes: means, and the maximum of `neuron_similarity`."""

    neurons: int  # N
    features: int  # D, the weights of a neuron
    weight_correlation: float  # mean |cos|, in [0, 1]
    neuron_similarity: float  # max |cos|, in [0, 1]
    effective_rank: float  # directions in use, in [1, min(N, D)]
    entropy: float  # nats, in [0, log min(N, D)]


class Report(dict[str, NeuronReport]):
    """What `report` returns: leaf path -> NeuronReport, printed as a table."""

    _HEADER = ("layer", "neurons", "features", "mean |cos|", "max |cos|", "eff. rank", "entropy")

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (path, *(f"{cell:d}" if isinstance(cell, int) else f"{cell:.3f}" for cell in row))
            for path, row in self.items()
        ]

    def __str__(self) -> str:
        table = [self._HEADER, *self._cells()]
        widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            )
            for row in table
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same table for notebooks."""
        head = "".join(f"<th>{title}</th>" for title in self._HEADER)
        rows = (
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._cells()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


@jax.jit
def _measure(batch: Float[Array, "batch neurons features"]) -> Float[Array, "measures"]:
    disorder = jax.vmap(entropy)(batch)
    return jnp.stack(
        [
            jnp.mean(jax.vmap(weight_correlation)(batch)),
            jnp.max(jax.vmap(neuron_similarity)(batch)),
            jnp.mean(jnp.exp(disorder)),
            jnp.mean(disorder),
        ]
    )


def report(params: PyTree, mask: PyTree = None, neuron_axes: PyTree = None) -> Report:
    """How condensed each layer is, as a table.

    Args:
        params: parameters, any pytree.
        mask: which leaves, as in `kinopt.soft_collision`: a pytree of bool or callable(params) ->
            pytree, such as `kinopt.layer_mask("head")`. None: floating leaves of ndim >= 2. As
            there, a layer of a single neuron is left out.
        neuron_axes: which axes are neurons, as in `kinopt.soft_collision`. None: the last axis.

    Returns:
        A dict from leaf path to `NeuronReport`; `print` shows an aligned table, a notebook an HTML
        one.

    >>> print(report({"head": {"kernel": jnp.eye(8, 4), "bias": jnp.zeros(4)}}))
    layer        neurons  features  mean |cos|  max |cos|  eff. rank  entropy
    head/kernel        4         8       0.000      0.000      4.000    1.386
    """
    table = Report()
    leaves = zip(collidable_leaves(params, mask, neuron_axes), jax.tree.leaves(params), strict=True)
    for (path, _, axes), leaf in leaves:
        if axes is not None:
            batch = to_neurons(jnp.asarray(leaf), axes)
            table[path] = NeuronReport(*batch.shape[1:], *_measure(batch).tolist())
    return table
