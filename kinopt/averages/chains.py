"""Several walks at a time, a stretch after the other, and what is kept of each step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from kinopt.averages.walk import Shell, Walk, begin, step

__all__ = ["Modes", "Path", "Program", "distances"]

CORE = 2.0
"""In units of the coldest temperature: how much nearer a mode must be to count as its inside."""


class Modes(NamedTuple):
    """The minima that are known, the lowest first."""

    minimizers: jax.Array  # float [modes, n]
    values: jax.Array  # float [modes]: loss there
    hessians: jax.Array  # float [modes, n, n]


class Path(NamedTuple):
    """What is kept of every step, [chains, times] each: arrays of JAX, or of NumPy at the end."""

    loss: Any  # float
    log_density: Any  # float
    mode: Any  # int32: 1-based; 0: none
    core: Any  # int32: the same well inside of it, 0 on the way between modes
    distance_sq: Any  # float: (x - x_1).H_1 (x - x_1), from the lowest minimum
    observables: Any  # float [chains, times, observables]; None at the end


def distances(x: jax.Array, modes: Modes) -> jax.Array:
    """(x - x_k).H_k (x - x_k) for each mode.

    >>> modes = Modes(jnp.array([[1.0]]), jnp.zeros(1), jnp.array([[[3.0]]]))
    >>> distances(jnp.array([3.0]), modes).tolist()
    [12.0]
    """
    away = x - modes.minimizers
    return jnp.einsum("ki,kij,kj->k", away, modes.hessians, away)


class Program:
    """The compiled stretch of all chains: the settings may change without compiling anew.

    Args:
      loss_fn: x [n] -> loss [].
      observables: x [n] -> float [observables].
      mode_of: x [n] -> 1-based integer, or None: the mode whose quadratic model
        loss_k + (x - x_k).H_k (x - x_k)/2 is the lowest at x.
      directions: m of the density.
      tested: whether steps are tested.
      num_times: steps of a stretch.
    """

    def __init__(self, loss_fn, observables, mode_of, directions, tested, num_times):
        self.loss_fn, self.observables, self.mode_of = loss_fn, observables, mode_of
        self.directions, self.num_times = directions, num_times
        self.settings = directions, tested
        self.start = jax.jit(jax.vmap(self._start, (0, None)))
        self._stretch = jax.jit(jax.vmap(self._go_on, (0, 0, None, None, None, None)))

    def go_on(self, walk: Walk, keys, first, shell: Shell, modes: Modes, coldest):
        """A stretch of all chains, from step `first` on: where they are then, and their `Path`."""
        return self._stretch(walk, keys, first, shell, _filled(modes), coldest)

    def _start(self, x: jax.Array, shell: Shell) -> Walk:
        return begin(self.loss_fn, x, shell, self.directions)

    def _seen(self, walk: Walk, modes: Modes, coldest: jax.Array) -> Path:
        away = distances(walk.x, modes)
        if self.mode_of is None:
            models = modes.values + away / 2
            near = jnp.sort(models)[:2]
            mode = jnp.argmin(models).astype(jnp.int32) + 1
            inside = near[1] - near[0] >= CORE * coldest
        else:
            mode = jnp.asarray(self.mode_of(walk.x), jnp.int32)
            inside = True
        seen = self.observables(walk.x)
        return Path(walk.loss, walk.log_density, mode, jnp.where(inside, mode, 0), away[0], seen)

    def _go_on(self, walk: Walk, key, first, shell: Shell, modes: Modes, coldest):
        def one(walk, count):
            walk = step(self.loss_fn, walk, key, count, shell, self.settings)
            return walk, self._seen(walk, modes, coldest)

        return jax.lax.scan(one, walk, first + jnp.arange(self.num_times))


def _filled(modes: Modes) -> Modes:
    """With modes that nothing is near to, up to a number that seldom changes."""
    number = len(modes.values)
    missing = max(8, 1 << number.bit_length()) - number
    fill = modes._replace(values=jnp.full(missing, jnp.inf))
    return Modes(
        *(
            jnp.concatenate([x, y if y.ndim == 1 else jnp.zeros((missing, *x.shape[1:]))])
            for x, y in zip(modes, fill, strict=True)
        )
    )


def flattened(function: Callable | None, loss_fn: Callable, unravel: Callable, x: jax.Array):
    """Observables as x [n] -> float [observables], and the way back to their tree.

    >>> flat, back = flattened(lambda p: {"size": p**2}, jnp.sum, lambda x: x, jnp.ones(2))
    >>> flat(jnp.array([1.0, 2.0])), back(jnp.zeros(2))
    (Array([1., 4.], dtype=float32), {'size': Array([0., 0.], dtype=float32)})
    """

    def tree(x) -> Any:
        seen = loss_fn(x) if function is None else function(unravel(x))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), seen)

    shapes = jax.eval_shape(tree, x)
    _, back = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, x.dtype), shapes))
    return lambda x: ravel_pytree(tree(x))[0], back
