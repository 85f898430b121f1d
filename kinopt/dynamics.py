"""One step of energy-conserving descent, for any Hamiltonian, integrator and bounce rules.

At Theta_k, with V and grad V there, a step is (BBI paper, Algorithm 1, for Born-Infeld)

    Pi     <- Pi - b dt dH/dV grad V                    part of the kick before
    Pi     <- a Pi,  a = sqrt(q(V, E)) / |Pi|           restore the energy E (Eq. 48)
              or a bounce: a random direction
    Pi     <- Pi - c dt dH/dV grad V                    kick (Eq. 11)
    update  = dt 2 dH/dq Pi                             drift (Eq. 12)

The two integrators are settings of it. "paper": b = 0, c = 1, and a bounce is a step of its own in
which nothing moves and |Pi| is kept. "leapfrog": b = c = 1/2, a bounce has the length q(V, E) asks
for and moves on, and the drift takes V half a step ahead, V + (dt/2) dTheta/dt . grad V. In the
paper's step the momentum lags half a kick behind, so that each bounce adds half a kick downhill:
that biases the density of V by an amount that does not fall with dt.

All lines above are sums over the same two trees, Pi' = a Pi - k g for two scalars a and k. A step
first finds |Pi'|^2, which tells whether everything is finite, and then writes Pi' and the update.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kinopt import brackets, trees
from kinopt._keys import key_data, typed_key
from kinopt._typing import Key, PyTree, Scalar
from kinopt.bounces import BounceRule
from kinopt.hamiltonians import Hamiltonian, force_factor, velocity_factor

__all__ = ["INTEGRATORS", "ECDState", "Settings", "initial_state", "step"]


class ECDState(NamedTuple):
    """State of an energy-conserving descent. `[]` is the shape of a scalar.

    Floating scalars are float32 or wider, whatever the type of the parameters.
    """

    count: jax.Array  # int32 []: steps so far, the skipped ones left out
    energy: jax.Array  # float []: E, set at the first step that moves; 0 before
    momentum: PyTree  # like the parameters, in mu_dtype: Pi after the last step
    momentum_sq: jax.Array  # float []: |Pi|^2 over all leaves
    potential: jax.Array  # float []: V at the start of the last step
    speed: jax.Array  # float []: |dTheta/dt| by Hamilton's equations for potential and momentum
    speed_limit: jax.Array  # float []: what the speed cannot exceed at this potential
    energy_error: jax.Array  # float []: H(V, |Pi|^2) - E before the last rescaling
    initial_value: jax.Array  # float []: loss at the first step that moves; inf before
    lowest_value: jax.Array  # float []: lowest loss so far; inf before the first
    f_min: jax.Array  # float []: Delta V, the value that the loss is expected to reach
    num_bounces: jax.Array  # int32 []: bounces so far, of all rules
    num_halted: jax.Array  # int32 []: steps on which V <= eps2
    num_clamped: jax.Array  # int32 []: steps on which V > E, and the particle was stopped
    num_skipped: jax.Array  # int32 []: updates passed over: loss or gradient not finite
    counters: tuple  # one entry for each bounce rule, its counters
    bracket: brackets.Bracket | tuple  # the search for f_min; () without adapt_f_min
    key: jax.Array  # uint32 [...]: data of the base key of all bounces


class Integrator(NamedTuple):
    """Where a step puts the kick, and what a bounce does."""

    kick_before: float  # part of the kick before the energy is restored
    kick_after: float  # part of the kick after it
    bounces_in_place: bool  # a bounce takes a step of its own, in which nothing moves
    drifts_at_midpoint: bool  # drift with V half a step ahead


INTEGRATORS = {
    "paper": Integrator(0.0, 1.0, bounces_in_place=True, drifts_at_midpoint=False),
    "leapfrog": Integrator(0.5, 0.5, bounces_in_place=False, drifts_at_midpoint=True),
}

class Settings(NamedTuple):
    """What a descent is: the arguments of `kinopt.ecd`, checked. Numbers may be traced."""

    learning_rate: Any  # number or schedule: Delta t
    hamiltonian: Hamiltonian
    f_min: Any  # number: Delta V
    extra_energy: Any  # number: delta E
    objective_power: Any  # number: p in V = (loss - f_min)^p
    rules: tuple[BounceRule, ...]
    starts_at_random: bool
    conserve_energy: bool
    adapt_f_min: bool
    integrator: Integrator
    key: Key
    eps1: Any  # number
    eps2: Any  # number
    mu_dtype: Any  # type of the momentum, or None


def initial_state(settings: Settings, params: PyTree) -> ECDState:
    """The state before the first step: at rest, no energy yet."""
    # Placeholders of optax.tree.map_params have no leaves: nothing here may need one.
    floating = [leaf for leaf in jax.tree.leaves(params) if trees.is_floating(leaf)]
    dtype = trees.accumulator_dtype(*floating)

    def at_rest(leaf):
        return jnp.zeros_like(leaf, settings.mu_dtype if trees.is_floating(leaf) else None)

    def zero(dtype):
        return jnp.zeros((), dtype)

    return ECDState(
        count=zero(jnp.int32),
        energy=zero(dtype),
        momentum=jax.tree.map(at_rest, params),
        momentum_sq=zero(dtype),
        potential=zero(dtype),
        speed=zero(dtype),
        speed_limit=zero(dtype),
        energy_error=zero(dtype),
        initial_value=jnp.full((), jnp.inf, dtype),
        lowest_value=jnp.full((), jnp.inf, dtype),
        # A copy: the state may be donated while the argument lives on in the transformation.
        f_min=jnp.array(settings.f_min, dtype, copy=True),
        num_bounces=zero(jnp.int32),
        num_halted=zero(jnp.int32),
        num_clamped=zero(jnp.int32),
        num_skipped=zero(jnp.int32),
        counters=tuple(rule.init() for rule in settings.rules),
        bracket=brackets.empty(dtype) if settings.adapt_f_min else (),
        key=key_data(settings.key),
    )


def _wide(leaf) -> jnp.dtype:
    """The type in which the entries of a leaf are computed."""
    return jnp.promote_types(leaf.dtype, trees.accumulator_dtype(leaf))


def _combine(a: Scalar, x: PyTree, b: Scalar, y: PyTree) -> PyTree:
    """A x + b y on the floating leaves of x, each in float32 or wider; x elsewhere."""

    def leaf(x, y):
        if not trees.is_floating(x):
            return x
        real, wide = trees.accumulator_dtype(x), _wide(x)
        return a.astype(real) * x.astype(wide) + b.astype(real) * y.astype(wide)

    return jax.tree.map(leaf, x, y)


def _potential(loss: Scalar, f_min: Scalar, power: Scalar) -> tuple[Scalar, Scalar]:
    """V = (loss - f_min)^p and dV/dloss; at and below f_min, V = loss - f_min and no slope."""
    gap = loss - f_min
    positive = gap > 0
    above = jnp.where(positive, gap, 1)
    # x**1 need not be exactly x on every device.
    v = jnp.where(power == 1, above, above**power)
    slope = jnp.where(power == 1, 1, power * v / above)
    return jnp.where(positive, v, gap), jnp.where(positive, slope, 0).astype(loss.dtype)


def _largest_momentum(momentum: PyTree, dtype) -> float:
    """|Pi| up to which |Pi|^2 keeps clear of overflow in `dtype`, and Pi in its own types."""
    floating = [leaf for leaf in jax.tree.leaves(momentum) if trees.is_floating(leaf)]
    entries = [float(jnp.finfo(leaf.dtype).max) / 2 for leaf in floating]
    return min([float(jnp.finfo(dtype).max) ** 0.5 / 2, *entries])


def step(
    settings: Settings, gradient: PyTree, state: ECDState, loss: Scalar
) -> tuple[PyTree, ECDState]:
    """One step: the displacement of the parameters and the next state.

    Args:
      settings: what the descent is.
      gradient: grad of the loss, like the parameters.
      state: what the last step left.
      loss: the loss at the parameters, shape [].
    """
    scheme, conserve, hamiltonian = (
        settings.integrator,
        settings.conserve_energy,
        settings.hamiltonian,
    )
    dtype = state.energy.dtype
    number = lambda x: jnp.asarray(x, dtype)  # noqa: E731
    loss = loss.astype(dtype)
    rate = settings.learning_rate
    dt = number(rate(state.count) if callable(rate) else rate)
    extra_energy, power = number(settings.extra_energy), number(settings.objective_power)
    eps1 = number(settings.eps1)
    # XLA flushes denormal numbers to zero, so 1e-40 would be no threshold at all in float32.
    eps2 = jnp.maximum(number(settings.eps2), number(jnp.finfo(dtype).tiny))
    first = ~jnp.isfinite(state.initial_value)
    initial_value = jnp.where(first, loss, state.initial_value)

    # Potential and energy.
    if settings.adapt_f_min:
        bracket, f_min = brackets.tighten(
            state.bracket, state.f_min, loss, state.lowest_value, initial_value + extra_energy, first
        )
    else:
        bracket, f_min = (), number(settings.f_min)
    potential, slope = _potential(loss, f_min, power)
    v = jnp.where(potential > eps2, potential, 1)  # a number that makes no NaN where it is not used
    if settings.adapt_f_min:
        # The ceiling stays, so the energy follows f_min (see kinopt.brackets).
        v0, _ = _potential(initial_value, f_min, power)
        energy = hamiltonian.start(jnp.where(v0 > eps2, v0, v), extra_energy).astype(dtype)
    else:
        energy = jnp.where(first, hamiltonian.start(v, extra_energy), state.energy).astype(dtype)
    shell = hamiltonian.momentum_sq(v, energy).astype(dtype)  # |Pi|^2 that the energy asks for
    target = jnp.maximum(shell, 0)
    # Also halted: a momentum too large for its type. For Born-Infeld that is V < 4 E^2/max.
    limit = number(_largest_momentum(state.momentum, dtype))
    halted = ~(potential > eps2) | ~(jnp.sqrt(target) < limit)
    moving = ~halted
    # Rounding can make V exceed E at the first step, where they are equal.
    clamped = (shell < 0) & ~first & moving

    # At V > E, target = 0 makes dH/dV and dH/dq those of a particle at rest: V clamped to E.
    force = force_factor(hamiltonian, v, target).astype(dtype) * slope
    kick = jnp.where(halted, 0, dt * force)
    after = scheme.kick_after * kick
    before = jnp.where(first, 0, scheme.kick_before * kick)

    # Does this step bounce?
    due = tuple(rule.due(counters) for rule, counters in zip(settings.rules, state.counters))
    bounced = moving & functools.reduce(jnp.logical_or, due, jnp.zeros((), bool))
    progressed = loss < state.lowest_value

    # Where there is no momentum and the energy asks for some, it starts along minus the gradient:
    # that is Pi - 1 g, rescaled.
    at_rest = state.momentum_sq <= 0
    off_shell = jnp.abs(state.momentum_sq - target) >= eps1
    starts = moving & (target > 0) & (first | (at_rest & off_shell & ~bounced & conserve))
    before = jnp.where(starts, 1, before)
    if scheme.kick_before:
        here_sq = trees.squared_norm(_combine(number(1), state.momentum, -before, gradient))
    else:
        here_sq = jax.lax.cond(
            starts, lambda: trees.squared_norm(gradient).astype(dtype), lambda: state.momentum_sq
        )
    here_sq = here_sq.astype(dtype)
    flat = starts & (here_sq <= 0)

    # Length of the momentum before the kick, as a multiple of what it is.
    here = jnp.sqrt(here_sq)
    length = jnp.sqrt(target)
    rescales = starts | (moving & conserve & (jnp.abs(here_sq - target) >= eps1))
    ratio = length / jnp.where(here > 0, here, 1)
    scale = jnp.where(rescales, ratio, 1)
    if scheme.bounces_in_place:
        after = jnp.where(bounced, 0, after)
        length_of_bounce = here  # Algorithm 1; the next step restores the energy
    else:
        length_of_bounce = length if conserve else here
    length_of_draw = jnp.where(bounced, length_of_bounce, jnp.where(starts, length, scale * here))
    drifts = moving & ~(bounced & scheme.bounces_in_place)

    turns = [rule.rotation for rule in settings.rules if rule.rotation is not None]
    turn = jnp.sqrt(sum((number(nu) ** 2 for nu in turns), start=number(0)))
    turned = moving & ~first & ~bounced & ~starts & (turn > 0) & (here > 0)
    from_scratch = bounced | flat | (starts & settings.starts_at_random)
    finite = jnp.isfinite(loss)

    def advance(base: PyTree, base_scale: Scalar, pull: Scalar):
        """Pi' = base_scale base - pull g, and the drift with it."""
        kicked = _combine(base_scale, base, -pull, gradient)
        kicked_sq = trees.squared_norm(kicked).astype(dtype)
        v_drift, shell_drift = v, target
        if scheme.drifts_at_midpoint:
            velocity = velocity_factor(hamiltonian, v, target)
            ahead = dt / 2 * velocity * slope * trees.inner(kicked, gradient)
            # A step too long for the valley must not make V negative.
            v_drift = jnp.clip(v + ahead, v / 2, 2 * v).astype(dtype)
            shell_drift = jnp.maximum(hamiltonian.momentum_sq(v_drift, energy), 0).astype(dtype)
        momentum_sq = shell_drift if hamiltonian.drift == "shell" else kicked_sq
        drift = dt * velocity_factor(hamiltonian, v_drift, momentum_sq).astype(dtype)
        drift = jnp.where(drifts, drift, 0)
        # |Pi'|^2 sees every entry of the gradient, so it tells whether all are finite.
        good = finite & jnp.isfinite(kicked_sq)

        def displacement(new, old, g):
            if not trees.is_floating(old):
                return jnp.zeros_like(old if g.dtype == jax.dtypes.float0 else g)
            moved = drift.astype(trees.accumulator_dtype(old)) * new
            return jnp.where(good, moved, 0).astype(g.dtype)

        update = jax.tree.map(displacement, kicked, state.momentum, gradient)
        momentum = jax.tree.map(
            lambda new, old: jnp.where(good, new.astype(old.dtype), old), kicked, state.momentum
        )
        return update, momentum, kicked_sq, good

    def straight():
        return advance(state.momentum, scale, scale * before + after)

    def drawn():
        # keep (Pi - b g) + mix N: all noise for a bounce, a little for a rotation.
        noise = trees.random_normal(
            jax.random.fold_in(typed_key(state.key, settings.key), state.count), state.momentum
        )
        base = noise
        if turns:
            keep = jnp.where(from_scratch, 0, number(1))
            here_momentum = _combine(keep, state.momentum, -keep * before, gradient)
            mix = jnp.where(from_scratch, 1, turn * here)
            base = _combine(number(1), here_momentum, mix, noise)
        size = jnp.sqrt(trees.squared_norm(base).astype(dtype))
        tiny = number(jnp.finfo(dtype).tiny)
        return advance(base, length_of_draw / jnp.maximum(size, tiny), after)

    update, momentum, kicked_sq, good = jax.lax.cond(turned | from_scratch, drawn, straight)
    momentum_sq = jnp.where(moving, kicked_sq, state.momentum_sq)

    def count_if(condition, number):
        return jnp.where(condition, optax.safe_increment(number), number)

    speed = velocity_factor(hamiltonian, v, momentum_sq).astype(dtype) * jnp.sqrt(momentum_sq)
    speed_limit = jnp.asarray(hamiltonian.speed_limit(v, energy), dtype)
    error = hamiltonian.energy(v, here_sq).astype(dtype) - energy
    new = state._replace(
        count=optax.safe_increment(state.count),
        energy=jnp.where(moving | ~first, energy, state.energy),
        momentum_sq=momentum_sq,
        potential=potential,
        speed=jnp.where(moving, speed, state.speed),
        speed_limit=jnp.where(moving, speed_limit, state.speed_limit),
        energy_error=jnp.where(moving, jnp.where(first | starts, 0, error), state.energy_error),
        initial_value=jnp.where(moving, initial_value, state.initial_value),
        # A bounce of Algorithm 1 does not look at the loss.
        lowest_value=jnp.where(
            progressed & ~(bounced & scheme.bounces_in_place), loss, state.lowest_value
        ),
        f_min=f_min,
        num_bounces=count_if(bounced, state.num_bounces),
        num_halted=count_if(halted, state.num_halted),
        num_clamped=count_if(clamped, state.num_clamped),
        counters=tuple(
            jax.tree.map(
                lambda new, old: jnp.where(moving, new, old),
                rule.advance(counters, rule_due, bounced, progressed),
                counters,
            )
            for rule, counters, rule_due in zip(settings.rules, state.counters, due)
        ),
        bracket=bracket,
    )
    kept = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        new._replace(momentum=(), key=()),
        state._replace(momentum=(), key=()),
    )
    return update, kept._replace(
        momentum=momentum, key=state.key, num_skipped=count_if(~good, state.num_skipped)
    )
