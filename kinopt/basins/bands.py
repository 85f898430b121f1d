"""Nudged elastic bands, and the highest point of a path (the equations are in `passes`)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._programs import Programs
from kinopt.basins.quenching import from_each

__all__ = ["peaks", "relaxed"]

SAMPLES = 16
"""Of a piece of a path; then its highest point is searched for between two of them."""

NUM_THIRDS = 40
"""Of that search: the place is known to (2/3)^40."""

NUM_PRODUCTS = 20
"""With the Hessian, for the largest curvature at an end."""

SPRING = 0.1
"""k, in units of the largest curvature."""

CLIMB_AFTER = 50
"""Steps after which the highest image climbs: before, it may not be near the ridge."""

LONGEST = 0.5
"""Of a move, in units of the distance of images."""

# FIRE's constants, as in its paper, and its time step in units of 1/sqrt(largest curvature).
FIRST_STEP, LONGEST_STEP = 0.1, 1.0
GROWS, SHRINKS, MIX, MIX_SHRINKS, PATIENCE = 1.1, 0.5, 0.1, 0.99, 5


class Band(NamedTuple):
    """A path at work."""

    x: jax.Array  # float [images + 1, n]
    velocity: jax.Array  # float [images - 1, n]
    step: jax.Array  # float []: of time, in units of 1/sqrt(curvature)
    mix: jax.Array  # float []: how much of the velocity is turned into the force
    downhill: jax.Array  # int32 []: steps in a row
    num_steps: jax.Array  # int32 []
    curvature: jax.Array  # float []: the largest at the ends
    spacing: jax.Array  # float []: distance of images on the straight path


def relaxed(
    loss: Callable[[jax.Array], jax.Array],
    paths: np.ndarray,
    num_steps: int,
    tolerance: float,
    programs: Programs,
) -> tuple[np.ndarray, np.ndarray]:
    """Paths [pairs, images + 1, n] that have come down, and which of them have come to rest.

    >>> path = np.stack([np.linspace(-1, 1, 5), np.zeros(5)], axis=1)[None]
    >>> bent = lambda x: (x[0] ** 2 - 1) ** 2 + 10 * (x[1] + x[0] ** 2 - 1) ** 2
    >>> x, at_rest = relaxed(bent, path, 1000, 1e-3, Programs())
    >>> x[0, 2].round(2).tolist(), at_rest.tolist()
    ([0.0, 1.0], [True])
    """
    losses, gradients = jax.vmap(loss), jax.vmap(jax.grad(loss))

    def init(x):
        nothing, none = jnp.zeros_like(x[1:-1]), jnp.zeros((), jnp.int32)
        spacing = jnp.linalg.norm(x[-1] - x[0]) / (len(x) - 1)
        curvature = jnp.maximum(_curvature(loss, x[0]), _curvature(loss, x[-1]))
        first, mix = (jnp.asarray(number, x.dtype) for number in (FIRST_STEP, MIX))
        return Band(x, nothing, first, mix, none, none, curvature, spacing)

    def step(band: Band, limit):
        climbs = band.num_steps >= CLIMB_AFTER
        inner = band.x[1:-1]
        force = _force(band, losses(band.x), gradients(inner), climbs)
        finite = jnp.all(jnp.isfinite(force))
        force = jnp.where(finite, force, 0)
        largest = jnp.max(jnp.linalg.norm(force, axis=1))
        rests = climbs & (largest <= limit * band.curvature * band.spacing)
        # FIRE, with a mass of the largest curvature.
        power = jnp.sum(force * band.velocity)
        size = jnp.linalg.norm(band.velocity) / jnp.maximum(jnp.linalg.norm(force), 1e-30)
        mixed = (1 - band.mix) * band.velocity + band.mix * size * force
        good = power > 0
        long = good & (band.downhill > PATIENCE)
        time = jnp.where(long, jnp.minimum(band.step * GROWS, LONGEST_STEP), band.step)
        time = jnp.where(good, time, time * SHRINKS)
        velocity = jnp.where(good, mixed, 0) + time * force / band.curvature
        move = time * velocity
        longest = jnp.max(jnp.linalg.norm(move, axis=1))
        move = move * jnp.minimum(1, LONGEST * band.spacing / jnp.maximum(longest, 1e-30))
        mix = jnp.where(good, jnp.where(long, band.mix * MIX_SHRINKS, band.mix), MIX)
        band = band._replace(
            x=band.x.at[1:-1].set(jnp.where(rests, inner, inner + move)),
            velocity=velocity,
            step=time,
            mix=mix,
            downhill=jnp.where(good, band.downhill + 1, 0),
            num_steps=band.num_steps + 1,
        )
        return band, jnp.where(rests, 1, jnp.where(finite, 0, 2)).astype(jnp.int32)

    limit = np.asarray(tolerance, paths.dtype)
    bands, outcome = from_each(init, step, paths, num_steps, programs, limit)
    return np.asarray(bands.x), np.asarray(outcome) == 1


def _curvature(loss: Callable, x: jax.Array) -> jax.Array:
    """About the largest eigenvalue of the Hessian, by power iteration."""
    vector = jnp.cos(jnp.arange(x.size, dtype=x.dtype) ** 2 + 1)  # of no special direction

    def product(_, both):
        v = both[0] / jnp.maximum(jnp.linalg.norm(both[0]), 1e-30)
        new = jax.jvp(jax.grad(loss), (x,), (v,))[1]
        return new, jnp.linalg.norm(new)

    size = jax.lax.fori_loop(0, NUM_PRODUCTS, product, (vector, jnp.zeros((), x.dtype)))[1]
    return jnp.maximum(size, 1e-30)


def _force(band: Band, values: jax.Array, gradients: jax.Array, climbs: jax.Array) -> jax.Array:
    """F [images - 1, n]. The tangent points to the higher neighbour; at a top, to both by turns."""
    here, before, after = values[1:-1], values[:-2], values[2:]
    ahead, behind = band.x[2:] - band.x[1:-1], band.x[1:-1] - band.x[:-2]
    rises = jnp.abs(after - here), jnp.abs(before - here)
    more, less = jnp.maximum(*rises), jnp.minimum(*rises)
    higher = after > before
    weights = jnp.where(higher, more, less), jnp.where(higher, less, more)
    at_top = (after > here) == (before > here)
    to_both = weights[0][:, None] * ahead + weights[1][:, None] * behind
    one_way = jnp.where((after > here)[:, None], ahead, behind)
    tangent = jnp.where(at_top[:, None], to_both, one_way)
    length = jnp.linalg.norm(tangent, axis=1, keepdims=True)
    tangent = tangent / jnp.maximum(length, 1e-30)
    along = jnp.sum(gradients * tangent, axis=1, keepdims=True) * tangent
    stretched = jnp.linalg.norm(ahead, axis=1) - jnp.linalg.norm(behind, axis=1)
    springs = SPRING * band.curvature * stretched[:, None] * tangent
    top = jnp.arange(len(here)) == jnp.argmax(here)
    climber = climbs & top & (here > before) & (here > after)
    return jnp.where(climber[:, None], 2 * along - gradients, along - gradients + springs)


def peaks(loss: Callable[[jax.Array], jax.Array], paths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The highest loss on each of paths [paths, images + 1, n], and the highest of its images.

    The first is infinite where one is not finite.

    >>> path = jnp.array([[[0.0], [1.0], [2.0]]])
    >>> highest, of_images = peaks(lambda x: jnp.sin(x[0]), path)
    >>> print(f"{highest[0]:.4f} {of_images[0]:.4f}")
    1.0000 0.9093
    """

    def peak(x):
        pieces = len(x) - 1

        def at(s):
            piece = jnp.clip(s.astype(jnp.int32), 0, pieces - 1)
            part = s - piece
            return loss((1 - part) * x[piece] + part * x[piece + 1])

        s = jnp.linspace(0, pieces, pieces * SAMPLES + 1, dtype=x.dtype)
        values = jax.vmap(at)(s)
        best = jnp.argmax(values)

        def narrower(_, ends):
            low, high = ends
            third = (high - low) / 3
            rises = at(low + third) < at(high - third)
            return jnp.where(rises, low + third, low), jnp.where(rises, high, high - third)

        ends = s[jnp.maximum(best - 1, 0)], s[jnp.minimum(best + 1, len(s) - 1)]
        low, high = jax.lax.fori_loop(0, NUM_THIRDS, narrower, ends)
        highest = jnp.maximum(values[best], at((low + high) / 2))
        finite = jnp.all(jnp.isfinite(values))
        return jnp.where(finite, highest, jnp.inf), jnp.max(values[::SAMPLES])

    return jax.lax.map(peak, paths)
