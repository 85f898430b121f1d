"""The minima below some points, for few parameters: Newton's method with all eigenvalues.

$$
theta <- theta - sum_i e_i (e_i . grad) / (|lambda_i| + mu)
$$

with eigenvalues lambda_i and vectors e_i of the Hessian: a negative curvature counts by its size,
so that saddles repel (Dauphin et al., "Identifying and attacking the saddle point problem", 2014);
mu grows where a step would not lower the loss, and falls where it does (Levenberg, Marquardt). It
is one small program; `kinopt.basins.discover` is for many parameters, and compiles for longer.

How stiff a minimum is at a temperature is asked of the loss and not of the Hessian, which vanishes
at the minimum of x^4: along e_i the loss rises by T/2 at distances a and a' on both sides, and

$$
kappa_i = T / (a a')
$$

which is lambda_i where the loss is quadratic.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kinopt._programs import Programs

__all__ = ["Minima", "Quench", "stiff"]

MOST_STEPS = 300
SHORTEST = 1e-9
"""Of a step, in units of 1 + max |x_i|: below it a point has come to rest."""

NEAR = 1e-4
"""In the same units: how far the stationary point of the quadratic model may be."""

SAME = 1e-3
"""In the same units: minima nearer than this are one."""

LARGEST_MU = 1e12
GRID = np.logspace(-9, 9, 181)
"""Distances, in units of 1 + max |x_i|, between which the rise of the loss is interpolated."""


class Minima(NamedTuple):
    """Minima, the lowest first."""

    x: np.ndarray  # float [minima, n]
    values: np.ndarray  # float [minima]: loss there
    hessians: np.ndarray  # float [minima, n, n]: with kappa_i in the place of lambda_i
    log_det: np.ndarray  # float [minima]: of those
    num_zero_modes: np.ndarray  # int [minima]: eigenvalues lambda_i that are zero by rounding


class _Rest(NamedTuple):
    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    sizes: jax.Array  # lambda_i, ascending
    vectors: jax.Array  # e_i, in columns
    mu: jax.Array
    num_steps: jax.Array
    ended: jax.Array


def _flat(sizes):
    return jnp.finfo(sizes.dtype).eps ** (2 / 3) * abs(sizes).max(axis=-1, keepdims=True)


def _newton(loss_fn: Callable, x: jax.Array) -> _Rest:
    """Brings x [n] to rest."""

    def look(x):
        value, gradient = jax.value_and_grad(loss_fn)(x)
        hessian = jax.hessian(loss_fn)(x)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(hessian))
        hessian = jnp.where(finite, (hessian + hessian.T) / 2, jnp.eye(x.size))
        return value, gradient, *jnp.linalg.eigh(hessian), finite

    def step(rest):
        stiff = jnp.maximum(jnp.abs(rest.sizes), _flat(rest.sizes)) + rest.mu
        move = rest.vectors @ (rest.vectors.T @ rest.gradient / stiff)
        x = rest.x - move
        value, gradient, sizes, vectors, finite = look(x)
        good = finite & (value <= rest.value)
        short = jnp.max(jnp.abs(move)) <= SHORTEST * (1 + jnp.max(jnp.abs(x)))
        mu = jnp.where(good, rest.mu / 10, jnp.maximum(4 * rest.mu, 1e-3 * stiff[-1]))
        return _Rest(
            x=jnp.where(good, x, rest.x),
            value=jnp.where(good, value, rest.value),
            gradient=jnp.where(good, gradient, rest.gradient),
            sizes=jnp.where(good, sizes, rest.sizes),
            vectors=jnp.where(good, vectors, rest.vectors),
            mu=mu,
            num_steps=rest.num_steps + 1,
            ended=short | (mu > LARGEST_MU * (1 + stiff[-1])),
        )

    value, gradient, sizes, vectors, finite = look(x)
    start = _Rest(
        x, value, gradient, sizes, vectors, jnp.zeros(()), jnp.zeros((), jnp.int32), ~finite
    )
    return jax.lax.while_loop(lambda r: ~r.ended & (r.num_steps < MOST_STEPS), step, start)


def stiff(loss_fn: Callable, x: jax.Array, vectors: jax.Array, temperature: jax.Array) -> jax.Array:
    """Kappa [n], how fast the loss rises from x [n] along the columns e_i of `vectors` [n, n].

    >>> quartic = lambda x: x[0] ** 4 + x[1] ** 2
    >>> stiff(quartic, jnp.zeros(2), jnp.eye(2), jnp.array(2.0)).round(3).tolist()  # a = 1, 1
    [2.0, 2.0]
    """
    grid = jnp.asarray(GRID, x.dtype) * (1 + jnp.max(jnp.abs(x)))
    here, wanted = loss_fn(x), temperature / 2

    def reach(direction):
        rise = jax.lax.map(lambda a: loss_fn(x + a * direction) - here, grid)
        rise = jnp.where(jnp.isfinite(rise), rise, jnp.inf)
        first = jnp.clip(jnp.argmax(rise >= wanted), 1, len(grid) - 1)
        low, high = jnp.maximum(rise[first - 1], 1e-300), rise[first]
        # Powers are straight lines between logarithms. A wall is reached at once.
        part = jnp.log(wanted / low) / jnp.log(high / low)
        part = jnp.clip(jnp.where(jnp.isfinite(part), part, 0), 0, 1)
        reached = grid[first - 1] * (grid[first] / grid[first - 1]) ** part
        return jnp.where(jnp.any(rise >= wanted), reached, grid[-1])

    sides = jnp.concatenate([vectors.T, -vectors.T])
    a = jax.lax.map(reach, sides).reshape(2, -1)
    return temperature / (a[0] * a[1])


def _search(loss_fn: Callable, points: jax.Array, temperature: jax.Array) -> tuple:
    """Where each point comes to rest, how stiff the loss is there, and whether it is a minimum."""

    def search(x):
        rest = _newton(loss_fn, x)
        kappa = stiff(loss_fn, rest.x, rest.vectors, jnp.asarray(temperature, x.dtype))
        distance = jnp.linalg.norm(
            (rest.vectors.T @ rest.gradient) / jnp.maximum(jnp.abs(rest.sizes), _flat(rest.sizes))
        )
        size = 1 + jnp.max(jnp.abs(rest.x))
        # Where the Hessian vanishes too, the last step says how near the end is.
        near = (distance <= NEAR * size) | rest.ended
        good = jnp.isfinite(rest.value) & near & (rest.sizes[0] >= -_flat(rest.sizes)[0])
        return rest, kappa, good

    return jax.vmap(search)(points)


class Quench:
    """The search, for so many points at a time.

    Args:
      loss_fn: x [n] -> loss [].
      temperature: at which minima are looked at.
      num_points: of each search; fewer are filled up.
      programs: those of the loss; None: they are made anew.

    >>> search = Quench(lambda x: jnp.sum((x**2 - 1) ** 2 + 0.3 * x), 0.1, 4)
    >>> found = search(np.array([[-3.0], [0.0], [2.0]]))
    >>> found.x.round(2).tolist(), search.num_gradients > 0
    ([[-1.0399999618530273], [0.9599999785423279]], True)
    """

    def __init__(
        self,
        loss_fn: Callable,
        temperature: float,
        num_points: int,
        programs: Programs | None = None,
    ):
        self.loss_fn, self.num_points, self.temperature = loss_fn, num_points, temperature
        self.num_gradients, self.programs = 0, Programs() if programs is None else programs

    def __call__(self, points: ArrayLike) -> Minima:
        """The different minima below points [points, n]."""
        points, temperature = np.asarray(points), jnp.asarray(self.temperature, float)
        places = np.arange(-(-len(points) // self.num_points) * self.num_points) % len(points)
        found = []
        for part in places.reshape(-1, self.num_points):
            rest, kappa, good = self.programs.call(
                _search, (self.loss_fn,), points[part], temperature
            )
            self.num_gradients += int(np.sum(rest.num_steps)) * (points.shape[1] + 1)
            found.append((*map(np.asarray, (rest.x, rest.value, rest.sizes, rest.vectors)),
                          np.asarray(kappa), np.asarray(good)))  # fmt: skip
        x, values, sizes, vectors, kappa, good = (
            np.concatenate(p) for p in zip(*found, strict=True)
        )
        kept: list[int] = []
        for k in np.argsort(values, kind="stable"):
            away = np.abs(x[kept] - x[k]).max(axis=1, initial=0)
            if good[k] and not (away <= SAME * (1 + np.abs(x[k]).max())).any():
                kept.append(int(k))
        hessians = np.einsum("kij,kj,klj->kil", vectors[kept], kappa[kept], vectors[kept])
        flat = _flat(sizes[kept]) if kept else 0
        return Minima(
            x=x[kept],
            values=values[kept],
            hessians=hessians,
            log_det=np.log(kappa[kept]).sum(axis=1),
            num_zero_modes=(sizes[kept] <= flat).sum(axis=1),
        )
