"""The leaves of a tree that collide: mask and axes brought together, leaf by leaf."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import is_plain, shown
from kinopt._typing import PyTree
from kinopt.layers.axes import NeuronAxes, axis_order, hashable, is_axes
from kinopt.layers.masks import as_mask, leaf_paths
from kinopt.trees import is_floating

__all__ = ["Leaf", "along_leaves", "collidable_leaves"]


class Leaf(NamedTuple):
    """What a transformation knows of a leaf before it sees a number."""

    path: str
    shape: tuple[int, ...]
    axes: NeuronAxes | None  # None: this leaf does not collide

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Batch slices, neurons, features."""
        assert self.axes is not None
        batch, neurons, features = axis_order(self.shape, self.axes).sizes(self.shape)
        return batch, neurons, features


def collidable_leaves(
    params: PyTree,
    mask: PyTree | Callable[[PyTree], PyTree] | None,
    neuron_axes: PyTree | Callable[[PyTree], PyTree] | None,
    allow_complex: bool = False,
) -> list[Leaf]:
    """Every leaf of `params`, with its axes where it takes part in collisions.

    It does when the mask selects it, its type is floating, it has two axes or more, and at least
    two neurons: integers are not positions, a bias has no features, and one neuron has no partner.
    """
    leaves = jax.tree.leaves(params)
    chosen = along_leaves(as_mask(mask), params, True, "mask")
    axes = along_leaves(neuron_axes, params, NeuronAxes(), "neuron_axes")

    def resolve(path, leaf, selected, leaf_axes) -> Leaf:
        if not _is_array(leaf):
            return Leaf(path, (), None)
        shape = jnp.shape(leaf)
        if not _as_bool(path, selected) or len(shape) < 2 or not is_floating(leaf):
            return Leaf(path, shape, None)
        is_complex = jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)
        if is_complex and not allow_complex:
            raise ValueError(
                f"{path!r} is complex, and neurons are real. Leave it out with mask=, or wrap the "
                "collision in optax.contrib.split_real_and_imaginary."
            )
        if not is_axes(leaf_axes):
            raise TypeError(
                f"neuron_axes for {path!r} must be a kinopt.NeuronAxes, or have its two "
                f"attributes; got {shown(leaf_axes)}."
            )
        try:
            resolved = Leaf(path, shape, hashable(leaf_axes))
            batch, neurons, features = resolved.sizes
        except ValueError as error:
            raise ValueError(f"neuron_axes for {path!r}: {error}") from None
        collides = neurons > 1 and batch * features > 0
        return resolved if collides else Leaf(path, shape, None)

    return [resolve(*row) for row in zip(leaf_paths(params), leaves, chosen, axes, strict=True)]


def _is_array(leaf: Any) -> bool:
    """A whole model of Equinox has functions, strings and None among its leaves."""
    return hasattr(leaf, "dtype") or isinstance(leaf, bool | int | float | complex)


def _as_bool(path: str, selected: Any) -> bool:
    if isinstance(selected, bool | np.bool_):
        return bool(selected)
    known = isinstance(selected, np.ndarray | jax.Array) and is_plain(selected)
    if known and selected.dtype == bool and np.shape(selected) == ():
        return bool(selected)
    raise TypeError(
        f"mask for {path!r} must be True or False, known before anything is compiled; got "
        f"{shown(selected)}."
    )


def along_leaves(prefix, params: PyTree, default, name: str) -> list:
    """The entry of a tree prefix for each leaf of `params`; None means the default."""
    if prefix is None or not jax.tree.leaves(params):
        return [default] * len(jax.tree.leaves(params))
    if _is_function(prefix):
        prefix = prefix(params)

    filled = jax.tree.map(
        lambda entry: default if entry is None else entry,
        prefix,
        is_leaf=lambda entry: entry is None or is_axes(entry),
    )
    # An nnx state has other tree nodes at `init` than at `update`, but the same paths.
    if leaf_paths(filled, is_leaf=is_axes) == leaf_paths(params):
        return jax.tree.leaves(filled, is_leaf=is_axes)
    try:
        broadcast = jax.tree.broadcast(filled, params, is_leaf=is_axes)
    except ValueError as error:
        raise ValueError(
            f"{name} must be a tree with the structure of the parameters, or a prefix of it, or a "
            f"function that makes one from them; these are the parameters: "
            f"{', '.join(leaf_paths(params))}. JAX says: {error}"
        ) from None
    return jax.tree.leaves(broadcast, is_leaf=is_axes)


def _is_function(entry: Any) -> bool:
    """Whether to call it: a module that can be called, and is a tree, is a tree."""
    if not callable(entry) or is_axes(entry):
        return False
    return jax.tree_util.all_leaves([entry]) or isinstance(entry, jax.tree_util.Partial)
