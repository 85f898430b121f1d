"""A walk on the energy shell that leaves its density exactly as it is.

Where a Born-Infeld shell of energy E lets a point theta be, and for how long, is known:

$$
pi(theta) = rho(V),    V = loss - f_min,    0 < V < 0.9 E
$$

with rho of `kinopt.theory.phase_space_density` for m directions, every direction u of the momentum
being as likely. (At V = E a shell of more than two directions has no density, and the force on a
walk no bound: it would stick there, with weights that have none either. So there is a wall before.)
A step of length h turns u by the force, moves, and turns again:

    u     <- turned by (h/2) F,     F = grad log pi / (m - 1)
    theta <- theta + h u
    u     <- turned by (h/2) F

The turn is the exact solution of du/ds = F - (F.u) u. It stretches the sphere of directions by a
known factor, exp(-k), and the step read backwards is a step again, so that it can be tested:

$$
w = log pi(theta) - log pi(theta') + k + k'
$$

is 0 for an exact path. A level l <= 0, drawn anew as the logarithm of a uniform number at each
bounce, rises by w at each step; a step that would take it above 0 is not made, and u turns round.
So (theta, u, l) has the density pi(theta) exp(l) at every step, whatever h is, and each step counts
as a sample. What lies outside of 0 < V < 0.9 E has no density: it is never entered, and weighs
nothing.

The leapfrog step of `kinopt.bbi` cannot be tested in this way: its drift takes V half a step ahead
from one end of the step alone, which is not what the step backwards would take, and a kick that is
longer than the momentum leads from two directions to one.

References: turns and their factors: Ver Steeg, Galstyan, "Hamiltonian dynamics with non-Newtonian
momentum for rapid sampling" (2021); Robnik, De Luca, Silverstein, Seljak, "Microcanonical
Hamiltonian Monte Carlo" (2023). Levels that are kept: Neal, "Non-reversibly updating a uniform
[0, 1] value for Metropolis accept/reject decisions" (2020).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kinopt import theory
from kinopt.hamiltonians import born_infeld

__all__ = ["WALL", "Shell", "Walk", "begin", "log_density", "step", "turned"]

WALL = 0.9
"""Of E: the largest V."""

JITTER = 0.2
"""Standard deviation of log h: steps of one length can visit the same points again and again."""


class Shell(NamedTuple):
    """Which density is walked, and how. Scalars of shape [], so that none is compiled in."""

    f_min: jax.Array  # loss at V = 0
    energy: jax.Array  # E
    length: jax.Array  # h, of a step
    bounce_every: jax.Array  # int: steps from a new direction to the next


class Walk(NamedTuple):
    """Where a walk is."""

    x: jax.Array  # float [n]
    direction: jax.Array  # float [n]: u, of length 1
    length: jax.Array  # float []: h, until the next bounce
    level: jax.Array  # float []: l
    log_density: jax.Array  # float []: log pi at x
    force: jax.Array  # float [n]: its gradient
    loss: jax.Array  # float []
    lowest: jax.Array  # float []: lowest loss met, at refused steps too
    lowest_x: jax.Array  # float [n]: where it was
    num_refused: jax.Array  # int []: steps that were not made
    num_halted: jax.Array  # int []: of them, those that V <= 0 stopped
    num_skipped: jax.Array  # int []: of them, those without a finite loss and gradient


def log_density(loss: jax.Array, shell: Shell, directions: int) -> jax.Array:
    """Log rho(V) of a loss, any shape; -inf outside of 0 < V < 0.9 E.

    One direction is counted as two: the shell's density for one is infinite at V = E.

    >>> shell = Shell(jnp.array(0.0), jnp.array(2.0), jnp.array(0.1), jnp.array(10))
    >>> log_density(jnp.array([1.0, 1.9]), shell, 2) - jnp.log(2 * jnp.pi)  # log E/V
    Array([0.6931..., -inf], dtype=float32)
    """
    v, energy = loss - shell.f_min, shell.energy
    inside = (v > 0) & (v < WALL * energy)
    # Gradients of what is left out must be finite too.
    v = jnp.where(inside, v, energy / 2)
    density = theory.phase_space_density(born_infeld(), v, energy, max(directions, 2))
    return jnp.where(inside, density, -jnp.inf)


def turned(direction: jax.Array, force: jax.Array, length: jax.Array) -> tuple:
    """The direction u [n] after a time `length` in a force F on the sphere, and k.

    $$
    u' = (u + e (sinh d + e.u (cosh d - 1))) / c,    c = cosh d + e.u sinh d
    $$

    with e = F/|F|, d = length |F| and k = (n - 1) log c. In one dimension nothing turns.

    >>> u, k = turned(jnp.array([0.0, 1.0]), jnp.array([50.0, 0.0]), jnp.array(1.0))
    >>> u.round(4).tolist(), round(float(k), 4)  # log cosh 50
    ([1.0, 0.0], 49.3069)
    """
    n = direction.size
    if n == 1:
        return direction, jnp.zeros_like(length)
    size = jnp.linalg.norm(force)
    e = force / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    along, d = e @ direction, length * size
    # All of it times exp(-d), which may be small but never too large.
    z = jnp.exp(-d)
    sinh, cosh = (1 - z * z) / 2, (1 + z * z) / 2
    c = jnp.maximum(cosh + along * sinh, jnp.finfo(size.dtype).tiny)
    new = z * direction + e * (sinh + along * (cosh - z))
    return new / jnp.linalg.norm(new), (n - 1) * (jnp.log(c) + d)


def _look(loss_fn: Callable, x: jax.Array, shell: Shell, directions: int) -> tuple:
    """Loss, log pi and its gradient at x."""

    def density(x):
        loss = loss_fn(x)
        return log_density(loss, shell, directions), loss

    (density_here, loss), force = jax.value_and_grad(density, has_aux=True)(x)
    return loss, density_here, force


def begin(loss_fn: Callable, x: jax.Array, shell: Shell, directions: int) -> Walk:
    """A walk that stands at x [n]; its first step is a bounce, which gives the rest."""
    loss, density, force = _look(loss_fn, x, shell, directions)
    zero, none = jnp.zeros((), x.dtype), jnp.zeros((), jnp.int32)
    return Walk(x, x * 0, zero, zero, density, force, loss, loss, x, none, none, none)


def step(
    loss_fn: Callable, walk: Walk, key: jax.Array, count: jax.Array, shell: Shell, settings: tuple
) -> Walk:
    """One step, with one gradient of the loss.

    Args:
      loss_fn: x [n] -> loss [].
      walk: where it is.
      key: of the chain.
      count: steps so far.
      shell: which density.
      settings: m, the number of directions of the density; and whether the step is tested. If not,
        it is made wherever there is a density, and what is sampled is off by an amount that falls
        with h^2.
    """
    directions, tested = settings
    n, dtype = walk.x.size, walk.x.dtype

    # A bounce: direction, length and level are drawn anew, each from what it is distributed as. All
    # chains bounce together, so that nothing is drawn in between.
    def bounced():
        keys = jax.random.split(jax.random.fold_in(key, count), 3)
        drawn = jax.random.normal(keys[0], (n,), dtype)
        length = shell.length * jnp.exp(JITTER * jax.random.normal(keys[1], (), dtype))
        level = -jax.random.exponential(keys[2], (), dtype)
        return drawn / jnp.linalg.norm(drawn), length, level

    due = count % shell.bounce_every == 0
    u, h, level = jax.lax.cond(due, bounced, lambda: (walk.direction, walk.length, walk.level))

    half = h / 2 / max(n - 1, 1)
    new_u, k = turned(u, walk.force, half)
    x = walk.x + h * new_u
    loss, density, force = _look(loss_fn, x, shell, directions)
    new_u, k_after = turned(new_u, force, half)
    new_level = level + walk.log_density - density + k + k_after

    finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(force))
    inside = finite & jnp.isfinite(density)
    made = inside & (new_level <= 0) if tested else inside
    lower = finite & (loss < walk.lowest)
    refused = {
        "num_refused": ~made,
        "num_halted": finite & (loss <= shell.f_min),
        "num_skipped": ~finite,
    }

    def where(new, old):
        return jnp.where(made, new, old)

    return Walk(
        x=where(x, walk.x),
        direction=where(new_u, -u),
        length=h,
        level=where(new_level, level),
        log_density=where(density, walk.log_density),
        force=where(force, walk.force),
        loss=where(loss, walk.loss),
        lowest=jnp.where(lower, loss, walk.lowest),
        lowest_x=jnp.where(lower, x, walk.lowest_x),
        **{name: getattr(walk, name) + flag.astype(jnp.int32) for name, flag in refused.items()},
    )
