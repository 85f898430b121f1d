"""Many seeds of any Optax optimizer: thousands of runs as one program.

`run` takes a loss, an optimizer and one key for each seed, and brings every seed to its own end: a
stop rule, a number of steps, or a loss that is not finite. Seeds run side by side in lanes, which
are refilled as seeds end (see `kinopt.lanes`), on every core of a CPU, on one accelerator, or on
all the devices of a `jax.sharding.Mesh`.

>>> import kinopt, optax
>>> def loss(x):
...     return (x**2 - 1)**2
>>> def near_a_minimum(x, value):
...     return jnp.where(value < 1e-3, jnp.where(x < 0, 1, 2), 0)
>>> result = run(
...     loss,
...     lambda key: kinopt.bbi(0.05, extra_energy=1.0, initial_direction="random", key=key),
...     jnp.array(0.2),
...     jax.random.split(jax.random.key(0), 100),
...     num_steps=1000,
...     stop=near_a_minimum,
... )
>>> sorted(set(result.outcome.tolist()))
[1, 2]

What becomes of a seed depends on its key and its start alone: not on the number of lanes, on the
chunk, on how many devices there are, or on the seeds that run beside it. One exception is out of
reach here: a library that multiplies matrices may round differently with the batch size, so that
for a loss with matrix products the last digits can vary with `lanes`.
"""

import functools
import math
import os
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kinopt import _engine
from kinopt._checkpoint import read_rows
from kinopt._checks import check_count
from kinopt._lane_checks import check_outside, outside_meshes
from kinopt._line import Row
from kinopt._minibatches import Minibatches, minibatches
from kinopt._problem import as_problem
from kinopt._training import KEEP, Seen, as_task, record, records
from kinopt._typing import PyTree, Scalar
from kinopt._workers import CPU_LANES, devices_of, make_workers

__all__ = [
    "EnsembleResult",
    "Minibatches",
    "Trajectories",
    "minibatches",
    "read",
    "run",
    "trajectories",
]


class EnsembleResult(NamedTuple):
    """How the seeds ended. All arrays have a leading axis of seeds, in the order of the keys."""

    params: PyTree  # parameters at the end; None unless in `keep`
    value: jax.Array  # float [seeds]: loss at `params`
    best_params: PyTree  # parameters where the loss was lowest; None unless in `keep`
    best_value: jax.Array  # float [seeds]: lowest loss on the way, the start included
    outcome: jax.Array  # int32 [seeds]: what `stop` said; 0 undecided; -1 loss not finite
    num_steps: jax.Array  # int32 [seeds]: updates until the end
    opt_state: PyTree  # state of the optimizer at the end; None unless in `keep`
    aux: PyTree  # what the loss says beside it at `params`; None without `has_aux`
    summary: PyTree  # what `summary` says of `params`; None without it
    seed: jax.Array  # int32 [seeds]: place in `keys`; 0, 1, 2, ... unless it was interrupted


class Trajectories(NamedTuple):
    """What some seeds went through. Axes: seeds, records, then those of a parameter."""

    params: PyTree  # [seeds, records, ...]
    value: jax.Array  # float [seeds, records]: loss at `params`
    num_steps: jax.Array  # int32 [seeds, records]: updates until then


def run(
    loss_fn: Callable[..., Any],
    optimizer: Any,
    params: PyTree,
    keys: jax.Array,
    *,
    num_steps: SupportsIndex,
    stacked: bool | None = None,
    stop: Callable[[PyTree, Scalar], Any] | None = None,
    lanes: SupportsIndex | None = None,
    chunk: SupportsIndex | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    batches: Callable[[Any, Any], PyTree] | None = None,
    has_aux: bool = False,
    summary: Callable[[PyTree], PyTree] | None = None,
    keep: Collection[str] = KEEP,
    checkpoint: str | os.PathLike | None = None,
) -> EnsembleResult:
    """Runs one seed for each key to its end.

    A step evaluates loss and gradient once and applies `optimizer.update(grad, state, params,
    value=..., grad=..., value_fn=loss_fn)`. A seed ends

    - with outcome k where `stop(params, value)` says k, for the parameters after an update and the
      loss at them (the start is not asked about);
    - with outcome -1 where the loss is not finite, at the start too;
    - with outcome 0 after `num_steps` updates.

    Programs are compiled once for a given `loss_fn`, `optimizer` and `stop`: pass the same function
    objects again, not equal ones, and the second call starts at once. As under `jax.jit`, data that
    a function closes over are read when it is compiled, and all goes when the functions go; what
    cannot be hashed or weakly referenced is compiled at every call.

    Complex parameters are optimized as Optax expects: the gradient that reaches the optimizer, for
    z = x + i y, is dF/dx + i dF/dy, the conjugate of `jax.grad`.

    Args:
      loss_fn: params -> scalar loss; with `batches`: params, batch -> scalar loss; with `has_aux`:
        -> scalar loss, aux.
      optimizer: key -> `optax.GradientTransformation`, or one (then the seeds differ only in their
        starts). It is called under `jax.jit` with a key as found in `keys`.
      params: the start: a pytree of arrays. With `stacked`, one start for each seed.
      keys: shape [seeds] (typed keys) or [seeds, 2] (raw ones).
      num_steps: most updates for one seed, >= 0.
      stacked: True: the leaves of `params` have a leading axis of seeds. False: they have not.
        None: they have not, and it is an error where that is in doubt: every leaf has a leading
        axis of as many entries as there are keys (more than one), and `loss_fn` takes a row, too.
      stop: params, value -> integer of shape [], 0 to go on or k > 0 to end with outcome k. For
        example `kinopt.basins.quadratic_basins(...)`. None: nothing stops a seed but `num_steps`.
      lanes: how many seeds run side by side on a device, or on a core of a CPU (at most 128 if
        a step is small). None: as many as fit its cache (a CPU) or keep it busy (an accelerator).
      chunk: most steps between refills, which come earlier where many lanes are free. None: 128.
      mesh: devices that share the seeds, whatever its axes. None: the default device, and on a CPU
        all its cores. With several processes, all call `run` with the same arguments.
      progress: show a progress bar with the outcomes so far (needs tqdm).
      batches: key, step -> batch, a pure function of a seed's key, as found in `keys`, and of how
        many updates the seed has had. `minibatches(data, batch_size)` makes one. A loss that draws
        takes its key from there, too: `lambda key, step: jax.random.fold_in(key, step)`. Every
        value, and what `stop` sees, is then the loss on the batch of its step.
      has_aux: whether `loss_fn` returns a pytree of arrays beside the loss.
      summary: params -> a pytree of arrays, evaluated once, at the end of each seed: a test
        accuracy, a label.
      keep: what comes back of every seed beside numbers, aux and summary. What is not named takes
        no memory and no time: without `opt_state`, nor what a state of kinopt only shows (counts,
        speeds, statistics). `best_params` cost a selection in every step in which a lane finds a
        lower loss.
      checkpoint: a folder, new or of the same call. Seeds that have ended are added to it, and
        lanes at work are written down, every ten seconds. After a kill at any moment, or Ctrl-C,
        the same call goes on there and returns what it would have, bit for bit; `read` shows what
        has ended.

    Returns:
      An `EnsembleResult`, on one device (with several processes, on one of each). After Ctrl-C it
      holds the seeds that have ended, with a warning: those are the quick ones.

    Raises:
      TypeError: if an argument is of the wrong kind, the loss or what `stop` says is not a scalar
        of the right type, or under `jax.jit` and the like.
      ValueError: if shapes or numbers do not fit, it is in doubt whether `params` is stacked, or
        `checkpoint` is of another call; it says what differs.
      RuntimeError: if another run writes to `checkpoint`.

    >>> import optax
    >>> x = jnp.linspace(-1, 1, 64)
    >>> fits = run(
    ...     lambda w, batch: jnp.mean((batch[1] - w * batch[0])**2),
    ...     optax.sgd(0.5), jnp.array(0.0), jax.random.split(jax.random.key(0), 3), num_steps=50,
    ...     batches=minibatches((x, 2 * x), 16), summary=lambda w: abs(w - 2), keep=())
    >>> (fits.summary < 1e-3).tolist(), fits.params
    ([True, True, True], None)
    >>> result = run(
    ...     lambda x: x**2, optax.sgd(0.25), jnp.array([1.0, 2.0]),
    ...     jax.random.split(jax.random.key(0), 2), num_steps=100, stacked=True,
    ...     stop=lambda x, value: jnp.where(value < 0.01, 1, 0))
    >>> result.outcome.tolist(), result.num_steps.tolist()
    ([1, 1], [4, 5])
    """
    way = _engine.as_way("ensemble", lanes, chunk, mesh, progress, checkpoint)
    check_outside(params, keys)
    with outside_meshes():
        problem, programs, seeds = as_problem(
            loss_fn,
            optimizer,
            params,
            keys,
            num_steps,
            stacked,
            stop,
            batches,
            has_aux,
            summary,
            keep,
        )
        rows = _engine.run(as_task(problem), programs, seeds, way)
        return _result(rows, rows.result._asdict())


def read(folder: str | os.PathLike) -> EnsembleResult:
    """The seeds that have ended, out of a folder that `run` writes or has written to.

    It needs none of the functions of the run, and can be called from another process meanwhile.

    Args:
      folder: what `run` was given as `checkpoint`.

    Returns:
      An `EnsembleResult` of those seeds; `seed` says which. Containers come back as dictionaries
      (by the names of fields, too) and lists, whatever they were.

    Raises:
      TypeError: if it is no path.
      ValueError: if it is no folder of an ensemble.

    >>> import optax, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = run(
    ...         lambda x: x["a"]**2, optax.sgd(0.25), {"a": jnp.array(1.0)},
    ...         jax.random.split(jax.random.key(0), 2), num_steps=2, checkpoint=folder)
    ...     read(folder).params
    {'a': Array([0.25, 0.25], dtype=float32)}
    """
    rows = read_rows(folder, "ensemble")
    return _result(rows, dict.fromkeys(Seen._fields) | rows.result)


def _result(rows: Row, seen: dict[str, PyTree]) -> EnsembleResult:
    """As trainings: a seed's last step only looked."""
    num_steps = rows.num_steps - 1
    return EnsembleResult(outcome=rows.outcome, num_steps=num_steps, seed=rows.seed, **seen)


def trajectories(
    loss_fn: Callable[..., Any],
    optimizer: Any,
    params: PyTree,
    keys: jax.Array,
    *,
    num_steps: SupportsIndex,
    every: SupportsIndex = 1,
    stacked: bool | None = None,
    stop: Callable[[PyTree, Scalar], Any] | None = None,
    batches: Callable[[Any, Any], PyTree] | None = None,
    has_aux: bool = False,
) -> Trajectories:
    """What chosen seeds go through: their parameters after every `every` updates.

    The seeds are those of `run` with the same arguments: pass the keys (and the starts, if stacked)
    of the seeds to look at, `keys[:10]` or `keys[result.outcome == 2]`. All of them run side by
    side for `num_steps`, and all their records are in memory.

    Args:
      loss_fn: as in `run`.
      optimizer: as in `run`.
      params: as in `run`.
      keys: as in `run`, of the chosen seeds.
      num_steps: as in `run`.
      every: updates between two records, >= 1.
      stacked: as in `run`.
      stop: as in `run`. A seed that has ended repeats its last record.
      batches: as in `run`.
      has_aux: as in `run`; aux is left out.

    Returns:
      `Trajectories` of 1 + num_steps // every records; the first is the start.

    Raises:
      TypeError: as `run`.
      ValueError: as `run`, or if `every` is below 1.

    >>> import optax
    >>> path = trajectories(
    ...     lambda x: x**2, optax.sgd(0.25), jnp.array(1.0), jax.random.split(jax.random.key(0), 2),
    ...     num_steps=4, every=2)
    >>> path.params[0], path.num_steps[0]
    (Array([1.    , 0.25  , 0.0625], dtype=float32), Array([0, 2, 4], dtype=int32))
    """
    steps = check_count("every", every, optional=False)
    check_outside(params, keys)
    with outside_meshes():
        problem, programs, seeds = as_problem(
            loss_fn, optimizer, params, keys, num_steps, stacked, stop, batches, has_aux
        )
        num_seeds, num_records = seeds.keys.shape[0], 1 + problem.num_steps // steps
        # Programs one after the other, whose lanes are the seeds.
        device = devices_of(None, seeds.keys)[0]
        most = CPU_LANES[1] if device.platform == "cpu" else num_seeds
        devices = [device] * math.ceil(num_seeds / most)
        work = functools.update_wrapper(functools.partial(record, problem), record)
        workers = make_workers(as_task(problem), programs, seeds, most, steps, devices, work)
        rows = [records(worker, num_records) for worker in workers]
        seeds = jax.tree.map(lambda *x: jnp.concatenate(x)[:num_seeds], *rows)
    return Trajectories(*seeds)
