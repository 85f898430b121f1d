"""Loops of uneven length side by side: lanes that are refilled as their seeds end.

A seed is one run of a loop: its key, its start, its outcome. Seeds may differ tenfold in how many
steps they take, so that running them all to the end of the longest wastes most of the work. Here a
fixed number of *lanes* work on the seeds that wait in line:

    repeat
        steps of every lane: `chunk`, or until many are free      `lane_step`
        write down the seeds that ended, in the order they did    `kinopt._advance.turn`
        put the next seeds in line into the freed lanes

A lane is vmapped. A step makes a new carry of the old one, and says how the seed ended, if it did,
and what is to be kept of it in that case: what is kept is what was at the very step a seed ended,
whatever the chunk. Nothing that a lane computes involves another lane or the place in line.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kinopt import trees
from kinopt._batching import if_any_lane
from kinopt._typing import PyTree

__all__ = ["Kept", "Lane", "Line", "Row", "Source", "Task", "first", "lane_step", "strong"]


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


def strong(carry: PyTree) -> PyTree:
    """Arrays whose types do not give way to others, as Python's numbers do."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), carry)


def first(task: Task, shared: PyTree, seed: Any, key: jax.Array, start: PyTree) -> Lane:
    """A lane that has just taken up a seed."""
    return Lane(
        seed=jnp.asarray(seed, jnp.int32),
        carry=strong(task.init(key, start, shared)),
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
    now = Kept(num_steps, outcome, strong(seen))
    kept = if_any_lane(ends, lambda: trees.where(ends, now, kept), lambda: kept)
    return Lane(lane.seed, strong(carry), num_steps, lane.ended | ends), kept
