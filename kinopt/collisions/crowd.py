"""The neurons of a layer, and how they meet: in blocks of rows, and from device to device.

A law says what a neuron sees of another, `how(mine, other)`, and `Crowd.meet` brings together all
that is to meet. This module alone knows of blocks and of devices: a law sees the rows and columns
that lie on its own device, inside `jax.shard_map`. Sums over the features of a neuron that is cut
are sums over devices. Neurons that lie elsewhere come by: every device hands its visitor to the
next one, round a ring, until all have met all, so that no device ever holds the whole layer. On
one device there is one visitor, the layer itself, and all sums are done already: the same law runs
there at no extra cost.

A law whose changes cannot be written as a sum over what each neuron sees, because a pair changes
both its neurons at once, uses addresses: `add_pairs`, `fetch` and `share`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from kinopt.collisions.blockwise import rows_per_block, scan_row_blocks, varying_like

__all__ = ["WHOLE", "Crowd", "varying_like"]

Tree = TypeVar("Tree")


class Crowd(NamedTuple):
    """A layer `[neurons, features]`: the part of it that is on this device, and how parts meet."""

    neuron_axes: tuple[str, ...] = ()  # names of mesh axes that divide the neurons
    feature_axes: tuple[str, ...] = ()  # and of those that divide the features
    rows: Int[Array, " neurons"] | None = None  # which neurons are here; None: all of them
    columns: Int[Array, " features"] | None = None  # which features
    block_size: int | None = None  # rows of N x N matrices in memory at once; None: by size
    by_rows: bool = False  # neighbours in memory are features, not neurons as in a Flax kernel

    @property
    def num_parts(self) -> int:
        """Devices that share the neurons."""
        return math.prod(jax.lax.axis_size(name) for name in self.neuron_axes)

    @property
    def num_feature_parts(self) -> int:
        """Devices that share the features."""
        return math.prod(jax.lax.axis_size(name) for name in self.feature_axes)

    def sizes(self, x: Array) -> tuple[int, int]:
        """Neurons and features of the whole layer of which x is this device's part."""
        return len(x) * self.num_parts, x.shape[1] * self.num_feature_parts

    def numbers(self, x: Array) -> Int[Array, " neurons"]:
        """The number, in the whole layer, of each row of x."""
        return jnp.arange(len(x)) if self.rows is None else self.rows

    def over_features(self, x: Array, reduce: Callable = jax.lax.psum) -> Array:
        """The sum, or `jax.lax.pmax`, over devices that hold other features of the same neurons."""
        return reduce(x, self.feature_axes) if self.feature_axes else x

    def over_neurons(self, x: Array, reduce: Callable = jax.lax.psum) -> Array:
        """The same over devices that hold other neurons."""
        return reduce(x, self.neuron_axes) if self.neuron_axes else x

    def dot(self, a: Array, b: Array, precision=None) -> Array:
        """Inner products of the rows of a with those of b."""
        return self.over_features(jnp.matmul(a, b.T, precision=precision))

    def total(self, x: Array) -> Array:
        """The sum of numbers of all neurons."""
        return self.over_neurons(jnp.sum(x))

    def largest(self, x: Array) -> Array:
        """The largest of numbers of all neurons."""
        return self.over_neurons(jnp.max(x), jax.lax.pmax)

    def anywhere(self, flag: Array) -> Array:
        """Whether a flag holds on any device of the mesh, whatever part of the leaf it has.

        Devices pass things round a ring together: all go into a branch, or none does.
        """
        names = tuple(jax.sharding.get_abstract_mesh().manual_axes)
        if not names:
            return flag
        # JAX keeps account of the axes over which a number varies, and takes all of them or none.
        nothing = sum(jax.lax.axis_index(name) for name in names) * 0
        return jax.lax.pmax(flag.astype(jnp.int32) + nothing, names) > 0

    def entrywise(self, function: Callable[..., Array], *arrays: Array) -> Array:
        """A function of arrays [neurons or 1, features or 1], told in the order of memory.

        XLA takes an expression's axes as they are told, and copies what lies otherwise, pass by
        pass: for a layer of 1000 x 2048 that is a third of the time.
        """
        if self.by_rows:
            return function(*arrays)
        return function(*(x.T for x in arrays)).T

    def per_neuron(self, reduce: Callable, function: Callable[..., Array], *arrays: Array) -> Array:
        """`reduce` over the features of `function(*arrays)`, likewise; here alone."""
        if self.by_rows:
            return reduce(function(*arrays), axis=1)
        return reduce(function(*(x.T for x in arrays)), axis=0)

    def laid(self, x: Array) -> Array:
        """What a product made, laid in memory in that order: XLA lays it in rows, unless asked."""
        return x if self.by_rows else jax.lax.optimization_barrier(x.T).T

    def over_all(self, x: Array, reduce: Callable = jax.lax.psum) -> Array:
        """The same over all devices that share the layer."""
        return self.over_features(self.over_neurons(x, reduce), reduce)

    def _block(self, here: int) -> int:
        return rows_per_block(here, self.block_size, self.num_feature_parts)

    def is_one_block(self, here: int) -> bool:
        """Whether all that meet do so at once, given how many neurons are here."""
        return self.num_parts == 1 and self._block(here) >= here

    def in_smaller_blocks(self, here: int, times: int) -> "Crowd":
        """The same, in blocks so many times smaller, unless all meet at once anyway."""
        if self.is_one_block(here):
            return self
        return self._replace(block_size=max(self._block(here) // times, 1))

    def meet(self, how: Callable[[Any, Any], Any], me: Any, then: Callable | None = None) -> Any:
        """What the neurons of this device see of all neurons of the layer.

        Args:
            how: (mine, other) -> a NamedTuple of arrays with a row for each of mine: what a block
                of `me` sees of some others. Over others, fields called max_... are joined by their
                maximum, the rest is summed up.
            me: a NamedTuple of arrays with a row for each neuron on this device.
            then: (mine, seen) -> what is made of it in the end, row by row; None: as it is.
        """
        block = self._block(len(jax.tree.leaves(me)[0]))

        def blockwise(f, *more):
            rows, shape = jax.tree.flatten((me, *more))

            def one(carry, numbers, fresh, *mine):
                return carry, f(*jax.tree.unflatten(shape, mine))

            return scan_row_blocks(one, None, rows, block)[1]

        if self.num_parts == 1:
            return blockwise(
                lambda mine: how(mine, me) if then is None else then(mine, how(mine, me))
            )

        def visit(_, carry):
            visitor, seen = carry
            visitor = self._next(visitor)
            return visitor, _join(seen, blockwise(lambda mine: how(mine, visitor)))

        first = me, blockwise(lambda mine: how(mine, me))
        _, seen = jax.lax.fori_loop(1, self.num_parts, visit, first)
        return seen if then is None else blockwise(then, seen)

    def add_pairs(self, change: Array, add: Callable[..., Array], me: Any) -> Array:
        """A sum over pairs of neurons, of which each changes both of its rows.

        Args:
            change: the sum so far, with a row for each neuron on this device.
            add: (change, everyone, rows, fresh, mine, other, first) -> change, with the pairs of a
                block, `everyone[rows]`, with some others, which are the rows of `everyone` from
                `first` on. `change` has a row for each of `everyone`; the pairs of rows that are
                not `fresh` are there already.
            me: as in `meet`.
        """
        leaves, structure = jax.tree.flatten(me)
        block = self._block(len(leaves[0]))

        def against(change, everyone, other, first):
            def one(change, rows, fresh, *mine):
                mine = jax.tree.unflatten(structure, mine)
                return add(change, everyone, rows, fresh, mine, other, first), None

            return scan_row_blocks(one, change, leaves, block)[0]

        change = against(change, me, me, 0)
        if self.num_parts == 1:
            return change
        here = len(change)

        def visit(change, other, theirs):
            both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), me, other)
            joined = against(jnp.concatenate([change, theirs]), both, other, here)
            return joined[:here], joined[here:]

        theirs = varying_like(jnp.zeros_like(change), change)
        change, own = self._round_trip(visit, change, me, theirs)
        return change + own

    def _round_trip(self, meet: Callable, carry: Any, visitor: Any, luggage: Any) -> tuple:
        """`carry, luggage = meet(carry, visitor, luggage)` for visitors from all other devices.

        A visitor's luggage begins as given, and is returned as it comes home.
        """

        def step(_, state):
            carry, visitor, luggage = state
            visitor, luggage = self._next((visitor, luggage))
            carry, luggage = meet(carry, visitor, luggage)
            return carry, visitor, luggage

        state = carry, visitor, luggage
        carry, _, luggage = jax.lax.fori_loop(1, self.num_parts, step, state)
        return carry, self._next(luggage)

    def fetch(self, tree: Tree, neurons: Int[Array, " wanted"]) -> Tree:
        """Rows of this layer's arrays by the neuron's number, wherever they are."""
        if self.rows is None:
            return jax.tree.map(lambda x: x[neurons], tree)
        everywhere = jax.lax.all_gather(self.rows, self.neuron_axes, tiled=True)
        positions = jnp.zeros_like(everywhere).at[everywhere].set(jnp.arange(len(everywhere)))
        return self.fetch_shared(tree, positions[neurons])

    def fetch_shared(self, tree: Tree, items: Int[Array, " wanted"]) -> Tree:
        """Rows of arrays that hold an item of a `share` in each row, by the item's number."""
        if self.num_parts == 1:
            return jax.tree.map(lambda x: x[items], tree)
        part, row = jnp.divmod(items, len(jax.tree.leaves(tree)[0]))

        def take(found, owner, visitor):
            here = part == owner
            return jax.tree.map(
                lambda old, x: jnp.where(here.reshape(-1, *[1] * (x.ndim - 1)), x[row], old),
                found,
                visitor,
            )

        def step(_, state):
            found, *visitor = state
            owner, visitor = self._next(visitor)
            return take(found, owner, visitor), owner, visitor

        found = jax.tree.map(lambda x: x[row], tree)
        state = found, jax.lax.axis_index(self.neuron_axes), tree
        return jax.lax.fori_loop(1, self.num_parts, step, state)[0]

    def share(self, items: int) -> tuple[Int[Array, " items"], Bool[Array, " items"]]:
        """Which of so many items this device treats, and whether it is the only one that does.

        Shares are equally long: past the end, the last item comes again.
        """
        if self.num_parts == 1:
            return jnp.arange(items), jnp.ones(items, bool)
        size = -(-items // self.num_parts)
        mine = jax.lax.axis_index(self.neuron_axes) * size + jnp.arange(size)
        return jnp.minimum(mine, items - 1), mine < items

    def all_rows(self, x: Array) -> Array:
        """The rows of the whole layer on every device, in order."""
        if self.rows is None or not self.neuron_axes:
            return x
        rows, x = (jax.lax.all_gather(y, self.neuron_axes, tiled=True) for y in (self.rows, x))
        return jnp.zeros_like(x).at[rows].set(x)

    def _next(self, tree: Tree) -> Tree:
        # JAX wants the names in the mesh's order, and numbers the devices of the ring by it.
        mesh_names = jax.sharding.get_abstract_mesh().axis_names
        names = tuple(sorted(self.neuron_axes, key=mesh_names.index))
        ring = np.arange(self.num_parts).reshape([jax.lax.axis_size(name) for name in names])
        ring = ring.transpose([names.index(name) for name in self.neuron_axes]).ravel()
        pairs = list(zip(ring.tolist(), np.roll(ring, -1).tolist(), strict=True))
        return jax.tree.map(lambda x: jax.lax.ppermute(x, names, pairs), tree)


WHOLE = Crowd()
"""All of the layer on one device."""


def _join(a: Any, b: Any) -> Any:
    """What was seen of some neurons, and of others."""
    return type(a)(
        *(
            jax.tree.map(jnp.maximum if name.startswith("max_") else jnp.add, x, y)
            for name, x, y in zip(a._fields, a, b, strict=True)
        )
    )
