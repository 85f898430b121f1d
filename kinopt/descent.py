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
loss or gradient that is not finite is passed over.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kinopt import bounces as bounce_rules
from kinopt import dynamics, hamiltonians
from kinopt._typing import Key, PyTree
from kinopt.descent_state import INTEGRATORS, ECDState, Settings, initial_state
from kinopt.hamiltonians import Hamiltonian

__all__ = ["ECDState", "ECDStats", "bbi", "ecd", "ecd_stats", "ecdsep"]

_DIRECTIONS = {"gradient": False, "random": True}


class ECDStats(NamedTuple):
    """What `ecd_stats` shows; see `ECDState` for shapes and types."""

    energy: jax.Array  # E
    potential: jax.Array  # V at the start of the last step
    momentum_sq: jax.Array  # |Pi|^2 after the last step
    speed: jax.Array  # |dTheta/dt| for that potential and momentum
    speed_limit: jax.Array  # what it cannot exceed: sqrt(V) for Born-Infeld
    energy_error: jax.Array  # H - E before the last rescaling; grows with the time step
    lowest_value: jax.Array  # lowest loss
    num_bounces: jax.Array  # bounces
    num_halted: jax.Array  # steps with V <= eps2
    num_clamped: jax.Array  # steps with V > E
    num_skipped: jax.Array  # updates with a loss or gradient that was not finite


def _is_number(x) -> bool:
    return isinstance(x, int | float | np.number) and not isinstance(x, bool)


def _choice(name: str, chosen: str, choices: dict) -> Any:
    if chosen not in choices:
        raise ValueError(f"{name} must be one of {sorted(choices)}; got {chosen!r}")
    return choices[chosen]


def _check(settings: Settings) -> None:
    """Refuse what can be seen to be wrong before any array is there."""
    hamiltonian, extra_energy = settings.hamiltonian, settings.extra_energy
    if not isinstance(hamiltonian, Hamiltonian):
        raise TypeError(
            "hamiltonian must be a kinopt.hamiltonians.Hamiltonian, for instance born_infeld() "
            f"(with the brackets); got {hamiltonian!r}"
        )
    for name in ("learning_rate", "objective_power"):
        number = getattr(settings, name)
        if _is_number(number) and not number > 0:
            raise ValueError(f"{name} must be positive; got {number}")
    if _is_number(extra_energy) and not extra_energy >= 0:
        raise ValueError(f"extra_energy cannot be negative (Eq. 13); got {extra_energy}")
    if _is_number(extra_energy) and extra_energy == 0 and not hamiltonian.moves_from_rest:
        raise ValueError(
            "this Hamiltonian feels no force at rest, so a run without extra energy would never "
            "move. Pass extra_energy > 0."
        )


def _checked_value(value) -> jax.Array:
    if value is None:
        raise ValueError(
            "energy-conserving descent needs the loss: it sets the speed. Call "
            "update(grads, state, params, value=loss) with the loss that the gradients belong to "
            "(jax.value_and_grad gives both); flax.nnx.Optimizer.update takes value=loss too."
        )
    value = jnp.asarray(value)
    if value.shape:
        raise ValueError(
            f"value must be the scalar loss, got shape {value.shape}. Pass its mean, or vmap the "
            "update for several runs."
        )
    return value


def _check_gradients(gradients: PyTree, momentum: PyTree) -> None:
    """Gradients and parameters must agree; the momentum has the parameters' structure."""
    if jax.tree.structure(gradients) != jax.tree.structure(momentum):
        raise ValueError(
            "the gradients have another structure than the parameters the state was made for:\n"
            f"  gradients:  {jax.tree.structure(gradients)}\n"
            f"  parameters: {jax.tree.structure(momentum)}\n"
            "Pass the same tree to init and to jax.grad; for a part of a model, use optax.masked."
        )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(gradients)]
    expected = [jnp.shape(leaf) for leaf in jax.tree.leaves(momentum)]
    if shapes != expected:
        raise ValueError(
            f"the gradients have shapes {shapes}, the parameters {expected}. Call init again for "
            "parameters of another shape."
        )


def _as_array(leaf):
    # Gradients of integer parameters have the type float0, which jax.numpy does not take.
    return leaf if getattr(leaf, "dtype", None) == jax.dtypes.float0 else jnp.asarray(leaf)


def ecd(
    learning_rate: optax.ScalarOrSchedule,
    hamiltonian: Hamiltonian | None = None,
    *,
    f_min=0.0,
    extra_energy=0.0,
    objective_power=1.0,
    bounces: bounce_rules.Bounces = None,
    initial_direction: str = "gradient",
    conserve_energy: bool = True,
    adapt_f_min: bool = False,
    integrator: str = "paper",
    key: Key = 0,
    eps1=1e-10,
    eps2=1e-40,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Energy-conserving descent with any Hamiltonian and bounce rules (BBI paper, section 2).

    $$
    dTheta/dt = 2 dH/dq Pi,    dPi/dt = -dH/dV grad V,    V = (loss - f_min)^p
    $$

    at constant energy E = H(V, q), with q = |Pi|^2 and p = `objective_power`. The update is the
    displacement Theta_{t+1} - Theta_t: `ecd` closes a chain. Collisions and clipping go before it;
    `scale_by_learning_rate`, `adamw` or weight decay after it would break the conservation.

    Args:
      learning_rate: the time step Delta t > 0; float or schedule. The displacement of a step is at
        most Delta t times the speed limit.
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
      integrator: "paper", Algorithm 1; "leapfrog", half kick, restore the energy or bounce, half
        kick, drift with V at half a step. It costs the same single gradient and samples the
        predicted density (Eq. 40) without the bias that bounces have in the paper's step. A
        bounce then moves, and has the length that the energy asks for.
      key: int, typed key or raw key data, for the directions of bounces. Under `nnx.vmap` or
        `jax.vmap` all members share it unless it is mapped over too.
      eps1: differences in |Pi|^2 below it are not rescaled.
      eps2: at V <= eps2 the parameters are frozen, until V rises again. At least the smallest
        normal number of the state's type, and where |Pi| would overflow (for Born-Infeld at
        V <= 4 E^2 / largest number; for float16 momentum earlier).
      mu_dtype: type of the momentum; by default that of each parameter.

    Returns:
      A transformation with `update(grads, state, params=None, *, value, **extra)`, state
      `ECDState`. `value` is the loss, shape []. A value or gradient that is not finite (or a
      momentum that overflows) makes a zero update and changes nothing but `num_skipped`.

    Raises:
      ValueError: for arguments out of range; for a Hamiltonian that feels no force at rest without
        extra energy; in `update`, for a missing or non-scalar `value`, and for gradients of
        another structure or shape than the parameters.
      TypeError: if `hamiltonian` or `bounces` is something else.

    Notes:
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
    settings = Settings(
        learning_rate=learning_rate,
        hamiltonian=hamiltonian,
        f_min=f_min,
        extra_energy=extra_energy,
        objective_power=objective_power,
        rules=bounce_rules.as_rules(bounces),
        starts_at_random=_choice("initial_direction", initial_direction, _DIRECTIONS),
        conserve_energy=conserve_energy,
        adapt_f_min=adapt_f_min,
        integrator=_choice("integrator", integrator, INTEGRATORS),
        key=key,
        eps1=eps1,
        eps2=eps2,
        mu_dtype=mu_dtype,
    )
    _check(settings)
    # Compiled once for each transformation, so that calls outside of jit are quick too; inside of
    # jit it is inlined and leaves no trace.
    step = jax.jit(functools.partial(dynamics.step, settings), inline=True)

    def init(params: PyTree) -> ECDState:
        return initial_state(settings, params)

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args  # the step needs neither
        loss = _checked_value(value)
        gradient = jax.tree.map(_as_array, updates)
        _check_gradients(gradient, state.momentum)
        return step(gradient, state, loss)

    return optax.GradientTransformationExtraArgs(init, update)


def bbi(
    learning_rate: optax.ScalarOrSchedule,
    *,
    f_min=0.0,
    extra_energy=0.0,
    fixed_bounce_every=1000,
    num_fixed_bounces=1,
    patience=3000,
    initial_direction: str = "gradient",
    conserve_energy: bool = True,
    adapt_f_min: bool = False,
    integrator: str = "paper",
    key: Key = 0,
    eps1=1e-10,
    eps2=1e-40,
    mu_dtype: Any = None,
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
      learning_rate: Delta t > 0, the time step; float or schedule. No step is longer than about
        Delta t sqrt(V).
      f_min: Delta V, the loss that counts as reached.
      extra_energy: delta E >= 0, to climb over barriers higher than the start.
      fixed_bounce_every: T0 >= 1, in steps; None: never.
      num_fixed_bounces: Nb >= 0. 0 means none (Algorithm 1 would bounce once).
      patience: T1 >= 1, steps without a new lowest loss before a bounce; None: never.
      initial_direction: "gradient" (Eq. 14) or "random".
      conserve_energy: rescale Pi to the energy at every step.
      adapt_f_min: find f_min while running.
      integrator: "paper" or "leapfrog".
      key: int, typed key or raw key data.
      eps1: epsilon_1 of Algorithm 1.
      eps2: epsilon_2 of Algorithm 1.
      mu_dtype: type of the momentum.

    Returns:
      A transformation as described at `ecd`, which explains the last eight arguments in full. Its
      state is one momentum (half of Adam's) and a few scalars.

    Raises:
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
        integrator=integrator,
        key=key,
        eps1=eps1,
        eps2=eps2,
        mu_dtype=mu_dtype,
    )


def ecdsep(
    learning_rate: optax.ScalarOrSchedule,
    *,
    eta=1.0,
    nu=1e-5,
    s=1.0,
    f_min=0.0,
    extra_energy=0.0,
    initial_direction: str = "gradient",
    conserve_energy: bool = True,
    adapt_f_min: bool = False,
    integrator: str = "paper",
    key: Key = 0,
    eps1=1e-10,
    eps2=1e-40,
    mu_dtype: Any = None,
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
      integrator: see `ecd`.
      key: see `ecd`.
      eps1: see `ecd`.
      eps2: see `ecd`.
      mu_dtype: see `ecd`.

    Returns:
      A transformation as described at `ecd`.

    Raises:
      ValueError: see `ecd`; for a negative nu.

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
    no_rotation = _is_number(nu) and nu == 0
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
        integrator=integrator,
        key=key,
        eps1=eps1,
        eps2=eps2,
        mu_dtype=mu_dtype,
    )


def _is_descent(x) -> bool:
    return isinstance(x, ECDState)


def _state_names(opt_state: PyTree) -> set[str]:
    """Names of the state types in a part of an optimizer state."""
    names = {type(opt_state).__name__}
    if isinstance(opt_state, tuple):
        names = names.union(*map(_state_names, opt_state))
    return names


def _check_last_in_chain(opt_state: PyTree) -> None:
    """Raise where the state shows a rescaling transformation after a descent in a chain.

    States without a name of their own (`optax.scale`, `add_decayed_weights`) cannot be told from
    harmless ones; those after a descent go unnoticed.
    """
    if type(opt_state) is not tuple or not any(map(_is_descent, opt_state)):
        return
    place = [_is_descent(part) for part in opt_state].index(True)
    names = sorted(_state_names(opt_state[place + 1 :]))
    rescaling = [name for name in names if name.startswith(("ScaleBy", "Trace"))]
    if rescaling:
        raise ValueError(
            f"the state holds {', '.join(rescaling)} after an energy-conserving descent in the "
            "same chain. The descent's update is a displacement, which a later optimizer or "
            "learning rate distorts, so that energy is not conserved. Put the descent last: "
            "optax.chain(clip, collision, kinopt.bbi(...))."
        )


def ecd_stats(opt_state: PyTree) -> ECDStats:
    """Diagnostics of an energy-conserving descent, found anywhere in an optimizer state.

    Args:
      opt_state: an `ECDState`, or the state of a chain, `masked`, `partition`, `MultiSteps`,
        `inject_hyperparams`, ... that contains exactly one. Works under `jit`; for a state with a
        leading axis (`vmap`), so have the statistics.

    Returns:
      An `ECDStats` of arrays.

    Raises:
      ValueError: if the state contains no descent or several, or if it shows another optimizer
        chained after the descent.

    >>> import jax.numpy as jnp, kinopt, optax
    >>> optimizer = optax.chain(optax.clip_by_global_norm(10.0), kinopt.bbi(0.1))
    >>> x = jnp.array([3.0, 4.0])
    >>> state = optimizer.init(x)
    >>> _, state = optimizer.update(2 * x, state, x, value=jnp.sum(x**2))
    >>> stats = kinopt.ecd_stats(state)
    >>> float(stats.energy), float(stats.potential), int(stats.num_halted)
    (25.0, 25.0, 0)
    """
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=_is_descent) if _is_descent(x)]
    if len(found) != 1:
        raise ValueError(
            f"expected one ECDState in the optimizer state, found {len(found)}. "
            + (
                "Pass the part of the state that belongs to one descent."
                if found
                else "Pass the state of kinopt.bbi, ecd or ecdsep, or of a chain around it."
            )
        )
    _check_last_in_chain(opt_state)
    return ECDStats(*(jnp.asarray(getattr(found[0], name)) for name in ECDStats._fields))
