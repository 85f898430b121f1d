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

The first three lines are one sum over two trees, Pi' = a Pi - k g, for two scalars a and k that are
known beforehand, because |Pi|^2 is carried along. Their order costs nothing: a step sums up |g|^2,
writes Pi' and the update, and sums up |Pi'|^2. It never reads the parameters.
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

    # int32 []: steps so far, the skipped ones left out
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
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

CANCELLATION = 1e-2
"""|Pi - k g|^2 from inner products loses digits where it is small beside |Pi|^2 + k^2 |g|^2."""


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


class _Shell(NamedTuple):
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


def _shell(settings: Settings, state: ECDState, loss: Scalar, first: jax.Array) -> _Shell:
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
    return _Shell(
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


def _largest_momentum(momentum: PyTree, dtype) -> float:
    """|Pi| up to which |Pi|^2 keeps clear of overflow in `dtype`, and Pi in its own types."""
    floating = [leaf for leaf in jax.tree.leaves(momentum) if trees.is_floating(leaf)]
    entries = [float(jnp.finfo(leaf.dtype).max) / 2 for leaf in floating]
    return min([float(jnp.finfo(dtype).max) ** 0.5 / 2, *entries])


def _kicked_sq(
    momentum: PyTree, momentum_sq: Scalar, kick: Scalar, gradient: PyTree, gradient_sq: Scalar
) -> Scalar:
    """|Pi - kick g|^2, from inner products where that is accurate: they are quicker."""
    projected = trees.inner(momentum, gradient).astype(momentum_sq.dtype)
    scale = momentum_sq + kick**2 * gradient_sq
    expanded = scale - 2 * kick * projected
    return jax.lax.cond(
        expanded > CANCELLATION * scale,
        lambda: expanded,
        lambda: trees.squared_norm(_combine(jnp.ones_like(kick), momentum, -kick, gradient)).astype(
            expanded.dtype
        ),
    )


def _draw(settings: Settings, state: ECDState, draws: jax.Array, keep, pull, gradient, mix):
    """Pi and a 1; or where `draws`: B = keep (Pi - pull g) + mix N, N standard normal, and |B|.

    Under `vmap`, `cond` becomes `select`, which runs both sides; the loop inside still draws only
    when some member does.
    """
    key = jax.random.fold_in(typed_key(state.key, settings.key), state.count)
    one = jnp.ones((), state.energy.dtype)

    def add_noise(carry):
        _, base, _ = carry
        noise = trees.random_normal(key, base)
        if keep is not None:
            kicked = _combine(keep, base, -keep * pull, gradient)
            noise = _combine(one, kicked, mix, noise)
        size = jnp.sqrt(trees.squared_norm(noise)).astype(one.dtype)
        noise = jax.tree.map(lambda x, like: x.astype(like.dtype), noise, base)
        return jnp.zeros((), bool), noise, size

    def drawn():
        start = (draws, state.momentum, one)
        return jax.lax.while_loop(lambda carry: carry[0], add_noise, start)[1:]

    return jax.lax.cond(draws, drawn, lambda: (state.momentum, one))


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
    hamiltonian, scheme = settings.hamiltonian, settings.integrator
    dtype = state.energy.dtype
    loss = loss.astype(dtype)
    rate = settings.learning_rate
    dt = jnp.asarray(rate(state.count) if callable(rate) else rate, dtype)
    eps1 = jnp.asarray(settings.eps1, dtype)
    first = ~jnp.isfinite(state.initial_value)

    # One pass over the gradient tells whether all of it is finite, before anything is written.
    gradient_sq = trees.squared_norm(gradient).astype(dtype)
    good = jnp.isfinite(loss) & jnp.isfinite(gradient_sq)
    shell = _shell(settings, state, loss, first)
    length = jnp.sqrt(shell.momentum_sq)
    force = force_factor(hamiltonian, shell.v, shell.momentum_sq).astype(dtype) * shell.slope
    kick = dt * force
    # The end also is where the momentum outgrows its type: for Born-Infeld, V < 4 E^2 / max.
    longest = length + jnp.abs(kick) * jnp.sqrt(gradient_sq)
    halted = shell.reached | ~(longest < _largest_momentum(state.momentum, dtype))
    moving = good & ~halted
    clamped = moving & shell.exceeded
    kick = jnp.where(moving, kick, 0)

    due = tuple(
        rule.due(counters) for rule, counters in zip(settings.rules, state.counters, strict=True)
    )
    bounced = moving & functools.reduce(jnp.logical_or, due, jnp.zeros((), bool))
    waits = bounced & scheme.bounces_in_place
    progressed = loss < state.lowest_value

    # Where the energy asks for momentum and there is none, it sets off along minus the gradient:
    # the momentum Pi - 1 g, rescaled.
    off_shell = jnp.abs(state.momentum_sq - shell.momentum_sq) >= eps1
    lost = (state.momentum_sq <= 0) & off_shell & ~bounced & settings.conserve_energy
    starts = moving & (length > 0) & (first | lost)
    before = jnp.where(starts, 1, jnp.where(first, 0, scheme.kick_before * kick))
    after = jnp.where(waits, 0, scheme.kick_after * kick)
    if scheme.kick_before:
        here_sq = _kicked_sq(state.momentum, state.momentum_sq, before, gradient, gradient_sq)
    else:
        here_sq = jnp.where(starts, gradient_sq, state.momentum_sq)
    here = jnp.sqrt(here_sq)

    # Restore the energy.
    conserves = moving & settings.conserve_energy & (jnp.abs(here_sq - shell.momentum_sq) >= eps1)
    scale = jnp.where(starts | conserves, length / jnp.where(here > 0, here, 1), 1)

    # Bounce, or turn. Algorithm 1 keeps |Pi| in a bounce; the next step restores the energy.
    aimless = bounced | (starts & ((here <= 0) | settings.starts_at_random))
    nus = [rule.rotation for rule in settings.rules if rule.rotation is not None]
    nu = jnp.sqrt(sum((jnp.asarray(nu, dtype) ** 2 for nu in nus), start=jnp.zeros((), dtype)))
    turns = moving & ~first & ~aimless & (nu > 0) & (here > 0)
    draws = aimless | turns  # both only when moving, hence when good
    keep = jnp.where(aimless, 0, jnp.ones((), dtype)) if nus else None
    mix = jnp.where(aimless, 1, nu * here)
    base, drawn_size = _draw(settings, state, draws, keep, before, gradient, mix)
    keeps_length = bounced if scheme.bounces_in_place or not settings.conserve_energy else False
    drawn_length = jnp.where(starts, length, jnp.where(keeps_length, here, scale * here))
    drawn_scale = drawn_length / jnp.maximum(drawn_size, jnp.finfo(dtype).tiny)

    # Kick, and the momentum as it is stored.
    kicked = _combine(
        jnp.where(draws, drawn_scale, scale),
        base,
        -jnp.where(draws, after, scale * before + after),
        gradient,
    )
    # Where the step is not good nothing was drawn, and `base` is the old momentum. (Naming the old
    # momentum itself here would keep its buffer alive, at the cost of a copy at every step.)
    momentum = jax.tree.map(
        lambda new, old: jnp.where(good, new.astype(old.dtype), old), kicked, base
    )
    # The barrier makes this the norm of what is stored, rounded to its type, read once.
    momentum_sq = trees.squared_norm(jax.lax.optimization_barrier(momentum)).astype(dtype)

    # Drift.
    v, drift_sq = shell.v, shell.momentum_sq
    if scheme.drifts_at_midpoint:
        projected = trees.inner(momentum, gradient).astype(dtype)
        velocity = velocity_factor(hamiltonian, v, shell.momentum_sq) * projected
        # A step too long for the valley must not make V negative.
        v = jnp.clip(v + dt / 2 * shell.slope * velocity, v / 2, 2 * v).astype(dtype)
        drift_sq = jnp.maximum(hamiltonian.momentum_sq(v, shell.energy), 0).astype(dtype)
    if hamiltonian.drift == "kicked":
        drift_sq = momentum_sq
    drift = dt * velocity_factor(hamiltonian, v, drift_sq).astype(dtype)
    drift = jnp.where(moving & ~waits, drift, 0)

    def displacement(pi, g):
        if not trees.is_floating(pi):
            return jnp.zeros_like(pi if g.dtype == jax.dtypes.float0 else g)
        # Zero times the momentum is zero: the momentum is finite whatever the gradient is.
        return (drift.astype(trees.accumulator_dtype(pi)) * pi.astype(_wide(pi))).astype(g.dtype)

    update = jax.tree.map(displacement, momentum, gradient)
    speed = velocity_factor(hamiltonian, shell.v, momentum_sq).astype(dtype) * jnp.sqrt(momentum_sq)
    error = hamiltonian.energy(shell.v, here_sq).astype(dtype) - shell.energy

    def count_if(condition, number):
        return jnp.where(condition, optax.safe_increment(number), number)

    def where_moving(new, old):
        return jax.tree.map(lambda new, old: jnp.where(moving, new, old), new, old)

    def where_good(new, old):
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)

    return update, ECDState(
        count=count_if(good, state.count),
        energy=where_moving(shell.energy, state.energy),
        momentum=momentum,
        momentum_sq=where_moving(momentum_sq, state.momentum_sq),
        potential=where_good(shell.potential, state.potential),
        speed=where_moving(speed, state.speed),
        speed_limit=where_moving(
            jnp.asarray(hamiltonian.speed_limit(shell.v, shell.energy), dtype), state.speed_limit
        ),
        energy_error=where_moving(jnp.where(first | starts, 0, error), state.energy_error),
        initial_value=where_moving(
            jnp.where(first, loss, state.initial_value), state.initial_value
        ),
        # A bounce of Algorithm 1 does not look at the loss.
        lowest_value=jnp.where(good & progressed & ~waits, loss, state.lowest_value),
        f_min=where_good(shell.f_min, state.f_min),
        num_bounces=count_if(bounced, state.num_bounces),
        num_halted=count_if(good & halted, state.num_halted),
        num_clamped=count_if(clamped, state.num_clamped),
        num_skipped=count_if(~good, state.num_skipped),
        counters=tuple(
            where_moving(rule.advance(counters, due, bounced, progressed), counters)
            for rule, counters, due in zip(settings.rules, state.counters, due, strict=True)
        ),
        bracket=where_good(shell.bracket, state.bracket),
        key=state.key,
    )
