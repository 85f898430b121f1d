"""Which axes of a leaf are its neurons, and the leaf as a matrix of them."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kinopt._checks import shown

__all__ = ["NeuronAxes", "axis_order", "from_neurons", "hashable", "is_axes", "to_neurons"]


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


def hashable(axes) -> NeuronAxes:
    """The same axes as a `NeuronAxes` of int and tuples."""
    reduction = axes.reduction_axis
    return NeuronAxes(
        _whole("output_axis", axes.output_axis),
        None if reduction is None else _whole("reduction_axis", reduction),
    )


def is_axes(entry) -> bool:
    """Whether something has the two attributes of a `NeuronAxes`."""
    return hasattr(entry, "output_axis") and hasattr(entry, "reduction_axis")


class AxisOrder(NamedTuple):
    """The axes of a leaf, sorted by what they mean."""

    batch: tuple[int, ...]
    neurons: tuple[int, ...]
    features: tuple[int, ...]

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many slices, neurons and features an array of this shape has."""
        return tuple(math.prod(shape[a] for a in group) for group in self)


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

    axes = hashable(axes)
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
    return jnp.transpose(leaf, sum(order, ())).reshape(order.sizes(leaf.shape))


def from_neurons(
    neurons: Float[Array, "batch neurons features"], shape: tuple[int, ...], axes: NeuronAxes
) -> Array:
    """The inverse of `to_neurons` for a leaf of the given shape."""
    order = sum(axis_order(shape, axes), ())
    back = sorted(range(len(shape)), key=lambda i: order[i])
    return jnp.transpose(neurons.reshape([shape[a] for a in order]), back)
