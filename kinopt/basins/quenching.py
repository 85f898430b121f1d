"""Where points come to rest: L-BFGS from each of them, in lanes that are refilled."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kinopt import _engine
from kinopt._line import Task
from kinopt._programs import Programs
from kinopt._typing import PyTree
from kinopt._workers import Seeds

__all__ = ["Quenched", "from_each", "quench"]

STALLED = 5
"""Steps in a row that lower neither the loss by more than rounding nor the gradient by half."""

NOISE = 8
"""Rounding of a loss, in units of eps |V|: within it the gradient says where it is lower."""

OPTIMIZER = optax.lbfgs()
"""Ten pairs in memory, and the zoom line search for the strong Wolfe conditions."""


class Quenched(NamedTuple):
    """Where each point came to rest. Not finite where it, or its loss, never was."""

    points: jax.Array  # float [points, n]
    values: jax.Array  # float [points]: loss there
    gradients: jax.Array  # float [points, n]: and its gradient


class _Carry(NamedTuple):
    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    state: PyTree  # of the optimizer
    flattest: jax.Array  # float []: norm of the gradient when it was last halved
    stalled: jax.Array  # int32 []: steps in a row


def quench(
    loss: Callable[[jax.Array], jax.Array],
    points: jax.Array,
    num_steps: int,
    programs: Programs | None = None,
) -> Quenched:
    """Brings every point to rest by L-BFGS with a line search for the Wolfe conditions.

    Where the loss cannot be lowered by more than rounding, the gradient still can: a point has
    ended when `STALLED` steps in a row did neither. Whether it is at a minimum is not asked here.

    Args:
      loss: x [n] -> value [].
      points: float [points, n].
      num_steps: most steps for one point.
      programs: those of this loss and number of steps; None: they are made anew.

    Source: Liu, Nocedal, "On the limited memory BFGS method for large scale optimization",
    Mathematical Programming 45 (1989) 503; Nocedal, Wright, "Numerical optimization" (2006),
    algorithms 3.5, 3.6, 7.4 and 7.5.

    >>> rest = quench(lambda x: jnp.sum((x - 1) ** 4), jnp.array([[1.0, 3.0], [0.0, jnp.nan]]), 100)
    >>> jnp.abs(rest.points[0] - 1).max() < 0.02, jnp.isnan(rest.values[1])
    (Array(True, dtype=bool), Array(True, dtype=bool))
    """
    value_and_gradient = jax.value_and_grad(loss)
    rounding = jnp.finfo(points.dtype).eps

    def init(x):
        value, gradient = value_and_gradient(x)
        return _Carry(
            x,
            value,
            gradient,
            OPTIMIZER.init(x),
            jnp.linalg.norm(gradient),
            jnp.zeros((), jnp.int32),
        )

    def step(carry, shared):
        del shared
        update, state = OPTIMIZER.update(
            carry.gradient,
            carry.state,
            carry.x,
            value=carry.value,
            grad=carry.gradient,
            value_fn=loss,
        )
        x = carry.x + update
        # The search has seen where it ended.
        value, gradient = (optax.tree.get(state, name) for name in ("value", "grad"))
        slope, slope_before = jnp.linalg.norm(gradient), jnp.linalg.norm(carry.gradient)
        noise = NOISE * rounding * jnp.abs(carry.value)
        lowered = value < carry.value - noise
        lower = lowered | ((value <= carry.value + noise) & (slope < slope_before))
        # A search that went nowhere, or to where nothing is a number, stays where it was.
        good = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)) & lower
        x, value, gradient = (
            jnp.where(good, new, old)
            for new, old in ((x, carry.x), (value, carry.value), (gradient, carry.gradient))
        )
        flatter = good & (slope < carry.flattest / 2)
        stalled = jnp.where((good & lowered) | flatter, 0, carry.stalled + 1)
        ended = (stalled >= STALLED) | ~jnp.isfinite(value) | (jnp.max(jnp.abs(gradient)) == 0)
        flattest = jnp.where(flatter, slope, carry.flattest)
        return _Carry(x, value, gradient, state, flattest, stalled), ended.astype(jnp.int32)

    carry = from_each(init, step, points, num_steps, programs or Programs())[0]
    return Quenched(carry.x, carry.value, carry.gradient)


def from_each(
    init: Callable[[jax.Array], PyTree],
    step: Callable[[PyTree, PyTree], tuple[PyTree, jax.Array]],
    points: PyTree,
    num_steps: int,
    programs: Programs,
    shared: PyTree = None,
) -> tuple[PyTree, jax.Array]:
    """A loop from each point in lanes, as `kinopt.lanes.run` does from each key.

    Args:
      init: point -> carry.
      step: carry, shared -> carry, outcome.
      points: pytree of arrays, [points, ...].
      num_steps: most steps of one point.
      programs: those of this loop.
      shared: arrays that all lanes read.

    Returns:
      The carries at the ends and the outcomes, with a leading axis of points.
    """

    def begin(key, start, shared):
        del key, shared
        return init(start)

    def advance(carry, count, shared):
        del count
        carry, outcome = step(carry, shared)
        return carry, outcome, carry

    number = len(jax.tree.leaves(points)[0])
    keys = jnp.zeros((number, 1), jnp.uint32)
    seeds = Seeds(keys, jax.device_put(points), jax.device_put(shared))
    way = _engine.as_way("loop", None, None, None, False, None)
    rows = _engine.run(Task(begin, advance, None, num_steps, stacked=True), programs, seeds, way)
    return rows.result, rows.outcome
