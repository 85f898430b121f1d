"""Loops of uneven length side by side: lanes that are refilled as their seeds end.

A seed is one run of a loop: its key, its start, its outcome. Seeds may differ tenfold in how many
steps they take, so that running them all to the end of the longest wastes most of the work. Here a
fixed number of *lanes* work on the seeds that wait in line:

    repeat
        steps of every lane: `chunk`, or until many are free      advance
        write down the seeds that ended, in the order they did    _collect
        put the next seeds in line into the freed lanes           _refill

A lane is vmapped. A step makes a new carry of the old one, and says how the seed ended, if it did,
and what is to be kept of it in that case: what is kept is what was at the very step a seed ended,
whatever the chunk. Nothing that a lane computes involves another lane or the place in line.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kinopt import trees
from kinopt._batching import if_any_lane
from kinopt._build import Build, outside_function
from kinopt._typing import PyTree

__all__ = [
    "Kept",
    "Lane",
    "Line",
    "Row",
    "Source",
    "Task",
    "advance",
    "first",
    "lane_step",
    "start",
]

AT_ONCE = 8
"""One lane in so many is written down and refilled at once, as soon as so many are free: they wait
for half that time in the mean, and a refill costs as much as some steps of the lanes in it."""


class Task(NamedTuple):
    """What all seeds have in common: a loop, and how long it may be."""

    init: Callable[..., PyTree]  # data of a key, start, shared -> carry
    step: Callable[..., tuple]  # carry, count, shared -> carry, outcome (0: go on), what to keep
    finish: Callable[[PyTree], PyTree] | None  # what was kept -> result; None: as it is
    num_steps: int  # most steps of a seed, >= 1
    stacked: bool  # whether each seed has a start of its own


class Source(NamedTuple):
    """The seeds of one program."""

    keys: jax.Array  # uint32 [seeds, ...]: data of the keys
    starts: PyTree  # one start; with a leading axis of seeds when stacked
    shared: PyTree  # arrays that all lanes read
    length: jax.Array  # int32 []: how many of the keys are seeds; the rest is padding


class Lane(NamedTuple):
    """One seed at work. `[]` is the shape of a scalar; every leaf gets a leading axis of lanes."""

    seed: jax.Array  # int32 []: place in line; the length of the line when there is none left
    carry: PyTree
    num_steps: jax.Array  # int32 []: steps made
    ended: jax.Array  # bool []


class Kept(NamedTuple):
    """A lane at the step that ended its seed."""

    num_steps: jax.Array  # int32 []: steps made, the last included
    outcome: jax.Array  # int32 []
    seen: PyTree  # what the step said to keep


class Row(NamedTuple):
    """A seed that has ended."""

    seed: jax.Array  # int32 []: place in line
    num_steps: jax.Array  # int32 []: steps made
    outcome: jax.Array  # int32 []
    result: PyTree


class Line(NamedTuple):
    """What has become of the seeds: those that wait, those at work, those that ended."""

    num_started: jax.Array  # int32 []
    num_ended: jax.Array  # int32 []
    lanes: Lane  # [lanes]
    kept: Kept  # [lanes]
    ended: Row  # [seeds + lanes]: in the order in which they ended, then rubbish


def _strong(carry: PyTree) -> PyTree:
    """Arrays whose types do not give way to others, as Python's numbers do."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), carry)


def first(task: Task, key: jax.Array, start: PyTree, shared: PyTree, seed: Any = 0) -> Lane:
    """A lane that has just taken up a seed."""
    return Lane(
        seed=jnp.asarray(seed, jnp.int32),
        carry=_strong(task.init(key, start, shared)),
        num_steps=jnp.zeros((), jnp.int32),
        ended=jnp.zeros((), bool),
    )


def lane_step(task: Task, shared: PyTree, lane: Lane, kept: Kept) -> tuple[Lane, Kept]:
    """Makes a step; where it ends the seed, keeps what the step says.

    A lane whose seed has ended runs on, because stopping it would cost a selection in every leaf of
    its carry at every step. What counts is kept at the step that ends the seed: a selection that is
    made only when some lane ends.
    """
    carry, outcome, seen = task.step(lane.carry, lane.num_steps, shared)
    num_steps = lane.num_steps + 1
    outcome = jnp.asarray(outcome, jnp.int32)
    ends = ~lane.ended & ((outcome != 0) | (num_steps >= task.num_steps))
    now = Kept(num_steps, outcome, _strong(seen))
    kept = if_any_lane(ends, lambda: trees.where(ends, now, kept), lambda: kept)
    return Lane(lane.seed, _strong(carry), num_steps, lane.ended | ends), kept


def _freed(source: Source, lanes: Lane) -> jax.Array:
    """Which lanes have a seed that has ended, and that nobody has written down."""
    return lanes.ended & (lanes.seed < source.length)


def _at_once(num_lanes: int) -> int:
    """How many lanes are written down and refilled at once."""
    return min(num_lanes, max(2, num_lanes // AT_ONCE))


def _rows(task: Task, lanes: Lane, kept: Kept) -> Row:
    """The lanes as seeds that have ended, whether they have or not."""
    result = kept.seen if task.finish is None else _strong(jax.vmap(task.finish)(kept.seen))
    return Row(lanes.seed, kept.num_steps, kept.outcome, result)


def _collect(task: Task, source: Source, line: Line, number: int) -> Line:
    """Writes the first lanes that are free, so many, behind those that ended before them."""
    freed = _freed(source, line.lanes)
    # Their places; where there are fewer, what is written is overwritten by the next.
    which = jnp.searchsorted(jnp.cumsum(freed), 1 + jnp.arange(number))
    lanes, kept = line.lanes._replace(carry=None), line.kept
    rows = _rows(task, *jax.tree.map(lambda x: x[which], (lanes, kept)))

    def write(old, new):
        return jax.lax.dynamic_update_slice_in_dim(old, new, line.num_ended, axis=0)

    written = jnp.minimum(jnp.sum(freed, dtype=jnp.int32), number)
    return line._replace(
        ended=jax.tree.map(write, line.ended, rows), num_ended=line.num_ended + written
    )


def _refill(task: Task, source: Source, line: Line, number: int) -> Line:
    """Puts the next seeds in line into the first lanes that are free, so many."""
    lanes, freed = line.lanes, _freed(source, line.lanes)
    next_ = line.num_started + jnp.arange(number, dtype=jnp.int32)
    row = jnp.minimum(next_, source.length - 1)
    given = jax.tree.map(lambda x: x[row], source.starts) if task.stacked else source.starts
    axes = (0, 0 if task.stacked else None, None, 0)
    fresh = jax.vmap(functools.partial(first, task), axes)(
        source.keys[row], given, source.shared, next_
    )
    rank = jnp.cumsum(freed, dtype=jnp.int32) - 1  # of a free lane among these
    free = freed & (rank < number)
    starts = free & (line.num_started + rank < source.length)
    rank = jnp.clip(rank, 0, number - 1)

    def where_starts(new, old):
        return jnp.where(starts.reshape(starts.shape + (1,) * (old.ndim - 1)), new[rank], old)

    filled = jax.tree.map(where_starts, fresh, lanes)
    return line._replace(
        lanes=filled._replace(seed=jnp.where(free & ~starts, source.length, filled.seed)),
        num_started=line.num_started + jnp.sum(starts, dtype=jnp.int32),
    )


def start(task: Task, num_lanes: int, source: Source) -> Line:
    """A line of seeds, the first of them in the lanes."""
    given = jax.tree.map(lambda x: x[0], source.starts) if task.stacked else source.starts
    lane = first(task, source.keys[0], given, source.shared)._replace(ended=jnp.ones((), bool))
    step = functools.partial(task.step, lane.carry, lane.num_steps, source.shared)
    seen = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step)[2])

    def rows(lane, number):
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *x.shape)), lane)

    lanes = rows(lane, num_lanes)
    kept = rows(Kept(lane.num_steps, jnp.zeros((), jnp.int32), seen), num_lanes)
    row = jax.eval_shape(functools.partial(_rows, task), lanes, kept)
    number = source.keys.shape[0] + num_lanes
    line = Line(
        num_started=jnp.zeros((), jnp.int32),
        num_ended=jnp.zeros((), jnp.int32),
        lanes=lanes,
        kept=kept,
        ended=jax.tree.map(lambda x: jnp.zeros((number, *x.shape[1:]), x.dtype), row),
    )
    return _refill(task, source, line, num_lanes)


def advance(
    task: Task,
    chunk: int,
    build: Build,
    source: Source,
    line: Line,
    rounds: jax.Array,
    even: bool = False,
) -> Line:
    """Works on a line for some chunks of steps, or until all its seeds have ended.

    Args:
      task: what the seeds have in common.
      chunk: most steps of a round, after which lanes that are free are refilled.
      build: how the steps are compiled.
      source: the seeds.
      line: what has become of them.
      rounds: how many at most, int32 [].
      even: a round is of `chunk` steps. Otherwise it is over when enough lanes are free.
    """
    piece = chunk if even else math.gcd(chunk, build.piece)
    num_lanes = len(line.lanes.seed)
    enough = num_lanes if even else _at_once(num_lanes)

    @jax.jit
    def steps(lanes: Lane, kept: Kept) -> tuple[Lane, Kept]:
        both, step, whole = build.steps(
            functools.partial(lane_step, task, source.shared), (lanes, kept)
        )

        def more(carry):
            (lanes, _), count = whole(carry[0]), carry[1]
            freed = jnp.sum(_freed(source, lanes), dtype=jnp.int32)
            return (count < chunk) & (freed < enough) & ~jnp.all(lanes.ended)

        def some(carry):
            both, count = carry
            return jax.lax.fori_loop(0, piece, lambda _, both: step(both), both), count + piece

        with outside_function():
            carry = both, 0
            return whole((some(carry) if even else jax.lax.while_loop(more, some, carry))[0])

    def goes_on(carry):
        line, round_ = carry
        return (round_ < rounds) & (line.num_ended < source.length)

    def body(carry):
        line, round_ = carry
        lanes, kept = build.round(steps)(line.lanes, line.kept)
        line = _collect(task, source, line._replace(lanes=lanes, kept=kept), enough)
        return _refill(task, source, line, enough), round_ + 1

    with build.context():
        return jax.lax.while_loop(goes_on, body, (line, jnp.zeros((), jnp.int32)))[0]
