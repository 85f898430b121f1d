r"""Energy-conserving descent: optimization by frictionless motion at constant energy.

A particle moves on the potential V = (loss - f_min)^p (BBI paper, Eq. 1 and section A.2) by
Hamilton's equations of some H(V, |Pi|^2) under which it slows down as V -> 0. Nothing rubs: it
cannot stop at a local minimum above f_min, and spends most of its time near the global one. One
loop makes the whole family; a member is a choice of Hamiltonian x objective x bounce rules:

    bbi     = ecd(born_infeld(), bounces=(periodic(T0, Nb), patience(T1)))
    ecdsep  = ecd(separable(s), objective_power=eta, bounces=rotation(nu))

One step of Algorithm 1, at Theta with V and the gradient there, is

$$
Pi    <- a Pi,  a = sqrt(q(V, E)) / |Pi|    restore the energy E (Eq. 48)
Pi    <- Pi - dt dH/dV grad V               kick (Eq. 11)
Theta <- Theta + 2 dt dH/dq Pi              drift (Eq. 12)
$$

and a bounce, due every now and then, replaces Pi by a random vector of the same length. For
Born-Infeld dH/dV = (V/E + E/V)/2 and 2 dH/dq = V/E. The step reads gradient and momentum, and
never the parameters; |Pi|^2 is carried from step to step.

Departures from Algorithm 1: the direction of a bounce is isotropic (Gaussian); Nb = 0 means no
fixed bounce; where V > E, which Algorithm 1 passes over, the particle is stopped (Pi = 0) and
falls from rest; where the energy asks for momentum and there is none, it sets off along minus the
gradient; V <= eps2 freezes the parameters for as long as it lasts instead of ending the loop; a
loss or gradient that is not finite is passed over; a run that has arrived is not sent up again by
the next bounce (`stay`, see `kinopt.shell`).
"""

import functools
from typing import Any

import jax
import optax

from kinopt import bounces as bounce_rules
from kinopt import descent_checks, dynamics, hamiltonians
from kinopt._checks import check_number, is_plain
from kinopt._typing import Key, Number, PyTree, Schedule
from kinopt.descent_state import (
    INTEGRATORS,
    Direction,
    ECDState,
    IntegratorName,
    Settings,
    initial_state,
)
from kinopt.hamiltonians import Hamiltonian

__all__ = ["bbi", "ecd", "ecdsep"]


def ecd(
    learning_rate: Number | Schedule,
    hamiltonian: Hamiltonian | None = None,
    *,
    f_min: Number = 0.0,
    extra_energy: Number = 0.0,
    objective_power: Number = 1.0,
    bounces: bounce_rules.Bounces = None,
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
      mu_dtype: type of the momentum; by default that of each parameter.
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
    descent_checks.check_arguments(
        learning_rate,
        hamiltonian,
        numbers={
            "f_min": f_min,
            "extra_energy": extra_energy,
            "objective_power": objective_power,
            "eps1": eps1,
            "eps2": eps2,
            "weight_decay": weight_decay,
        },
        flags={
            "conserve_energy": conserve_energy,
            "adapt_f_min": adapt_f_min,
            "stay": stay,
            "cool": cool,
        },
        initial_direction=initial_direction,
        integrator=integrator,
        key=key,
        mu_dtype=mu_dtype,
    )
    settings = Settings(
        learning_rate=learning_rate,
        hamiltonian=hamiltonian,
        f_min=f_min,
        extra_energy=extra_energy,
        objective_power=objective_power,
        rules=bounce_rules.as_rules(bounces),
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
    if cool or settings.decays:
        descent_checks.check_start_of_schedule(learning_rate)
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
        loss = descent_checks.checked_value(value)
        gradient = jax.tree.map(descent_checks.as_array, updates)
        descent_checks.refuse_other_gradients(gradient, state.momentum)
        if may_warn and descent_checks.is_concrete(loss, state.count, f_min):
            may_warn = False  # once: looking waits for the device
            descent_checks.warn_of_no_start(loss, state, f_min)
        return step(gradient, state, loss, params)

    return optax.GradientTransformationExtraArgs(init, update)


def bbi(
    learning_rate: Number | Schedule,
    *,
    f_min: Number = 0.0,
    extra_energy: Number = 0.0,
    fixed_bounce_every: Number | None = 1000,
    num_fixed_bounces: Number | None = 1,
    patience: Number | None = 3000,
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
    """Bouncing Born-Infeld: Algorithm 1 of the BBI paper.

    $$
    Pi_{k+1} = Pi_k - Delta t (V/E + E/V)/2 grad V        (Eq. 11)
    Theta_{k+1} = Theta_k + Delta t V/E Pi_{k+1}             (Eq. 12)
    $$

    with V = loss - f_min, E = V_0 + extra_energy, |Pi|^2 rescaled to E^2/V - V at every step, and
    bounces that replace the direction of Pi by a random one. It is `ecd` with the Born-Infeld
    Hamiltonian and the rules `periodic(fixed_bounce_every, num_fixed_bounces)` and
    `patience(patience)`. The update is the displacement: `bbi` closes a chain.

    Args:
      learning_rate: Delta t > 0, the time step; float or schedule. No step is longer than
        Delta t sqrt(V) + Delta t^2 |grad V|.
      f_min: Delta V, the loss that counts as reached.
      extra_energy: delta E >= 0, to climb over barriers higher than the start.
      fixed_bounce_every: T0 >= 1, in steps; None: never.
      num_fixed_bounces: Nb >= 0. 0 means none (Algorithm 1 would bounce once); None: for ever.
      patience: T1 >= 1, steps without a new lowest loss before a bounce; None: never.
      initial_direction: "gradient" (Eq. 14) or "random".
      conserve_energy: rescale Pi to the energy at every step.
      adapt_f_min: find f_min while running.
      stay: no bounce where the run has arrived, a departure; False: Algorithm 1 to the letter.
      integrator: "paper" or "leapfrog".
      key: int, typed key or raw key data.
      eps1: epsilon_1 of Algorithm 1.
      eps2: epsilon_2 of Algorithm 1.
      mu_dtype: type of the momentum.
      cool: the schedule anneals the drift alone; see `ecd`.
      weight_decay: decoupled decay of the parameters; see `ecd`.

    Returns:
      A transformation as described at `ecd`, which explains the last eleven arguments in full. Its
      state is one momentum (half of Adam's) and a few scalars.

    Raises:
      TypeError: see `ecd`.
      ValueError: see `ecd`; for T0 or T1 below 1 and Nb below 0.

    Reference: De Luca, Silverstein, "Born-Infeld (BI) for AI: Energy-Conserving Descent (ECD) for
    Optimization", ICML 2022, Algorithm 1.

    >>> import jax, jax.numpy as jnp, kinopt, optax
    >>> def zakharov(x):
    ...     s = jnp.sum(jnp.arange(1, 1 + x.size) * x) / 2
    ...     return jnp.sum(x**2) + s**2 + s**4
    >>> optimizer = kinopt.bbi(0.01)
    >>> def step(carry, _):
    ...     x, state = carry
    ...     value, gradient = jax.value_and_grad(zakharov)(x)
    ...     update, state = optimizer.update(gradient, state, x, value=value)
    ...     return (optax.apply_updates(x, update), state), value
    >>> x = -jnp.ones(3)
    >>> (x, state), values = jax.lax.scan(step, (x, optimizer.init(x)), length=2000)
    >>> bool(values[0] > 90), bool(values[-1] < 1e-12)
    (True, True)
    """
    rules = []
    if fixed_bounce_every is not None:
        rules.append(bounce_rules.periodic(fixed_bounce_every, num_fixed_bounces))
    if patience is not None:
        rules.append(bounce_rules.patience(patience))
    return ecd(
        learning_rate,
        hamiltonians.born_infeld(),
        f_min=f_min,
        extra_energy=extra_energy,
        bounces=rules,
        initial_direction=initial_direction,
        conserve_energy=conserve_energy,
        adapt_f_min=adapt_f_min,
        stay=stay,
        integrator=integrator,
        key=key,
        eps1=eps1,
        eps2=eps2,
        mu_dtype=mu_dtype,
        cool=cool,
        weight_decay=weight_decay,
    )


def ecdsep(
    learning_rate: Number | Schedule,
    *,
    eta: Number = 1.0,
    nu: Number = 1e-5,
    s: Number = 1.0,
    f_min: Number = 0.0,
    extra_energy: Number = 0.0,
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
    """ECDSep: energy-conserving descent with the separable Hamiltonian.

    $$
    H = log V + log(s + |Pi|^2),  V = (loss - f_min)^eta
    Pi <- Pi - Delta t eta grad loss / (loss - f_min)
    Theta <- Theta + 2 Delta t Pi / (s + |Pi|^2)
    $$

    and a small random rotation of Pi at every step. It is `ecd` with
    `hamiltonians.separable(s)`, `objective_power=eta` and `bounces.rotation(nu)`. (ECDSep rotates
    at the end of a step, here it is at the start of the next: the same dynamics.)

    Args:
      learning_rate: Delta t > 0; no step is longer than Delta t / sqrt(s).
      eta: power of the objective; the larger, the more time is spent at low loss.
      nu: strength of the rotation; 0: none, at the cost of none when it is a plain 0.
      s: regularizer of the kinetic energy. The authors' code takes extra_energy=1 when s is not 1.
      f_min: the loss that counts as reached.
      extra_energy: first |Pi|^2.
      initial_direction: see `ecd`.
      conserve_energy: see `ecd`.
      adapt_f_min: see `ecd`.
      stay: see `ecd`; the rotation pauses there.
      integrator: see `ecd`.
      key: see `ecd`.
      eps1: see `ecd`.
      eps2: see `ecd`.
      mu_dtype: see `ecd`.
      cool: see `ecd`.
      weight_decay: see `ecd`.

    Returns:
      A transformation as described at `ecd`.

    Raises:
      TypeError: see `ecd`.
      ValueError: see `ecd`; for a negative nu or s.

    Reference: De Luca, Gatti, Silverstein, "Improving Energy Conserving Descent for Machine
    Learning: Theory and Practice" (2023).

    >>> import jax, jax.numpy as jnp, kinopt, optax
    >>> loss = lambda x: jnp.sum(jnp.array([1.0, 10.0]) * x**2)
    >>> optimizer = kinopt.ecdsep(0.1)
    >>> x = jnp.array([2.0, -1.0])
    >>> state = optimizer.init(x)
    >>> for _ in range(300):
    ...     value, gradient = jax.value_and_grad(loss)(x)
    ...     update, state = optimizer.update(gradient, state, x, value=value)
    ...     x = optax.apply_updates(x, update)
    >>> bool(kinopt.ecd_stats(state).lowest_value < 1e-6)
    True
    """
    check_number("eta", eta, above=0)
    check_number("nu", nu, least=0)
    no_rotation = is_plain(nu) and float(nu) == 0
    return ecd(
        learning_rate,
        hamiltonians.separable(s),
        f_min=f_min,
        extra_energy=extra_energy,
        objective_power=eta,
        bounces=None if no_rotation else bounce_rules.rotation(nu),
        initial_direction=initial_direction,
        conserve_energy=conserve_energy,
        adapt_f_min=adapt_f_min,
        stay=stay,
        integrator=integrator,
        key=key,
        eps1=eps1,
        eps2=eps2,
        mu_dtype=mu_dtype,
        cool=cool,
        weight_decay=weight_decay,
    )
