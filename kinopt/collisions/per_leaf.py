"""A collision law over the chosen leaves of a tree, as an Optax transformation.

A leaf is seen as `[batch, neurons, features]`, each slice collides on its own, and everything else
passes through untouched. A slice in which a NaN or an infinity turns up keeps its gradient, so that
the accident does not spread from neuron to neuron; `num_skipped` counts such slices.
"""

import functools
import warnings
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from kinopt._keys import key_data, typed_key
from kinopt._typing import Key, Neurons, PyTree, Scalar, Schedule
from kinopt.collisions.cells import MAXIMA
from kinopt.collisions.devices import Spread
from kinopt.collisions.draws import derived_key
from kinopt.collisions.placement import Placement, place, whole_leaves
from kinopt.collisions.stats import CollisionState, HardState, SoftState
from kinopt.layers import Leaf, along_leaves, collidable_leaves, from_neurons, to_neurons
from kinopt.trees import accumulator_dtype

__all__ = ["Law", "Leaves", "collide_leaves"]

LARGE_LAYER = 8192
"""From here on a step costs enough to say so: N^2 D work at every update."""


class Law(NamedTuple):
    """A collision law with all its settings but the coefficient."""

    apply: Callable[[Neurons, Neurons, Array | None, Scalar, Spread], tuple[Neurons, tuple]]
    state: type[SoftState] | type[HardState]
    all_pairs: bool  # its cost grows with the square of the number of neurons


class Leaves(NamedTuple):
    """Which leaves collide, and how they lie: the arguments that both collisions share."""

    mask: PyTree | Callable[[PyTree], PyTree] | None
    neuron_axes: PyTree | Callable[[PyTree], PyTree] | None
    sharding: PyTree | Callable[[PyTree], PyTree] | None

    def leaves(self, params: PyTree) -> list[Leaf]:
        """Every leaf, with its axes where it takes part."""
        return collidable_leaves(whole_leaves(params, self.sharding), self.mask, self.neuron_axes)


def collide_leaves(
    law: Law,
    coll_coef: float | Scalar | Schedule,
    key: Key | None,
    every: int | Array,
    chosen: Leaves,
) -> optax.GradientTransformationExtraArgs:
    """The transformation that applies a law to every leaf that collides."""
    names = law.state.law_stats._fields

    def init(params: PyTree) -> CollisionState:
        leaves = chosen.leaves(params)
        _warn(leaves, chosen.mask, law.all_pairs)
        stats = [
            jnp.zeros((), jnp.int32)
            if leaf.axes is None
            else jnp.zeros(len(names) + 1, jnp.float32)
            for leaf in leaves
        ]
        return law.state(
            count=jnp.zeros((), jnp.int32),
            key=None if key is None else key_data(key),
            stats=jax.tree.unflatten(jax.tree.structure(params), stats),
        )

    def slices(leaf: Leaf, placement: Placement, w, g, stats, key, c):
        """A leaf's batch slices collide, as far as they lie on this device."""
        assert leaf.axes is not None
        spread, slice_numbers, num_slices = placement.spread(leaf)
        dtype = accumulator_dtype(w, g)
        ws, gs = (to_neurons(x.astype(dtype), leaf.axes) for x in (w, g))

        def one(w: Neurons, g: Neurons, key: Array | None) -> tuple[Neurons, Array, Array]:
            after, seen = law.apply(w, g, key, c, spread)
            seen = jnp.stack(seen)
            finite = jnp.all(jnp.isfinite(seen))  # energy_ratio has seen every entry of `after`
            return jnp.where(finite, after, g), jnp.where(finite, seen, 0), ~finite

        if num_slices == 1:  # a vmap over one slice would still turn branches into selects
            after, seen, skipped = (x[None] for x in one(ws[0], gs[0], key))
        else:
            keys = None if key is None else jax.vmap(lambda n: derived_key(key, n))(slice_numbers)
            after, seen, skipped = jax.vmap(one)(ws, gs, keys)
        maxima = placement.over_slices(jnp.max(seen, axis=0), leaf, jax.lax.pmax)
        means = placement.over_slices(jnp.mean(seen, axis=0), leaf, jax.lax.pmean)
        overall = jnp.where(_is_maximum(names), maxima, means)
        num_skipped = stats[-1] + placement.over_slices(jnp.sum(skipped), leaf, jax.lax.psum)
        return (
            from_neurons(after, jnp.shape(g), leaf.axes).astype(g.dtype),
            jnp.append(overall.astype(jnp.float32), num_skipped),
        )

    # Compiled here, so that an update outside of jit does not compile its loops anew at each call.
    @functools.partial(jax.jit, static_argnums=(0, 1))
    def collide(leaf: Leaf, placement: Placement, *arrays: Any):
        return placement.run(functools.partial(slices, leaf, placement), *arrays)

    def collide_all(gradients, stats, weights, params, count, base, c):
        gradients, stats = list(gradients), list(stats)
        shardings = along_leaves(chosen.sharding, params, PartitionSpec(), "sharding")
        for n, leaf in enumerate(chosen.leaves(params)):
            if leaf.axes is None:
                continue
            # By name, whatever else is in the tree. Two leaves would share a key only at steps a
            # fixed distance in 2^32 apart, as far as chance has it.
            name = zlib.crc32(leaf.path.encode())
            leaf_key = None if base is None else derived_key(base, jnp.uint32(name), count)
            placement, w = place(weights[n], gradients[n], shardings[n])
            gradients[n], stats[n] = collide(
                leaf, placement, w, gradients[n], stats[n], leaf_key, jnp.asarray(c)
            )
        return gradients, stats

    def update(
        updates: PyTree, state: CollisionState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, CollisionState]:
        del extra_args
        gradients, structure = jax.tree.flatten(updates)
        weights = _weights(params, structure)
        c = coll_coef(state.count) if callable(coll_coef) else coll_coef
        base = None
        if key is not None and state.key is not None:
            base = typed_key(state.key, like=key)

        def collided(gradients, stats):
            return collide_all(gradients, stats, weights, params, state.count, base, c)

        stats = jax.tree.leaves(state.stats)
        if isinstance(every, int) and every == 1:
            gradients, stats = collided(gradients, stats)
        else:
            gradients, stats = jax.lax.cond(
                state.count % every == 0, collided, lambda *same: same, gradients, stats
            )
        new_state = law.state(
            count=jnp.asarray(optax.safe_increment(state.count)),
            key=state.key,
            stats=jax.tree.unflatten(jax.tree.structure(state.stats), stats),
        )
        return jax.tree.unflatten(structure, gradients), new_state

    # Optax's types do not know states that are NamedTuples.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _is_maximum(names: tuple[str, ...]) -> Array:
    """Which statistics of a leaf are the largest of its slices; the others are their mean."""
    return jnp.array([name in MAXIMA for name in names])


def _weights(params: PyTree, structure: Any) -> list[Array]:
    if params is None:
        raise ValueError(
            "a collision needs the weights: call update(grads, state, params), not "
            "update(grads, state). Neurons collide where they are, not only as they move."
        )
    if jax.tree.structure(params) != structure:
        raise ValueError(
            "gradients and parameters have different structures, so it is not known which weights "
            f"belong to which gradients:\n{structure}\n{jax.tree.structure(params)}\n"
            "Pass the parameters that the gradients were taken of."
        )
    return jax.tree.leaves(params)


def _warn(leaves: list[Leaf], mask: Any, all_pairs: bool) -> None:
    for leaf in leaves:
        if leaf.axes is None or not all_pairs:
            continue
        batch, neurons, features = leaf.sizes
        if neurons > LARGE_LAYER:
            operations = 6 * batch * neurons**2 * features
            warnings.warn(
                f"{leaf.path!r} has {neurons:,} neurons of {features:,} features: each update "
                f"takes about {operations:.1e} floating-point operations, and time grows with the "
                "square of the number of neurons. Leave it out with mask=, or use cell_size= or "
                "hard_collision(combine='matching'), whose cost grows linearly.",
                stacklevel=3,
            )
    if mask is not None and leaves and all(leaf.axes is None for leaf in leaves):
        warnings.warn(
            "the mask selects no leaf that can collide, so this collision does nothing: a leaf "
            "needs a floating type, two axes or more, and two neurons or more. The leaves are "
            + ", ".join(f"{leaf.path} {leaf.shape}" for leaf in leaves),
            stacklevel=3,
        )
