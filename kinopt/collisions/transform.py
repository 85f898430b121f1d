"""A collision law over the chosen leaves of a tree, as an Optax transformation.

Collisions come first in a chain, on the raw gradient (KO paper, Fig. 1):

    optax.chain(kinopt.soft_collision(0.05, mask=kinopt.layer_mask("head")), optax.adamw(1e-3))

A leaf is seen as `[batch, neurons, features]`, each slice collides on its own, and everything else
passes through untouched. A slice in which a NaN or an infinity turns up keeps its gradient, so that
the accident does not spread from neuron to neuron; `num_skipped` counts such slices.
"""

import functools
import math
import warnings
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, UInt32

from kinopt._keys import key_data, typed_key
from kinopt._typing import Key, Neurons, PyTree, Scalar, Schedule
from kinopt.collisions.hard import Combine, Distance, HardStats, Scatter, hard_law
from kinopt.collisions.soft import SoftStats, soft_law
from kinopt.layers import Leaf, collidable_leaves, from_neurons, leaf_paths, to_neurons
from kinopt.trees import accumulator_dtype

__all__ = [
    "CollisionState",
    "CollisionStats",
    "collision_stats",
    "hard_collision",
    "soft_collision",
]

LARGE_LAYER = 8192
"""From here on a step costs enough to say so: N^2 D work at every update."""


class CollisionState(NamedTuple):
    """State of a collision; `stats` has the structure of the parameters.

    A leaf that collides has a float32 vector there, the fields of its law's statistics followed by
    `num_skipped`; any other leaf has a zero. `collision_stats` reads it.
    """

    count: Int[Array, ""]  # updates so far
    key: UInt32[Array, " words"] | None  # raw data of the base key; None for a soft collision
    stats: PyTree  # of Float[Array, "fields"] or Float[Array, ""]


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


def soft_collision(
    coll_coef: float | Scalar | Schedule = 0.05,
    *,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    neuron_axes: PyTree | Callable[[PyTree], PyTree] | None = None,
    self_term: bool = True,
    normalize: bool = False,
    block_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Repels neurons that are alike and move alike, before the base optimizer.

    For a layer with weights $W$ and gradients $G$, both $[N, D]$ with a row for each neuron,

    $$ G' = (I - c\,M)\,G, \qquad M = \cos(W, W) \circ \cos(G, G) $$

    with the cosines between rows, the elementwise product, and $c$ = `coll_coef` (KO paper,
    Algorithm 2). $M$ is positive semidefinite with trace $N$: the result is sure to be a descent
    direction while $c\,\|M\|_\infty \le 1$, the `gain` of `collision_stats`. Useful values have
    $c N$ between 1 and 5.

    Args:
        coll_coef: $c \ge 0$, a number or a schedule of the update count. 0 is the identity.
        mask: which leaves collide: a tree of bool, a prefix of one, or a function that makes one
            from the parameters, such as `layer_mask("head")`. None: every floating leaf with two
            axes or more.
        neuron_axes: which axes count neurons: a `NeuronAxes`, a tree of them (None for the
            default), a prefix of one, or a function that makes one. None: the last axis.
        self_term: keep the diagonal of $M$, as the paper does: a factor $1 - c$ on each gradient,
            which is a smaller learning rate under SGD and nothing under Adam.
        normalize: divide $M$ by its infinity norm (of each batch slice), so that every $c \in
            [0, 1]$ descends.
        block_size: rows of $M$ in memory at once; the result does not depend on it. None: all of
            them up to 4,096 neurons, 512 above.

    Returns:
        A transformation that needs `params`. It keeps shapes, types and structure, accumulates in
        float32 or wider, and leaves other leaves, and leaves with one neuron, bit for bit.

    Raises:
        ValueError: a coefficient out of range; no parameters; a mask or axes that do not fit.

    >>> params = {"head": {"kernel": jnp.array([[1.0, 1.0], [0.0, 0.1]])}}  # two like neurons
    >>> grads = {"head": {"kernel": jnp.array([[1.0, 1.0], [0.0, 0.0]])}}
    >>> tx = soft_collision(0.1)
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> updates["head"]["kernel"]
    Array([[0.8004963, 0.8004963],
           [0.       , 0.       ]], dtype=float32)
    >>> print(f'{collision_stats(state)["head/kernel"].gain:.4f}')
    0.1995
    """
    _check_number("coll_coef", coll_coef, 0, 1 if normalize else None)
    _check_block_size(block_size)

    def law(w: Neurons, g: Neurons, key: Array | None, c: Scalar) -> tuple[Neurons, SoftStats]:
        return soft_law(w, g, c, self_term=self_term, normalize=normalize, block_size=block_size)

    return _collision(law, SoftStats, coll_coef, None, mask, neuron_axes, all_pairs=True)


def hard_collision(
    coll_coef: float | Scalar | Schedule = 0.2,
    *,
    key: Key = 0,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    neuron_axes: PyTree | Callable[[PyTree], PyTree] | None = None,
    distance: Distance = "rms",
    approaching_only: bool = False,
    combine: Combine = "sum",
    restitution: float | Scalar = 1.0,
    scatter: Scatter = "pairs",
    block_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lets near and fast neurons scatter like hard spheres, before the base optimizer.

    Neurons $i$ and $j$ collide when $g_r e^{-w_r} > (1 - c) \max g_r$, with $g_r = |g_i - g_j|$
    and $w_r = |w_i - w_j|$ (KO paper, Eq. 7), and then

    $$ g_i' = g_i + \sum_j a_{ij} \left[ \tfrac12 (g_j - g_i) + \tfrac{e}{2} g_r n_{ij} \right] $$

    with $n_{ij} = -n_{ji}$ uniform on the unit sphere (Eqs. 5, 6, 8, Algorithm 1). The paper's
    setting is `hard_collision(c, distance="l2")`; with raw distances it accepts almost no pair of
    an ordinary layer, which is why distances are root-mean-square by default.

    Args:
        coll_coef: $c$ in [0, 1], a number or a schedule of the update count. 0 is the identity, 1
            accepts every pair in relative motion.
        key: an int, a typed key or raw key data.
        mask: as in `soft_collision`.
        neuron_axes: as in `soft_collision`.
        distance: $w_r$: `"l2"`, $|w_i - w_j|$ (the paper), or `"rms"`, $|w_i - w_j| / \sqrt D$.
        approaching_only: accept only pairs that approach, $(w_i - w_j) \cdot (g_i - g_j) > 0$ for
            velocities $-g$: what the paper's proof of Theorem 3.3 assumes and Eq. 7 does not ask.
        combine: $a_{ij}$. `"sum"`: 1 (Eq. 8), which conserves momentum and not energy.
            `"metropolis"`: $1 / \max(\deg_i, \deg_j)$ over accepted pairs: momentum is conserved
            and the expected energy never grows. `"matching"`: one random perfect matching as
            candidates, accepted by Eq. 7 with the maximum over them: momentum and energy are
            conserved, at O(N D) cost (DSMC).
        restitution: $e$ in [0, 1]: 1 is elastic (the paper), 0 leaves no scattering.
        scatter: `"pairs"`: a direction for each accepted pair. `"gaussian"`: one Gaussian draw
            with the same mean and covariance through the Laplacian's Cholesky factor: cheaper
            above about 2 % of pairs, and it ignores the shape of the sphere. Not for `"matching"`.
        block_size: rows of N x N quantities in memory at once; the result does not depend on it.
            None: all of them up to 4,096 neurons, 512 above. Not for `scatter="gaussian"`.

    Returns:
        A transformation that needs `params`. It keeps shapes, types and structure, accumulates in
        float32 or wider, and leaves other leaves, and leaves with one neuron, bit for bit. Leaves
        draw different directions, and the same ones whatever else is in the tree.

    Raises:
        ValueError: a value out of range; no parameters; a mask or axes that do not fit.

    Under `optax.inject_hyperparams`, `key`, `block_size`, `mask` and `neuron_axes` are static.

    >>> params = {"head": {"kernel": jnp.array([[0.0, 0.1], [0.0, 0.0]])}}
    >>> grads = {"head": {"kernel": jnp.array([[1.0, -1.0], [2.0, 2.0]])}}
    >>> tx = hard_collision(0.5, key=0)
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> updates["head"]["kernel"].sum(axis=1)  # momentum is conserved
    Array([0., 4.], dtype=float32)
    >>> stats = collision_stats(state)["head/kernel"]
    >>> float(stats.accepted_fraction), float(stats.energy_ratio.round(5))
    (1.0, 1.0)
    """
    _check_number("coll_coef", coll_coef, 0, 1)
    _check_number("restitution", restitution, 0, 1)
    _check_choice("distance", distance, Distance)
    _check_choice("combine", combine, Combine)
    _check_choice("scatter", scatter, Scatter)
    _check_block_size(block_size)
    if scatter == "gaussian" and (combine == "matching" or block_size is not None):
        raise ValueError(
            "scatter='gaussian' factors the N x N Laplacian of all accepted pairs: a matching has "
            "too few of them to gain, and blocks of rows do not fit it. Use scatter='pairs' with "
            "combine='matching' or with block_size."
        )

    def law(w: Neurons, g: Neurons, key: Array | None, c: Scalar) -> tuple[Neurons, HardStats]:
        assert key is not None
        return hard_law(
            w,
            g,
            key,
            c,
            distance=distance,
            approaching_only=approaching_only,
            combine=combine,
            restitution=restitution,
            scatter=scatter,
            block_size=block_size,
        )

    all_pairs = combine != "matching"
    return _collision(law, HardStats, coll_coef, key, mask, neuron_axes, all_pairs=all_pairs)


def collision_stats(opt_state: PyTree) -> dict[str, CollisionStats]:
    """What the last update of the collisions in an optimizer state did, by leaf path.

    The state may be nested in any way: chained, masked, accumulated, partitioned, injected. Where
    two collisions treat the same leaf, the later one in the chain gets "#2" after the path.

    Returns:
        A dict from the leaf's path, such as "head/kernel", to its `CollisionStats` of scalars on
        the device. Only leaves that collide are in it.

    Raises:
        ValueError: there is no collision in the state.
    """
    states = [
        node
        for node in jax.tree.leaves(opt_state, is_leaf=_is_collision_state)
        if _is_collision_state(node)
    ]
    if not states:
        raise ValueError(
            "there is no collision in this state: pass the optimizer state, or a part of it that "
            "holds the state of soft_collision or hard_collision."
        )
    found: dict[str, CollisionStats] = {}
    for state in states:
        law_stats = SoftStats if state.key is None else HardStats
        (count,) = jax.tree.leaves(state.count)
        for path, vector in zip(leaf_paths(state.stats), jax.tree.leaves(state.stats), strict=True):
            if vector.ndim == count.ndim:  # axes that count has too belong to a vmap
                continue
            fields = (*law_stats._fields, "num_skipped")
            values = {field: vector[..., n] for n, field in enumerate(fields)}
            name, number = path, 1
            while name in found:
                number += 1
                name = f"{path}#{number}"
            found[name] = CollisionStats(*map(values.get, CollisionStats._fields))
    return found


def _is_collision_state(node: Any) -> bool:
    return isinstance(node, CollisionState)


def _collision(
    law: Callable[[Neurons, Neurons, Array | None, Scalar], tuple[Neurons, tuple]],
    law_stats: type[SoftStats] | type[HardStats],
    coll_coef: float | Scalar | Schedule,
    key: Key | None,
    mask: PyTree | Callable[[PyTree], PyTree] | None,
    neuron_axes: PyTree | Callable[[PyTree], PyTree] | None,
    all_pairs: bool,
) -> optax.GradientTransformationExtraArgs:
    """The transformation that applies a law to every leaf that collides."""

    def init(params: PyTree) -> CollisionState:
        leaves = collidable_leaves(params, mask, neuron_axes)
        _warn(leaves, mask, all_pairs)
        stats = [
            jnp.zeros((), jnp.int32)
            if leaf.axes is None
            else jnp.zeros(len(law_stats._fields) + 1, jnp.float32)
            for leaf in leaves
        ]
        return CollisionState(
            count=jnp.zeros((), jnp.int32),
            key=None if key is None else key_data(key),
            stats=jax.tree.unflatten(jax.tree.structure(params), stats),
        )

    # Compiled here, so that an update outside of jit does not compile its loops anew at each call.
    @functools.partial(jax.jit, static_argnums=0)
    def collide(leaf: Leaf, w: Array, g: Array, stats: Array, key: Array | None, c: Scalar):
        assert leaf.axes is not None
        dtype = accumulator_dtype(w, g)
        ws, gs = (to_neurons(x.astype(dtype), leaf.axes) for x in (w, g))

        def one(w: Neurons, g: Neurons, number: Array) -> tuple[Neurons, Array, Array]:
            after, seen = law(w, g, None if key is None else jax.random.fold_in(key, number), c)
            finite = jnp.all(jnp.isfinite(after))
            return jnp.where(finite, after, g), jnp.where(finite, jnp.stack(seen), 0), ~finite

        if len(ws) == 1:  # a vmap over one slice would still turn branches into selects
            after, seen, skipped = (x[None] for x in one(ws[0], gs[0], jnp.zeros((), jnp.int32)))
        else:
            after, seen, skipped = jax.vmap(one)(ws, gs, jnp.arange(len(ws)))
        overall = jnp.where(_is_maximum(law_stats), jnp.max(seen, axis=0), jnp.mean(seen, axis=0))
        num_skipped = stats[-1] + jnp.sum(skipped)
        return (
            from_neurons(after, leaf.shape, leaf.axes).astype(g.dtype),
            jnp.append(overall.astype(jnp.float32), num_skipped),
        )

    def update(
        updates: PyTree, state: CollisionState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, CollisionState]:
        del extra_args
        gradients, structure = jax.tree.flatten(updates)
        weights = _weights(params, structure)
        c = coll_coef(state.count) if callable(coll_coef) else coll_coef
        step_key = None
        if key is not None:
            step_key = jax.random.fold_in(typed_key(state.key, key), state.count)

        stats = jax.tree.leaves(state.stats)
        for n, leaf in enumerate(collidable_leaves(params, mask, neuron_axes)):
            if leaf.axes is None:
                continue
            # By name, not by number: what else is in the tree, or masked, changes nothing.
            name = zlib.crc32(leaf.path.encode())
            leaf_key = None if step_key is None else jax.random.fold_in(step_key, name)
            gradients[n], stats[n] = _with_auto_axes(
                functools.partial(collide, leaf), weights[n], gradients[n], stats[n], leaf_key, c
            )
        new_state = CollisionState(
            count=optax.safe_increment(state.count),
            key=state.key,
            stats=jax.tree.unflatten(jax.tree.structure(state.stats), stats),
        )
        return jax.tree.unflatten(structure, gradients), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def _is_maximum(law_stats: type[SoftStats] | type[HardStats]) -> Array:
    """Which statistics of a leaf are the largest of its slices; the others are their mean."""
    return jnp.array([name in ("gain", "max_abs_cosine") for name in law_stats._fields])


def _weights(params: PyTree, structure: jax.tree_util.PyTreeDef) -> list[Array]:
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


def _with_auto_axes(collide: Callable, w: Array, g: Array, *rest: Any) -> tuple[Array, Array]:
    """Runs `collide` with the compiler choosing layouts where the mesh's axes are Explicit.

    Under Explicit axes each product of two sharded matrices would have to name its layout. The
    result gets the gradient's layout.
    """
    g_sharding, w_sharding = jax.typeof(g).sharding, jax.typeof(w).sharding
    for sharding in (g_sharding, w_sharding):
        if jax.sharding.AxisType.Explicit in sharding.mesh.axis_types:
            replicated = jax.NamedSharding(sharding.mesh, jax.P())
            layout = g_sharding if sharding is g_sharding else replicated
            collide = jax.sharding.auto_axes(collide, out_sharding=(layout, replicated))
            break
    return collide(w, g, *rest)


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
                "square of the number of neurons. Leave it out with mask=, or use "
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


def _check_number(name: str, value: Any, low: float, high: float | None) -> None:
    """Raises on a plain number out of range; arrays and schedules cannot be looked into."""
    if isinstance(value, str) or value is None:
        raise ValueError(f"{name} must be a number or a schedule, got {value!r}.")
    if not isinstance(value, int | float | np.number):
        return
    if not (low <= value and (value <= high if high is not None else math.isfinite(value))):
        upper = "" if high is None else f" and at most {high}"
        raise ValueError(f"{name} must be at least {low}{upper}, got {value}.")


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}.")


def _check_block_size(block_size: Any) -> None:
    if block_size is not None and not (isinstance(block_size, int | np.integer) and block_size > 0):
        raise ValueError(
            f"block_size must be a positive int or None, got {block_size!r}. It sets array shapes: "
            "under optax.inject_hyperparams, name it in static_args."
        )
