"""The momentum as one vector: sums with the gradient, lengths, draws, and what its type can hold.

    Pi' = a Pi - k g                        `combine`
    |Pi - k g|^2                            `kicked_sq`
    f Pi - w Theta                          `displacement`
    B = keep (Pi - pull g) + mix N          `draw`, of a bounce or a turn

Everything is computed in float32 or wider (`kinopt.trees`), whatever the types of the leaves.
"""

import jax
import jax.numpy as jnp

from kinopt import trees
from kinopt._typing import PyTree, Scalar

__all__ = [
    "combine",
    "displacement",
    "draw",
    "is_narrow",
    "kicked_sq",
    "largest_momentum",
    "root",
    "stored",
    "stored_sq",
    "unit_roundoff",
]

CANCELLATION = 1e-2
"""|Pi - k g|^2 from inner products loses digits where it is small beside |Pi|^2 + k^2 |g|^2."""


def combine(a: Scalar, x: PyTree, b: Scalar, y: PyTree) -> PyTree:
    """A x + b y on the floating leaves of x, each in float32 or wider; x elsewhere."""

    def leaf(x, y):
        if not trees.is_floating(x):
            return x
        wide = trees.accumulator_dtype(x)
        return a.astype(wide) * x.astype(wide) + b.astype(wide) * y.astype(wide)

    return jax.tree.map(leaf, x, y)


def stored(new: PyTree, old: PyTree, good: jax.Array) -> PyTree:
    """The new momentum in the old one's types, or the old one."""

    def kept(new, old):  # chosen before it is rounded: one pass, where a type is narrow too
        return jnp.where(good, new, old.astype(new.dtype)).astype(old.dtype)

    return jax.tree.map(kept, new, old)


def stored_sq(momentum: PyTree) -> Scalar:
    """The square of the momentum as it is stored."""
    # The barrier makes this the norm of what is rounded to its type, read once.
    return trees.squared_norm(jax.lax.optimization_barrier(momentum))


def displacement(
    factor: Scalar,
    momentum: PyTree,
    gradient: PyTree,
    decay: Scalar,
    params: PyTree = None,
    mask: list[bool] | None = None,
) -> PyTree:
    """The update, factor Pi - decay Theta, in the gradient's types; no decay without parameters.

    `mask` says of each leaf whether it decays; None: all do.
    """
    leaves, structure = jax.tree.flatten(momentum)
    gradients = jax.tree.leaves(gradient)
    thetas = [None] * len(leaves) if params is None else jax.tree.leaves(params)
    decays = [True] * len(leaves) if mask is None else mask

    def leaf(pi, g, theta, on):
        if not trees.is_floating(pi):
            return jnp.zeros_like(pi if g.dtype == jax.dtypes.float0 else g)
        # Zero times the momentum is zero: the momentum is finite whatever the gradient is.
        wide = trees.accumulator_dtype(pi)
        moved = factor.astype(wide) * pi.astype(wide)
        if theta is not None and on:
            moved -= decay.astype(wide) * jnp.asarray(theta).astype(wide)
        return moved.astype(g.dtype)

    moved = map(leaf, leaves, gradients, thetas, decays)
    return jax.tree.unflatten(structure, list(moved))


def root(x: jax.Array) -> jax.Array:
    """The square root of x >= 0, with the derivative 0 at 0, where it has none."""
    positive = ~(x <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def unit_roundoff(*arrays) -> float:
    """Distance from 1 to the next number, in the coarsest of the floating types."""
    floating = [x.dtype for x in arrays if trees.is_floating(x)]
    return max(float(jnp.finfo(dtype).eps) for dtype in floating)


def is_narrow(leaf, dtype) -> bool:
    """Whether numbers of `dtype` can be infinite in the type of a leaf."""
    narrow = trees.is_floating(leaf)
    return narrow and float(jnp.finfo(leaf.dtype).max) < 0.9 * float(jnp.finfo(dtype).max)


def largest_momentum(momentum: PyTree, dtype) -> float:
    """|Pi| up to which |Pi|^2 keeps clear of overflow in `dtype`, and Pi in its own types."""
    floating = [leaf for leaf in jax.tree.leaves(momentum) if trees.is_floating(leaf)]
    entries = [float(jnp.finfo(leaf.dtype).max) / 2 for leaf in floating]
    return min([float(jnp.finfo(dtype).max) ** 0.5 / 2, *entries])


def kicked_sq(
    momentum: PyTree, momentum_sq: Scalar, kick: Scalar, gradient: PyTree, gradient_sq: Scalar
) -> Scalar:
    """|Pi - kick g|^2, from inner products where that is accurate: they are quicker."""
    projected = trees.inner(momentum, gradient).astype(momentum_sq.dtype)
    scale = momentum_sq + kick**2 * gradient_sq
    expanded = scale - 2 * kick * projected
    return jax.lax.cond(
        expanded > CANCELLATION * scale,
        lambda: expanded,
        lambda: trees.squared_norm(combine(jnp.ones_like(kick), momentum, -kick, gradient)).astype(
            expanded.dtype
        ),
    )


def draw(
    key: jax.Array,
    momentum: PyTree,
    draws: jax.Array,
    keep: Scalar | None,
    pull: Scalar,
    gradient: PyTree,
    mix: Scalar,
) -> tuple[PyTree, Scalar]:
    """Where `draws`, B = keep (Pi - pull g) + mix N, N ~ Normal(0, 1), and |B|; else Pi and 1.

    Without `keep`, B = N.
    """

    def turned(noise, pi, g):
        if not trees.is_floating(pi):
            return pi
        new = noise
        if keep is not None:
            wide, kick = noise.dtype, keep * pull
            kicked = keep.astype(wide) * pi.astype(wide) - kick.astype(wide) * g.astype(wide)
            new = kicked + mix.astype(wide) * noise
        return jnp.where(draws, new.astype(pi.dtype), pi)

    base = trees.map_normal(key, draws, turned, momentum, gradient)
    # Of what is stored: of the noise itself, XLA would work it out a second time.
    size = root(trees.squared_norm(base)).astype(mix.dtype)
    return base, jnp.where(draws, size, 1)
