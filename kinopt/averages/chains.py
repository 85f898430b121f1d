"""Several walks at a time, a stretch after the other, and what is kept of each step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kinopt._programs import Programs
from kinopt.averages.walk import Shell, Walk, begin, step
from kinopt.basins.points import Layout

__all__ = ["Modes", "Path", "Program", "Task", "distances", "flattened"]

CORE = 2.0
"""In units of the coldest temperature: how much nearer a mode must be to count as its inside."""


class Modes(NamedTuple):
    """The minima that are known, the lowest first."""

    minimizers: Any  # float [modes, n]: of NumPy, or of JAX in a program
    values: Any  # float [modes]: loss there
    hessians: Any  # float [modes, n, n]


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


class Task(NamedTuple):
    """What all chains have in common."""

    loss_fn: Callable[[jax.Array], jax.Array]  # x [n] -> loss []
    observables: Callable[[jax.Array], jax.Array]  # x [n] -> float [observables]
    mode_of: Callable[[jax.Array], Any] | None  # x [n] -> 1-based integer; None: by `Modes`


class Program:
    """The stretch of all chains: the settings may change without compiling anew.

    Where there is no `mode_of`, a mode is the one whose quadratic model
    loss_k + (x - x_k).H_k (x - x_k)/2 is the lowest at x.

    Args:
      task: what the chains have in common.
      directions: m of the density.
      tested: whether steps are tested.
      num_times: steps of a stretch.
      programs: those of the task.
    """

    def __init__(
        self, task: Task, directions: int, tested: bool, num_times: int, programs: Programs
    ):
        self.programs, self.fixed = programs, (task, (directions, tested), num_times)

    def start(self, x: ArrayLike, shell: Shell) -> Walk:
        """All chains, at x [chains, n]."""
        return self.programs.call(_start, self.fixed, x, shell)

    def go_on(self, walk: Walk, keys, first, shell: Shell, modes: Modes, coldest):
        """A stretch of all chains, from step `first` on: where they are then, and their `Path`."""
        given = walk, keys, first, shell, _filled(modes), coldest
        return self.programs.call(_stretch, self.fixed, *given)


def _start(task: Task, settings, num_times: int, x: jax.Array, shell: Shell) -> Walk:
    del num_times
    return jax.vmap(lambda x: begin(task.loss_fn, x, shell, settings[0]))(x)


def _seen(task: Task, walk: Walk, modes: Modes, coldest: jax.Array) -> Path:
    away = distances(walk.x, modes)
    if task.mode_of is None:
        models = modes.values + away / 2
        near = jnp.sort(models)[:2]
        mode = jnp.argmin(models).astype(jnp.int32) + 1
        inside = near[1] - near[0] >= CORE * coldest
    else:
        mode = jnp.asarray(task.mode_of(walk.x), jnp.int32)
        inside = True
    seen = task.observables(walk.x)
    return Path(walk.loss, walk.log_density, mode, jnp.where(inside, mode, 0), away[0], seen)


def _stretch(task: Task, settings, num_times, walk, keys, first, shell, modes, coldest):
    def go_on(walk, key):
        def one(walk, count):
            walk = step(task.loss_fn, walk, key, count, shell, settings)
            return walk, _seen(task, walk, modes, coldest)

        return jax.lax.scan(one, walk, first + jnp.arange(num_times))

    return jax.vmap(go_on)(walk, keys)


def _filled(modes: Modes) -> Modes:
    """With modes that nothing is near to, up to a number that seldom changes."""
    number = len(modes.values)
    missing = max(8, 1 << number.bit_length()) - number

    def filled(x, with_what):
        fill = np.full((missing, *x.shape[1:]), with_what, x.dtype)
        return np.concatenate([x, fill])

    return Modes(
        filled(modes.minimizers, 0), filled(modes.values, np.inf), filled(modes.hessians, 0)
    )


def flattened(
    function: Callable | None, loss_fn: Callable, layout: Layout, x: jax.Array
) -> tuple[Callable[[jax.Array], jax.Array], Layout]:
    """Observables as x [n] -> float [observables], and the way back to their tree.

    >>> layout = Layout.of(jnp.ones(2))
    >>> flat, back = flattened(lambda p: {"size": p**2}, jnp.sum, layout, jnp.ones(2))
    >>> flat(jnp.array([1.0, 2.0])), back.tree(np.zeros(2))
    (Array([1., 4.], dtype=float32), {'size': array([0., 0.])})
    """

    def tree(x) -> Any:
        seen = loss_fn(x) if function is None else function(layout.tree(x))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), seen)

    back = Layout.of(jax.eval_shape(tree, x))
    return lambda x: back.row(tree(x)), back
