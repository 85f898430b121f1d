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

import jax
import jax.numpy as jnp
import optax

from kinopt import trees
from kinopt._batching import any_lane
from kinopt._keys import typed_key
from kinopt._typing import PyTree, Scalar
from kinopt.descent_state import ECDState, Settings
from kinopt.hamiltonians import force_factor, velocity_factor
from kinopt.shell import energy_shell

__all__ = ["step"]


CANCELLATION = 1e-2
"""|Pi - k g|^2 from inner products loses digits where it is small beside |Pi|^2 + k^2 |g|^2."""


def _combine(a: Scalar, x: PyTree, b: Scalar, y: PyTree) -> PyTree:
    """A x + b y on the floating leaves of x, each in float32 or wider; x elsewhere."""

    def leaf(x, y):
        if not trees.is_floating(x):
            return x
        wide = trees.accumulator_dtype(x)
        return a.astype(wide) * x.astype(wide) + b.astype(wide) * y.astype(wide)

    return jax.tree.map(leaf, x, y)


def _root(x: Scalar) -> Scalar:
    """The square root of x >= 0, with the derivative 0 at 0, where it has none."""
    positive = ~(x <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def _unit_roundoff(*arrays) -> float:
    """Distance from 1 to the next number, in the coarsest of the floating types."""
    floating = [x.dtype for x in arrays if trees.is_floating(x)]
    return max(float(jnp.finfo(dtype).eps) for dtype in floating)


def _is_narrow(leaf, dtype) -> bool:
    """Whether numbers of `dtype` can be infinite in the type of a leaf."""
    narrow = trees.is_floating(leaf)
    return narrow and float(jnp.finfo(leaf.dtype).max) < 0.9 * float(jnp.finfo(dtype).max)


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
    """Where `draws`, B = keep (Pi - pull g) + mix N, N ~ Normal(0, 1), and |B|; else Pi and 1."""
    key = jax.random.fold_in(typed_key(state.key, settings.key), state.count)
    one = jnp.ones((), state.energy.dtype)
    noise = trees.random_normal(key, state.momentum)
    if keep is not None:
        kicked = _combine(keep, state.momentum, -keep * pull, gradient)
        noise = _combine(one, kicked, mix, noise)
    size = _root(trees.squared_norm(noise)).astype(one.dtype)
    base = jax.tree.map(
        lambda x, old: jnp.where(draws, x.astype(old.dtype), old), noise, state.momentum
    )
    return base, jnp.where(draws, size, one)


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
    eps = _unit_roundoff(loss, state.energy, *jax.tree.leaves(gradient))
    loss = loss.astype(dtype)
    rate = settings.learning_rate
    dt = jnp.asarray(rate(state.count) if callable(rate) else rate, dtype)
    eps1 = jnp.asarray(settings.eps1, dtype)
    first = ~jnp.isfinite(state.initial_value)

    # One pass over the gradient tells whether all of it is finite, before anything is written.
    gradient_sq = trees.squared_norm(gradient).astype(dtype)
    good = jnp.isfinite(loss) & jnp.isfinite(gradient_sq)
    shell = energy_shell(settings, state, loss, first, eps)
    length = _root(shell.momentum_sq)
    force = force_factor(hamiltonian, shell.v, shell.momentum_sq).astype(dtype) * shell.slope
    kick = dt * force
    # The end also is where the momentum outgrows its type: for Born-Infeld, V < 4 E^2 / max. A kick
    # that is too long for the type is another thing: an infinity that would come of this step.
    largest = _largest_momentum(state.momentum, dtype)
    halted = shell.reached | ~(length < largest)
    good = good & (halted | (length + jnp.abs(kick) * _root(gradient_sq) < 1.5 * largest))
    moving = good & ~halted
    clamped = moving & shell.exceeded
    kick = jnp.where(moving, kick, 0)

    due = tuple(
        rule.due(counters) for rule, counters in zip(settings.rules, state.counters, strict=True)
    )
    wanted = moving & functools.reduce(jnp.logical_or, due, jnp.zeros((), bool))
    bounced = wanted & ~shell.arrived
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
    here = _root(here_sq)

    # Restore the energy.
    conserves = moving & settings.conserve_energy & (jnp.abs(here_sq - shell.momentum_sq) >= eps1)
    scale = jnp.where(starts | conserves, length / jnp.where(here > 0, here, 1), 1)

    # Bounce, or turn. Algorithm 1 keeps |Pi| in a bounce; the next step restores the energy.
    aimless = bounced | (starts & ((here <= 0) | settings.starts_at_random))
    nus = [rule.rotation for rule in settings.rules if rule.rotation is not None]
    nu = _root(sum((jnp.asarray(nu, dtype) ** 2 for nu in nus), start=jnp.zeros((), dtype)))
    turns = moving & ~first & ~aimless & (nu > 0) & (here > 0)
    draws = aimless | turns  # both only when moving, hence when good
    keep = jnp.where(aimless, 0, jnp.ones((), dtype)) if nus else None
    mix = jnp.where(aimless, 1, nu * here)
    keeps_length = bounced if scheme.bounces_in_place or not settings.conserve_energy else False
    drawn_length = jnp.where(starts, length, jnp.where(keeps_length, here, scale * here))

    def drawn():
        base, size = _draw(settings, state, draws, keep, before, gradient, mix)
        stretch = drawn_length / jnp.maximum(size, jnp.finfo(dtype).tiny)
        stretch = jnp.where(draws, stretch, scale)
        return base, stretch, jnp.where(draws, after, scale * before + after), good

    # Kick, and the momentum as it is stored. The numbers of the pass come out of the `cond`, where
    # XLA cannot take them apart again to compute them anew at every entry.
    base, stretch, kick, good = jax.lax.cond(
        any_lane(draws), drawn, lambda: (state.momentum, scale, scale * before + after, good)
    )
    kicked = _combine(stretch, base, -kick, gradient)
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
        wide = trees.accumulator_dtype(pi)
        return (drift.astype(wide) * pi.astype(wide)).astype(g.dtype)

    update = jax.tree.map(displacement, momentum, gradient)
    speed = velocity_factor(hamiltonian, shell.v, momentum_sq).astype(dtype) * _root(momentum_sq)
    error = hamiltonian.energy(shell.v, here_sq).astype(dtype) - shell.energy

    def count_if(condition, number):
        return jnp.where(condition, optax.safe_increment(number), number)

    def where_moving(new, old):
        return jax.tree.map(lambda new, old: jnp.where(moving, new, old), new, old)

    def where_good(new, old):
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)

    after = ECDState(
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
        num_stayed=count_if(wanted & shell.arrived, state.num_stayed),
        num_halted=count_if(good & halted, state.num_halted),
        num_clamped=count_if(clamped, state.num_clamped),
        num_skipped=count_if(~good, state.num_skipped),
        counters=tuple(
            # A bounce that is passed over counts for the rules like one that is made.
            where_moving(rule.advance(counters, due, wanted, progressed), counters)
            for rule, counters, due in zip(settings.rules, state.counters, due, strict=True)
        ),
        bracket=where_good(shell.bracket, state.bracket),
        key=state.key,
    )
    if not any(_is_narrow(leaf, dtype) for leaf in jax.tree.leaves(update)):
        return update, after
    # Only a type with a smaller range can make an infinity of a displacement.
    fits = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(update)]))
    before = state._replace(num_skipped=optax.safe_increment(state.num_skipped))
    update = jax.tree.map(lambda x: jnp.where(fits, x, jnp.zeros_like(x)), update)
    return update, jax.tree.map(lambda new, old: jnp.where(fits, new, old), after, before)
