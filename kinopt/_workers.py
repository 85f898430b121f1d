"""Programs that work on the seeds: one for each core of a CPU, or for each device of a mesh.

A program is `kinopt._advance.advance` on its share of the seeds, compiled for its device. A program
of small operations keeps one core of a CPU busy, so there are as many as cores.

All programs are the same code. One program over all devices of a mesh would not do: XLA cuts a
partitioned program differently, it then rounds differently, and a chaotic seed ends elsewhere.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kinopt._advance import advance, at_once, start, turn
from kinopt._build import Build
from kinopt._line import Line, Source, Task, lane_step
from kinopt._programs import Device, Programs, described, num_cores
from kinopt._typing import PyTree

__all__ = ["CPU_LANES", "Seeds", "Worker", "devices_of", "make_workers"]


FEWEST_LANES = 2
"""Of a program: XLA writes other code, which rounds differently, for one."""

CPU_LANES = (8, 128)
"""Fewest and most lanes by default on a core of a CPU. A round that is a single function has no
more than these: XLA would split its operations among cores, which it cannot inside one."""

SEEDS_PER_LANE = 16
"""Least number of seeds that come one after the other in a lane by default, on a CPU."""

CACHE_BYTES = 2**16
"""What the lanes of a core may fill by default: its fastest cache and a little of the next."""

ACCELERATOR_LANES = 2**17
"""Most lanes by default on an accelerator, where a step of a few lanes takes as long as one of all:
what takes time is to start its kernels."""

ACCELERATOR_SMALL = 512
"""Bytes of a lane up to which an accelerator takes both sides of every branch: to write all that a
step may keep takes no longer than to ask the host whether it must."""

ACCELERATOR_BYTES = 2**28
"""What the lanes of an accelerator may fill by default: enough to keep it busy. Gradients, and what
the loss keeps for its backward pass, take a multiple of it."""

CHUNK = 128
"""Most steps between refills by default: few lanes that are free idle for half of them."""

FUSED_BYTES = 2**18
"""State of 128 lanes, and constants, up to which a chunk is compiled into a single function on a
CPU. It must not depend on the number of lanes: the code, hence the rounding, would."""

FUSED_FLOPS = 10_000
"""Work in a lane's step up to which it is: above, the calls saved do not matter."""

LIBRARY = "sort|scatter|select_and_scatter|fft|convolution|dot_general"
OPAQUE = re.compile(rf"custom_call|stablehlo\.({LIBRARY})|chlo\.top_k")
"""Operations that XLA hands to a library or to other programs, which a single function cannot."""


class Seeds(NamedTuple):
    """All the seeds, before they are shared out."""

    keys: jax.Array  # uint32 [seeds, ...]: data of the keys
    starts: PyTree  # one start, or [seeds, ...] of them
    shared: PyTree = None  # arrays that all lanes read


class Worker(NamedTuple):
    """A program and its share of the seeds."""

    program: Any  # (source, line, rounds) -> line, or line and records; compiled
    source: Source
    line: Line
    size: int  # seeds of every share but the last: seed n of share k is seed k * size + n of all
    share: int  # its place among the shares


def _num_bytes(arrays) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def _shape(task: Task, source: Source, number: int) -> Line:
    """The shapes of a line of so many lanes."""
    return jax.eval_shape(functools.partial(start, task, number, Build()), source)


def _default_lanes(lane_bytes: int, share: int, device: Device) -> int:
    """What fits the cache of a CPU, and few beside the seeds of a program; what fills a device.

    The last seeds of a line run in nearly empty lanes, which cost as much as full ones.
    """
    if device.platform == "cpu":
        fewest, most = CPU_LANES
        in_line = math.ceil(share / SEEDS_PER_LANE / 8) * 8
        return max(fewest, min(most, CACHE_BYTES // lane_bytes, in_line))
    return max(1, min(ACCELERATOR_LANES, ACCELERATOR_BYTES // lane_bytes))


def _fits_one_function(function: Callable, number: int, *arguments: Any) -> bool:
    """Whether what is done for so many lanes is small and simple enough."""
    traced = jax.jit(function).trace(*arguments)
    if _num_bytes([x for x in traced.jaxpr.consts if hasattr(x, "dtype")]) > FUSED_BYTES:
        return False
    lowered = traced.lower()
    flops = (lowered.cost_analysis() or {}).get("flops", math.inf)
    return flops < FUSED_FLOPS * number and not OPAQUE.search(lowered.as_text())


def _cpu_build(task: Task, source: Source) -> Build:
    """What becomes a single function on a CPU."""
    number, build = CPU_LANES[1], Build(is_small=True)
    line = _shape(task, source, number)
    if _num_bytes((line.lanes, source.shared)) > FUSED_BYTES:
        return Build()
    lanes = line.lanes, line.kept

    def steps(shared, lanes):
        form = build.form(lanes)
        step = form.call(lambda both: lane_step(task, shared, *both), form)
        return step(form.numbers(lanes))

    def turned(source, line, lanes):
        at_work, kept = (build.form(x).numbers(x) for x in lanes)
        form = build.form(lanes)
        return turn(task, build, at_once(number), form, (source, kept), line, at_work)

    if not _fits_one_function(steps, number, source.shared, lanes):
        return Build()
    line = line._replace(lanes=None, kept=None)
    whole = _fits_one_function(turned, at_once(number), source, line, lanes)
    return build._replace(is_single=True, is_whole=whole, piece=1)


def _measured(task: Task, source: Source, device: Device) -> tuple[int, Build]:
    """Bytes of a lane, and how its steps are compiled."""
    line = _shape(task, source, 1)
    lane_bytes = _num_bytes((line.lanes, line.kept))
    if device.platform == "cpu":
        return lane_bytes, _cpu_build(task, source)
    small = lane_bytes <= ACCELERATOR_SMALL
    return lane_bytes, Build(is_small=small, is_branchless=small, piece=32 if small else 4)


def _shares(task: Task, seeds: Seeds, number: int) -> list[Source]:
    """The seeds in `number` shares of equal shapes; the last ones are padded."""
    num_seeds = seeds.keys.shape[0]
    size = math.ceil(num_seeds / number)
    shares = []
    for begin in range(0, number * size, size):
        keys, starts = _rows(seeds.keys, begin, size), seeds.starts
        if task.stacked:
            starts = jax.tree.map(lambda x, begin=begin: _rows(x, begin, size), starts)
        length = jnp.asarray(max(0, min(size, num_seeds - begin)), jnp.int32)
        shares.append(Source(keys, starts, seeds.shared, length))
    return shares


def _rows(x: jax.Array, begin: int, size: int) -> Any:
    """So many rows of x, the last of them repeated where there are no more.

    They are picked on the host: JAX's indexing outside of jit may be that of another mesh.
    """
    on_host = not x.weak_type and x.is_fully_addressable
    rows = slice(begin, begin + size)
    if begin + size > len(x):
        rows = np.minimum(np.arange(begin, begin + size), len(x) - 1)
    return np.asarray(x)[rows] if on_host else x[rows]


def devices_of(mesh: Mesh | None, keys: jax.Array) -> list[Device]:
    """The device of each program: a mesh's, or the one that holds the keys, for each of its cores.

    Those of a process are next to each other.
    """
    if mesh is not None:
        return sorted(mesh.devices.flat, key=lambda device: (device.process_index, device.id))
    device = next(iter(keys.devices()))
    return [device] * (min(num_cores(), keys.shape[0]) if device.platform == "cpu" else 1)


def make_workers(
    task: Task,
    programs: Programs,
    seeds: Seeds,
    lanes: int | None,
    chunk: int | None,
    devices: list[Device],
    work: Callable = advance,
) -> list[Worker]:
    """Splits the seeds among programs, and compiles those of this process.

    Args:
      task: what the seeds have in common.
      programs: those of the task.
      seeds: all of them.
      lanes: seeds side by side in one program; None: what fits.
      chunk: most steps between refills; None: `CHUNK`.
      devices: the device of each program.
      work: task, chunk, build, source, line, rounds -> line, and what else there is to say.
    """
    chunk = chunk or CHUNK
    shares = _shares(task, seeds, len(devices))
    size = shares[0].keys.shape[0]
    mine = [n for n, d in enumerate(devices) if d.process_index == jax.process_index()]
    sources = {n: jax.device_put(shares[n], devices[n]) for n in mine}
    lane_bytes, build = programs.fact(
        ("lane", devices[0].platform, described(shares[0])),
        lambda: _measured(task, shares[0], devices[0]),
    )
    num_lanes = lanes or _default_lanes(lane_bytes, size, devices[0])
    most = min(size, CPU_LANES[1]) if build.is_single else size
    num_lanes = max(FEWEST_LANES, min(num_lanes, most))

    def compiled(function, fixed, arguments, **more):
        given = {devices[n]: arguments[n] for n in mine}  # cores of a CPU are one device
        made = programs.compiled(function, (task, *fixed), given, **more)
        return {n: made[devices[n]] for n in mine}

    options = build.compiler_options
    starts = compiled(start, (num_lanes, build), {n: (sources[n],) for n in mine}, options=options)
    lines = {n: starts[n](sources[n]) for n in mine}
    arguments = {n: (sources[n], lines[n], np.int32(0)) for n in mine}
    program = compiled(work, (chunk, build), arguments, donated=(1,), options=options)
    return [Worker(program[n], sources[n], lines[n], size, n) for n in mine]
