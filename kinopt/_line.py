"""Loops of uneven length side by side: lanes that are refilled as their seeds end.

A seed is one run of a loop: its key, its start, its outcome. Seeds may differ tenfold in how many
steps they take, so that running them all to the end of the longest wastes most of the work. Here a
fixed number of *lanes* work on the seeds that wait in line:

    repeat
        steps of every lane: `chunk`, or until many are free      advance
        write down the seeds that ended, in the order they did    turn
        put the next seeds in line into the freed lanes

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
from kinopt._build import Build, Form
from kinopt._typing import PyTree

__all__ = [
    "Kept",
    "Lane",
    "Line",
    "Row",
    "Source",
    "Task",
    "advance",
    "at_once",
    "first",
    "lane_step",
    "start",
    "turn",
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
    """What has become of the seeds: those that wait, those at work, those that ended.

    While a program works on it, the lanes and what is kept are None here: it has their numbers.
    """

    num_started: jax.Array  # int32 []
    num_ended: jax.Array  # int32 []
    lanes: Any  # Lane [lanes]
    kept: Any  # Kept [lanes]
    ended: Row  # [seeds + lanes]: in the order in which they ended, then rubbish


def _strong(carry: PyTree) -> PyTree:
    """Arrays whose types do not give way to others, as Python's numbers do."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), carry)


def first(task: Task, shared: PyTree, seed: Any, key: jax.Array, start: PyTree) -> Lane:
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


def _freed(length: jax.Array, lanes: Lane) -> jax.Array:
    """Which lanes have a seed that has ended, and that nobody has written down."""
    return lanes.ended & (lanes.seed < length)


def at_once(num_lanes: int) -> int:
    """How many lanes are written down and refilled at once."""
    return min(num_lanes, max(2, num_lanes // AT_ONCE))


def _rows(task: Task, lanes: Lane, kept: Kept) -> Row:
    """The lanes as seeds that have ended, whether they have or not."""
    result = kept.seen if task.finish is None else _strong(jax.vmap(task.finish)(kept.seen))
    return Row(lanes.seed, kept.num_steps, kept.outcome, result)


def turn(
    task: Task,
    build: Build,
    number: int,
    form: Form,
    read: tuple[Source, list[jax.Array]],
    line: Line,
    numbers: list[jax.Array],
) -> tuple[Line, list[jax.Array]]:
    """Writes down the first seeds that have ended, so many, and puts the next into their lanes.

    Args:
      task: what the seeds have in common.
      build: how this is compiled.
      number: how many at most.
      form: that of the lanes and of what is kept of them.
      read: the seeds, and what is kept of the lanes.
      line: what has become of the seeds, but for the lanes.
      numbers: the lanes.

    Returns:
      The line, and the lanes.
    """
    source, kept = read
    lanes, _ = form.tree([*numbers, *kept])
    freed = _freed(source.length, lanes)
    rank = jnp.cumsum(freed, dtype=jnp.int32) - 1  # of a free lane among these
    which = jnp.searchsorted(rank, jnp.arange(number))
    ended = jnp.minimum(jnp.sum(freed, dtype=jnp.int32), number)
    started = jnp.minimum(ended, source.length - line.num_started)
    rows = _rows(task, *form.tree([x[which] for x in (*numbers, *kept)]))

    def write(old, new):  # where there are fewer, what is rubbish is overwritten by the next
        return jax.lax.dynamic_update_slice_in_dim(old, new, line.num_ended, axis=0)

    line = Line(
        num_started=line.num_started + started,
        num_ended=line.num_ended + ended,
        lanes=None,
        kept=None,
        ended=jax.tree.map(write, line.ended, rows),
    )
    seed = line.num_started - started + jnp.arange(number, dtype=jnp.int32)
    row = jnp.minimum(seed, source.length - 1)
    start = jax.tree.map(lambda x: x[row], source.starts) if task.stacked else None

    def fresh(given):
        seed, key, start = given
        return first(task, source.shared, seed, key, start if task.stacked else source.starts)

    given = seed, source.keys[row], start
    before = build.form(given)
    new = before.call(fresh, build.form(lanes))(before.numbers(given))
    seeds, *others = numbers  # in the order of the fields of a lane
    free = freed & (rank < number)
    numbers = [jnp.where(free, source.length, seeds), *others]  # there may be none left
    if build.is_whole:
        return line, _put(numbers, new, which, started)
    starts, rank = free & (rank < started), jnp.clip(rank, 0, number - 1)
    return line, jax.vmap(trees.where)(starts, [x[rank] for x in new], numbers)


def _put(lanes: list, new: list, which: jax.Array, number: jax.Array) -> list[jax.Array]:
    """Puts the first rows into these lanes: where an operation costs nothing to start, one by one.

    It takes as long as the rows need, not as all lanes do.
    """

    def one(n, lanes):
        return [
            jax.lax.dynamic_update_index_in_dim(lane, x[n], which[n], axis=0)
            for x, lane in zip(new, lanes, strict=True)
        ]

    return jax.lax.fori_loop(0, number, one, lanes)


def start(task: Task, num_lanes: int, build: Build, source: Source) -> Line:
    """A line of seeds, the first of them in the lanes."""
    given = jax.tree.map(lambda x: x[0], source.starts) if task.stacked else source.starts
    lane = first(task, source.shared, 0, source.keys[0], given)._replace(ended=jnp.ones((), bool))
    step = functools.partial(task.step, lane.carry, lane.num_steps, source.shared)
    seen = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step)[2])
    both = lane, Kept(lane.num_steps, jnp.zeros((), jnp.int32), seen)
    lanes, kept = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_lanes, *x.shape)), both)
    row = jax.eval_shape(functools.partial(_rows, task), lanes, kept)
    size, none = source.keys.shape[0] + num_lanes, jnp.zeros((), jnp.int32)
    ended = jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), row)
    form = build.form((lanes, kept))
    fill = build.whole(functools.partial(turn, task, build, num_lanes, form))
    numbers, kept_numbers = build.form(lanes).numbers(lanes), build.form(kept).numbers(kept)
    line = Line(none, none, None, None, ended)
    line, numbers = fill((source, kept_numbers), line, numbers)
    lanes, _ = form.tree([*numbers, *kept_numbers])
    return line._replace(num_ended=none, lanes=lanes, kept=kept)


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
    enough = num_lanes if even else at_once(num_lanes)

    form = build.form((line.lanes, line.kept))
    split = len(build.form(line.lanes).numbers(line.lanes))

    @build.round
    def steps(read, numbers):
        length, shared = read
        step = form.call(lambda both: lane_step(task, shared, *both), form)

        def more(carry):
            (lanes, _), count = form.tree(carry[0]), carry[1]
            freed = jnp.sum(_freed(length, lanes), dtype=jnp.int32)
            return (count < chunk) & (freed < enough) & ~jnp.all(lanes.ended)

        def some(carry):
            numbers, count = carry
            return jax.lax.fori_loop(0, piece, lambda _, x: step(x), numbers), count + piece

        carry = numbers, 0
        return (some(carry) if even else jax.lax.while_loop(more, some, carry))[0]

    @build.whole
    def work(read, line, numbers):
        source, rounds = read

        def goes_on(carry):
            line, _, round_ = carry
            return (round_ < rounds) & (line.num_ended < source.length)

        def body(carry):
            line, numbers, round_ = carry
            numbers = steps((source.length, source.shared), numbers)
            lanes, kept = numbers[:split], numbers[split:]
            line, lanes = turn(task, build, enough, form, (source, kept), line, lanes)
            return line, [*lanes, *kept], round_ + 1

        carry = line, numbers, jnp.zeros((), jnp.int32)
        return jax.lax.while_loop(goes_on, body, carry)[:2]

    numbers, line = form.numbers((line.lanes, line.kept)), line._replace(lanes=None, kept=None)
    with build.context():
        line, numbers = work((source, rounds), line, numbers)
    lanes, kept = form.tree(numbers)
    return line._replace(lanes=lanes, kept=kept)
