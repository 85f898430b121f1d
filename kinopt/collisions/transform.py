"""Collisions as Optax transformations: the two laws, with all their settings.

Collisions come first in a chain, on the raw gradient (KO paper, Fig. 1):

    optax.chain(kinopt.soft_collision(0.05, mask=kinopt.layer_mask("head")), optax.adamw(1e-3))
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import optax
from jaxtyping import Array

from kinopt._checks import check_choice, check_count, check_flag, check_key, check_number
from kinopt._typing import Key, Number, PyTree, Schedule
from kinopt.collisions.all_pairs import Scatter
from kinopt.collisions.cells import Cells
from kinopt.collisions.hard import Combine, Distance, HardStats, hard_law
from kinopt.collisions.per_leaf import Law, Leaves, Scheme, collide_leaves
from kinopt.collisions.soft import Alike, SoftGradientStats, SoftStats, soft_law
from kinopt.collisions.stats import CollisionState, Measured

__all__ = ["hard_collision", "soft_collision"]


class SoftState(CollisionState):
    """State of a soft collision."""

    measured = Measured(SoftStats)


class SoftGradientState(CollisionState):
    """State of a soft collision with `alike="gradients"`."""

    measured = Measured(SoftGradientStats)


class HardState(CollisionState):
    """State of a hard collision."""

    measured = Measured(HardStats)


def soft_collision(
    coll_coef: Number | Schedule | None = None,
    *,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    neuron_axes: PyTree | Callable[[PyTree], PyTree] | None = None,
    self_term: bool = True,
    normalize: bool = False,
    alike: Alike = "both",
    block_size: int | np.integer | None = None,
    cell_size: int | np.integer | None = None,
    cells: Cells = "random",
    key: Key = 0,
    every: int | np.integer | Array = 1,
    sharding: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Slows neurons that are alike and move alike, before the base optimizer.

    For a layer with weights $W$ and gradients $G$, both $[N, D]$ with a row for each neuron,

    $$ G' = (I - c\,M)\,G, \qquad M = \cos(W, W) \circ \cos(G, G) $$

    with the cosines between rows, the elementwise product, and $c$ = `coll_coef` (KO paper,
    Algorithm 2; the paper's setting is `soft_collision(c)`). $M$ is positive semidefinite with
    trace $N$: $c = 1/N$, the default, always gives a descent direction, and a larger $c$ does so
    while $c\,\|M\|_\infty \le 1$, the `gain` of `collision_stats`.

    The common motion of neurons that are alike is braked; they are not pushed apart, and the rate
    of the base optimizer must be tuned again to gain from it.

    Args:
        coll_coef: $c \ge 0$, a number or a schedule of the update count. 0 is the identity. None:
            $1/n$ in each leaf, for the $n$ neurons that meet: $N$, or those of a cell.
        mask: which leaves collide: a pattern or several, as in `layer_mask`; a tree of bool, a
            prefix of one, or a function that makes one from the parameters. None: every floating
            leaf with two axes or more.
        neuron_axes: which axes count neurons: a `NeuronAxes`, a tree of them (None for the
            default), a prefix of one, or a function that makes one. None: the last axis.
        self_term: keep the diagonal of $M$, as the paper does: a factor $1 - c$ on each gradient,
            which is a smaller learning rate under SGD and nothing under Adam.
        normalize: divide $M$ by its infinity norm (of each batch slice), so that every $c \in
            [0, 1]$ descends.
        alike: `"both"`: $M$ as above. `"gradients"`: $M = \cos(G, G)$ alone, which goes on
            damping a common mode when the weights have parted.
        block_size: rows of $M$ in memory at once; the result does not depend on it. None: all of
            them up to 2,048 neurons, fewer above.
        cell_size: neurons collide in cells of at most so many, drawn anew at every step, and $M$
            has a block for each cell: work N `cell_size` D. None: all with all.
        cells: `"random"`: in the mean over steps the force between neurons is $\sum_k s_k (s_k -
            1) / N (N - 1)$ of the exact one, in its direction, for cells of $s_k$ neurons.
            `"hash"`: by a locality-sensitive hash of the weights, so that neurons that are alike
            meet: more of the force, but another direction, however many steps are averaged.
        key: an int, a typed key or raw key data; used for cells only, and only then in the state.
            Two soft collisions in one chain with the same key draw the same cells.
        every: collide at every so many updates, beginning with the first; gradients pass through
            the others, which cost nothing. Under `vmap` they cost as much.
        sharding: how leaves lie on a mesh, where types do not say it: a PartitionSpec or
            NamedSharding for each leaf, a prefix of such a tree, or a function that makes one.
            Needed under Auto axes, to keep whole leaves from being gathered on every device, and
            inside `jax.shard_map`, for leaves of which a device has a part; Explicit axes say it.

    Returns:
        A transformation that needs `params`. It keeps shapes, types and structure, accumulates in
        float32 or wider, and leaves other leaves, and leaves with one neuron, bit for bit.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a coefficient out of range; no parameters; a mask or axes that do not fit;
            complex leaves.

    Under `optax.inject_hyperparams`, pass `static_args=kinopt.static_args(soft_collision)`.

    >>> import kinopt, jax.numpy as jnp
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
    most = 1 if normalize is True else None
    check_number("coll_coef", coll_coef, least=0, most=most, schedule=True, optional=True)
    check_flag("self_term", self_term)
    check_flag("normalize", normalize)
    check_choice("alike", alike, Alike)
    law = functools.partial(soft_law, self_term=self_term, normalize=normalize, alike=alike)
    return collide_leaves(
        Law(
            lambda w, g, key, c, crowd: law(w, g, c, crowd=crowd),
            SoftState if alike == "both" else SoftGradientState,
        ),
        _scheme(block_size, cell_size, cells, every, key),
        coll_coef,
        key,
        Leaves(mask, neuron_axes, sharding),
    )


def hard_collision(
    coll_coef: Number | Schedule = 0.01,
    *,
    key: Key = 0,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    neuron_axes: PyTree | Callable[[PyTree], PyTree] | None = None,
    distance: Distance = "rms",
    approaching_only: bool = False,
    combine: Combine = "metropolis",
    restitution: Number = 1.0,
    scatter: Scatter = "auto",
    block_size: int | np.integer | None = None,
    cell_size: int | np.integer | None = None,
    cells: Cells = "random",
    every: int | np.integer | Array = 1,
    sharding: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lets near and fast neurons scatter like hard spheres, before the base optimizer.

    Neurons $i$ and $j$ collide when $g_r e^{-w_r} > (1 - c) \max g_r$, with $g_r = |g_i - g_j|$
    and $w_r = |w_i - w_j|$ (KO paper, Eq. 7), and then

    $$ g_i' = g_i + \sum_j a_{ij} \left[ \tfrac12 (g_j - g_i) + \tfrac{e}{2} g_r n_{ij} \right] $$

    with $n_{ij} = -n_{ji}$ uniform on the unit sphere (Eqs. 5, 6, 8, Algorithm 1). The paper's
    setting is `hard_collision(c, distance="l2", combine="sum", scatter="pairs")`. The defaults
    depart from it where it does not work: with raw distances it accepts almost no pair of an
    ordinary layer, and its sum multiplies the gradient's energy where many collide. They also are
    such that nothing is lost where nothing is gained: at c = 0.01 only neurons with nearly the
    same weights collide. At c = 0.2 most pairs of a fresh layer do, which halves all differences
    between their gradients.

    Args:
        coll_coef: $c$ in [0, 1], a number or a schedule of the update count. 0 is the identity, 1
            accepts every pair in relative motion; whoever collides has $w_r < -\ln(1 - c)$.
        key: an int, a typed key or raw key data. Leaves, steps, batch slices and cells draw
            independently of each other; two hard collisions in one chain need different keys.
        mask: as in `soft_collision`.
        neuron_axes: as in `soft_collision`.
        distance: $w_r$: `"l2"`, $|w_i - w_j|$ (the paper), or `"rms"`, $|w_i - w_j| / \sqrt D$.
        approaching_only: accept only pairs that approach, $(w_i - w_j) \cdot (g_i - g_j) > 0$ for
            velocities $-g$: what the paper's proof of Theorem 3.3 assumes and Eq. 7 does not ask.
        combine: $a_{ij}$. `"metropolis"`: $1 / \max(\deg_i, \deg_j)$ over accepted pairs:
            momentum is conserved and the expected energy never grows. `"sum"`: 1 (Eq. 8), which
            conserves momentum and not energy. `"matching"`: one random perfect matching as
            candidates, accepted by Eq. 7 with the maximum over them: momentum and energy are
            conserved, at O(N D) cost (DSMC).
        restitution: $e$ in [0, 1]: 1 is elastic (the paper), 0 leaves no scattering.
        scatter: `"pairs"`: a direction for each accepted pair, at a cost that grows with them.
            `"gaussian"`: Gaussian noise of the same mean and covariance, through a factor of the
            Laplacian, at the same cost at any density; each pair keeps its momentum too. `"auto"`:
            `"gaussian"` where more than $2 N$ and one in a hundred pairs collide, else `"pairs"`.
            A matching always has a direction for each pair.
        block_size: rows of N x N quantities in memory at once; the result does not depend on it.
            None: all of them up to 2,048 neurons, fewer above.
        cell_size: as in `soft_collision`; max g_r, degrees and matchings are those of a cell.
        cells: as in `soft_collision`.
        every: as in `soft_collision`.
        sharding: as in `soft_collision`.

    Returns:
        A transformation that needs `params`. It keeps shapes, types and structure, accumulates in
        float32 or wider, and leaves other leaves, and leaves with one neuron, bit for bit. Leaves
        draw different directions, and the same ones whatever else is in the tree.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a value out of range; no parameters; a mask or axes that do not fit; complex
            leaves; `scatter="gaussian"` for a matching.

    Under `optax.inject_hyperparams`, pass `static_args=kinopt.static_args(hard_collision)`.

    Derivatives through an update: forward mode works everywhere; reverse mode with
    `scatter="gaussian"`, with `combine="matching"` and without scattering, but not pair by pair,
    in a loop whose length depends on the data. Who collides is not differentiated.

    >>> import kinopt, jax.numpy as jnp
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
    check_number("coll_coef", coll_coef, least=0, most=1, schedule=True)
    check_number("restitution", restitution, least=0, most=1)
    check_choice("distance", distance, Distance)
    check_choice("combine", combine, Combine)
    check_choice("scatter", scatter, Scatter)
    check_flag("approaching_only", approaching_only)
    if scatter == "gaussian" and combine == "matching":
        raise ValueError(
            "scatter='gaussian' is for many partners of each neuron, and in a matching a neuron "
            "has one. Leave scatter= out, or use combine='metropolis'."
        )
    law = functools.partial(
        hard_law,
        distance=distance,
        approaching_only=approaching_only,
        combine=combine,
        restitution=restitution,
        scatter=scatter,
    )
    return collide_leaves(
        Law(
            lambda w, g, key, c, crowd: law(w, g, key, c, crowd=crowd),
            HardState,
            draws=True,
            **({"candidates": lambda neurons: neurons // 2} if combine == "matching" else {}),
        ),
        _scheme(block_size, cell_size, cells, every, key),
        coll_coef,
        key,
        Leaves(mask, neuron_axes, sharding),
    )


def _scheme(block_size: Any, cell_size: Any, cells: Any, every: Any, key: Any) -> Scheme:
    check_choice("cells", cells, Cells)
    check_key("key", key)
    return Scheme(
        check_count("block_size", block_size),
        check_count("cell_size", cell_size, least=2),
        cells,
        check_count("every", every, optional=False, traced=True),
    )
