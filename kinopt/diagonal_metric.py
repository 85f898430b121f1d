r"""A descent under a diagonal metric: each entry has a scale of its own, given or learnt.

With a scale D_i for each entry, Theta = D x, a descent runs in the coordinates x: it is given the
gradient D grad F, and what it adds to x moves Theta by D times that. H(V, |Pi|^2) of x is
H(V, |D Pi|^2) of Theta: an entry has the mass 1/D_i^2. Where D is fixed, all that is true of the
descent stays true, with |dTheta/D| for a length: energy, speed, orbits, and its density, since the
map is linear. Learnt scales are those of Adafactor (arXiv 1804.04235, section 3), half of them on
each side: with running means of squared gradients over the rows and the columns of each leaf,

$$
r_i = mean_j g_ij^2,   c_j = mean_i g_ij^2,   m = mean of g^2 over all parameters
D_ij = k (r_i / mean(r) + eps)^(-1/4) (c_j / m + eps)^(-1/4),   with k so that mean(D^2) = 1
$$

D^2 g, where a descent sets off to, is then g/sqrt(r c/mean(r)) but for its length, nearly Adam's
direction, and the state is a number for each row and column. The scales follow the gradients
slowly; while they change, neither energy nor density is conserved.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kinopt import trees
from kinopt._checks import check_number, is_concrete
from kinopt._typing import Number, PyTree
from kinopt.layers import along_leaves

__all__ = ["MetricState", "in_metric"]


class MetricState(NamedTuple):
    """State of `in_metric`. Running means of squared gradients, float32 or wider, leaf by leaf.

    They are tuples: none of them stands in the place of a parameter, whose shape it has not.
    """

    rows: PyTree  # of a leaf [..., n] the r, [..., 1]; () where scales are given
    columns: PyTree  # of a leaf [..., n] the c, [1, ..., n]; () likewise
    inner: PyTree  # state of the descent


def in_metric(
    optimizer: Any,
    scales: PyTree | Callable[[PyTree], PyTree] | None = None,
    *,
    decay: Number = 0.99,
    eps: Number = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Runs a descent in the coordinates Theta / D.

    $$
    update(g) = D descent(D g),   Theta <- Theta + update
    $$

    For `kinopt.isokinetic` where one length for all entries is behind Adam's scale for each, as on
    transformers: with learnt scales its state is still one momentum, and a number for each row and
    column. The scales have a mean square of 1, so that rates stay what they are.

    Args:
      optimizer: a descent: isokinetic, bbi, ecdsep, ecd.
      scales: D > 0: a tree of numbers or arrays, one for each leaf, or a prefix of it, or a
        function from the parameters to one. None: learnt. Columns are the last axis of a leaf, rows
        all others together.
      decay: in [0, 1]: what the running means keep of themselves in each step.
      eps: > 0: added to the means, in units of their mean.

    Returns:
      A transformation with `update(grads, state, params=None, *, value, **extra)`, state
      `MetricState`; all but the gradient is handed on, parameters as Theta / D, so that the
      descent's decoupled decay is the one it says. It closes a chain. Where a squared gradient is
      not finite, the scales stay as they were.

    Raises:
      TypeError: if `optimizer` is none.
      ValueError: for arguments out of range, scales that are not positive or of another structure
        or shape than the parameters.

    >>> import jax, jax.numpy as jnp, kinopt, optax
    >>> curvature = jnp.array([1e4, 1.0])
    >>> loss = lambda x: jnp.sum(curvature * x**2)
    >>> schedule = optax.cosine_decay_schedule(0.1, 200)
    >>> optimizer = kinopt.in_metric(kinopt.isokinetic(schedule), curvature**-0.5)
    >>> x = jnp.array([1e-2, 1.0])
    >>> state = optimizer.init(x)
    >>> for _ in range(200):
    ...     value, gradient = jax.value_and_grad(loss)(x)
    ...     update, state = optimizer.update(gradient, state, x, value=value)
    ...     x = optax.apply_updates(x, update)
    >>> bool(loss(x) < 1e-2)
    True
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"in_metric takes a descent, such as kinopt.isokinetic(0.1); got {optimizer!r}."
        )
    check_number("decay", decay, least=0, most=1)
    check_number("eps", eps, above=0)
    descent = optax.with_extra_args_support(optimizer)
    learns = scales is None

    def init(params: PyTree) -> MetricState:
        inner = descent.init(params)
        if not learns:
            _check_scales(scales, params)
            return MetricState((), (), inner)
        if not jax.tree.leaves(params):  # optax.tree.map_params wants a leaf for the means
            return MetricState(jnp.zeros(0), jnp.zeros(0), inner)
        return MetricState(*_means(jax.tree.map(jnp.zeros_like, params)), inner)

    @functools.partial(jax.jit, inline=True)
    def measured(state, gradient):
        state = _followed(state, gradient, decay)
        return state, _factors(state, gradient, eps)

    def update(updates, state, params=None, **extra_args):
        if learns:
            state, factors = measured(state, updates)
        else:
            factors = [(x,) for x in along_leaves(scales, updates, 1.0, "scales")]
        inside = None if params is None else _scaled(params, factors, jnp.divide)
        moved, inner = descent.update(_scaled(updates, factors), state.inner, inside, **extra_args)
        return _scaled(moved, factors), state._replace(inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _means(gradient: PyTree) -> tuple[tuple, tuple]:
    """The means of |g|^2 over the last axis, and over all others; 0 of what is no number."""
    rows, columns = [], []
    for g in jax.tree.leaves(gradient):
        if not trees.is_floating(g) or not np.size(g):
            g = jnp.zeros((), jnp.float32)
        g = jnp.abs(jnp.asarray(g).astype(trees.accumulator_dtype(g)))
        # Two squares: XLA would write a single one down.
        one, other = jnp.square(g), jnp.square(jax.lax.optimization_barrier(g))
        axes = tuple(range(g.ndim))
        rows.append(jnp.mean(one, axis=axes[-1:], keepdims=True))
        columns.append(jnp.mean(other, axis=axes[:-1], keepdims=True))
    return tuple(rows), tuple(columns)


def _followed(state: MetricState, gradient: PyTree, decay: Number) -> MetricState:
    """The running means after this gradient. Their common factor 1 - decay^n drops out of D."""
    newest, old = _means(gradient), (state.rows, state.columns)
    found, expected = ([tuple(map(np.shape, means)) for means in both] for both in (newest, old))
    if found != expected:
        raise ValueError(
            "the gradients have another structure or other shapes than the parameters the state "
            f"was made for: means of rows and columns of shapes {found}, there {expected}. Pass "
            "the same tree to init and to jax.grad."
        )
    good = jnp.isfinite(sum(map(jnp.sum, newest[0]), jnp.zeros(())))

    def mixed(old, new):
        weight, new = jnp.asarray(decay, old.dtype), trees.placed_like(new, old)
        return jnp.where(good, weight * old + (1 - weight) * new, old)

    rows, columns = (tuple(map(mixed, *both)) for both in zip(old, newest, strict=True))
    return state._replace(rows=rows, columns=columns)


def _factors(state: MetricState, like: PyTree, eps: Number) -> list[tuple[jax.Array, ...]]:
    """For each leaf the factors of D, of its rows and of its columns."""
    leaves = jax.tree.leaves(like)
    sizes = [np.size(g) if trees.is_floating(g) else 0 for g in leaves]
    means = list(zip(state.rows, state.columns, strict=True))
    total = max(sum(sizes), 1)
    whole = sum(size / total * jnp.mean(c) for size, (_, c) in zip(sizes, means, strict=True))

    def shares(mean, of):
        """(mean / of + eps)^(-1/4); 1 where there was no gradient yet."""
        share = jnp.where(of > 0, mean / jnp.where(of > 0, of, 1), 1)
        return jax.lax.rsqrt(jnp.sqrt(share + jnp.asarray(eps, share.dtype)))

    factors = [(shares(r, jnp.mean(r)), shares(c, jnp.asarray(whole, c.dtype))) for r, c in means]
    # The mean square of an outer product is the product of the mean squares.
    square = sum(
        size / total * jnp.mean(r**2) * jnp.mean(c**2)
        for size, (r, c) in zip(sizes, factors, strict=True)
    )
    return [(r, c / jnp.sqrt(jnp.asarray(square, c.dtype))) for r, c in factors]


@functools.partial(jax.jit, inline=True, static_argnames="by")
def _scaled(tree: PyTree, factors: list[tuple], by: Callable = jnp.multiply) -> PyTree:
    """Each floating leaf times its factors, or divided by them, in its own type."""
    leaves, structure = jax.tree.flatten(tree)

    def leaf(x, of_leaf):
        if not trees.is_floating(x):
            return x
        wide = jnp.asarray(x).astype(trees.accumulator_dtype(x))
        for factor in of_leaf:
            wide = by(wide, jnp.asarray(factor, wide.dtype))
        return wide.astype(x.dtype)

    pairs = zip(leaves, factors, strict=True)
    return jax.tree.unflatten(structure, [leaf(x, of_leaf) for x, of_leaf in pairs])


def _check_scales(scales: PyTree, params: PyTree) -> None:
    """Raises where a scale is not positive, or fits no leaf."""
    given = along_leaves(scales, params, 1.0, "scales")
    for (path, leaf), scale in zip(jax.tree.leaves_with_path(params), given, strict=True):
        name = jax.tree_util.keystr(path) or "the only leaf"
        shape, wanted = np.shape(scale), np.shape(leaf)
        ends = wanted[len(wanted) - len(shape) :] if len(shape) <= len(wanted) else None
        if ends is None or any(n not in (1, m) for n, m in zip(shape, ends, strict=True)):
            raise ValueError(f"the scales of {name} have shape {shape}, the parameters {wanted}.")
        if is_concrete(scale) and not np.all(np.asarray(scale) > 0):
            raise ValueError(f"the scales of {name} must be positive; got {scale}.")
