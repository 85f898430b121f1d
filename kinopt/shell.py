"""The energy shell: how much momentum the energy asks for where the descent stands.

    V = (loss - f_min)^p       Eq. 1, section A.2
    E = H(V_0, 0) + delta E    Eq. 13 for Born-Infeld, kept from then on
    q = q(V, E)                what |Pi|^2 has to be, Eq. 48

The shell ends where V <= eps2, and has no momentum to give where V > E.

A run without extra energy has arrived where the loss is f_min to the last digit: where loss - f_min
is at most eps times what it was at the start, or 8 units in the last place of f_min. It cannot fall
much further, since a step of length Delta t sqrt(V) there is lost in rounding. In that place
Algorithm 1 still bounces, and a bounce sends the particle up again to where it came from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kinopt import brackets
from kinopt._typing import Scalar
from kinopt.descent_state import ECDState, Settings

__all__ = ["Shell", "energy_shell"]

ROUNDING = 8
"""Units in the last place by which losses near f_min differ from each other by rounding."""


class Shell(NamedTuple):
    """The energy shell at this step's position: scalars of shape []."""

    potential: jax.Array  # V, which may be zero or negative
    v: jax.Array  # V where it is above eps2, else 1: makes no NaN where it is not used
    slope: jax.Array  # dV/dloss
    energy: jax.Array  # E
    asked_sq: jax.Array  # q(V, E), what the energy asks |Pi|^2 to be; 0 where V > E
    exceeded: jax.Array  # bool: V > E
    reached: jax.Array  # bool: V <= eps2, nothing moves
    arrived: jax.Array  # bool: V is zero to the last digit, nothing bounces
    f_min: jax.Array
    bracket: brackets.Bracket | tuple


def _potential(loss: Scalar, f_min: Scalar, power: Scalar) -> tuple[Scalar, Scalar]:
    """V = (loss - f_min)^p and dV/dloss; at and below f_min, V = loss - f_min and no slope."""
    gap = loss - f_min
    positive = gap > 0
    above = jnp.where(positive, gap, 1)
    # x**1 need not be exactly x on every device.
    v = jnp.where(power == 1, above, above**power)
    slope = jnp.where(power == 1, 1, power * v / above)
    return jnp.where(positive, v, gap), jnp.where(positive, slope, 0).astype(loss.dtype)


def _arrived(settings: Settings, gap: Scalar, gap_at_start: Scalar, f_min: Scalar, eps: float):
    """Whether the loss is f_min to the last digit, in a run that is not meant to climb."""
    if not settings.stay:
        return jnp.zeros((), bool)
    # What counts as near does not change with a type wider than float32; rounding does.
    near = max(eps, float(jnp.finfo(jnp.float32).eps)) * gap_at_start
    climbs = jnp.asarray(settings.extra_energy) > 0
    return (gap <= jnp.maximum(near, ROUNDING * eps * jnp.abs(f_min))) & ~climbs


def energy_shell(
    settings: Settings, state: ECDState, loss: Scalar, first: jax.Array, eps: float
) -> Shell:
    """The shell for a loss.

    Args:
      settings: what the descent is.
      state: before this step.
      loss: at this step's position, shape [].
      first: bool, shape []: nothing has moved yet.
      eps: distance from 1 to the next number in the coarsest type of gradient and loss.
    """
    hamiltonian, dtype = settings.hamiltonian, loss.dtype
    power = jnp.asarray(settings.objective_power, dtype)
    extra_energy = jnp.asarray(settings.extra_energy, dtype)
    # XLA flushes denormal numbers to zero, so 1e-40 would be no threshold at all in float32.
    eps2 = jnp.maximum(jnp.asarray(settings.eps2, dtype), jnp.finfo(dtype).tiny).astype(dtype)
    start = jnp.where(first, loss, state.initial_value)
    bracket, f_min = state.bracket, jnp.asarray(settings.f_min, dtype)
    adapts = isinstance(bracket, brackets.Bracket)
    if adapts:
        bracket, f_min = brackets.tighten(
            bracket, state.f_min, loss, state.lowest_value, start + extra_energy, first
        )
    potential, slope = _potential(loss, f_min, power)
    v = jnp.where(potential > eps2, potential, 1)
    if adapts:
        # The ceiling stays where it was, so the energy follows f_min (see kinopt.brackets).
        v_start, _ = _potential(start, f_min, power)
        energy = hamiltonian.start(jnp.where(v_start > eps2, v_start, v), extra_energy)
    else:
        energy = jnp.where(first, hamiltonian.start(v, extra_energy), state.energy)
    energy = energy.astype(dtype)
    asked_sq = hamiltonian.momentum_sq(v, energy).astype(dtype)
    # q = 0 where V > E: dH/dV and dH/dq are then those of a particle at rest, for Born-Infeld the
    # same as with V clamped to E. At the first step only rounding can make V exceed E.
    return Shell(
        potential=potential,
        v=v,
        slope=slope,
        energy=energy,
        asked_sq=jnp.where(asked_sq > 0, asked_sq, 0),  # no slope at 0, in derivatives
        exceeded=(asked_sq < 0) & ~first,
        reached=~(potential > eps2),
        arrived=_arrived(settings, loss - f_min, start - f_min, f_min, eps),
        f_min=f_min,
        bracket=bracket,
    )
