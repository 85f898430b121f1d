"""Programs that work on an ensemble: one for each core of a CPU, or for each device of a mesh.

A program is `kinopt.lanes.advance` on its share of the seeds, compiled for its device and called
from a thread of its own: JAX lets go of Python's lock meanwhile. A program of small operations
keeps one core of a CPU busy, so there are as many as cores. Each returns to Python a few times a
second, which reports progress and looks for Ctrl-C.

All programs are the same code. One program over all devices of a mesh would not do: XLA cuts a
partitioned program differently, it then rounds differently, and a chaotic seed ends elsewhere.
"""

import concurrent.futures
import contextlib
import functools
import math
import re
import threading
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from kinopt._programs import Device, Programs, described, num_cores
from kinopt._typing import PyTree
from kinopt.lanes import Lane, Line, Problem, Source, advance, first_lane, lane_step, record, start

__all__ = ["Worker", "devices_of", "drive", "in_order", "make_workers"]


FEWEST_LANES = 2
"""Of a program: XLA writes other code, which rounds differently, for one."""

CPU_LANES = (8, 128)
"""Fewest and most lanes by default on a core of a CPU."""

SEEDS_PER_LANE = 16
"""Least number of seeds that come one after the other in a lane by default, on a CPU."""

CACHE_BYTES = 2**16
"""What the lanes of a core may fill by default: its fastest cache and a little of the next."""

ACCELERATOR_LANES = 2**16
"""Most lanes by default on an accelerator."""

MEMORY_SHARE = 8
"""The lanes take at most this part of an accelerator's memory by default: gradients, and what the
loss keeps for its backward pass, need the rest."""

CHUNK = 128
"""Steps between refills by default: a lane whose seed has ended idles for half of them."""

FUSED_BYTES = 2**18
"""State of 128 lanes, and constants, up to which a chunk is compiled into a single function on a
CPU. It must not depend on the number of lanes: the code, hence the rounding, would."""

FUSED_FLOPS = 10_000
"""Work in a lane's step up to which it is: above, the calls saved do not matter."""

OPAQUE = re.compile(r"custom_call|stablehlo\.(sort|fft|convolution|dot_general)|chlo\.top_k")
"""Operations that XLA hands to a library, which a single function cannot."""

SECONDS_PER_CALL = 0.3
"""How long a program runs before it reports: what Ctrl-C has to wait for."""

FIRST_ROUNDS = 16
"""Chunks in a program's first call, which measures how long a chunk takes."""


class Worker(NamedTuple):
    """A program and its share of the seeds."""

    program: Any  # (source, line, rounds) -> line, or line and records; compiled
    source: Source
    line: Line


def _num_bytes(arrays) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def _lane(problem: Problem, source: Source) -> Lane:
    """Shapes of a lane."""

    def lane(source):
        start = jax.tree.map(lambda x: x[0], source.starts) if problem.stacked else source.starts
        return first_lane(problem, source.keys[0], start)

    return jax.eval_shape(lane, source)


def _default_lanes(lane_bytes: int, share: int, device: Device) -> int:
    """What fits the cache or the memory; on a CPU few beside the seeds of a program.

    The last seeds of a line run in nearly empty lanes, which cost as much as full ones.
    """
    lane_bytes = 2 * lane_bytes  # at work, and kept
    if device.platform == "cpu":
        fewest, most = CPU_LANES
        in_line = math.ceil(share / SEEDS_PER_LANE / 8) * 8
        return max(fewest, min(most, CACHE_BYTES // lane_bytes, in_line))
    memory = (device.memory_stats() or {}).get("bytes_limit", 2**33)
    return max(1, min(ACCELERATOR_LANES, memory // MEMORY_SHARE // lane_bytes))


def _fits_one_function(problem: Problem, lane: Lane) -> bool:
    """Whether a lane's step is small and simple enough for a chunk to be one function."""
    number = CPU_LANES[1]
    lanes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((number, *x.shape), x.dtype), lane)
    step = jax.jit(jax.vmap(functools.partial(lane_step, problem)))
    traced = step.trace(lanes, lanes._replace(key=()))
    constants = [x for x in traced.jaxpr.consts if hasattr(x, "dtype")]
    if _num_bytes((lanes, constants)) > FUSED_BYTES:
        return False
    lowered = traced.lower()
    flops = (lowered.cost_analysis() or {}).get("flops", math.inf)
    return flops < FUSED_FLOPS * number and not OPAQUE.search(lowered.as_text())


def _measured(problem: Problem, source: Source, device: Device) -> tuple[int, bool]:
    """Bytes of a lane, and whether its steps are compiled into one function."""
    lane = _lane(problem, source)
    return _num_bytes(lane), device.platform == "cpu" and _fits_one_function(problem, lane)


def _shares(problem: Problem, params: PyTree, keys: jax.Array, number: int) -> list[Source]:
    """The seeds in `number` shares of equal shapes; the last ones are padded."""
    num_seeds = keys.shape[0]
    size = math.ceil(num_seeds / number)
    shares = []
    for first in range(0, number * size, size):
        rows = np.minimum(np.arange(first, first + size), num_seeds - 1)
        starts = jax.tree.map(lambda x, rows=rows: x[rows], params) if problem.stacked else params
        length = max(0, min(size, num_seeds - first))
        shares.append(Source(keys[rows], starts, jnp.asarray(length, jnp.int32)))
    return shares


def devices_of(mesh: Mesh | None, keys: jax.Array) -> list[Device]:
    """The device of each program: a mesh's, or the one that holds the keys, for each of its cores.

    Those of a process are next to each other.
    """
    if mesh is not None:
        return sorted(mesh.devices.flat, key=lambda device: (device.process_index, device.id))
    device = next(iter(keys.devices()))
    return [device] * (min(num_cores(), keys.shape[0]) if device.platform == "cpu" else 1)


def make_workers(
    problem: Problem,
    programs: Programs,
    params: PyTree,
    keys: jax.Array,
    lanes: int | None,
    chunk: int | None,
    devices: list[Device],
    *,
    records: bool = False,
) -> list[Worker]:
    """Splits the seeds among programs, and compiles those of this process.

    Args:
      problem: what the seeds have in common.
      programs: those of the problem.
      params: the start, or the starts.
      keys: data of the keys, uint32 [seeds, ...].
      lanes: seeds side by side in one program; None: what fits.
      chunk: steps between refills; None: `CHUNK`.
      devices: the device of each program.
      records: whether the programs are `kinopt.lanes.record`, not `kinopt.lanes.advance`.
    """
    chunk = chunk or CHUNK
    shares = _shares(problem, params, keys, len(devices))
    share = shares[0].keys.shape[0]
    mine = [n for n, d in enumerate(devices) if d.process_index == jax.process_index()]
    sources = {n: jax.device_put(shares[n], devices[n]) for n in mine}
    lane_bytes, small = programs.fact(
        ("lane", devices[0].platform, described(shares[0])),
        lambda: _measured(problem, shares[0], devices[0]),
    )
    num_lanes = lanes or _default_lanes(lane_bytes, share, devices[0])
    num_lanes = max(FEWEST_LANES, min(num_lanes, share))

    def compiled(function, fixed, arguments, donated=()):
        given = {devices[n]: arguments[n] for n in mine}  # cores of a CPU are one device
        made = programs.compiled(function, (problem, *fixed), given, donated)
        return {n: made[devices[n]] for n in mine}

    starts = compiled(start, (num_lanes,), {n: (sources[n],) for n in mine})
    lines = {n: starts[n](sources[n]) for n in mine}
    arguments = {n: (sources[n], lines[n], np.int32(0)) for n in mine}
    work = compiled(record if records else advance, (chunk, small), arguments, donated=(1,))
    return [Worker(work[n], sources[n], lines[n]) for n in mine]


def _outcomes(line: Line) -> Counter:
    """How often each outcome has come up so far."""
    return Counter(np.asarray(line.ended.outcome)[: int(line.num_ended)].tolist())


def drive(workers: list[Worker], progress: bool) -> tuple[list[Line], bool]:
    """Runs the workers to the end of their lines, or until Ctrl-C.

    Returns:
      What has become of the seeds, for each worker; and whether it was interrupted.
    """
    lines = [worker.line for worker in workers]
    lengths = [int(worker.source.length) for worker in workers]
    numbers = [0] * len(workers)
    outcomes = [Counter() for _ in workers]
    leave = threading.Event()

    def work(n: int) -> None:
        program, source, _ = workers[n]
        rounds = FIRST_ROUNDS
        while numbers[n] < lengths[n] and not leave.is_set():
            began = time.perf_counter()
            lines[n] = program(source, lines[n], np.int32(rounds))
            numbers[n] = int(lines[n].num_ended)
            if progress:
                outcomes[n] = _outcomes(lines[n])
            aim = SECONDS_PER_CALL / max(time.perf_counter() - began, 1e-6)
            rounds = max(1, int(rounds * min(aim, 8)))

    with (
        _bar(sum(lengths), progress) as show,
        concurrent.futures.ThreadPoolExecutor(len(workers)) as pool,
    ):
        futures = [pool.submit(work, n) for n in range(len(workers))]
        try:
            while concurrent.futures.wait(futures, timeout=0.1).not_done:
                show(sum(numbers), sum(outcomes, Counter()))
                if any(future.done() and future.exception() for future in futures):
                    leave.set()
        except KeyboardInterrupt:
            leave.set()
            concurrent.futures.wait(futures)
        for future in futures:
            future.result()  # raises what went wrong in a thread
        show(sum(numbers), sum(outcomes, Counter()))
    return lines, numbers != lengths


@contextlib.contextmanager
def _bar(num_seeds: int, progress: bool):
    """A function of seeds ended and outcomes so far that shows them, or does nothing."""
    if not progress:
        yield lambda ended, outcomes: None
        return
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "progress=True draws its bar with tqdm: pip install tqdm"
        ) from error
    with tqdm(total=num_seeds, unit="seed", desc="ensemble") as bar:

        def show(ended: int, outcomes: Counter) -> None:
            bar.n = ended
            bar.set_postfix({f"outcome {k}": n for k, n in sorted(outcomes.items())}, refresh=True)

        yield show


@jax.jit
def _take(rows: tuple[Lane, ...], index: jax.Array) -> Lane:
    return jax.tree.map(lambda *shares: jnp.concatenate(shares)[index], *rows)


def in_order(lines: list[Line]) -> tuple[Lane, np.ndarray]:
    """The seeds that ended, in the order of their keys: their lanes, and their places in it."""
    rows = [line.ended for line in lines]
    number = np.array([int(line.num_ended) for line in lines])
    device = next(iter(lines[0].num_ended.devices()))
    if jax.process_count() > 1:
        together = jax.tree.map(lambda *x: np.stack(x), *rows)
        number, together = multihost_utils.process_allgather((number, together), tiled=True)
        rows = [jax.tree.map(lambda x, n=n: x[n], together) for n in range(len(number))]
    rows = jax.device_put(rows, device)
    num_rows = rows[0].seed.shape[0]
    size = num_rows - lines[0].lanes.seed.shape[0]
    # Row r of share n holds the seed n * size + seed[r].
    seed = [n * size + np.asarray(share.seed)[: number[n]] for n, share in enumerate(rows)]
    place = [n * num_rows + np.arange(number[n]) for n in range(len(rows))]
    seed, place = np.concatenate(seed), np.concatenate(place)
    order = np.argsort(seed)
    return _take(tuple(rows), place[order]), seed[order]
