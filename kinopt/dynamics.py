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
writes Pi' and the update, and sums up |Pi'|^2. It never reads the parameters, unless they decay.

Two settings are not the paper's. `cool`: dt of the kicks is what the schedule gives at the start,
so that annealing shortens the drift alone and the momentum goes on being renewed. `weight_decay`:
the update is less w dt / dt_0 Theta. Both leave the energy of Eq. 48 what it is, a number that the
momentum is rescaled to at every step: where kick and drift have other time steps, H changes within
a step at first order in their difference, and `energy_error` shows by how much.

`step` is told in five phases: `look` (where are we, what is due), `restore_or_bounce`, `kick`,
`drift`, and `remember`. Three squares of momentum occur in them: `asked_sq`, q(V, E), what the
energy asks for; `found_sq`, what there is before the energy is restored; `momentum_sq`, what there
is after the kick, which the state keeps.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kinopt import momenta, trees
from kinopt._batching import if_any_lane
from kinopt._keys import typed_key
from kinopt._typing import PyTree, Scalar
from kinopt.descent_state import ECDState, Settings, step_lengths
from kinopt.hamiltonians import velocity_factor
from kinopt.shell import Shell, energy_shell

__all__ = ["step"]


class Outlook(NamedTuple):
    """What `look` finds: all that is known before anything is written. Scalars of shape []."""

    dt: Scalar
    decay: Scalar  # by what part of themselves the parameters shrink
    shell: Shell
    length: Scalar  # sqrt(asked_sq)
    kick: Scalar  # dt dH/dV dV/dloss; 0 where nothing moves
    velocity: Scalar  # 2 dH/dq on the shell
    gradient_sq: Scalar
    first: jax.Array  # bool: nothing has moved yet
    good: jax.Array  # bool: everything is finite, and will be
    halted: jax.Array  # bool: V <= eps2
    moving: jax.Array  # bool: good and not halted
    due: tuple  # of bools: which rules ask for a bounce
    wanted: jax.Array  # bool: one of them asks for a whole bounce
    bounced: jax.Array  # bool: and gets it
    waits: jax.Array  # bool: nothing moves, because the bounce takes the step
    turn: Scalar  # nu, by how much the momentum is to turn without a whole bounce
    progressed: jax.Array  # bool: the loss is the lowest so far


class Aim(NamedTuple):
    """What `restore_or_bounce` gives: after the kick, Pi' = stretch base - pull g."""

    base: PyTree  # Pi, or what was drawn
    stretch: Scalar
    pull: Scalar
    good: jax.Array  # `Outlook.good`
    starts: jax.Array  # bool: the momentum is made of nothing
    found_sq: Scalar  # |Pi|^2 before the energy is restored


def step(
    settings: Settings,
    gradient: PyTree,
    state: ECDState,
    loss: Scalar,
    params: PyTree = None,
) -> tuple[PyTree, ECDState]:
    """One step: the displacement of the parameters and the next state.

    Args:
      settings: what the descent is.
      gradient: grad of the loss, like the parameters.
      state: what the last step left.
      loss: the loss at the parameters, shape [].
      params: the parameters, where they decay.
    """
    seen = look(settings, gradient, state, loss)
    aim = restore_or_bounce(settings, gradient, state, seen)  # Pi <- a Pi, or a random direction
    momentum, momentum_sq = kick(gradient, aim, seen)  # Pi <- Pi - dt dH/dV grad V
    update = drift(settings, gradient, seen, momentum, momentum_sq, params)  # dt 2 dH/dq Pi
    after = remember(settings, state, loss, seen, aim, momentum, momentum_sq)
    return _contained(update, after, state)


def look(settings: Settings, gradient: PyTree, state: ECDState, loss: Scalar) -> Outlook:
    """Where the step stands, and what it is going to do."""
    dtype = state.energy.dtype
    eps = momenta.unit_roundoff(loss, state.energy, *jax.tree.leaves(gradient))
    loss = loss.astype(dtype)
    dt, dt_at_start = step_lengths(settings.learning_rate, state.count, dtype)
    first = ~jnp.isfinite(state.initial_value)
    # One pass over the gradient tells whether all of it is finite, before anything is written.
    gradient_sq = trees.squared_norm(gradient).astype(dtype)
    shell = energy_shell(settings, state, loss, first, eps)
    length = momenta.root(shell.asked_sq)
    force, half = jax.grad(settings.hamiltonian.energy, (0, 1))(shell.v, shell.asked_sq)
    kick = (dt_at_start if settings.cool else dt) * (force.astype(dtype) * shell.slope)
    # The end also is where the momentum outgrows its type: for Born-Infeld, V < 4 E^2 / max. A kick
    # that is too long for the type is another thing: an infinity that would come of this step.
    largest = momenta.largest_momentum(state.momentum, dtype)
    halted = shell.reached | ~(length < largest)
    fits = halted | (jnp.abs(kick) * gradient_sq * jnp.abs(kick) < (1.5 * largest - length) ** 2)
    good = jnp.isfinite(loss) & jnp.isfinite(gradient_sq) & fits
    moving = good & ~halted
    due = tuple(rule.due(c) for rule, c in zip(settings.rules, state.counters, strict=True))
    whole = [asks for rule, asks in zip(settings.rules, due, strict=True) if rule.is_whole]
    wanted = moving & functools.reduce(jnp.logical_or, whole, jnp.zeros((), bool))
    turns = [
        jnp.where(asks & ~shell.arrived, jnp.asarray(rule.nu, dtype) ** 2, 0)
        for rule, asks in zip(settings.rules, due, strict=True)
        if not rule.is_whole
    ]
    bounced = wanted & ~shell.arrived
    return Outlook(
        dt=dt,
        decay=jnp.asarray(settings.weight_decay, dtype) * (dt / dt_at_start),
        shell=shell,
        length=length,
        kick=jnp.where(moving, kick, 0),
        velocity=2 * half.astype(dtype),
        gradient_sq=gradient_sq,
        first=first,
        good=good,
        halted=halted,
        moving=moving,
        due=due,
        wanted=wanted,
        bounced=bounced,
        waits=bounced & settings.integrator.bounces_in_place,
        turn=momenta.root(sum(turns, start=jnp.zeros((), dtype))),
        progressed=loss < state.lowest_value,
    )


def restore_or_bounce(settings: Settings, gradient: PyTree, state: ECDState, seen: Outlook) -> Aim:
    """Part of the kick; then the energy is restored (Eq. 48), or the momentum bounces."""
    scheme, shell, dtype = settings.integrator, seen.shell, state.energy.dtype
    eps1 = jnp.asarray(settings.eps1, dtype)
    # Where the energy asks for momentum and there is none, it sets off along minus the gradient:
    # the momentum Pi - 1 g, rescaled.
    off_shell = jnp.abs(state.momentum_sq - shell.asked_sq) >= eps1
    lost = (state.momentum_sq <= 0) & off_shell & ~seen.bounced & settings.conserve_energy
    starts = seen.moving & (seen.length > 0) & (seen.first | lost)
    before = jnp.where(starts, 1, jnp.where(seen.first, 0, scheme.kick_before * seen.kick))
    after = jnp.where(seen.waits, 0, scheme.kick_after * seen.kick)
    if scheme.kick_before:
        found_sq = momenta.kicked_sq(
            state.momentum, state.momentum_sq, before, gradient, seen.gradient_sq
        )
    else:
        found_sq = jnp.where(starts, seen.gradient_sq, state.momentum_sq)
    found = momenta.root(found_sq)
    restores = settings.conserve_energy & (jnp.abs(found_sq - shell.asked_sq) >= eps1)
    restores = starts | (seen.moving & restores)
    scale = jnp.where(restores, seen.length / jnp.where(found > 0, found, 1), 1)
    # Algorithm 1 keeps |Pi| in a bounce; the next step restores the energy.
    aimless = seen.bounced | (starts & ((found <= 0) | settings.starts_at_random))
    turns = seen.moving & ~seen.first & ~aimless & (seen.turn > 0) & (found > 0)
    draws = aimless | turns  # both only when moving, hence when good
    can_turn = not all(rule.is_whole for rule in settings.rules)
    keep = jnp.where(aimless, 0, jnp.ones((), dtype)) if can_turn else None
    mix = jnp.where(aimless, 1, seen.turn * found)
    keeps = seen.bounced if scheme.bounces_in_place or not settings.conserve_energy else False
    drawn_length = jnp.where(starts, seen.length, jnp.where(keeps, found, scale * found))

    def drawn():
        key = jax.random.fold_in(typed_key(state.key, settings.key), state.count)
        base, size = momenta.draw(key, state.momentum, draws, keep, before, gradient, mix)
        stretch = drawn_length / jnp.maximum(size, jnp.finfo(dtype).tiny)
        stretch = jnp.where(draws, stretch, scale)
        return base, stretch, jnp.where(draws, after, scale * before + after), seen.good

    def kept():
        return state.momentum, scale, scale * before + after, seen.good

    # The numbers come out of a `cond`, where XLA cannot take them apart again to compute them anew
    # at every entry.
    return Aim(*if_any_lane(draws, drawn, kept), starts=starts, found_sq=found_sq)


def kick(gradient: PyTree, aim: Aim, seen: Outlook) -> tuple[PyTree, Scalar]:
    """The momentum after the kick (Eq. 11) as it is stored, and its square."""
    kicked = momenta.combine(aim.stretch, aim.base, -aim.pull, gradient)
    # Where the step is not good nothing was drawn, and `base` is the old momentum. (Naming the old
    # momentum itself here would keep its buffer alive, at the cost of a copy at every step.)
    momentum = momenta.stored(kicked, aim.base, aim.good)
    return momentum, momenta.stored_sq(momentum).astype(seen.dt.dtype)


def drift(
    settings: Settings,
    gradient: PyTree,
    seen: Outlook,
    momentum: PyTree,
    momentum_sq: Scalar,
    params: PyTree,
) -> PyTree:
    """The displacement of the parameters (Eq. 12), and their decay."""
    hamiltonian, shell, dtype = settings.hamiltonian, seen.shell, seen.dt.dtype
    v, velocity = shell.v, seen.velocity
    if settings.integrator.drifts_at_midpoint:
        projected = trees.inner(momentum, gradient).astype(dtype)
        ahead = v + seen.dt / 2 * shell.slope * (velocity * projected)
        v = jnp.clip(ahead, v / 2, 2 * v).astype(dtype)  # positive, however long the step
        q = jnp.maximum(hamiltonian.momentum_sq(v, shell.energy), 0).astype(dtype)
        velocity = velocity_factor(hamiltonian, v, q)
    if hamiltonian.drift == "kicked":
        velocity = velocity_factor(hamiltonian, v, momentum_sq)
    drifts = seen.moving & ~seen.waits
    factor = jnp.where(drifts, seen.dt * velocity.astype(dtype), 0)
    decay = jnp.where(drifts, seen.decay, 0)
    return momenta.displacement(factor, momentum, gradient, decay, params)


def remember(
    settings: Settings,
    state: ECDState,
    loss: Scalar,
    seen: Outlook,
    aim: Aim,
    momentum: PyTree,
    momentum_sq: Scalar,
) -> ECDState:
    """The next state: what the next step needs, and what only shows."""
    hamiltonian, shell, dtype = settings.hamiltonian, seen.shell, seen.dt.dtype
    loss = loss.astype(dtype)
    factor = velocity_factor(hamiltonian, shell.v, momentum_sq).astype(dtype)
    error = hamiltonian.energy(shell.v, aim.found_sq).astype(dtype) - shell.energy
    rules = zip(settings.rules, state.counters, seen.due, strict=True)
    if_moving = {
        "energy": shell.energy,
        "momentum_sq": momentum_sq,
        "initial_value": jnp.where(seen.first, loss, state.initial_value),
        # A bounce that is passed over counts for the rules like one that is made.
        "counters": tuple(
            rule.advance(counters, due, seen.wanted, seen.progressed)
            for rule, counters, due in rules
        ),
        "speed": factor * momenta.root(momentum_sq),
        "speed_limit": jnp.asarray(hamiltonian.speed_limit(shell.v, shell.energy), dtype),
        "energy_error": jnp.where(seen.first | aim.starts, 0, error),
    }
    if_good = {"f_min": shell.f_min, "bracket": shell.bracket, "potential": shell.potential}
    counts = {
        "count": aim.good,
        "num_bounces": seen.bounced,
        "num_stayed": seen.wanted & shell.arrived,
        "num_halted": aim.good & seen.halted,
        "num_clamped": seen.moving & shell.exceeded,
        "num_skipped": ~aim.good,
    }

    def where(flag, new):
        return {name: trees.where(flag, x, getattr(state, name)) for name, x in new.items()}

    return state._replace(
        momentum=momentum,
        # A bounce of Algorithm 1 does not look at the loss.
        lowest_value=jnp.where(aim.good & seen.progressed & ~seen.waits, loss, state.lowest_value),
        **where(seen.moving, if_moving),
        **where(aim.good, if_good),
        **{name: _counted(flag, getattr(state, name)) for name, flag in counts.items()},
    )


def _counted(flag: jax.Array, count: jax.Array) -> jax.Array:
    return jnp.where(flag, optax.safe_increment(count), count)


def _contained(update: PyTree, after: ECDState, before: ECDState) -> tuple[PyTree, ECDState]:
    """Nothing at all where a displacement is infinite in the type of its parameter."""
    leaves = jax.tree.leaves(update)
    if not any(momenta.is_narrow(leaf, before.energy.dtype) for leaf in leaves):
        return update, after  # only a type with a smaller range makes an infinity of one
    fits = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
    before = before._replace(num_skipped=optax.safe_increment(before.num_skipped))
    return trees.where(fits, (update, after), (jax.tree.map(jnp.zeros_like, update), before))
