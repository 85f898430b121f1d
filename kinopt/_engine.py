"""The engine: it drives the programs of all devices until every seed has ended.

Each program is called from a thread of its own, since JAX lets go of Python's lock meanwhile, and
returns to Python a few times a second, which reports progress and looks for Ctrl-C.
"""

import concurrent.futures
import contextlib
import functools
import pathlib
import threading
import time
import warnings
import weakref
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from kinopt._advance import advance
from kinopt._build import Build
from kinopt._checkpoint import Checkpoint, as_folder, digest, opened
from kinopt._checks import check_count, check_flag
from kinopt._lane_checks import check_mesh
from kinopt._line import Line, Row, Task
from kinopt._programs import Programs
from kinopt._workers import Seeds, Worker, devices_of, make_workers

__all__ = ["Way", "as_way", "drive", "in_order", "run"]

SECONDS_PER_CALL = 0.3
"""How long a program runs before it reports: what Ctrl-C has to wait for."""

FIRST_ROUNDS = 16
"""Chunks in a program's first call, which measures how long a chunk takes."""

_paces: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
"""Seconds that a chunk of a program has taken."""

FUNCTIONS = {"ensemble": "functions or keep", "loop": "step or init"}
"""What a program comes from, for each kind of run."""


class Way(NamedTuple):
    """How seeds are run. What becomes of them does not depend on it."""

    kind: str  # what they are seeds of, one of `FUNCTIONS`
    lanes: int | None
    chunk: int | None
    mesh: Mesh | None
    progress: bool
    folder: pathlib.Path | None  # where a killed run goes on from


def as_way(kind: str, lanes: Any, chunk: Any, mesh: Any, progress: Any, checkpoint: Any) -> Way:
    """The arguments that say how, checked."""
    lanes, chunk = check_count("lanes", lanes), check_count("chunk", chunk)
    check_flag("progress", progress)
    check_mesh(mesh)
    return Way(kind, lanes, chunk, mesh, bool(progress), as_folder("checkpoint", checkpoint))


def _outcomes(line: Line) -> Counter:
    """How often each outcome has come up so far."""
    return Counter(np.asarray(line.ended.outcome)[: int(line.num_ended)].tolist())


def _rounds(program: Any, default: int) -> int:
    """Chunks of a call."""
    if program not in _paces:
        return default
    return max(1, int(SECONDS_PER_CALL / max(_paces[program], 1e-7)))


def drive(
    workers: list[Worker], title: str | None, checkpoint: Checkpoint | None = None
) -> tuple[list[Line], bool]:
    """Runs the workers to the end of their lines, or until Ctrl-C.

    Args:
      workers: the programs of this process.
      title: of a progress bar; None: there is none.
      checkpoint: where to write down what has become of the seeds.

    Returns:
      What has become of the seeds, for each worker; and whether it was interrupted.
    """
    lines = [worker.line for worker in workers]
    lengths = [int(worker.source.length) for worker in workers]
    numbers = [int(line.num_ended) for line in lines]
    outcomes = [Counter() for _ in workers]
    leave = threading.Event()

    def work(n: int) -> None:
        program, source = workers[n].program, workers[n].source
        rounds = _rounds(program, FIRST_ROUNDS)
        while numbers[n] < lengths[n] and not leave.is_set():
            began = time.perf_counter()
            lines[n] = program(source, lines[n], np.int32(rounds))
            numbers[n] = int(lines[n].num_ended)
            if title is not None:
                outcomes[n] = _outcomes(lines[n])
            if checkpoint is not None:
                done = numbers[n] == lengths[n] or leave.is_set()
                checkpoint.save(workers[n].share, lines[n], done)
            if numbers[n] < lengths[n]:
                _paces[program] = (time.perf_counter() - began) / rounds
                rounds = min(_rounds(program, rounds), 8 * rounds)

    with (
        _bar(sum(lengths), title) as show,
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
def _bar(num_seeds: int, title: str | None):
    """A function of seeds ended and outcomes so far that shows them, or does nothing."""
    if title is None:
        yield lambda ended, outcomes: None
        return
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "progress=True draws its bar with tqdm: pip install tqdm"
        ) from error
    with tqdm(total=num_seeds, unit="seed", desc=title) as bar:

        def show(ended: int, outcomes: Counter) -> None:
            bar.n = ended
            bar.set_postfix({f"outcome {k}": n for k, n in sorted(outcomes.items())}, refresh=True)

        yield show


@jax.jit
def _take(rows: tuple[Row, ...], index: jax.Array) -> Row:
    return jax.tree.map(lambda *shares: jnp.concatenate(shares)[index], *rows)


def in_order(lines: list[Line], size: int) -> Row:
    """The seeds that ended, in the order of their keys, each with its place among them.

    Args:
      lines: what has become of the seeds of each program of this process.
      size: seeds of a share.
    """
    rows = [line.ended for line in lines]
    number = np.array([int(line.num_ended) for line in lines])
    device = next(iter(lines[0].num_ended.devices()))
    if jax.process_count() > 1:
        together = jax.tree.map(lambda *x: np.stack(x), *rows)
        number, together = multihost_utils.process_allgather((number, together), tiled=True)
        rows = [jax.tree.map(lambda x, n=n: x[n], together) for n in range(len(number))]
    rows = jax.device_put(rows, device)
    num_rows = rows[0].seed.shape[0]
    # Row r of share n holds the seed n * size + seed[r].
    where = np.full(len(rows) * size, -1, np.int32)
    for n, share in enumerate(rows):
        where[n * size + np.asarray(share.seed)[: number[n]]] = np.arange(
            n * num_rows, n * num_rows + number[n]
        )
    seed = np.flatnonzero(where >= 0).astype(np.int32)
    row = _take(tuple(rows), where[seed])
    return row._replace(seed=jnp.asarray(seed))


def _about(kind: str, task: Task, seeds: Seeds, worker: Worker, programs: int) -> dict[str, Any]:
    """What tells one run from another, by the arguments it comes from."""
    program = jax.jit(functools.partial(advance, task, 1, Build()))
    text = program.lower(worker.source, worker.line, np.int32(1)).as_text()
    return {
        "kind": kind,
        "keys": len(seeds.keys),
        "num_steps": task.num_steps,
        "lanes": len(worker.line.lanes.seed),
        "programs": programs,
        "values of keys": digest(seeds.keys),
        "params": digest(seeds.starts),
        "data": digest(seeds.shared),
        FUNCTIONS[kind]: digest(text),
        "jax": jax.__version__,
    }


def _all(task: Task, programs: Programs, seeds: Seeds, way: Way) -> tuple[Row, bool]:
    """The seeds that ended; and whether it was interrupted."""
    devices, title = devices_of(way.mesh, seeds.keys), way.kind if way.progress else None
    if way.folder is None:
        workers = make_workers(task, programs, seeds, way.lanes, way.chunk, devices)
        lines, interrupted = drive(workers, title)
        return in_order(lines, workers[0].size), interrupted
    with opened(way.folder) as found:
        if way.mesh is None and devices[0].platform == "cpu":  # there may be other cores now
            devices = devices[:1] * found.get("programs", len(devices))
        lanes = way.lanes or found.get("lanes")
        workers = make_workers(task, programs, seeds, lanes, way.chunk, devices)
        about = _about(way.kind, task, seeds, workers[0], len(devices))
        checkpoint = Checkpoint(way.folder, found, about, workers[0].line.ended)
        workers = [w._replace(line=checkpoint.load(w.share, w.line)) for w in workers]
        lines, interrupted = drive(workers, title, checkpoint)
    return in_order(lines, workers[0].size), interrupted


def run(task: Task, programs: Programs, seeds: Seeds, way: Way) -> Row:
    """Brings all seeds to their ends; after Ctrl-C, with a warning, those that have got there."""
    rows, interrupted = _all(task, programs, seeds, way)
    if interrupted:
        warnings.warn(
            f"Interrupted: {len(rows.seed)} of {len(seeds.keys)} seeds had ended. The result holds "
            f"those; they are the quicker ones, so their outcomes are not a fair sample.",
            stacklevel=3,
        )
    return rows
