"""A collision law over the chosen leaves of a tree, as an Optax transformation.

A leaf is seen as `[batch, neurons, features]`, each slice collides on its own, and everything else
passes through untouched. A slice in which a NaN or an infinity turns up, also where the result is
rounded to the gradient's type, keeps its gradient, so that the accident does not spread from neuron
to neuron; `num_skipped` counts such slices.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from kinopt._keys import key_data, typed_key
from kinopt._typing import Key, Neurons, Number, PyTree, Schedule
from kinopt.collisions.cells import Cells, in_cells
from kinopt.collisions.draws import fold, leaf_key
from kinopt.collisions.placement import Placement, place, whole_leaves
from kinopt.collisions.stats import CollisionState
from kinopt.layers import Leaf, along_leaves, collidable_leaves, from_neurons, to_neurons
from kinopt.trees import accumulator_dtype

__all__ = ["Law", "Leaves", "Scheme", "collide_leaves"]

LARGE_LAYER = 8192
"""From here on a step costs enough to say so: N^2 D work at every update."""


def _all_pairs(neurons: int) -> int:
    return neurons * (neurons - 1) // 2


class Law(NamedTuple):
    """A collision law with all its settings but the coefficient."""

    apply: Callable[..., tuple[Neurons, Any]]  # (w, g, key, c, crowd) -> G', what it saw
    state: type[CollisionState]  # its name goes into the keys; says what is seen
    draws: bool = False  # whether it needs a key
    candidates: Callable[[int], int] = _all_pairs  # pairs it looks at among so many neurons


class Scheme(NamedTuple):
    """How a law is carried out."""

    block_size: int | None
    cell_size: int | None
    cells: Cells
    every: int | Array


class Leaves(NamedTuple):
    """Which leaves collide, and how they lie: the arguments that all collisions share."""

    mask: PyTree | Callable[[PyTree], PyTree] | None
    neuron_axes: PyTree | Callable[[PyTree], PyTree] | None
    sharding: PyTree | Callable[[PyTree], PyTree] | None

    def leaves(self, params: PyTree) -> list[Leaf]:
        """Every leaf, with its axes where it takes part."""
        return collidable_leaves(whole_leaves(params, self.sharding), self.mask, self.neuron_axes)


def collide_leaves(
    law: Law,
    scheme: Scheme,
    coll_coef: Number | Schedule | None,
    key: Key,
    chosen: Leaves,
) -> optax.GradientTransformationExtraArgs:
    """The transformation that applies a law to every leaf that collides."""
    measured = law.state.measured
    draws = law.draws or scheme.cell_size is not None

    def init(params: PyTree) -> CollisionState:
        leaves = chosen.leaves(params)
        _warn(leaves, chosen.mask, law, scheme)
        stats = {
            leaf.path: jnp.zeros(len(measured.fields), jnp.float32)
            for leaf in leaves
            if leaf.axes is not None
        }
        return law.state(
            count=jnp.zeros((), jnp.int32),
            key=key_data(key) if draws else None,
            # `optax.tree.map_params` asks what a state looks like that has no parameters.
            stats=stats if leaves else jnp.zeros(0, jnp.float32),
        )

    def slices(leaf: Leaf, placement: Placement, w, g, vector, key, count, c):
        """A leaf's batch slices collide, as far as they lie on this device."""
        assert leaf.axes is not None
        crowd, slice_numbers, num_slices = placement.crowd(leaf)
        crowd = crowd._replace(block_size=scheme.block_size)
        dtype = accumulator_dtype(w, g)
        ws, gs = (to_neurons(x.astype(dtype), leaf.axes) for x in (w, g))
        named = None if key is None else leaf_key(key, law.state.__name__, leaf.path)

        def one(w: Neurons, given: Neurons, number: Array) -> tuple[Neurons, Array, Array]:
            key = None if named is None else fold(named, count, number)
            after, seen = in_cells(
                lambda w, g, key, crowd: law.apply(w, g, key, c, crowd),
                w,
                given,
                key,
                scheme.cell_size,
                scheme.cells,
                crowd,
                law.candidates,
            )
            seen = measured.of_slice(after, given, seen, crowd)
            finite = jnp.all(jnp.isfinite(seen))  # the energy has seen every entry of `after`
            if jnp.finfo(g.dtype).max < jnp.finfo(dtype).max:
                lost = crowd.entrywise(lambda x: ~jnp.isfinite(x.astype(g.dtype)), after)
                finite &= crowd.over_all(jnp.sum(lost)) == 0
            after = crowd.entrywise(lambda x, old: jnp.where(finite, x, old), after, given)
            return after, jnp.where(finite, seen, 0), ~finite

        if num_slices == 1:  # a vmap over one slice would still turn branches into selects
            after, seen, skipped = (x[None] for x in one(ws[0], gs[0], slice_numbers[0]))
        else:
            after, seen, skipped = jax.vmap(one)(ws, gs, slice_numbers)
        maxima = placement.over_slices(jnp.max(seen, axis=0), leaf, jax.lax.pmax)
        means = placement.over_slices(jnp.mean(seen, axis=0), leaf, jax.lax.pmean)
        joined = jnp.where(measured.is_maximum(), maxima, means)
        num_skipped = placement.over_slices(jnp.sum(skipped), leaf, jax.lax.psum)
        return (
            from_neurons(after, jnp.shape(g), leaf.axes).astype(g.dtype),
            measured.updated(vector, joined, num_skipped),
        )

    # Compiled here, so that an update outside of jit does not compile its loops anew at each call.
    @functools.partial(jax.jit, static_argnums=(0, 1))
    def collide(leaf: Leaf, placement: Placement, w, g, vector, key, count, c):
        def run(g, vector):
            return placement.run(
                functools.partial(slices, leaf, placement), w, g, vector, key, count, c
            )

        if isinstance(scheme.every, int) and scheme.every == 1:
            return run(g, vector)
        return jax.lax.cond(count % scheme.every == 0, run, lambda *same: same, g, vector)

    def update(
        updates: PyTree, state: CollisionState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, CollisionState]:
        del extra_args
        gradients, structure = jax.tree.flatten(updates)
        weights = _weights(params, structure)
        c = coll_coef(state.count) if callable(coll_coef) else coll_coef
        c = None if c is None else jnp.asarray(c)
        base = None if state.key is None else typed_key(state.key, like=key)
        shardings = along_leaves(chosen.sharding, params, PartitionSpec(), "sharding")
        stats = dict(state.stats) if isinstance(state.stats, dict) else state.stats
        for n, leaf in enumerate(chosen.leaves(params)):
            if leaf.axes is None:
                continue
            _check_alike(leaf, weights[n], gradients[n], stats)
            placement, w = place(weights[n], gradients[n], shardings[n])
            gradients[n], stats[leaf.path] = collide(
                leaf, placement, w, gradients[n], stats[leaf.path], base, state.count, c
            )
        new_state = law.state(
            count=jnp.asarray(optax.safe_increment(state.count)), key=state.key, stats=stats
        )
        return jax.tree.unflatten(structure, gradients), new_state

    # Optax's types do not know states that are NamedTuples.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


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


def _check_alike(leaf: Leaf, w: Array, g: Array, stats: Any) -> None:
    if jnp.shape(w) != jnp.shape(g):
        raise ValueError(
            f"{leaf.path!r} has weights of shape {jnp.shape(w)} and a gradient of shape "
            f"{jnp.shape(g)}. Pass the gradient of these parameters."
        )
    if not isinstance(stats, dict) or leaf.path not in stats:
        known = ", ".join(map(repr, stats)) if isinstance(stats, dict) and stats else "no leaf"
        raise ValueError(
            f"{leaf.path!r} collides, but the state was made for {known}: it belongs to other "
            "parameters, or to a collision with another mask. Call init with these parameters."
        )


def _warn(leaves: list[Leaf], mask: Any, law: Law, scheme: Scheme) -> None:
    for leaf in leaves:
        if leaf.axes is None or scheme.cell_size is not None:
            continue
        batch, neurons, features = leaf.sizes
        if neurons > LARGE_LAYER and law.candidates(neurons) > neurons:
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
