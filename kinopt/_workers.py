"""Programs that work on an ensemble: one for each core of a CPU, or one for all devices of a mesh.

A program is `kinopt.lanes.advance` on its share of the seeds. It returns to Python a few times a
second, which reports progress and looks for Ctrl-C. On a CPU a program of small operations keeps
one core busy, so there are as many as cores, each called from a thread of its own: JAX lets go of
Python's lock meanwhile. Over a mesh there is one program, and `jax.shard_map` gives each device its
share: every device runs its own loop and talks to no other.
"""

import concurrent.futures
import contextlib
import functools
import math
import os
import re
import threading
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kinopt._typing import PyTree
from kinopt.lanes import Lane, Line, Problem, Source, advance, first_lane, start

__all__ = ["Worker", "drive", "in_order", "make_workers"]


CPU_LANES = (8, 128)
"""Fewest and most lanes by default on a core of a CPU."""

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
"""Lanes and constants up to which a chunk is compiled into a single function on a CPU."""

FUSED_FLOPS = 10_000
"""Work in a lane's step up to which it is: above, the calls saved do not matter."""

OPAQUE = re.compile(r"custom_call|stablehlo\.(sort|fft|convolution|dot_general)|chlo\.top_k")
"""Operations that XLA hands to a library, which a single function cannot."""

SECONDS_PER_CALL = 0.3
"""How long a program runs before it reports: what Ctrl-C has to wait for."""

FIRST_ROUNDS = 16
"""Chunks in a program's first call, which measures how long a chunk takes."""


class Worker(NamedTuple):
    """A program and its seeds. Over a mesh every array has a leading axis of devices."""

    program: Any  # (source, line, rounds) -> line, compiled
    source: Source
    line: Line


def _spread(mesh: Mesh | None, function):
    """`function` on each device's part of arrays with a leading axis of devices."""
    if mesh is None:
        return function

    def on_device(*arrays):
        result = function(*jax.tree.map(lambda x: x[0], arrays))
        return jax.tree.map(lambda x: x[None], result)

    split = PartitionSpec(mesh.axis_names)
    return jax.shard_map(on_device, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _start(mesh: Mesh | None, problem: Problem, num_lanes: int, source: Source) -> Line:
    return _spread(mesh, functools.partial(start, problem, num_lanes))(source)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def _advance(mesh, problem: Problem, chunk: int, fused: bool, source, line, rounds) -> Line:
    return _spread(mesh, functools.partial(advance, problem, chunk, fused))(source, line, rounds)


def _num_bytes(arrays) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def _default_lanes(problem: Problem, source: Source, device: jax.Device) -> int:
    def lane(source):
        start = jax.tree.map(lambda x: x[0], source.starts) if problem.stacked else source.starts
        return first_lane(problem, source.keys[0], start)

    lane_bytes = 2 * _num_bytes(jax.eval_shape(lane, source))  # at work, and kept
    if device.platform == "cpu":
        fewest, most = CPU_LANES
        return max(fewest, min(most, CACHE_BYTES // lane_bytes))
    memory = (device.memory_stats() or {}).get("bytes_limit", 2**33)
    return max(1, min(ACCELERATOR_LANES, memory // MEMORY_SHARE // lane_bytes))


@functools.lru_cache(maxsize=64)
def _fits_one_function(problem: Problem, chunk: int, structure: Any, shapes: tuple) -> bool:
    """Whether a chunk is small and simple enough to be compiled into one function."""
    source, line = jax.tree.unflatten(structure, shapes)
    rounds = jax.ShapeDtypeStruct((), jnp.int32)
    traced = jax.jit(functools.partial(advance, problem, chunk, False)).trace(source, line, rounds)
    constants = [x for x in traced.jaxpr.consts if hasattr(x, "dtype")]
    if _num_bytes((line.lanes, line.kept, constants)) > FUSED_BYTES:
        return False
    lowered = traced.lower()
    flops = (lowered.cost_analysis() or {}).get("flops", math.inf)
    num_lanes = line.lanes.seed.shape[0]
    return flops < FUSED_FLOPS * num_lanes and not OPAQUE.search(lowered.as_text())


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def make_workers(
    problem: Problem,
    params: PyTree,
    keys: jax.Array,
    lanes: int | None,
    chunk: int | None,
    mesh: Mesh | None,
) -> list[Worker]:
    """Splits the seeds among workers, and compiles their program.

    Args:
      problem: what the seeds have in common.
      params: the start, or the starts.
      keys: data of the keys, uint32 [seeds, ...].
      lanes: seeds side by side in one program or on one device; None: what fits.
      chunk: steps between refills; None: `CHUNK`.
      mesh: the devices; None: the one that holds `keys`, on a CPU all its cores.
    """
    device = mesh.devices.flat[0] if mesh is not None else next(iter(keys.devices()))
    number = mesh.size if mesh is not None else _num_cores() if device.platform == "cpu" else 1
    sources = _shares(problem, params, keys, min(number, keys.shape[0]) if mesh is None else number)
    num_lanes = lanes or _default_lanes(problem, sources[0], device)
    num_lanes = min(num_lanes, sources[0].keys.shape[0])
    if mesh is not None:
        split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        together = jax.tree.map(lambda *shares: np.stack(shares), *sources)
        sources = [jax.device_put(together, split)]
    lines = [_start(mesh, problem, num_lanes, source) for source in sources]

    chunk = chunk or CHUNK
    # A mesh's arrays have an axis more, which its devices do not see.
    shapes, structure = jax.tree.flatten(
        jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[mesh is not None :], x.dtype),
            (sources[0], lines[0]),
        )
    )
    fused = device.platform == "cpu" and _fits_one_function(
        problem, chunk, structure, tuple(shapes)
    )
    arguments = (mesh, problem, chunk, fused, sources[0], lines[0], _rounds(mesh, 1))
    program = _advance.lower(*arguments).compile()
    return [Worker(program, *work) for work in zip(sources, lines, strict=True)]


def _rounds(mesh: Mesh | None, rounds: int):
    if mesh is None:
        return np.int32(rounds)
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.device_put(np.full(mesh.size, rounds, np.int32), split)


def _read(array: jax.Array) -> np.ndarray:
    """An array as NumPy's, from wherever its pieces are."""
    if array.is_fully_addressable:
        return np.array(array)  # a copy: the buffer is about to be donated
    return multihost_utils.process_allgather(array, tiled=True)


def _outcomes(line: Line) -> Counter:
    """How often each outcome has come up so far."""
    ended = np.atleast_2d(_read(line.ended.outcome))
    number = np.atleast_1d(_read(line.num_ended))
    return Counter(ended[np.arange(ended.shape[1]) < number[:, None]].tolist())


def drive(
    workers: list[Worker], mesh: Mesh | None, num_seeds: int, progress: bool
) -> tuple[list[Line], bool]:
    """Runs the workers to the end of their lines, or until Ctrl-C.

    Returns:
      What has become of the seeds, for each worker; and whether it was interrupted.
    """
    lines = [worker.line for worker in workers]
    numbers = [0] * len(workers)
    outcomes = [Counter() for _ in workers]
    leave = threading.Event()

    def work(n: int) -> None:
        program, source, _ = workers[n]
        total = _read(source.length).sum()
        rounds = FIRST_ROUNDS
        while numbers[n] < total and not leave.is_set():
            began = time.perf_counter()
            lines[n] = program(source, lines[n], _rounds(mesh, rounds))
            numbers[n] = int(_read(lines[n].num_ended).sum())
            if progress:
                outcomes[n] = _outcomes(lines[n])
            if jax.process_count() == 1:  # several have to agree
                aim = SECONDS_PER_CALL / max(time.perf_counter() - began, 1e-6)
                rounds = max(1, int(rounds * min(aim, 8)))

    with _bar(num_seeds, progress) as show:
        with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
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
    return lines, sum(numbers) < num_seeds


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


def in_order(lines: list[Line], mesh: Mesh | None) -> tuple[Lane, np.ndarray]:
    """The seeds that ended, in the order of their keys: their lanes, and their places in it."""
    shares = [line.ended for line in lines]
    if mesh is not None:
        whole = jax.device_put(shares[0], NamedSharding(mesh, PartitionSpec()))
        shares = [jax.tree.map(lambda x, n=n: x[n], whole) for n in range(mesh.size)]
    number = np.concatenate([np.atleast_1d(_read(line.num_ended)) for line in lines])
    num_rows = shares[0].seed.shape[0]
    size = num_rows - lines[0].lanes.seed.shape[-1]
    # Row r of share n holds the seed n * size + seed[r].
    seeds = [n * size + np.asarray(share.seed)[: number[n]] for n, share in enumerate(shares)]
    rows = [n * num_rows + np.arange(number[n]) for n in range(len(shares))]
    seed, row = np.concatenate(seeds), np.concatenate(rows)
    order = np.argsort(seed)
    return _take(tuple(shares), row[order]), seed[order]
