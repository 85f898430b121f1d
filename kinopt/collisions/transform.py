"""A collision law over the chosen leaves of a tree, as an Optax transformation.

Collisions come first in a chain, on the raw gradient (KO paper, Fig. 1):

    optax.chain(kinopt.soft_collision(0.05, mask=kinopt.layer_mask("head")), optax.adamw(1e-3))

A leaf is seen as `[batch, neurons, features]`, each slice collides on its own, and everything else
passes through untouched. A slice in which a NaN or an infinity turns up keeps its gradient, so that
the accident does not spread from neuron to neuron; `num_skipped` counts such slices.
"""

import functools
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kinopt._checks import check_block_size, check_choice, check_number
from kinopt._keys import key_data, typed_key
from kinopt._typing import Key, Neurons, PyTree, Scalar, Schedule
from kinopt.collisions.hard import Combine, Distance, HardStats, Scatter, hard_law
from kinopt.collisions.soft import SoftStats, soft_law
from kinopt.collisions.stats import CollisionState
from kinopt.layers import Leaf, collidable_leaves, from_neurons, to_neurons
from kinopt.trees import accumulator_dtype

__all__ = ["hard_collision", "soft_collision"]

ODD = 2654435769
"""2^32 over the golden ratio: multiples of it, modulo 2^32, come back only after 2^32 steps."""

LARGE_LAYER = 8192
"""From here on a step costs enough to say so: N^2 D work at every update."""


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
    direction while $c\,\|M\|_\infty \le 1$, the `gain` of `collision_stats`. Begin with $c N$
    about 1.

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
            them up to 2,048 neurons, fewer above.

    Returns:
        A transformation that needs `params`. It keeps shapes, types and structure, accumulates in
        float32 or wider, and leaves other leaves, and leaves with one neuron, bit for bit.

    Raises:
        ValueError: a coefficient out of range; no parameters; a mask or axes that do not fit.

    >>> import kinopt
    >>> params = {"head": {"kernel": jnp.array([[1.0, 1.0], [0.0, 0.1]])}}  # two like neurons
    >>> grads = {"head": {"kernel": jnp.array([[1.0, 1.0], [0.0, 0.0]])}}
    >>> tx = kinopt.soft_collision(0.1)
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> updates["head"]["kernel"]
    Array([[0.8004963, 0.8004963],
           [0.       , 0.       ]], dtype=float32)
    >>> print(f'{kinopt.collision_stats(state)["head/kernel"].gain:.4f}')
    0.1995
    """
    check_number("coll_coef", coll_coef, 0, 1 if normalize else None)
    check_block_size(block_size)

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
            with the same mean and covariance through the Laplacian's Cholesky factor, cheaper
            above about 1.5 % of pairs; momentum is conserved over all accepted neurons together.
            Not for `"matching"`.
        block_size: rows of N x N quantities in memory at once; the result does not depend on it.
            None: all of them up to 2,048 neurons, fewer above. Not for `scatter="gaussian"`.

    Returns:
        A transformation that needs `params`. It keeps shapes, types and structure, accumulates in
        float32 or wider, and leaves other leaves, and leaves with one neuron, bit for bit. Leaves
        draw different directions, and the same ones whatever else is in the tree.

    Raises:
        ValueError: a value out of range; no parameters; a mask or axes that do not fit.

    Under `optax.inject_hyperparams`, `key`, `block_size`, `mask` and `neuron_axes` are static.

    >>> import kinopt
    >>> params = {"head": {"kernel": jnp.array([[0.0, 0.1], [0.0, 0.0]])}}
    >>> grads = {"head": {"kernel": jnp.array([[1.0, -1.0], [2.0, 2.0]])}}
    >>> tx = kinopt.hard_collision(0.5, key=0)
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> updates["head"]["kernel"].sum(axis=1)  # momentum is conserved
    Array([0., 4.], dtype=float32)
    >>> stats = kinopt.collision_stats(state)["head/kernel"]
    >>> float(stats.accepted_fraction), float(stats.energy_ratio.round(5))
    (1.0, 1.0)
    """
    check_number("coll_coef", coll_coef, 0, 1)
    check_number("restitution", restitution, 0, 1)
    check_choice("distance", distance, Distance)
    check_choice("combine", combine, Combine)
    check_choice("scatter", scatter, Scatter)
    check_block_size(block_size)
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

        def one(w: Neurons, g: Neurons, key: Array | None) -> tuple[Neurons, Array, Array]:
            after, stats = law(w, g, key, c)
            seen = jnp.stack(stats)
            finite = jnp.all(jnp.isfinite(seen))  # energy_ratio has seen every entry of `after`
            return jnp.where(finite, after, g), jnp.where(finite, seen, 0), ~finite

        if len(ws) == 1:  # a vmap over one slice would still turn branches into selects
            after, seen, skipped = (x[None] for x in one(ws[0], gs[0], key))
        else:
            keys = None if key is None else jax.random.split(key, len(ws))
            after, seen, skipped = jax.vmap(one)(ws, gs, keys)
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
        base = None
        if key is not None and state.key is not None:
            base = typed_key(state.key, like=key)

        stats = jax.tree.leaves(state.stats)
        for n, leaf in enumerate(collidable_leaves(params, mask, neuron_axes)):
            if leaf.axes is None:
                continue
            leaf_key = None if base is None else _leaf_key(base, state.count, leaf.path)
            gradients[n], stats[n] = _with_auto_axes(
                functools.partial(collide, leaf), weights[n], gradients[n], stats[n], leaf_key, c
            )
        new_state = CollisionState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            key=state.key,
            stats=jax.tree.unflatten(jax.tree.structure(state.stats), stats),
        )
        return jax.tree.unflatten(structure, gradients), new_state

    # Optax's types do not know states that are NamedTuples.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _leaf_key(base: Array, count: Array, path: str) -> Array:
    """A key for this step and this leaf, by name: what else is in the tree changes nothing.

    One `fold_in` for both, since each costs as much as the soft law of a small head. Two leaves
    would share a key only at steps a fixed distance in 2^32 apart, as far as chance has it.
    """
    name = jnp.uint32(zlib.crc32(path.encode()))
    return jax.random.fold_in(base, count.astype(jnp.uint32) * jnp.uint32(ODD) + name)


def _is_maximum(law_stats: type[SoftStats] | type[HardStats]) -> Array:
    """Which statistics of a leaf are the largest of its slices; the others are their mean."""
    return jnp.array([name in ("gain", "max_abs_cosine") for name in law_stats._fields])


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
