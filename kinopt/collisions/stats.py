"""The state of a collision, and what can be read from it."""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Int, UInt32

from kinopt._typing import PyTree, Scalar
from kinopt.collisions.hard import HardStats
from kinopt.collisions.soft import SoftStats
from kinopt.layers import leaf_paths

__all__ = ["CollisionState", "CollisionStats", "HardState", "SoftState", "collision_stats"]


class CollisionState(NamedTuple):
    """State of a collision; `stats` has the structure of the parameters.

    A leaf that collides has a float32 vector there, the fields of its law's statistics followed by
    `num_skipped`; any other leaf has a zero. `collision_stats` reads it.
    """

    count: Int[Array, ""]  # updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    key: UInt32[Array, " words"] | None  # raw data of the base key; None where nothing is drawn
    stats: PyTree  # of Float[Array, "fields"] or Float[Array, ""]


class SoftState(CollisionState):
    """State of a soft collision; its type says what the statistics are."""

    law_stats = SoftStats


class HardState(CollisionState):
    """State of a hard collision."""

    law_stats = HardStats


class CollisionStats(NamedTuple):
    """What the last update did to a leaf; averages, and maxima, over its batch slices.

    A field that a law does not have is None.
    """

    accepted_fraction: Scalar | None  # of candidate pairs; hard collisions
    energy_ratio: Scalar  # |g'|^2 / |g|^2
    gain: Scalar | None  # c |M|_inf; soft collisions; above 1 descent is not guaranteed
    mean_abs_cosine: Scalar  # of the weights, over pairs of neurons
    max_abs_cosine: Scalar
    num_skipped: Scalar  # slices left as they were because of a NaN or infinity, since `init`


_NOT_MEASURED: dict[str, Any] = dict.fromkeys(CollisionStats._fields)


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

    >>> import jax.numpy as jnp, kinopt, optax
    >>> params = {"head": jnp.array([[1.0, 1.0], [0.0, 0.1]]), "bias": jnp.zeros(2)}
    >>> tx = optax.chain(kinopt.soft_collision(0.1), optax.adam(1e-3))
    >>> _, state = tx.update(params, tx.init(params), params)  # weights for gradients
    >>> stats = kinopt.collision_stats(state)
    >>> list(stats), round(float(stats["head"].max_abs_cosine), 3)
    (['head'], 0.995)
    """
    states = [
        node
        for node in jax.tree.leaves(opt_state, is_leaf=_is_collision_state)
        if isinstance(node, SoftState | HardState)
    ]
    if not states:
        raise ValueError(
            "there is no collision in this state: pass the optimizer state, or a part of it that "
            "holds the state of soft_collision or hard_collision."
        )
    found: dict[str, CollisionStats] = {}
    for state in states:
        (count,) = jax.tree.leaves(state.count)
        for path, vector in zip(leaf_paths(state.stats), jax.tree.leaves(state.stats), strict=True):
            if vector.ndim == count.ndim:  # axes that count has too belong to a vmap
                continue
            fields = (*state.law_stats._fields, "num_skipped")
            values = {field: vector[..., n] for n, field in enumerate(fields)}
            name, number = path, 1
            while name in found:
                number += 1
                name = f"{path}#{number}"
            found[name] = CollisionStats(**_NOT_MEASURED | values)
    return found


def _is_collision_state(node: Any) -> bool:
    return isinstance(node, SoftState | HardState)
