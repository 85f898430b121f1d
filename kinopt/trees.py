"""Arithmetic over whole parameter trees, accumulated in float32 or wider.

A network's parameters are one vector Theta for the dynamics, but a tree of arrays for JAX. The
functions here treat the tree as that one vector:

    <A, B> = sum over leaves and entries of Re(conj(a) b)        inner
    |A|^2  = <A, A>                                              squared_norm
    N / |N|, N_i ~ Normal(0, 1)                                  random_direction

Only floating (and complex) leaves are part of the vector. Integer, boolean and `None` leaves are
carried along and count for nothing. Sums are written `jnp.sum(a * b)`: `vdot` and `reshape(-1)`
raise on leaves with an explicit sharding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kinopt._threefry import normal
from kinopt._typing import PyTree, Scalar

__all__ = [
    "accumulator_dtype",
    "inner",
    "is_floating",
    "map_normal",
    "placed_like",
    "random_direction",
    "random_normal",
    "squared_norm",
    "where",
]


SMALL_LEAF = 2**16
"""Leaves of at most so many entries share one draw: each is one more program to compile."""


def accumulator_dtype(*arrays) -> jnp.dtype:
    """The real type to accumulate in: float64 where one of the arrays has it, else float32.

    >>> accumulator_dtype(jnp.zeros(3, jnp.bfloat16))
    dtype('float32')
    >>> accumulator_dtype(jnp.zeros(3, jnp.complex64)), accumulator_dtype()
    (dtype('float32'), dtype('float32'))
    """
    # Not by promotion, which jax_numpy_dtype_promotion="strict" forbids.
    widths = [jnp.finfo(jnp.result_type(x)).bits for x in arrays if is_floating(x)]
    return jnp.dtype(jnp.float64 if max(widths, default=32) > 32 else jnp.float32)


def is_floating(leaf) -> bool:
    """Whether a leaf is part of the vector: floating or complex.

    >>> is_floating(jnp.zeros(2)), is_floating(jnp.arange(2))
    (True, False)
    """
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def _inner_of_leaves(a, b) -> Scalar:
    dtype = accumulator_dtype(a, b)
    if jnp.iscomplexobj(a) or jnp.iscomplexobj(b):
        return jnp.sum(jnp.real(jnp.conj(a) * b).astype(dtype))
    return jnp.sum(a.astype(dtype) * b.astype(dtype))


def inner(a: PyTree, b: PyTree) -> Scalar:
    """Inner product <A, B> of two trees of the same structure, in float32 or wider.

    Args:
      a: any tree of arrays.
      b: a tree of the same structure and shapes.

    Returns:
      The scalar sum of Re(conj(a) b) over all floating leaves; 0 when there are none.

    >>> inner({"w": jnp.arange(3.0), "steps": 7, "b": None},
    ...       {"w": jnp.ones(3), "steps": 7, "b": None})
    Array(3., dtype=float32)
    """
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    products = [
        _inner_of_leaves(jnp.asarray(x), jnp.asarray(y)) for x, y in pairs if is_floating(x)
    ]
    return sum(products[1:], products[0]) if products else jnp.zeros((), jnp.float32)


def squared_norm(tree: PyTree) -> Scalar:
    """Squared Euclidean norm |A|^2 of a tree, in float32 or wider.

    >>> squared_norm([jnp.full(4, 2.0, jnp.bfloat16), jnp.array(3.0)])
    Array(25., dtype=float32)
    """
    return inner(tree, tree)


def where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """One tree or another, whole.

    >>> where(jnp.array(False), {"w": jnp.ones(2)}, {"w": jnp.zeros(2)})
    {'w': Array([0., 0.], dtype=float32)}
    """
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def _is_explicit(sharding) -> bool:
    kinds = getattr(sharding.mesh, "axis_types", None) or ()
    return any(kind == jax.sharding.AxisType.Explicit for kind in kinds)


def placed_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """An array with the explicit sharding of another, where that has one."""
    sharding = jax.typeof(like).sharding
    return jax.sharding.reshard(x, sharding) if _is_explicit(sharding) else x


def _normal_of_leaf(key: jax.Array, leaf) -> jax.Array:
    dtype = accumulator_dtype(leaf)
    if jnp.iscomplexobj(leaf):
        dtype = jnp.promote_types(dtype, jnp.complex64)
    sharding = jax.typeof(leaf).sharding
    if _is_explicit(sharding):
        return jax.random.normal(key, jnp.shape(leaf), dtype, out_sharding=sharding)
    return normal(key, jnp.shape(leaf), dtype)


def _normal_of_small_leaves(key: jax.Array, when: jax.Array | bool, leaves: list) -> list:
    """One draw for all, cut to pieces."""
    sizes = [leaf.size for leaf in leaves]
    shape, dtype = (sum(sizes),), accumulator_dtype(*leaves)
    # A condition, or XLA writes the generator out in the program of each piece.
    draw = jax.lax.cond(when, lambda: normal(key, shape, dtype), lambda: jnp.zeros(shape, dtype))
    pieces, start = [], 0
    for leaf, size in zip(leaves, sizes, strict=True):
        piece = jnp.reshape(draw[start : start + size], leaf.shape).astype(accumulator_dtype(leaf))
        pieces.append(placed_like(piece, leaf))
        start += size
    return pieces


def map_normal(
    key: jax.Array, when: jax.Array | bool, function: Callable, tree: PyTree, *rest: PyTree
) -> PyTree:
    """`function(noise, leaf, *others)` of each leaf, with the noise of `random_normal`.

    Where not `when`, nobody wants the noise, and it may be zero.
    """
    leaves, structure = jax.tree.flatten(tree)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    others = list(zip(*map(jax.tree.leaves, rest), strict=True)) if rest else [()] * len(leaves)
    real = [is_floating(leaf) and not jnp.iscomplexobj(leaf) for leaf in leaves]
    small = [n for n, leaf in enumerate(leaves) if real[n] and leaf.size <= SMALL_LEAF]
    pieces = {}
    if small:
        subkey = jax.random.fold_in(key, len(leaves))
        drawn = _normal_of_small_leaves(subkey, when, [leaves[n] for n in small])
        pieces = dict(zip(small, drawn, strict=True))

    def of(n, leaf):
        if n in pieces:
            noise = pieces[n]
        elif is_floating(leaf):
            noise = _normal_of_leaf(jax.random.fold_in(key, n), leaf)
        else:
            noise = jnp.zeros_like(leaf)
        return function(noise, leaf, *others[n])

    return jax.tree.unflatten(structure, [of(n, leaf) for n, leaf in enumerate(leaves)])


def random_normal(key: jax.Array, like: PyTree, when: jax.Array | bool = True) -> PyTree:
    """Independent standard normal entries in the shape of a tree.

    The draw depends on the key and the shapes of the tree, not on how it is sharded. A leaf is
    drawn in its accumulator type, whatever its own: a bfloat16 normal has no tails.

    Args:
      key: one typed key.
      like: the tree to imitate. Leaves that are not floating become zeros of their own type.
      when: where not, nobody wants the noise, and it may be zero.

    >>> noise = random_normal(jax.random.key(0), {"w": jnp.zeros((2, 3), jnp.bfloat16)})
    >>> noise["w"].shape, noise["w"].dtype
    ((2, 3), dtype('float32'))
    """
    return map_normal(key, when, lambda noise, leaf: noise, like)


def random_direction(key: jax.Array, like: PyTree) -> PyTree:
    """A uniformly distributed direction: a tree of norm 1 over all its leaves together.

    A Gaussian vector has no preferred direction, so N / |N| is uniform on the sphere. (Entries
    drawn from an interval, as in the BBI paper's published code, prefer the diagonals.)

    Args:
      key: one typed key.
      like: the tree to imitate; see `random_normal`.

    >>> direction = random_direction(jax.random.key(0), {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)})
    >>> bool(abs(squared_norm(direction) - 1) < 1e-6)
    True
    """
    noise = random_normal(key, like)
    length = jnp.sqrt(squared_norm(noise))
    # One parameter can draw an exact zero; it then stays zero instead of becoming NaN.
    scale = 1 / jnp.maximum(length, jnp.finfo(length.dtype).tiny)
    return jax.tree.map(
        lambda x: x * scale.astype(accumulator_dtype(x)) if is_floating(x) else x, noise
    )
