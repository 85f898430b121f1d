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
lengths and the signs of the neurons except `cosine_similarity`, which keeps the sign. For complex
neurons <a, b> = sum_k conj(a_k) b_k, and a phase is to them what a sign is to real ones. They work
under `jax.jit` and `jax.vmap`, in float32 or wider; `report` is for people.
"""

import html
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from kinopt._typing import PyTree, Scalar
from kinopt.collisions.rows import unit_rows
from kinopt.layers import collidable_leaves, leaf_paths, to_neurons
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


def _absolute_off_diagonal(w: Layer) -> Float[Array, "neurons neurons"]:
    return jnp.where(jnp.eye(len(w), dtype=bool), 0, jnp.abs(cosine_similarity(w)))


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
    return jnp.max(_absolute_off_diagonal(w), initial=0)


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
    return jnp.sum(_absolute_off_diagonal(w)) / max(len(w) * (len(w) - 1), 1)


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


class NeuronReport(NamedTuple):
    """One layer in numbers. Over batch axes: means, and the maximum of `neuron_similarity`."""

    neurons: int  # N
    features: int  # D, the weights of a neuron
    weight_correlation: float  # mean |cos|, in [0, 1]
    neuron_similarity: float  # max |cos|, in [0, 1]
    effective_rank: float  # directions in use, in [1, min(N, D)]
    entropy: float  # nats, in [0, log min(N, D)]
    near_copies: float  # share of neurons with a cosine above NEAR_COPY to another, in [0, 1]
    without_gradient: float | None = None  # share of neurons whose gradient is zero, in [0, 1]
    common_mode: float | None = None  # N |mean g|^2 / sum |g|^2, in [0, 1]: 1 when all g are alike


class Report(dict[str, NeuronReport]):
    """What `report` returns: leaf path -> NeuronReport, printed as a table."""

    _HEADER = (
        *("layer", "neurons", "features", "mean |cos|", "max |cos|", "eff. rank", "entropy"),
        *("copies", "no grad", "common g"),
    )

    def _cells(self) -> list[tuple[str, ...]]:
        """The header, and a line for each layer; what was not asked for is left out."""

        def line(path: str, row: NeuronReport) -> tuple[str, ...]:
            cells = (cell for cell in row if cell is not None)
            return path, *(f"{c:d}" if isinstance(c, int) else f"{c:.3f}" for c in cells)

        lines = [line(path, row) for path, row in self.items()]
        columns = len(lines[0]) if lines else len(self._HEADER) - 2
        return [self._HEADER[:columns], *lines]

    def __str__(self) -> str:
        table = self._cells()
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
        header, *lines = self._cells()
        head = "".join(f"<th>{title}</th>" for title in header)
        rows = (
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in lines
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


NEAR_COPY = 0.9
"""Two neurons of a larger cosine are near copies (of opposite signs they are not)."""


@jax.jit
def _measure(batch: Inexact[Array, "batch neurons features"]) -> Float[Array, "measures"]:
    disorder = jax.vmap(entropy)(batch)
    return jnp.stack(
        [
            jnp.mean(jax.vmap(weight_correlation)(batch)),
            jnp.max(jax.vmap(neuron_similarity)(batch)),
            jnp.mean(jnp.exp(disorder)),
            jnp.mean(disorder),
            jnp.mean(jax.vmap(_near_copies)(batch)),
        ]
    )


def _near_copies(w: Layer) -> Scalar:
    cosines = jnp.where(jnp.eye(len(w), dtype=bool), 0, cosine_similarity(w).real)
    return jnp.mean(jnp.max(cosines, axis=1) > NEAR_COPY)


@jax.jit
def _measure_gradients(batch: Inexact[Array, "batch neurons features"]) -> Float[Array, "measures"]:
    """Means over the batch of the share of rows of zeros, and of N |mean g|^2 / sum |g|^2."""
    if jnp.iscomplexobj(batch):
        batch = jnp.concatenate([batch.real, batch.imag], axis=2)
    g = batch.astype(accumulator_dtype(batch))
    largest = jnp.max(jnp.abs(g), axis=(1, 2), keepdims=True)
    g = g / jnp.where(largest > 0, largest, 1)  # squares stay in range
    energy = jnp.sum(g**2, axis=(1, 2))
    common = g.shape[1] * jnp.sum(jnp.mean(g, axis=1) ** 2, axis=1)
    still = jnp.mean(jnp.all(batch == 0, axis=2))
    return jnp.stack([still, jnp.mean(common / jnp.where(energy > 0, energy, 1))])


def _arrays(tree: PyTree) -> PyTree:
    """A tree with zeros of shape [] for leaves that are no arrays, as in an Equinox module."""

    def kept(leaf):
        array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
        return leaf if array and jnp.issubdtype(leaf.dtype, jnp.number) else np.zeros(())

    return jax.tree.map(kept, tree)


def report(
    params: PyTree,
    mask: PyTree = None,
    neuron_axes: PyTree = None,
    *,
    grads: PyTree = None,
) -> Report:
    """How condensed each layer is, as a table.

    Beside the measures of this module: the share of near copies, neurons with a cosine above 0.9 to
    another; and of gradients g [N, D] the share of neurons without any, and of what is common to
    all,

    $$
    N |mean_i g_i|^2 / sum_i |g_i|^2
    $$

    1 when all neurons have the same, 1/N on average when they are independent.

    Args:
        params: parameters, any pytree. Leaves that are no arrays (the functions in an Equinox
            module) are left out.
        mask: which leaves, as in `kinopt.soft_collision`: a pytree of bool or callable(params) ->
            pytree, such as `kinopt.layer_mask("head")`. None: floating leaves of ndim >= 2. As
            there, a layer of a single neuron is left out.
        neuron_axes: which axes are neurons, as in `kinopt.soft_collision`. None: the last axis.
        grads: gradients, a tree like `params`; None leaves their two columns out. Where it has no
            array, as `equinox.filter_grad` gives, there was no gradient.

    Returns:
        A dict from leaf path to `NeuronReport`; `print` shows an aligned table, a notebook an HTML
        one.

    Raises:
        ValueError: if `grads` has other paths or shapes than `params`.

    >>> print(report({"head": {"kernel": jnp.eye(8, 4), "bias": jnp.zeros(4)}}))
    layer        neurons  features  mean |cos|  max |cos|  eff. rank  entropy  copies
    head/kernel        4         8       0.000      0.000      4.000    1.386   0.000
    """
    params = _arrays(params)
    slopes = None if grads is None else dict(zip(*_paths(_arrays(grads)), strict=True))
    table = Report()
    leaves = zip(
        collidable_leaves(params, mask, neuron_axes, allow_complex=True),
        jax.tree.leaves(params),
        strict=True,
    )
    for (path, _, axes), leaf in leaves:
        if axes is None:
            continue
        batch = to_neurons(jnp.asarray(leaf), axes)
        of_grads: list[float | None] = [None, None]
        if slopes is not None:
            slope = slopes.get(path, np.zeros(()))
            slope = jnp.asarray(slope if np.shape(slope) else jnp.zeros_like(leaf))
            if slope.shape != leaf.shape:
                raise ValueError(
                    f"grads must be a tree like params; at {path!r} they have shapes "
                    f"{slope.shape} and {leaf.shape}."
                )
            of_grads = _measure_gradients(to_neurons(slope, axes)).tolist()
        table[path] = NeuronReport(*batch.shape[1:], *_measure(batch).tolist(), *of_grads)
    return table


def _paths(tree: PyTree) -> tuple[list[str], list]:
    return leaf_paths(tree), jax.tree.leaves(tree)
