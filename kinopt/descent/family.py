"""Energy-conserving descent with any Hamiltonian, objective and bounce rules."""

import functools
from typing import Any

import jax
import optax

from kinopt import descent_checks, dynamics, hamiltonians
from kinopt._checks import check_choice, is_concrete
from kinopt._typing import Key, Number, PyTree, Schedule
from kinopt.bounces import Bounces, as_rules
from kinopt.descent_state import (
    INTEGRATORS,
    Direction,
    ECDState,
    IntegratorName,
    Settings,
    initial_state,
)
from kinopt.hamiltonians import Hamiltonian

__all__ = ["ecd"]


def ecd(
    learning_rate: Number | Schedule,
    hamiltonian: Hamiltonian | None = None,
    *,
    f_min: Number = 0.0,
    extra_energy: Number = 0.0,
    objective_power: Number = 1.0,
    bounces: Bounces = None,
    initial_direction: Direction = "gradient",
    conserve_energy: bool = True,
    adapt_f_min: bool = False,
    stay: bool = True,
    integrator: IntegratorName = "paper",
    key: Key = 0,
    eps1: Number = 1e-10,
    eps2: Number = 1e-40,
    mu_dtype: Any = None,
    cool: bool = False,
    weight_decay: Number = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Energy-conserving descent with any Hamiltonian and bounce rules (BBI paper, section 2).

    $$
    dTheta/dt = 2 dH/dq Pi,    dPi/dt = -dH/dV grad V,    V = (loss - f_min)^p
    $$

    at constant energy E = H(V, q), with q = |Pi|^2 and p = `objective_power`. The update is the
    displacement Theta_{t+1} - Theta_t: `ecd` closes a chain. Collisions and clipping go before it;
    `scale_by_learning_rate`, `adamw` or weight decay after it would break the conservation.

    Args:
      learning_rate: the time step Delta t > 0; float or schedule. `kinopt.suggest_dt` finds one.
        The speed before the kick of a step obeys the speed limit, and the kick adds to it, so that
        a displacement is at most Delta t times the limit plus, for Born-Infeld, Delta t^2 |grad V|
        (up to 2 times the limit at steps that are long for the curvature).
      hamiltonian: H; by default `kinopt.hamiltonians.born_infeld()`, Eq. 31.
      f_min: Delta V of Eq. 1, the loss that counts as reached. With `adapt_f_min` the first guess.
      extra_energy: delta E >= 0 of Eq. 13, to climb over barriers higher than the start. In units
        of the loss (of |Pi|^2 for `separable`).
      objective_power: p > 0, or eta in ECDSep: the g(V) of section A.2.
      bounces: a bounce rule, several, or None; see `kinopt.bounces`.
      initial_direction: of the first momentum, when delta E > 0: "gradient", along minus the
        gradient (Eq. 14, its norm over all leaves together), or "random".
      conserve_energy: rescale Pi at every step so that H = E. Without, the energy drifts at the
        order of the integrator, and V > E is counted but does not stop the particle.
      adapt_f_min: find f_min while running, see `kinopt.brackets`.
      stay: a departure from the paper: without extra energy, no bounce is made where the loss is
        f_min to the last digit: where loss - f_min is at most 1.2e-7 times what it was at the start
        (the eps of float32; of gradient or loss where that is coarser), or 8 units in the last
        place of f_min. Bounces passed over count in `num_stayed`. False: Algorithm 1, which throws
        a particle that has arrived back up to the energy of the start. With extra energy a run is
        meant to climb, and bounces everywhere. Partial bounces pause there too.
      integrator: "paper", Algorithm 1; "leapfrog", half kick, restore the energy or bounce, half
        kick, drift with V at half a step. It costs the same single gradient and samples the
        predicted density (Eq. 40) without the bias that bounces have in the paper's step. A
        bounce then moves, and has the length that the energy asks for.
      key: int, typed key or raw key data, for the directions of bounces. Under `nnx.vmap` or
        `jax.vmap` all members share it unless it is mapped over too.
      eps1: differences in |Pi|^2 below it are not rescaled.
      eps2: at V <= eps2 the parameters are frozen, until V rises again. At least the smallest
        normal number of the state's type, and where |Pi| would overflow (for Born-Infeld at
        V <= 4 E^2 / largest number; for float16 momentum at |Pi| above 32752).
      mu_dtype: type of the momentum; by default that of each parameter. In bfloat16 an entry
        keeps no change below 1/512 of itself: small kicks of a long momentum are lost.
      cool: a departure from the paper: a schedule anneals the drift alone, and the kick keeps the
        time step that the schedule gives at count 0. In the paper's step momentum is hardly
        renewed any more once Delta t is small. Without a schedule it changes nothing (nor under
        `inject_hyperparams`, which hides it).
      weight_decay: w >= 0, decoupled and scaled like the drift: a step that moves also takes
        w Delta t_k / Delta t_0 Theta off the parameters, and `update` needs `params`. (Decay before
        the descent would falsify the force; after it, it would not follow the bounces.)

    Returns:
      A transformation with `update(grads, state, params=None, *, value, **extra)`, state
      `ECDState`. `value` is the loss, shape []. A value or gradient that is not finite, a kick
      that takes |Pi| beyond the range of its type, and a displacement that is infinite in the type
      of its parameter make a zero update and change nothing but `num_skipped`. So does a finite
      gradient whose squared norm overflows: |grad| above 1.8e19 in float32.

      Where the first loss is at or below f_min nothing moves, which `num_halted` counts; outside
      jit the first `update` warns.

    Raises:
      ValueError: for arguments out of range; for a Hamiltonian that feels no force at rest without
        extra energy; for a schedule that starts at 0 where `cool` or `weight_decay` takes it as
        the measure; in `update`, for a missing or non-scalar `value`, for gradients of another
        structure or shape than the parameters, and for decay without `params`.
      TypeError: for arguments of another type; in `init` for complex parameters (`jax.grad` gives
        the conjugate of the ascent direction: use real and imaginary parts).

    Notes:
      Derivatives through `update` are those of the step, in either mode. At rest (at the first step
      without extra energy) the derivative with respect to `extra_energy` is infinite in truth, that
      of a square root at zero; it is taken as if |Pi| stayed zero.
      `optax.inject_hyperparams`: every number may be injected, and `learning_rate` scheduled; keep
      `key` in `static_args` (it would be shown as a hyperparameter). With `adapt_f_min`, `f_min` is
      read at `init` only.
      `optax.masked`, `optax.partition`: energy and momentum are those of the leaves that `ecd`
      sees, at a potential that all leaves share. Two descents in one partition have two energies.
      `optax.MultiSteps` passes the last micro-batch's value; use `optax.microbatching` or pass
      the mean.

    Reference: De Luca, Silverstein, "Born-Infeld (BI) for AI: Energy-Conserving Descent (ECD) for
    Optimization", ICML 2022, sections 2, 3 and A.2.

    >>> import jax, jax.numpy as jnp, kinopt, optax
    >>> loss = lambda x: jnp.sum(x**2)
    >>> optimizer = kinopt.ecd(0.1, kinopt.hamiltonians.massive(), extra_energy=1.0)
    >>> x = jnp.array([1.0, -2.0])
    >>> state = optimizer.init(x)
    >>> for _ in range(100):
    ...     value, gradient = jax.value_and_grad(loss)(x)
    ...     update, state = optimizer.update(gradient, state, x, value=value)
    ...     x = optax.apply_updates(x, update)
    >>> bool(loss(x) < 0.1), float(kinopt.ecd_stats(state).energy)
    (True, 1.0)
    """
    hamiltonian = hamiltonians.born_infeld() if hamiltonian is None else hamiltonian
    check_choice("initial_direction", initial_direction, Direction)
    check_choice("integrator", integrator, IntegratorName)
    settings = Settings(
        learning_rate=learning_rate,
        hamiltonian=hamiltonian,
        f_min=f_min,
        extra_energy=extra_energy,
        objective_power=objective_power,
        rules=as_rules(bounces),
        starts_at_random=initial_direction == "random",
        conserve_energy=conserve_energy,
        adapt_f_min=adapt_f_min,
        stay=stay,
        integrator=INTEGRATORS[integrator],
        key=key,
        eps1=eps1,
        eps2=eps2,
        mu_dtype=mu_dtype,
        cool=cool,
        weight_decay=weight_decay,
    )
    descent_checks.check_settings(settings)
    # Compiled once for each transformation, so that calls outside of jit are quick too; inside of
    # jit it is inlined and leaves no trace.
    step = jax.jit(functools.partial(dynamics.step, settings), inline=True)

    def init(params: PyTree) -> ECDState:
        return initial_state(settings, params)

    may_warn = not adapt_f_min

    def update(updates, state, params=None, *, value=None, **extra_args):
        nonlocal may_warn
        del extra_args
        if not settings.decays:
            params = None  # the step does not need them
        elif params is None:
            raise ValueError(descent_checks.NO_PARAMS)
        loss, gradient = descent_checks.checked_step(value, updates, state.momentum)
        if may_warn and is_concrete(loss, state.count, f_min):
            may_warn = False  # once: looking waits for the device
            descent_checks.warn_of_no_start(loss, state, f_min)
        return step(gradient, state, loss, params)

    return optax.GradientTransformationExtraArgs(init, update)
