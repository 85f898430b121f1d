"""How long a step of a descent may be: the stiffest direction says.

Near a minimum the loss is lambda x^2 / 2 along each eigenvector of its Hessian, and a descent moves
in it at the rate sqrt(lambda) (BBI paper, Eq. 8). Steps that follow the quickest such motion need

$$
Delta t = 0.75 / sqrt(lambda_max)
$$

with lambda_max the largest eigenvalue, found by power iteration from Hessian-vector products.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kinopt import trees
from kinopt._checks import check_count, check_function, check_key, is_plain, shown
from kinopt._keys import key_data, typed_key
from kinopt._typing import Key, PyTree, Scalar

__all__ = ["suggest_dt"]

FRACTION = 0.75
"""Of 1/sqrt(lambda_max): shorter than the bound at which the step goes unstable, by trials."""


def _times(x: PyTree, scale: Scalar) -> PyTree:
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), x)


def _unit(x: PyTree) -> PyTree:
    length = jnp.sqrt(trees.squared_norm(x))
    return _times(x, 1 / jnp.maximum(length, jnp.finfo(length.dtype).tiny))


def _dominant(multiply: Callable, start: PyTree, iterations: int) -> Scalar:
    """The eigenvalue of largest magnitude of a symmetric map, by power iteration."""
    x = jax.lax.fori_loop(1, iterations, lambda _, x: _unit(multiply(x)), start)
    return trees.inner(x, multiply(x))


def _largest_eigenvalue(gradient: Callable, x: PyTree, start: PyTree, iterations: int) -> Scalar:
    def hessian(v):
        return jax.jvp(gradient, (x,), (v,))[1]

    dominant = _dominant(hessian, start, iterations)

    def shifted(v):  # H - dominant, whose eigenvalues are all positive where `dominant` is not
        return jax.tree.map(jnp.subtract, hessian(v), _times(v, dominant))

    return jax.lax.cond(
        dominant < 0,
        lambda: dominant + _dominant(shifted, start, iterations),
        lambda: dominant,
    )


def suggest_dt(
    loss_fn: Callable[[PyTree], Scalar], params: PyTree, key: Key = 0, iterations: int = 20
) -> float:
    """A time step for `bbi`, `ecd` or `ecdsep` from the curvature of the loss.

    $$
    Delta t = 0.75 / sqrt(lambda_max)
    $$

    lambda_max is the largest eigenvalue of the Hessian at `params`. Power iteration comes from
    below, and curvature changes on the way: take it for the order of magnitude, at parameters
    like those that will be met, and with the batch fixed. Where the eigenvalue of largest magnitude
    is negative, another power iteration, shifted by it, finds the largest.

    Args:
      loss_fn: params -> loss, shape [].
      params: any tree of arrays; leaves that are not floating are held fixed.
      key: of the direction in which the iteration starts.
      iterations: Hessian-vector products, each as costly as two gradients.

    Returns:
      Delta t, a float. Call it outside jit.

    Raises:
      ValueError: if no curvature is positive, so that nothing bounds the step; if it is not
        finite; if there is no floating parameter or the loss is not a scalar.
      TypeError: for arguments of another type, complex parameters, and under jit.

    >>> import kinopt
    >>> stiff = lambda p: jnp.sum(jnp.array([1.0, 100.0]) * p["w"] ** 2) / 2
    >>> round(kinopt.suggest_dt(stiff, {"w": jnp.ones(2), "steps": 3}), 4)
    0.075
    """
    check_function("loss_fn", loss_fn, "params -> loss")
    check_key("key", key)
    iterations = check_count("iterations", iterations, optional=False)
    leaves, structure = jax.tree.flatten(params)
    places = [n for n, leaf in enumerate(leaves) if trees.is_floating(leaf)]
    moving = [jnp.asarray(leaves[n]) for n in places]
    if not all(map(is_plain, [*leaves, key])):
        raise TypeError("suggest_dt gives a float: call it outside jit, vmap and grad.")
    if not moving:
        raise ValueError(f"params has no floating leaf to move; got {shown(params)}.")
    if any(map(jnp.iscomplexobj, moving)):
        raise TypeError(
            "params has complex leaves, for which the descents are not made. Use real and "
            "imaginary parts: p -> loss(p['re'] + 1j * p['im'])."
        )
    wide = [leaf.astype(trees.accumulator_dtype(leaf)) for leaf in moving]

    def loss(wide):
        filled = list(leaves)
        for n, leaf, old in zip(places, wide, moving, strict=True):
            filled[n] = leaf.astype(old.dtype)
        value = loss_fn(jax.tree.unflatten(structure, filled))
        if jnp.shape(value):
            raise ValueError(f"loss_fn must give a scalar; got shape {jnp.shape(value)}.")
        return value

    start = trees.random_direction(typed_key(key_data(key), key), wide)
    find = jax.jit(lambda x, v: _largest_eigenvalue(jax.grad(loss), x, v, iterations))
    curvature = float(find(wide, start))
    if not math.isfinite(curvature):
        raise ValueError(
            f"the curvature of the loss at these params is {curvature}. Pass params where loss, "
            "gradient and Hessian are finite."
        )
    if not curvature > 0:
        raise ValueError(
            f"the loss has no positive curvature at these params (largest eigenvalue of the "
            f"Hessian found: {curvature:.3g}), so nothing bounds the time step there. Pass params "
            "nearer to a minimum, for instance those after some steps of training."
        )
    return FRACTION / math.sqrt(curvature)
