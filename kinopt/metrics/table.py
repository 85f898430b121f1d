"""All layers of a model at once: a table with a line for each."""

import html
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from kinopt._typing import PyTree
from kinopt.layers import collidable_leaves, leaf_paths, to_neurons
from kinopt.metrics.neurons import entropy, near_copies, neuron_similarity, weight_correlation
from kinopt.trees import accumulator_dtype

__all__ = ["NeuronReport", "Report", "report"]


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
    slopes = None if grads is None else _by_path(_arrays(grads))
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


def _by_path(tree: PyTree) -> dict[str, Any]:
    return dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))


def _arrays(tree: PyTree) -> PyTree:
    """A tree with zeros of shape [] for leaves that are no arrays, as in an Equinox module."""

    def kept(leaf):
        array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
        return leaf if array and jnp.issubdtype(leaf.dtype, jnp.number) else np.zeros(())

    return jax.tree.map(kept, tree)


@jax.jit
def _measure(batch: Inexact[Array, "batch neurons features"]) -> Float[Array, "measures"]:
    disorder = jax.vmap(entropy)(batch)
    return jnp.stack(
        [
            jnp.mean(jax.vmap(weight_correlation)(batch)),
            jnp.max(jax.vmap(neuron_similarity)(batch)),
            jnp.mean(jnp.exp(disorder)),
            jnp.mean(disorder),
            jnp.mean(jax.vmap(near_copies)(batch)),
        ]
    )


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
