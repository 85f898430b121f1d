"""A layer spread over devices: what each holds of it, and how the parts meet.

A law sees the rows and columns that lie on its own device, inside `jax.shard_map`. Sums over the
features of a neuron that is cut are sums over devices. Neurons that lie elsewhere come by: every
device hands its visitor to the next one, round a ring, until all have met all, so that no device
ever holds the whole layer. On one device there is one visitor, the layer itself, and all sums are
done already: the same law runs there at no extra cost.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

__all__ = ["WHOLE", "Spread", "varying_like"]

Tree = TypeVar("Tree")


class Spread(NamedTuple):
    """How a layer `[neurons, features]` is spread over the axes of a mesh."""

    neuron_axes: tuple[str, ...] = ()  # names of mesh axes that divide the neurons
    feature_axes: tuple[str, ...] = ()  # and of those that divide the features
    rows: Int[Array, " neurons"] | None = None  # which neurons are here; None: all of them
    columns: Int[Array, " features"] | None = None  # which features

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

    def neurons_here(self, x: Array) -> Int[Array, " neurons"]:
        """The number, in the whole layer, of each row of x."""
        return jnp.arange(len(x)) if self.rows is None else self.rows

    def over_features(self, x: Array, reduce: Callable = jax.lax.psum) -> Array:
        """The sum, or `jax.lax.pmax`, over devices that hold other features of the same neurons."""
        return reduce(x, self.feature_axes) if self.feature_axes else x

    def over_neurons(self, x: Array, reduce: Callable = jax.lax.psum) -> Array:
        """The same over devices that hold other neurons."""
        return reduce(x, self.neuron_axes) if self.neuron_axes else x

    def over_all(self, x: Array, reduce: Callable = jax.lax.psum) -> Array:
        """The same over all devices that share the layer."""
        return self.over_features(self.over_neurons(x, reduce), reduce)

    def tour(
        self, meet: Callable[[Any], Tree], join: Callable[[Tree, Tree], Tree], visitor: Any
    ) -> Tree:
        """`meet(visitor)` for the visitors from all devices, put together with `join`.

        The first visitor is the device's own.
        """
        total = meet(visitor)
        if self.num_parts == 1:
            return total

        def step(_, carry):
            visitor, total = carry
            visitor = self._next(visitor)
            return visitor, join(total, meet(visitor))

        return jax.lax.fori_loop(1, self.num_parts, step, (visitor, total))[1]

    def round_trip(self, meet: Callable, carry: Any, visitor: Any, luggage: Any) -> tuple:
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


WHOLE = Spread()
"""All of the layer on one device."""


def varying_like(tree: Tree, *examples: Array) -> Tree:
    """The same, as something that may differ from device to device where one of the examples does.

    Inside `jax.shard_map` JAX keeps account of it, and a loop's carry must not change in this.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    # Names of types that say so differ between versions of JAX; data flow does not.
    nothing = sum((x.reshape(-1)[0] > 0 for x in examples), jnp.zeros((), jnp.int32)) * 0
    return jax.tree.map(lambda x: x + nothing.astype(x.dtype), tree)
