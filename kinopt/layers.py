"""Which leaves collide, and which axes of a leaf are its neurons.

A collision law sees a matrix `[neurons, features]`. Parameters come as trees of arrays with any
number of axes, so two things must be said about them:

* **which leaves**: `"head"`, or `layer_mask("head")`, picks leaves by a regular expression on their
  path;
* **which axes**: `NeuronAxes` names the axes that count neurons and those that make up a neuron.
  Axes that are in neither are batch axes: each slice is a gas of its own.

The usual Flax kernels, and the axes to give for them:

| parameter                    | shape             | axes                                   |
|------------------------------|-------------------|----------------------------------------|
| Dense kernel                 | (in, out)         | the default                            |
| Conv kernel                  | (h, w, in, out)   | the default                            |
| attention query, key, value  | (in, heads, dim)  | `NeuronAxes(2, 0)`, head by head, or   |
|                              |                   | `NeuronAxes((1, 2), 0)`, all together  |
| attention out                | (heads, dim, out) | the default                            |
| DenseGeneral((2, 3))         | (in, 2, 3)        | `NeuronAxes((1, 2), 0)`                |
| any of them under `nn.scan`  | (layers, ...)     | the same, reduction axes named, and    |
|                              |                   | one axis to the right                  |
| Embed                        | (vocabulary, out) | opt in: `NeuronAxes(0)`, tokens        |
"""

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kinopt._checks import is_plain, shown
from kinopt._typing import PyTree
from kinopt.trees import is_floating

__all__ = [
    "Leaf",
    "NeuronAxes",
    "as_mask",
    "collidable_leaves",
    "from_neurons",
    "layer_mask",
    "leaf_paths",
    "to_neurons",
]


@dataclasses.dataclass(frozen=True)
class NeuronAxes:
    """Axes of a parameter that count its neurons, and axes that make up one neuron.

    Axes in neither are batch axes. Negative numbers count from the end. Any object with these two
    attributes, such as `optax.contrib.MuonDimensionNumbers`, can be used in its place.

    Args:
        output_axis: the axis, or axes, that index neurons; the last one for Flax kernels.
        reduction_axis: the axis, or axes, whose entries make up a neuron; None: all the others.

    >>> kernel = jnp.zeros((64, 8, 16))  # an attention query: in, heads, features of a head
    >>> to_neurons(kernel, NeuronAxes(output_axis=2, reduction_axis=0)).shape  # head by head
    (8, 16, 64)
    >>> to_neurons(kernel, NeuronAxes(output_axis=(1, 2))).shape  # all heads in one gas
    (1, 128, 64)
    """

    output_axis: int | np.integer | Sequence[int] = -1
    reduction_axis: int | np.integer | Sequence[int] | None = None

    def __post_init__(self):
        _whole("output_axis", self.output_axis)
        if self.reduction_axis is not None:
            _whole("reduction_axis", self.reduction_axis)


def _whole(name: str, axis: Any) -> int | tuple[int, ...]:
    """One axis or several, as int: NumPy's whole numbers are."""
    try:
        if isinstance(axis, str | bytes | bool):
            raise TypeError
        if isinstance(axis, Sequence) or np.ndim(axis):
            return tuple(operator.index(a) for a in axis)
        return operator.index(axis)
    except TypeError:
        raise TypeError(
            f"{name} must be the number of an axis, or several; got {shown(axis)}."
        ) from None


class AxisOrder(NamedTuple):
    """The axes of a leaf, sorted by what they mean."""

    batch: tuple[int, ...]
    neurons: tuple[int, ...]
    features: tuple[int, ...]

    @property
    def axes(self) -> tuple[int, ...]:
        return self.batch + self.neurons + self.features


def axis_order(shape: tuple[int, ...], axes: NeuronAxes) -> AxisOrder:
    """Which axes of an array of this shape count slices, neurons and features, all from 0 up.

    >>> axis_order((3, 3, 16, 32), NeuronAxes()).features
    (0, 1, 2)
    """

    def normal(axis) -> tuple[int, ...]:
        numbers = axis if isinstance(axis, tuple) else (axis,)
        if any(not -len(shape) <= a < len(shape) for a in numbers):
            raise ValueError(
                f"{axes} names an axis that an array of shape {shape} does not have; axes run "
                f"from {-len(shape)} to {len(shape) - 1}."
            )
        return tuple(a % len(shape) for a in numbers)

    axes = _hashable(axes)
    neurons = normal(axes.output_axis)
    others = tuple(a for a in range(len(shape)) if a not in neurons)
    features = others if axes.reduction_axis is None else normal(axes.reduction_axis)
    if len(set(neurons + features)) < len(neurons + features):
        raise ValueError(
            f"{axes} names an axis twice for an array of shape {shape}: an axis either counts "
            "neurons or makes up a neuron."
        )
    return AxisOrder(tuple(a for a in others if a not in features), neurons, features)


def to_neurons(leaf: Array, axes: NeuronAxes) -> Float[Array, "batch neurons features"]:
    """A leaf as a batch of layers `[batch, neurons, features]`.

    >>> to_neurons(jnp.zeros((3, 3, 16, 32)), NeuronAxes()).shape  # a Conv kernel
    (1, 32, 144)
    """
    order = axis_order(jnp.shape(leaf), axes)
    sizes = [math.prod(leaf.shape[a] for a in group) for group in order]
    return jnp.transpose(leaf, order.axes).reshape(sizes)


def from_neurons(
    neurons: Float[Array, "batch neurons features"], shape: tuple[int, ...], axes: NeuronAxes
) -> Array:
    """The inverse of `to_neurons` for a leaf of the given shape."""
    order = axis_order(shape, axes).axes
    back = sorted(range(len(shape)), key=lambda i: order[i])
    return jnp.transpose(neurons.reshape([shape[a] for a in order]), back)


def layer_mask(*patterns: str) -> Callable[[PyTree], PyTree]:
    """A mask that picks leaves by their path, for `mask=` and for `optax.masked`.

    The path of a leaf joins the names of its branches with "/": `"Dense_1/kernel"`,
    `"params/blocks/0/attention/query/kernel"`. Linen dicts, nnx states and any other tree give the
    same paths for the same names.

    Args:
        *patterns: regular expressions; a leaf is picked when any of them is found in its path.

    Returns:
        A function from parameters to a tree of bool of the same structure. A tree without leaves
        gives itself back.

    Raises:
        ValueError: nothing, or something else than strings, is given. The function raises it, and
            lists the paths, when no leaf is picked: a misspelt name must not switch a method off
            in silence.

    >>> params = {"body": {"kernel": jnp.zeros((4, 3))}, "head": {"kernel": jnp.zeros((3, 2))}}
    >>> layer_mask("head/kernel$")(params)
    {'body': {'kernel': False}, 'head': {'kernel': True}}
    """
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        given = ", ".join(map(shown, patterns)) or "nothing"
        raise ValueError(
            'layer_mask takes regular expressions, layer_mask("head", "Dense_1/kernel$"), and '
            f"returns the mask; got {given}."
        )
    search = [_compiled(pattern) for pattern in patterns]

    def mask(params: PyTree) -> PyTree:
        paths = leaf_paths(params)
        picked = [any(find(path) for find in search) for path in paths]
        if paths and not any(picked):
            given = ", ".join(map(repr, patterns))
            raise ValueError(
                f"layer_mask({given}) matches no parameter. The patterns are regular expressions "
                "searched in these paths: " + ", ".join(paths)
            )
        return jax.tree.unflatten(jax.tree.structure(params), picked)

    return mask


def _compiled(pattern: str) -> Callable[[str], Any]:
    try:
        return re.compile(pattern).search
    except re.error as error:
        raise ValueError(
            f"{pattern!r} is no regular expression: {error}. Put a backslash before characters "
            "that stand for themselves."
        ) from None


def leaf_paths(tree: PyTree, is_leaf: Callable[[object], bool] | None = None) -> list[str]:
    """The "/"-joined path of each leaf, in the order of `jax.tree.leaves`.

    An nnx state holds arrays inside variables before `nnx.Optimizer` unwraps them, and bare arrays
    after: a last `.value` that is its parent's only child is therefore left out.

    >>> leaf_paths({"head": [jnp.zeros(2), jnp.zeros(2)]})
    ['head/0', 'head/1']
    """
    keys = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]]
    siblings: dict[tuple, int] = {}
    for path in keys:
        siblings[path[:-1]] = siblings.get(path[:-1], 0) + 1

    def is_wrapper(path: tuple) -> bool:
        if not path or not isinstance(path[-1], jax.tree_util.GetAttrKey):
            return False
        return path[-1].name == "value" and siblings[path[:-1]] == 1

    trimmed = [path[:-1] if is_wrapper(path) else path for path in keys]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in trimmed]


class Leaf(NamedTuple):
    """What a transformation knows of a leaf before it sees a number."""

    path: str
    shape: tuple[int, ...]
    axes: NeuronAxes | None  # None: this leaf does not collide

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Batch slices, neurons, features."""
        assert self.axes is not None
        order = axis_order(self.shape, self.axes)
        batch, neurons, features = (math.prod(self.shape[a] for a in group) for group in order)
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
        if not _is_axes(leaf_axes):
            raise TypeError(
                f"neuron_axes for {path!r} must be a kinopt.NeuronAxes, or have its two "
                f"attributes; got {shown(leaf_axes)}."
            )
        try:
            resolved = Leaf(path, shape, _hashable(leaf_axes))
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


def as_mask(mask: Any) -> Any:
    """A mask as Optax knows it: patterns become functions; a function that makes them is refused.

    >>> as_mask("head")({"body": jnp.zeros((2, 2)), "head": jnp.zeros((2, 2))})
    {'body': False, 'head': True}
    """
    if mask is layer_mask:
        raise TypeError('mask=layer_mask is not called yet: write mask=layer_mask("head").')
    if isinstance(mask, str):
        return layer_mask(mask)
    if isinstance(mask, tuple | list) and mask and all(isinstance(x, str) for x in mask):
        return layer_mask(*mask)
    return mask


def _hashable(axes) -> NeuronAxes:
    reduction = axes.reduction_axis
    return NeuronAxes(
        _whole("output_axis", axes.output_axis),
        None if reduction is None else _whole("reduction_axis", reduction),
    )


def _is_axes(entry) -> bool:
    return hasattr(entry, "output_axis") and hasattr(entry, "reduction_axis")


def _is_function(entry: Any) -> bool:
    """Whether to call it: a module that can be called, and is a tree, is a tree."""
    if not callable(entry) or _is_axes(entry):
        return False
    return jax.tree_util.all_leaves([entry]) or isinstance(entry, jax.tree_util.Partial)


def along_leaves(prefix, params: PyTree, default, name: str) -> list:
    """The entry of a tree prefix for each leaf of `params`; None means the default."""
    if prefix is None or not jax.tree.leaves(params):
        return [default] * len(jax.tree.leaves(params))
    if _is_function(prefix):
        prefix = prefix(params)

    filled = jax.tree.map(
        lambda entry: default if entry is None else entry,
        prefix,
        is_leaf=lambda entry: entry is None or _is_axes(entry),
    )
    # An nnx state has other tree nodes at `init` than at `update`, but the same paths.
    if leaf_paths(filled, is_leaf=_is_axes) == leaf_paths(params):
        return jax.tree.leaves(filled, is_leaf=_is_axes)
    try:
        broadcast = jax.tree.broadcast(filled, params, is_leaf=_is_axes)
    except ValueError as error:
        raise ValueError(
            f"{name} must be a tree with the structure of the parameters, or a prefix of it, or a "
            f"function that makes one from them; these are the parameters: "
            f"{', '.join(leaf_paths(params))}. JAX says: {error}"
        ) from None
    return jax.tree.leaves(broadcast, is_leaf=_is_axes)
