"""The two members of the family that have a paper: BBI and ECDSep, as settings of `ecd`."""

from typing import Any

import optax

from kinopt import bounces, hamiltonians
from kinopt._checks import check_number, is_zero
from kinopt._typing import Key, Number, Schedule
from kinopt.descent.family import ecd
from kinopt.descent_state import Direction, IntegratorName

__all__ = ["bbi", "ecdsep"]


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
        rules.append(bounces.periodic(fixed_bounce_every, num_fixed_bounces))
    if patience is not None:
        rules.append(bounces.patience(patience))
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
    return ecd(
        learning_rate,
        hamiltonians.separable(s),
        f_min=f_min,
        extra_energy=extra_energy,
        objective_power=eta,
        bounces=None if is_zero(nu) else bounces.rotation(nu),
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
