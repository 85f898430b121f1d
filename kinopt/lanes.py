"""Any loop of uneven length, for thousands of seeds as one program.

Solvers, samplers, simulations until an event: a `jax.lax.while_loop` under `jax.vmap` goes on until
the slowest of its members is done, and all others wait. `run` has a fixed number of *lanes*
instead, each of which takes up the next seed when its own has ended; on every core of a CPU, on one
accelerator, or on all the devices of a `jax.sharding.Mesh`. `kinopt.ensemble` trains with it.

>>> def init(key):
...     return jax.random.randint(key, (), 2, 1000)
>>> def collatz(n):
...     n = jnp.where(n % 2 == 0, n // 2, 3 * n + 1)
...     return n, n == 1
>>> result = run(collatz, init, jax.random.split(jax.random.key(0), 100), num_steps=1000)
>>> int(result.num_steps.min()), int(result.num_steps.max())
(1, 178)
>>> set(result.carry.tolist()), set(result.outcome.tolist())
({1}, {1})

What becomes of a seed depends on its key alone: not on the number of lanes, on the chunk, on how
many devices there are, or on the seeds that run beside it. One exception is out of reach here: a
library that multiplies matrices may round differently with the batch size, so that for a step with
matrix products the last digits can vary with `lanes`.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kinopt import _engine
from kinopt._checkpoint import read_rows
from kinopt._checks import check_count, check_function, shown
from kinopt._lane_checks import (
    check_outside,
    is_whole,
    key_arrays,
    kind_of,
    outside_meshes,
    returned,
)
from kinopt._line import Task
from kinopt._programs import described, programs_of
from kinopt._typing import PyTree
from kinopt._workers import Seeds

__all__ = ["LanesResult", "read", "run"]

INIT = "key -> carry, a pytree of arrays"
STEP = "carry -> carry, outcome (a whole number: 0 to go on, anything else to end)"


class LanesResult(NamedTuple):
    """How the seeds ended. All arrays have a leading axis of seeds, in the order of the keys."""

    carry: PyTree  # what `step` returned with the outcome
    outcome: jax.Array  # int32 [seeds]: what `step` said; 0 after `num_steps` steps
    num_steps: jax.Array  # int32 [seeds]: steps made
    seed: jax.Array  # int32 [seeds]: place in `keys`; 0, 1, 2, ... unless it was interrupted


def run(
    step: Callable[[PyTree], tuple[PyTree, Any]],
    init: Callable[[Any], PyTree],
    keys: jax.Array,
    *,
    num_steps: SupportsIndex,
    lanes: SupportsIndex | None = None,
    chunk: SupportsIndex | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike | None = None,
) -> LanesResult:
    """Runs the loop of each key to its end.

    It computes, for every key, what this does:

        carry, outcome, n = init(key), 0, 0
        while outcome == 0 and n < num_steps:
            carry, outcome = step(carry)
            n += 1

    Programs are compiled once for a given `step` and `init`: pass the same function objects again,
    not equal ones, and the second call starts at once. As under `jax.jit`, data that a function
    closes over are read when it is compiled, and all goes when the functions go. A lane whose seed
    has ended goes on stepping until it is given the next one; what comes of that is thrown away.

    Args:
      step: carry -> carry, outcome. The new carry is like the old one in structure, shapes and
        types; the outcome is a whole number or a truth of shape [], 0 to go on.
      init: key -> carry, a pytree of arrays, keys among them if need be. It is called under
        `jax.jit` with a key as found in `keys`.
      keys: shape [seeds] (typed keys) or [seeds, 2] (raw ones).
      num_steps: most steps of one seed, >= 1.
      lanes: how many seeds run side by side on a device, or on a core of a CPU (at most 128 if
        a step is small). None: as many as fit its cache (a CPU) or keep it busy (an accelerator).
      chunk: most steps between refills, which come earlier where many lanes are free. None: 128.
      mesh: devices that share the seeds, whatever its axes. None: the default device, and on a CPU
        all its cores. With several processes, all call `run` with the same arguments.
      progress: show a progress bar with the outcomes so far (needs tqdm).
      checkpoint: a folder, new or of the same call. Seeds that have ended are added to it, and
        lanes at work are written down, every ten seconds. After a kill at any moment, or Ctrl-C,
        the same call goes on there and returns what it would have, bit for bit; `read` shows what
        has ended.

    Returns:
      A `LanesResult`, on one device (with several processes, on one of each). After Ctrl-C it holds
      the seeds that have ended, with a warning: those are the quick ones.

    Raises:
      TypeError: if an argument is of the wrong kind, `step` returns another kind of carry than it
        takes, or under `jax.jit` and the like.
      ValueError: if shapes or numbers do not fit, or `checkpoint` is of another call; it says what
        differs.
      RuntimeError: if another run writes to `checkpoint`.

    >>> def init(key):
    ...     return {"x": jnp.zeros(()), "key": key}
    >>> def walk(carry):
    ...     key, now = jax.random.split(carry["key"])
    ...     x = carry["x"] + jax.random.normal(now)
    ...     return {"x": x, "key": key}, jnp.where(x > 3, 1, jnp.where(x < -3, 2, 0))
    >>> run(walk, init, jax.random.split(jax.random.key(1), 4), num_steps=100).outcome
    Array([2, 1, 1, 2], dtype=int32)
    """
    check_function("step", step, STEP)
    check_function("init", init, INIT)
    most = check_count("num_steps", num_steps, optional=False)
    way = _engine.as_way("loop", lanes, chunk, mesh, progress, checkpoint)
    check_outside(keys)
    with outside_meshes():
        data, impl = key_arrays(keys)
        programs = programs_of((step, init), ("loop", most, impl))
        key = jax.ShapeDtypeStruct(data.shape[1:], data.dtype)
        kinds = programs.fact(("checked", described(data)), lambda: _checked(step, init, impl, key))
        task = _as_task(step, init, impl, kinds, most)
        rows = _engine.run(task, programs, Seeds(data, None), way)
    carry = _with_keys(rows.result, kinds)
    return LanesResult(carry, rows.outcome, rows.num_steps, rows.seed)


def read(folder: str | os.PathLike) -> LanesResult:
    """The seeds that have ended, out of a folder that `run` writes or has written to.

    It needs none of the functions of the run, and can be called from another process meanwhile.

    Args:
      folder: what `run` was given as `checkpoint`.

    Returns:
      A `LanesResult` of those seeds; `seed` says which. Containers come back as dictionaries (by
      the names of fields, too) and lists, whatever they were, and typed keys as their data.

    Raises:
      TypeError: if it is no path.
      ValueError: if it is no folder of such a loop.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = run(
    ...         lambda n: (n + 1, n >= 4), lambda key: jax.random.randint(key, (), 0, 3),
    ...         jax.random.split(jax.random.key(0), 2), num_steps=9, checkpoint=folder)
    ...     read(folder).carry
    Array([5, 5], dtype=int32)
    """
    rows = read_rows(folder, "loop")
    return LanesResult(rows.result, rows.outcome, rows.num_steps, rows.seed)


def _as_task(step, init, impl: Any, kinds: list[Any], most: int) -> Task:
    """The loop as the engine takes it, its carry without typed keys."""

    def begin(key, start, shared):
        del start, shared
        return _without_keys(init(_typed(key, impl)))

    def advance(carry, count, shared):
        del count, shared
        carry, outcome = step(_with_keys(carry, kinds))
        carry = _without_keys(carry)
        return carry, outcome, carry

    return Task(begin, advance, None, most, stacked=False)


def _is_typed(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _typed(data: jax.Array, impl: Any) -> jax.Array:
    return data if impl is None else jax.random.wrap_key_data(data, impl=impl)


def _without_keys(carry: PyTree) -> PyTree:
    """The data of typed keys in their place: most of JAX takes these."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_typed(x) else x, carry)


def _with_keys(carry: PyTree, kinds: list[Any]) -> PyTree:
    """The typed keys again; `kinds` has the generator of each leaf, or None."""
    leaves, structure = jax.tree.flatten(carry)
    return structure.unflatten([_typed(x, k) for x, k in zip(leaves, kinds, strict=True)])


def _checked(step, init, impl: Any, key: Any) -> list[Any]:
    """Calls both functions once, on shapes; the generators of the keys in a carry."""
    carry = returned("init", lambda data: init(_typed(data, impl)), key)
    paths = jax.tree_util.tree_flatten_with_path(carry)[0]
    if not paths:
        raise TypeError(f"init must be a function, {INIT}; it returned {kind_of(carry)}.")
    for path, x in paths:
        if not isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            raise TypeError(f"init must be a function, {INIT}; it has {shown(x)}{_at(path)}.")
    kinds = [jax.random.key_impl(x) if _is_typed(x) else None for _, x in paths]
    shapes = jax.eval_shape(lambda data: init(_typed(data, impl)), key)
    both = returned("step", step, shapes)
    if not (isinstance(both, tuple) and len(both) == 2 and is_whole(both[1])):
        got = f"{kind_of(both[0])} and {kind_of(both[1])}" if _is_pair(both) else kind_of(both)
        raise TypeError(f"step must be a function, {STEP}; it returned {got}.")
    _check_alike(shapes, both[0])
    return kinds


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _at(path: Any) -> str:
    place = jax.tree_util.keystr(path, simple=True, separator="/")
    return f" at {place!r}" if place else ""


def _check_alike(carry: PyTree, new: PyTree) -> None:
    """A step must return what the next one can take."""
    if jax.tree.structure(carry) != jax.tree.structure(new):
        raise TypeError(
            f"step must return a carry like the one it takes, as init made it: that is a "
            f"{jax.tree.structure(carry)}, and it returned a {jax.tree.structure(new)}."
        )
    for (path, old), x in zip(
        jax.tree_util.tree_flatten_with_path(carry)[0], jax.tree.leaves(new), strict=True
    ):
        if (old.shape, old.dtype) != (jnp.shape(x), jnp.result_type(x)):
            shapes = [
                f"{dtype}{list(shape)}"
                for dtype, shape in ((old.dtype, old.shape), (jnp.result_type(x), jnp.shape(x)))
            ]
            raise TypeError(
                f"step must return a carry like the one it takes, as init made it; it took "
                f"{shapes[0]} and returned {shapes[1]}{_at(path)}. Where only the type differs, "
                f"let init make it of that type, or convert it with .astype."
            )
