"""The energy shell: how much momentum the energy asks for where the descent stands.

    V = (loss - f_min)^p       Eq. 1, section A.2
    E = H(V_0, 0) + delta E    Eq. 13 for Born-Infeld, kept from then on
    q = q(V, E)                what |Pi|^2 has to be, Eq. 48

The shell ends where V <= eps2, and has no momentum to give where V > E.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kinopt import brackets
from kinopt._typing import Scalar
from kinopt.descent_state import ECDState, Settings

__all__ = ["Shell", "energy_shell"]


class Shell(NamedTuple):
    """The energy shell at this step's position: scalars of shape []."""

    potential: jax.Array  # V, which may be zero or negative
    v: jax.Array  # V where it is above eps2, else 1: makes no NaN where it is not used
    slope: jax.Array  # dV/dloss
    energy: jax.Array  # E
    momentum_sq: jax.Array  # q(V, E), what the energy asks |Pi|^2 to be; 0 where V > E
    exceeded: jax.Array  # bool: V > E
    reached: jax.Array  # bool: V <= eps2, nothing moves
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


def energy_shell(settings: Settings, state: ECDState, loss: Scalar, first: jax.Array) -> Shell:
    """The shell for a loss, given the state before this step; `first`: nothing has moved yet."""
    hamiltonian, dtype = settings.hamiltonian, loss.dtype
    power = jnp.asarray(settings.objective_power, dtype)
    extra_energy = jnp.asarray(settings.extra_energy, dtype)
    # XLA flushes denormal numbers to zero, so 1e-40 would be no threshold at all in float32.
    eps2 = jnp.maximum(jnp.asarray(settings.eps2, dtype), jnp.finfo(dtype).tiny).astype(dtype)
    start = jnp.where(first, loss, state.initial_value)
    bracket, f_min = (), jnp.asarray(settings.f_min, dtype)
    if isinstance(state.bracket, brackets.Bracket):  # adapt_f_min
        bracket, f_min = brackets.tighten(
            state.bracket, state.f_min, loss, state.lowest_value, start + extra_energy, first
        )
    potential, slope = _potential(loss, f_min, power)
    v = jnp.where(potential > eps2, potential, 1)
    if settings.adapt_f_min:
        # The ceiling stays where it was, so the energy follows f_min (see kinopt.brackets).
        v_start, _ = _potential(start, f_min, power)
        energy = hamiltonian.start(jnp.where(v_start > eps2, v_start, v), extra_energy)
    else:
        energy = jnp.where(first, hamiltonian.start(v, extra_energy), state.energy)
    energy = energy.astype(dtype)
    momentum_sq = hamiltonian.momentum_sq(v, energy).astype(dtype)
    # q = 0 where V > E: dH/dV and dH/dq are then those of a particle at rest, for Born-Infeld the
    # same as with V clamped to E. At the first step only rounding can make V exceed E.
    return Shell(
        potential=potential,
        v=v,
        slope=slope,
        energy=energy,
        momentum_sq=jnp.maximum(momentum_sq, 0),
        exceeded=(momentum_sq < 0) & ~first,
        reached=~(potential > eps2),
        f_min=f_min,
        bracket=bracket,
    )
