"""What a collision did: how statistics are joined, kept in the state, and read from it."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from kinopt._checks import is_traced
from kinopt._typing import PyTree, Scalar
from kinopt.collisions.crowd import Crowd
from kinopt.collisions.rows import energy_ratio, in_common, scales

__all__ = [
    "CollisionState",
    "CollisionStats",
    "Measured",
    "collision_stats",
    "join_cells",
]

MAXIMA = frozenset({"gain", "max_abs_cosine"})
"""Statistics of a layer that are the largest of its parts; all others are their mean."""

FRAME = ("energy_ratio", "common_mode", "mean_gradient_cosine")
"""Statistics that are measured of any law."""


class CollisionStats(NamedTuple):
    """What the last update did to a leaf; averages, and maxima, over its batch slices and cells.

    A field that a law does not have is None. It prints in lines, and says where a warning is due.
    """

    accepted_fraction: Scalar | None = None  # of candidate pairs; hard collisions
    energy_ratio: Scalar | None = None  # |g'|^2 / |g|^2
    gain: Scalar | None = None  # c |M|_inf; soft collisions; above 1 descent is not guaranteed
    mean_abs_cosine: Scalar | None = None  # of the weights, over pairs of neurons
    max_abs_cosine: Scalar | None = None
    num_skipped: Scalar | None = None  # slices left as they were for a NaN or infinity, since init
    common_mode: Scalar | None = None  # N |mean g|^2 / sum |g|^2: what all neurons have in common
    pair_effect: Scalar | None = None  # |g' - g|^2 / |g|^2 without the self term
    num_uphill: Scalar | None = None  # updates with a gain above 1, since init; soft collisions
    mean_gradient_cosine: Scalar | None = None  # cos(g_i, g_j) over pairs of neurons, with its sign

    def __repr__(self) -> str:
        lines = [
            f"  {name}: {_shown(value)}"
            for name, value in zip(self._fields, self, strict=True)
            if value is not None
        ]
        return "\n".join(["CollisionStats", *lines, *_advice(self)])


class Measured(NamedTuple):
    """The statistics that a state keeps of each leaf: those of the frame, the law's, counters.

    They are one float32 vector, `[fields]`, for each leaf that collides.
    """

    of_law: type  # a NamedTuple type: what the law returns

    @property
    def counters(self) -> tuple[str, ...]:
        """Numbers that only grow."""
        has_gain = "gain" in self.of_law._fields
        return ("num_skipped", "num_uphill") if has_gain else ("num_skipped",)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the vector's entries."""
        return (*FRAME, *self.of_law._fields, *self.counters)

    def of_slice(self, after: Array, g: Array, seen: Any, crowd: Crowd) -> Array:
        """The first part of the vector, of one batch slice."""
        of_g = scales(g, crowd)
        return jnp.stack([energy_ratio(after, g, of_g, crowd), *in_common(g, of_g, crowd), *seen])

    def is_maximum(self) -> Array:
        """Which entries of the first part are the largest of the slices."""
        return jnp.array([name in MAXIMA for name in (*FRAME, *self.of_law._fields)])

    def updated(self, vector: Array, joined: Array, skipped: Array) -> Array:
        """The next vector, given what all slices saw and how many were skipped."""
        counts = [skipped]
        if "num_uphill" in self.counters:
            counts.append(joined[self.fields.index("gain")] > 1)
        counts = jnp.stack([count.astype(jnp.float32) for count in counts])
        before = vector[-len(counts) :]
        return jnp.concatenate([joined.astype(jnp.float32), before + counts])


class CollisionState(NamedTuple):
    """State of a collision.

    `stats` has an entry for each leaf that collides, under the leaf's path, and none of them stands
    in the place of a parameter. `collision_stats` reads it.
    """

    count: Int[Array, ""]  # updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    key: UInt32[Array, " words"] | None  # raw data of the base key; None where nothing is drawn
    stats: PyTree  # dict: path -> Float[Array, "fields"]; without any parameters, an empty array

    # A subclass for each law says what its vectors hold.
    measured = Measured(tuple)
    only_shown = ("stats",)


def join_cells(collected: list[tuple[Any, Array]], crowd: Crowd) -> Any:
    """Statistics of the layer from those of its cells, and the weight of each cell."""

    def maximum(name: str) -> Array:
        return crowd.largest(jnp.stack([jnp.max(getattr(seen, name)) for seen, _ in collected]))

    def mean(name: str) -> Array:
        total, weight = 0, 0
        for seen, weights in collected:
            total += crowd.total(getattr(seen, name) * weights)
            weight += crowd.total(weights)
        return total / jnp.maximum(weight, 1)

    stats = type(collected[0][0])
    return stats(*(maximum(name) if name in MAXIMA else mean(name) for name in stats._fields))


def collision_stats(opt_state: PyTree) -> dict[str, CollisionStats]:
    """What the last update of the collisions in an optimizer state did, by leaf path.

    The state may be nested in any way: chained, masked, accumulated, partitioned, injected. Where
    two collisions treat the same leaf, the later one in the chain gets "#2" after the path.

    Args:
        opt_state: the state of a collision, or of anything around it.

    Returns:
        A dict from the leaf's path, such as "head/kernel", to its `CollisionStats` of scalars on
        the device. Only leaves that collide are in it.

    Raises:
        ValueError: there is no collision in the state.

    Warns of what the state shows to be no good: an optimizer before a collision in a chain, which
    then sees its steps instead of gradients; and two collisions with the same key.

    >>> import jax.numpy as jnp, kinopt, optax
    >>> params = {"head": jnp.array([[1.0, 1.0], [0.0, 0.1]]), "bias": jnp.zeros(2)}
    >>> tx = optax.chain(kinopt.soft_collision(0.08), optax.adam(1e-3))
    >>> _, state = tx.update(params, tx.init(params), params)  # weights for gradients
    >>> kinopt.collision_stats(state)["head"]
    CollisionStats
      energy_ratio: 0.708
      gain: 0.159
      mean_abs_cosine: 0.995
      max_abs_cosine: 0.995
      num_skipped: 0
      common_mode: 0.998
      pair_effect: 0.00627
      num_uphill: 0
      mean_gradient_cosine: 0.995
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_collision_state)
    states = [node for node in nodes if _is_collision_state(node)]
    if not states:
        raise ValueError(
            "there is no collision in this state: pass the optimizer state, or a part of it that "
            "holds the state of soft_collision or hard_collision."
        )
    _warn_of_order(opt_state)
    _warn_of_equal_keys(states)
    found: dict[str, CollisionStats] = {}
    for state in states:
        if not isinstance(state.stats, dict):  # there were no parameters
            continue
        for path, vector in state.stats.items():
            (vector,) = jax.tree.leaves(vector)  # nnx wraps arrays
            values = {field: vector[..., n] for n, field in enumerate(state.measured.fields)}
            name, number = path, 1
            while name in found:
                number += 1
                name = f"{path}#{number}"
            known = {field: values.get(field) for field in CollisionStats._fields}
            found[name] = CollisionStats(**known)
    return found


def _is_collision_state(node: Any) -> bool:
    return isinstance(node, CollisionState)


def _names(node: Any) -> set[str]:
    """Names of the types of states in a part of an optimizer state."""
    inside = node if isinstance(node, tuple) else ()
    return {type(node).__name__}.union(*map(_names, inside))


def _warn_of_order(opt_state: Any) -> None:
    """States without a name of their own, as `optax.scale` has, cannot be told from others."""
    if not isinstance(opt_state, tuple):
        return
    before: set[str] = set()
    for part in opt_state if type(opt_state) is tuple else ():
        collides = any(map(_is_collision_state, jax.tree.leaves(part, is_leaf=_is_collision_state)))
        if collides and before:
            warnings.warn(
                f"the state holds {', '.join(sorted(before))} before a collision in the same "
                "chain, which then collides steps instead of gradients (KO paper, Fig. 1). Put the "
                "collision first: optax.chain(kinopt.soft_collision(...), optax.adamw(...)).",
                stacklevel=3,
            )
        before |= {
            n for n in _names(part) if n.startswith(("ScaleBy", "Trace", "ECD", "Isokinetic"))
        }
    for part in opt_state:
        _warn_of_order(part)


def _warn_of_equal_keys(states: list[CollisionState]) -> None:
    seen: set[tuple] = set()
    for state in states:
        (key,) = jax.tree.leaves(state.key) or (None,)
        if key is None or is_traced(key) or not isinstance(state.stats, dict):
            continue
        mine = {(type(state), path, *np.ravel(key).tolist()) for path in state.stats}
        if seen & mine:
            warnings.warn(
                "two collisions in this state have the same key, and draw the same directions and "
                "cells for the same leaf: give one of them another, key=1.",
                stacklevel=3,
            )
        seen |= mine


def _shown(value: Any) -> str:
    if is_traced(value) or jnp.ndim(value):
        return f"{value.dtype}[{','.join(map(str, jnp.shape(value)))}]"
    return f"{float(value):.3g}"


def _advice(stats: CollisionStats) -> list[str]:
    numbers = stats.num_uphill, stats.num_skipped
    if any(is_traced(x) or jnp.ndim(x) for x in numbers if x is not None):
        return []
    lines = []
    if stats.num_uphill is not None and stats.num_uphill > 0:
        lines.append(
            f"  In {float(stats.num_uphill):.0f} updates the gain was above 1: such an update may "
            "go uphill. Lower coll_coef, or leave it out for 1/n."
        )
    if stats.num_skipped is not None and stats.num_skipped > 0:
        lines.append(
            f"  {float(stats.num_skipped):.0f} batch slices kept their gradient, because a NaN or "
            "an infinity turned up."
        )
    return lines
