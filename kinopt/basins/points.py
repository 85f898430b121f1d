"""Points as rows of numbers, and back: how parameters nest is all that a program must know."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import shown
from kinopt._typing import PyTree

__all__ = ["Layout", "check_floating", "rows_of"]


class Layout(NamedTuple):
    """How a row of numbers becomes parameters. It can be hashed, and holds no array."""

    structure: Any  # of the tree
    shapes: tuple[tuple[int, ...], ...]  # of its leaves

    @classmethod
    def of(cls, tree: PyTree) -> "Layout":
        """That of arrays, or of their shapes."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple(tuple(jnp.shape(leaf)) for leaf in leaves))

    def tree(self, rows: Any) -> PyTree:
        """Rows [..., n] as parameters, whose leaves have the same leading axes.

        Rows of NumPy become a tree of NumPy: nothing is compiled for it.

        >>> layout, rows = rows_of({"a": jnp.zeros((2, 3)), "b": jnp.ones(2)}, "points")
        >>> layout.tree(rows[0]), layout.tree(rows)["a"].shape
        ({'a': Array([0., 0., 0.], dtype=float32), 'b': Array(1., dtype=float32)}, (2, 3))
        """
        leaves, first = [], 0
        for shape in self.shapes:
            last = first + math.prod(shape)
            leaves.append(rows[..., first:last].reshape(*rows.shape[:-1], *shape))
            first = last
        return self.structure.unflatten(leaves)

    def row(self, tree: PyTree) -> jax.Array:
        """A tree of arrays as one row [n]."""
        leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
        return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def rows_of(points: PyTree, name: str, axis: str = "points") -> tuple[Layout, jax.Array]:
    """Points [points, n] in the widest type that is on, and the way back.

    Args:
      points: pytree of floating arrays with a leading axis of points.
      name: of the argument, in errors.
      axis: what its leading axis counts.

    Raises:
      TypeError: if they are no floating arrays.
      ValueError: if there is no point, or leaves differ in how many there are.
    """
    wanted = f"{name} must be floating arrays with a leading axis of {axis}"
    leaves, structure = jax.tree.flatten(points)
    check_floating(leaves, wanted)
    if not leaves or any(leaf.ndim < 1 for leaf in leaves):
        raise ValueError(f"{wanted}; got {shown(points)}.")
    numbers = {len(leaf) for leaf in leaves}
    if len(numbers) > 1 or numbers == {0}:
        raise ValueError(
            f"{wanted}, as many in each leaf and at least one; got the shapes "
            f"{[leaf.shape for leaf in leaves]}."
        )
    leaves = [jnp.asarray(leaf, float) for leaf in leaves]
    layout = Layout(structure, tuple(leaf.shape[1:] for leaf in leaves))
    return layout, jnp.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


def check_floating(leaves: Sequence[Any], wanted: str) -> None:
    """Raises on what is no floating array; `wanted` says what it must be."""
    for leaf in leaves:
        if not jnp.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jnp.floating):
            raise TypeError(f"{wanted}; got {shown(leaf)}.")
