r"""The spheres on which a direction turns: one for all parameters, or one for each neuron.

Theta falls into parts of d_n of its d entries. The part u_n of the direction has the length that is
its share,

$$
|u_n| = sqrt(d_n/d),   so that   |u| = 1
$$

and each entry moves alike in the root mean square. What is not a neuron, biases and scales, is one
part together. A group is a leaf's neurons, whose numbers are one array, or a single part.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kinopt import trees
from kinopt._typing import PyTree
from kinopt.layers import axis_order, collidable_leaves

__all__ = ["Spheres", "neurons", "turn", "whole"]


class Group(NamedTuple):
    """A leaf's neurons, or leaves that are one part together."""

    leaves: tuple[int, ...]  # their places in the tree
    axes: tuple[int, ...] | None  # what makes up a neuron; None: everything
    size: int  # d_n


class Spheres(NamedTuple):
    """How the entries of a tree are shared out."""

    groups: tuple[Group, ...]
    size: int  # d

    def share(self, group: Group) -> float:
        """d_n / d."""
        return group.size / max(self.size, 1)

    def turning(self, group: Group) -> float:
        """The factor of the kick, sqrt(d_n/d) d/(d_n - 1)."""
        return math.sqrt(self.share(group)) * self.size / max(group.size - 1, 1)

    def inner(self, a: PyTree, b: PyTree) -> list[jax.Array]:
        """<a_n, b_n>: for each group a number, or one for each neuron, as long as its leaf."""
        x, y = jax.tree.leaves(a), jax.tree.leaves(b)

        def of_group(group: Group) -> jax.Array:
            if group.axes is None:
                return trees.inner([x[n] for n in group.leaves], [y[n] for n in group.leaves])
            (n,) = group.leaves
            wide = trees.accumulator_dtype(x[n], y[n])
            products = x[n].astype(wide) * y[n].astype(wide)
            return jnp.sum(products, axis=group.axes, keepdims=True)

        return [of_group(group) for group in self.groups]

    def combine(self, a: list[jax.Array], x: PyTree, b: list[jax.Array], y: PyTree) -> PyTree:
        """a_n x_n + b_n y_n on the floating leaves of x, in float32 or wider; x elsewhere."""
        leaves, structure = jax.tree.flatten(x)
        others = jax.tree.leaves(y)
        for group, of_x, of_y in zip(self.groups, a, b, strict=True):
            for n in group.leaves:
                wide = trees.accumulator_dtype(leaves[n])
                p, q = of_x.astype(wide), of_y.astype(wide)
                leaves[n] = p * leaves[n].astype(wide) + q * others[n].astype(wide)
        return jax.tree.unflatten(structure, leaves)


def whole(params: PyTree) -> Spheres:
    """One sphere for all floating leaves."""
    floating = [n for n, x in enumerate(jax.tree.leaves(params)) if trees.is_floating(x)]
    return _made(params, [], floating)


def neurons(params: PyTree, neuron_axes: PyTree | Callable[[PyTree], PyTree] | None) -> Spheres:
    """One sphere for each neuron of two weights or more, and one for all other floating leaves."""
    leaves = jax.tree.leaves(params)
    groups, rest = [], []
    for n, leaf in enumerate(collidable_leaves(params, None, neuron_axes)):
        if leaf.axes is not None and leaf.sizes[2] > 1:
            axes = axis_order(leaf.shape, leaf.axes).features
            groups.append(Group((n,), axes, leaf.sizes[2]))
        elif trees.is_floating(leaves[n]):
            rest.append(n)
    return _made(params, groups, rest)


def _made(params: PyTree, groups: list[Group], rest: list[int]) -> Spheres:
    leaves = jax.tree.leaves(params)
    size = sum(jnp.size(leaves[n]) for group in groups for n in group.leaves)
    left = sum(jnp.size(leaves[n]) for n in rest)
    if left:
        groups = [*groups, Group(tuple(rest), None, left)]
    return Spheres(tuple(groups), size + left)


def turn(along: jax.Array, delta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How much of u, and how much of e, the unit vector u has after the kick.

    With c = e.u and x = exp(-delta), u' = (c' - c k) e + k u, where k = 2x / (1 + c + (1 - c) x^2)
    and c' = e.u' = (1 + c - (1 - c) x^2) / (1 + c + (1 - c) x^2): the kick, free of overflow.
    """
    # Against the force to the last digit, rounding alone would say in which plane u turns.
    towards = jnp.maximum(1 + along, 4 * jnp.finfo(along.dtype).eps)
    x = jnp.exp(-delta)
    against = (1 - along) * x**2
    keeps = 2 * x / (towards + against)
    return keeps, (towards - against) / (towards + against) - keeps * along
