"""Finding f_min while running: a lower bound that brackets the lowest loss.

Energy-conserving descent slows down where V = loss - f_min -> 0, so f_min has to be known. Too
high, and the loss falls below it, where the dynamics ends; too low, and the particle never slows
down. The BBI paper (section 3.3) lowers f_min by the overshoot, which crawls. Here f_min stays a
gap d below the lowest loss F_low seen, and the gap learns its size:

$$
d <- 2 d,  f_min <- F_low - d      where loss <= f_min
d <- d/2,  f_min <- F_low - d      after 100 steps without
$$

The energy is kept on a fixed ceiling, E = C - f_min for Born-Infeld with C = loss at the start +
delta E: the next rescaling of Pi accounts for a new f_min. (A fixed E instead makes most runs
NaN after a large shift.) The gap starts at 1e-3 (C - f_min) and never falls below the resolution
of the loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kinopt._typing import Scalar

__all__ = ["Bracket", "tighten"]

FIRST_GAP = 1e-3
"""First gap, as a fraction of the ceiling above f_min; found by trials."""

QUIET_STEPS = 100
"""Steps without a loss below f_min before the gap is halved. It matters: 10 is too eager."""

RESOLUTION = 8
"""Smallest gap, in units in the last place of the loss: V would be rounding noise below it."""


class Bracket(NamedTuple):
    """What the search for f_min remembers."""

    gap: jax.Array  # float32 or wider []: d, distance of f_min below the lowest loss
    quiet_steps: jax.Array  # int32 []: steps since the loss was last at or below f_min


def empty(dtype) -> Bracket:
    """A bracket before the first step.

    >>> empty(jnp.float32)
    Bracket(gap=Array(0., dtype=float32), quiet_steps=Array(0, dtype=int32))
    """
    return Bracket(gap=jnp.zeros((), dtype), quiet_steps=jnp.zeros((), jnp.int32))


def tighten(
    bracket: Bracket, f_min: Scalar, loss: Scalar, lowest: Scalar, ceiling: Scalar, first
) -> tuple[Bracket, Scalar]:
    """One step of the search for f_min.

    Args:
      bracket: what the last step left.
      f_min: the lower bound so far, shape [].
      loss: the loss at this step, shape [].
      lowest: the lowest loss of earlier steps, shape []; inf when there was none.
      ceiling: C, the highest loss the energy allows, shape [].
      first: bool, shape []: whether this is the first step, which sets the gap.

    Returns:
      The new bracket and the new f_min, which is below `loss`.

    >>> bracket, f_min = tighten(empty(jnp.float32), *map(jnp.float32, (1.0, 0.5, 0.5, 2.0)), True)
    >>> round(float(f_min), 6)  # 0.5 - 2 * 0.001 * (2 - 1)
    0.498
    """
    dtype = f_min.dtype
    lowest = jnp.minimum(loss, lowest)
    gap = jnp.where(first, FIRST_GAP * jnp.abs(ceiling - f_min), bracket.gap)
    reached = loss <= f_min
    waited = jnp.where(reached, 0, bracket.quiet_steps + 1)
    quiet = waited >= QUIET_STEPS
    gap = jnp.where(reached, 2 * gap, jnp.where(quiet, gap / 2, gap))
    information = jnp.finfo(dtype)
    smallest = RESOLUTION * jnp.maximum(information.eps * jnp.abs(lowest), information.tiny)
    gap = jnp.maximum(gap, smallest.astype(dtype)).astype(dtype)
    below = lowest - gap
    f_min = jnp.where(reached, below, jnp.where(quiet, jnp.maximum(f_min, below), f_min))
    return Bracket(gap, jnp.where(quiet, 0, waited).astype(jnp.int32)), f_min.astype(dtype)
