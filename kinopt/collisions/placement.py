"""Which part of a leaf lies on which device, from JAX's types or from what the user says.

Under Explicit axes a leaf's type says how it is sharded. Under Auto axes only the compiler knows,
and left alone it gathers whole leaves on every device; inside the user's own `jax.shard_map` nobody
says. There the argument `sharding=` does, leaf by leaf. Where it is known, a law runs inside
`jax.shard_map` on the part of each device.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from kinopt._typing import PyTree
from kinopt.collisions.crowd import Crowd
from kinopt.layers import Leaf, along_leaves, axis_order

__all__ = ["Placement", "place", "whole_leaves"]


class Placement(NamedTuple):
    """Mesh axes for each axis of a leaf; hashable, so that a compiled function can depend on it."""

    mesh: Any  # a Mesh or an AbstractMesh; None: no need to enter one
    names: tuple[tuple[str, ...], ...]

    def run(self, f: Callable, w: Array, g: Array, *rest: Any) -> tuple[Array, Array]:
        """`f(w, g, *rest)` on each device's part of w and g; its second result is everywhere."""
        if self.mesh is None:
            return f(w, g, *rest)
        part = PartitionSpec(*(names or None for names in self.names))
        everywhere = PartitionSpec()
        manual = frozenset(self.mesh.axis_names) - _manual_axes()
        return jax.shard_map(
            f,
            mesh=self.mesh,
            in_specs=(part, part, *[everywhere] * len(rest)),
            out_specs=(part, everywhere),
            axis_names=manual,
            check_vma=False,
        )(w, g, *rest)

    def crowd(self, leaf: Leaf) -> tuple[Crowd, Int[Array, " slices"], int]:
        """How a layer lies, which batch slices are here, and how many there are."""
        assert leaf.axes is not None
        order = axis_order(leaf.shape, leaf.axes)
        neurons, features = order.neurons, order.features
        return (
            Crowd(
                self._names(neurons),
                self._names(features),
                self._numbers(leaf.shape, neurons) if self._names(neurons) else None,
                self._numbers(leaf.shape, features) if self._names(features) else None,
                by_rows=len(leaf.shape) - 1 not in neurons,
            ),
            self._numbers(leaf.shape, order.batch),
            math.prod(leaf.shape[a] for a in order.batch),
        )

    def over_slices(self, x: Array, leaf: Leaf, reduce: Callable) -> Array:
        """A reduction over the devices that hold other batch slices."""
        assert leaf.axes is not None
        names = self._names(axis_order(leaf.shape, leaf.axes).batch)
        return reduce(x, names) if names else x

    def _names(self, axes: tuple[int, ...]) -> tuple[str, ...]:
        return sum((self.names[a] for a in axes), ())

    def _numbers(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> Int[Array, " here"]:
        """What is here of the numbers that count the entries along these axes of the leaf."""
        sizes = [shape[a] for a in axes]
        numbers = jnp.arange(math.prod(sizes)).reshape(sizes)
        for n, names in enumerate(self.names[a] for a in axes):
            if names:
                here = sizes[n] // math.prod(jax.lax.axis_size(name) for name in names)
                first = jax.lax.axis_index(names) * here
                numbers = jax.lax.dynamic_slice_in_dim(numbers, first, here, axis=n)
        return numbers.ravel()


def place(w: Array, g: Array, sharding: Any) -> tuple[Placement, Array]:
    """Where a leaf's parts are, and its weights laid out like its gradient."""
    names = _names_by_axis(sharding, g.ndim)
    if any(names):
        if _is_manual(names):
            return Placement(None, names), w
        mesh = getattr(sharding, "mesh", jax.sharding.get_abstract_mesh())
        if not mesh.axis_names:
            raise ValueError(
                f"sharding= has {sharding} for a leaf, but no mesh is set to which its axes could "
                "belong: give a jax.sharding.NamedSharding, or call update inside jax.set_mesh."
            )
        _check_even(g.shape, names, mesh)
        return Placement(mesh, names), w
    for known in (jax.typeof(g).sharding, jax.typeof(w).sharding):
        if AxisType.Explicit in known.mesh.axis_types:
            of_g = jax.typeof(g).sharding
            names = _names_by_axis(of_g if known is of_g else None, g.ndim)
            spec = PartitionSpec(*(axes or None for axes in names))
            return Placement(known.mesh, names), jax.sharding.reshard(w, spec)
    return Placement(None, ((),) * g.ndim), w


def _check_even(shape: tuple[int, ...], names: tuple[tuple[str, ...], ...], mesh: Any) -> None:
    unknown = set(sum(names, ())) - set(mesh.axis_names)
    if unknown:
        raise ValueError(
            f"sharding= names the mesh axes {sorted(unknown)}, and the mesh has {mesh.axis_names}."
        )
    for size, axes in zip(shape, names, strict=True):
        parts = math.prod(mesh.shape[name] for name in axes)
        if size % parts:
            raise ValueError(
                f"sharding= cuts an axis of {size} entries of a leaf of shape {shape} into {parts} "
                f"parts, over the mesh axes {axes}: parts must be equal. Pad the layer, cut "
                "another axis, or leave sharding= out for this leaf (its whole is then gathered)."
            )


def whole_leaves(params: PyTree, sharding: Any) -> PyTree:
    """The parameters, with whole shapes where `jax.shard_map` shows this device's part only."""
    if sharding is None or not _manual_axes():
        return params

    def whole(leaf, sharding):
        names = _names_by_axis(sharding, jnp.ndim(leaf))
        if not _is_manual(names):
            return leaf
        parts = [math.prod(jax.lax.axis_size(name) for name in axes) for axes in names]
        shape = [size * n for size, n in zip(jnp.shape(leaf), parts, strict=True)]
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    leaves, structure = jax.tree.flatten(params)
    shardings = along_leaves(sharding, params, PartitionSpec(), "sharding")
    return jax.tree.unflatten(structure, map(whole, leaves, shardings))


def _names_by_axis(sharding: Any, ndim: int) -> tuple[tuple[str, ...], ...]:
    spec = getattr(sharding, "spec", sharding) or ()
    if not isinstance(sharding, NamedSharding | PartitionSpec | None) or len(spec) > ndim:
        raise ValueError(
            f"sharding= has {sharding!r} for a leaf with {ndim} axes: it takes a PartitionSpec or "
            "a NamedSharding with an entry for each axis at most."
        )
    entries = [*spec, *[None] * (ndim - len(spec))]
    return tuple(
        (entry,) if isinstance(entry, str) else tuple(entry) if isinstance(entry, tuple) else ()
        for entry in entries
    )


def _is_manual(names: tuple[tuple[str, ...], ...]) -> bool:
    used = frozenset(sum(names, ()))
    return bool(used) and used <= _manual_axes()


def _manual_axes() -> frozenset[str]:
    return frozenset(jax.sharding.get_abstract_mesh().manual_axes)
