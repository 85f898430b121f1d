"""A line of seeds, set off and brought forward: what a program does (`kinopt._line`)."""

import functools
import math

import jax
import jax.numpy as jnp

from kinopt import trees
from kinopt._build import Build, Form
from kinopt._line import Kept, Lane, Line, Row, Source, Task, first, lane_step, strong

__all__ = ["advance", "at_once", "start", "turn"]

AT_ONCE = 8
"""One lane in so many is written down and refilled at once, as soon as so many are free: they wait
for half that time in the mean, and a refill costs as much as some steps of the lanes in it."""


def _freed(length: jax.Array, lanes: Lane) -> jax.Array:
    """Which lanes have a seed that has ended, and that nobody has written down."""
    return lanes.ended & (lanes.seed < length)


def at_once(num_lanes: int) -> int:
    """How many lanes are written down and refilled at once."""
    return min(num_lanes, max(2, num_lanes // AT_ONCE))


def _rows(task: Task, lanes: Lane, kept: Kept) -> Row:
    """The lanes as seeds that have ended, whether they have or not."""
    result = kept.seen if task.finish is None else strong(jax.vmap(task.finish)(kept.seen))
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
