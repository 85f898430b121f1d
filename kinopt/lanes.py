"""Many seeds side by side: lanes that are refilled as their seeds end.

A seed is one run of an optimizer: its start, its key, its outcome. Seeds may differ tenfold in how
many steps they take, so that running them all to the end of the longest wastes most of the work.
Here a fixed number of *lanes* work on the seeds that wait in line:

    repeat
        `chunk` steps of every lane                               advance
        write down the seeds that ended, in the order they did    _collect
        put the next seeds in line into the freed lanes           _refill

A lane is vmapped; its step is

    value, grad = loss(params)           one evaluation a step
    ends?  stop(params, value), num_steps, or a value that is not finite: keep what it is now
    params += update(grad, value)

so that what is kept of a seed is what it was at the very step it ended, whatever the chunk. Nothing
that a lane computes involves another lane or the place in line.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental.xla_metadata import set_xla_metadata

from kinopt._batching import any_lane
from kinopt._typing import PyTree, Scalar

__all__ = [
    "FAILED",
    "RECORDS",
    "Lane",
    "Line",
    "Problem",
    "Source",
    "advance",
    "first_lane",
    "lane_step",
    "record",
    "start",
]


FAILED = -1
"""Outcome of a seed whose loss is not finite any more."""

RECORDS = 256
"""Most records of a call of `record`."""


class Problem(NamedTuple):
    """What all seeds have in common."""

    loss_fn: Callable[[PyTree], Scalar]
    optimizer: Any  # key -> GradientTransformation, or one
    stop: Callable[[PyTree, Scalar], Any] | None
    num_steps: int  # most updates
    stacked: bool  # whether each seed has a start of its own
    key_impl: Any  # of typed keys; None: raw keys

    def optimizer_of(self, key: jax.Array) -> Any:
        """The optimizer of the seed with this key (its data)."""
        if hasattr(self.optimizer, "update"):
            return self.optimizer
        if self.key_impl is not None:
            key = jax.random.wrap_key_data(key, impl=self.key_impl)
        return self.optimizer(key)

    def transformation(self, key: jax.Array) -> optax.GradientTransformationExtraArgs:
        """The same, for any extra arguments."""
        return optax.with_extra_args_support(self.optimizer_of(key))

    def look(self, params: PyTree) -> tuple[jax.Array, PyTree, Callable[[PyTree], Scalar]]:
        """Loss, the gradient that optimizers expect, and the loss function for line searches.

        For a complex parameter z = x + i y Optax expects dF/dx + i dF/dy, the direction of steepest
        ascent; `jax.grad` gives its conjugate.
        """
        value, grad = jax.value_and_grad(self.loss_fn)(params)
        if not any(map(jnp.iscomplexobj, jax.tree.leaves(params))):
            return value, grad, self.loss_fn
        return value, jax.tree.map(jnp.conj, grad), _no_line_search


def _no_line_search(params: PyTree) -> Scalar:
    """A line search takes slopes of the loss by itself, without the conjugate."""
    raise TypeError(
        "an optimizer with a line search (optax.lbfgs) cannot be used with complex parameters: it "
        "would follow the conjugate of the gradient. Make params of real and imaginary parts."
    )


class Lane(NamedTuple):
    """One seed at work. `[]` is the shape of a scalar; every leaf gets a leading axis of lanes."""

    seed: jax.Array  # int32 []: place in line; the length of the line when there is none left
    key: jax.Array  # uint32 [...]: data of the seed's key
    params: PyTree
    opt_state: PyTree
    value: jax.Array  # float []: loss at params, once the lane has looked
    best_value: jax.Array  # float []: lowest finite loss so far; inf before the first
    num_steps: jax.Array  # int32 []: updates applied
    outcome: jax.Array  # int32 []: 0, what `stop` said, or FAILED
    ended: jax.Array  # bool []


class Source(NamedTuple):
    """The seeds of one program."""

    keys: jax.Array  # uint32 [seeds, ...]: data of the keys
    starts: PyTree  # like the parameters; with a leading axis of seeds when stacked
    length: jax.Array  # int32 []: how many of the keys are seeds; the rest is padding


class Line(NamedTuple):
    """What has become of the seeds: those that wait, those at work, those that ended."""

    num_started: jax.Array  # int32 []
    num_ended: jax.Array  # int32 []
    lanes: Lane  # [lanes]
    kept: Lane  # [lanes], no keys: each lane at the step that ended its seed
    ended: Lane  # [seeds + lanes], no keys: in the order in which they ended, then rubbish


def first_lane(problem: Problem, key, params: PyTree, seed: Any = 0) -> Lane:
    """A lane that has just taken up a seed."""
    # The lambda: JAX asks a function for a hash and a weak reference, which not all callables have.
    dtype = jax.eval_shape(lambda params: problem.loss_fn(params), params).dtype
    return Lane(
        seed=jnp.asarray(seed, jnp.int32),
        key=key,
        params=params,
        opt_state=problem.transformation(key).init(params),
        value=jnp.full((), jnp.inf, dtype),
        best_value=jnp.full((), jnp.inf, dtype),
        num_steps=jnp.zeros((), jnp.int32),
        outcome=jnp.zeros((), jnp.int32),
        ended=jnp.zeros((), bool),
    )


def lane_step(problem: Problem, lane: Lane, kept: Lane) -> tuple[Lane, Lane]:
    """Looks at the loss and applies one update; where the seed ends before it, keeps what it saw.

    A lane whose seed has ended runs on, because stopping it would cost a selection in every leaf of
    its state at every step. What counts is kept at the step that ends the seed: a selection that is
    made only when some lane ends.
    """
    value, grad, value_fn = problem.look(lane.params)
    value = value.astype(lane.value.dtype)  # not weakly typed any more
    outcome = jnp.zeros((), jnp.int32)
    if problem.stop is not None:
        said = jnp.asarray(problem.stop(lane.params, value), jnp.int32)
        outcome = jnp.where(lane.num_steps > 0, said, outcome)
    finite = jnp.isfinite(value)
    outcome = jnp.where(finite, outcome, FAILED)
    ends = ~lane.ended & ((outcome != 0) | (lane.num_steps >= problem.num_steps))
    best_value = jnp.where(finite & (value < lane.best_value), value, lane.best_value)
    lane = lane._replace(
        value=value, best_value=best_value, outcome=outcome, ended=lane.ended | ends
    )
    seen = lane._replace(key=())

    def keep():
        return jax.tree.map(lambda new, old: jnp.where(ends, new, old), seen, kept)

    kept = jax.lax.cond(any_lane(ends), keep, lambda: kept)
    updates, opt_state = problem.transformation(lane.key).update(
        grad, lane.opt_state, lane.params, value=value, grad=grad, value_fn=value_fn
    )
    return lane._replace(
        params=optax.apply_updates(lane.params, updates),
        opt_state=opt_state,
        num_steps=lane.num_steps + 1,
    ), kept


def _collect(length: jax.Array, line: Line) -> Line:
    """Writes the lanes that ended behind those that ended before them."""
    ended = line.lanes.ended & (line.lanes.seed < length)
    # The places of those that ended; what is written after them is overwritten by the next.
    first = jnp.searchsorted(jnp.cumsum(ended), 1 + jnp.arange(ended.shape[0]))

    def write(rows, lanes):
        return jax.lax.dynamic_update_slice_in_dim(rows, lanes[first], line.num_ended, axis=0)

    return line._replace(
        ended=jax.tree.map(write, line.ended, line.kept),
        num_ended=line.num_ended + jnp.sum(ended, dtype=jnp.int32),
    )


def _refill(problem: Problem, source: Source, line: Line) -> Line:
    """Puts the next seeds in line into the lanes that have none."""
    lanes = line.lanes
    place = line.num_started + jnp.cumsum(lanes.ended, dtype=jnp.int32) - 1
    starts = lanes.ended & (place < source.length)
    row = jnp.minimum(place, source.length - 1)
    seed = jnp.where(lanes.ended, jnp.minimum(place, source.length), lanes.seed)
    params = jax.tree.map(lambda x: x[row], source.starts) if problem.stacked else source.starts
    axes = (0, 0 if problem.stacked else None, 0)
    fresh = jax.vmap(functools.partial(first_lane, problem), axes)(source.keys[row], params, seed)

    def where_starts(new, old):
        return jnp.where(starts.reshape(starts.shape + (1,) * (new.ndim - 1)), new, old)

    return line._replace(
        lanes=jax.tree.map(where_starts, fresh, lanes)._replace(seed=seed),
        num_started=line.num_started + jnp.sum(starts, dtype=jnp.int32),
    )


def _single_function(function):
    """Asks XLA's CPU compiler for one function, instead of one call for each operation in it.

    An operation costs some 80 ns to call. A step of a descent is fifty of them, on a hundred lanes
    of a few numbers each: the calls would take longer than the work. The compiler does this
    unasked for loops on less than a kilobyte; this is how it marks them. Where a compiler does not
    know the mark, nothing changes but the time.
    """

    def call(*arguments):
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            return function(*arguments)

    return call


def start(problem: Problem, num_lanes: int, source: Source) -> Line:
    """A line of seeds, the first of them in the lanes."""
    first = jax.tree.map(lambda x: x[0], source.starts) if problem.stacked else source.starts
    lane = first_lane(problem, source.keys[0], first)._replace(ended=jnp.ones((), bool))

    def rows(lane, number):
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *x.shape)), lane)

    kept = lane._replace(key=(), ended=jnp.zeros((), bool))
    line = Line(
        num_started=jnp.zeros((), jnp.int32),
        num_ended=jnp.zeros((), jnp.int32),
        lanes=rows(lane, num_lanes),
        kept=rows(kept, num_lanes),
        ended=rows(kept, source.keys.shape[0] + num_lanes),
    )
    return _refill(problem, source, line)


def advance(
    problem: Problem, chunk: int, fused: bool, source: Source, line: Line, rounds: jax.Array
) -> Line:
    """Works on a line for some chunks of steps, or until all its seeds have ended.

    Args:
      problem: what the seeds have in common.
      chunk: steps between two looks at which lanes are free.
      fused: compile a chunk into one function; see `_single_function`.
      source: the seeds.
      line: what has become of them.
      rounds: most chunks, int32 [].
    """

    @jax.jit
    def steps(lanes: Lane, kept: Lane) -> tuple[Lane, Lane]:
        one = jax.vmap(functools.partial(lane_step, problem))
        with set_xla_metadata(xla_cpu_small_call=None, inlineable=None):  # not inside, too
            return jax.lax.fori_loop(0, chunk, lambda _, carry: one(*carry), (lanes, kept))

    def goes_on(carry):
        line, round_ = carry
        return (round_ < rounds) & (line.num_ended < source.length)

    def body(carry):
        line, round_ = carry
        work = _single_function(steps) if fused else steps
        lanes, kept = work(line.lanes, line.kept)
        line = _collect(source.length, line._replace(lanes=lanes, kept=kept))
        return _refill(problem, source, line), round_ + 1

    return jax.lax.while_loop(goes_on, body, (line, jnp.zeros((), jnp.int32)))[0]


def record(
    problem: Problem, chunk: int, fused: bool, source: Source, line: Line, rounds: jax.Array
) -> tuple[Line, tuple[PyTree, jax.Array, jax.Array]]:
    """Advances a line whose lanes are all its seeds, and writes down where they are.

    Args:
      problem: as in `advance`.
      chunk: steps between two records.
      fused: as in `advance`.
      source: as in `advance`.
      line: as in `advance`.
      rounds: number of records, int32 [], at most `RECORDS`.

    Returns:
      The line, and the lanes' parameters, their loss and number of steps before each chunk:
      [RECORDS, lanes, ...], the last of them repeated.
    """

    def body(line: Line, n: jax.Array):
        lanes, kept = line.lanes, line.kept

        def latest(new, old):
            ended = kept.ended.reshape(kept.ended.shape + (1,) * (new.ndim - 1))
            return jnp.where(ended, old, new)

        params, num_steps = jax.tree.map(
            latest, (lanes.params, lanes.num_steps), (kept.params, kept.num_steps)
        )
        seen = params, jax.vmap(problem.loss_fn)(params), num_steps
        rounds_now = (n < rounds).astype(jnp.int32)
        return advance(problem, chunk, fused, source, line, rounds_now), seen

    return jax.lax.scan(body, line, jnp.arange(RECORDS))
