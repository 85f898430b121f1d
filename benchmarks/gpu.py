"""An accelerator that is lent for minutes: what is worth most first, each part with its own limit.

Every part is a process of its own: one that fails, or takes all the memory, ends alone. Experiments
write each row as it comes, so that a limit costs no row that was measured. At its limit a part is
interrupted, as by Ctrl-C, and killed if it does not end by itself; minutes that a part leaves over
are shared out among those after it.

JAX is not started here: it would take the accelerator's memory from the parts.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import INTERRUPTED
from benchmarks.markdown import table_of

__all__ = ["MINUTES", "PARTS", "Part", "perform_parts"]

MINUTES = 9.0
GRACE = 15.0
"""Seconds from the interruption of a part to its end."""

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TESTS = "tests"


class Part(NamedTuple):
    """An experiment, or the tests, and its part of the time."""

    name: str
    share: float  # of the time: seconds of nine minutes


PARTS = (
    Part(TESTS, 80),
    Part("speed.ensemble", 60),
    Part("speed.collisions", 50),
    Part("speed.steps", 40),
    Part("bbi.pde", 55),
    Part("evidence.residual", 165),
    Part("ko.images", 90),
)
"""In order of value."""


class Ended(NamedTuple):
    """What became of a part."""

    name: str
    how: str
    seconds: float
    rows: int


def command_of(name: str, preset: str, folder: Path | None) -> list[str]:
    """What runs a part. Tests do without `conftest.py`, whose flags are for a CPU's compiler."""
    if name == TESTS:
        file = str(ROOT / "tests" / "test_accelerator.py")
        workers = str(min(os.cpu_count() or 1, 12))
        plain = ["--noconftest", "-p", "no:cacheprovider", "-W", "default", "-n", workers]
        return [sys.executable, "-m", "pytest", *plain, file]
    where = ["--out", str(rows_of(name, folder).absolute())] if folder else ["--commit"]
    run = [sys.executable, "-m", "benchmarks", "run", name]
    return [*run, "--preset", preset, "--quiet", *where]


def rows_of(name: str, folder: Path | None) -> Path:
    """Where an experiment's rows are appended to."""
    return (folder or RESULTS) / f"{name}.jsonl"


def environment(preset: str, folder: Path) -> dict[str, str]:
    """That of all parts: they share compiled programs, and take memory as they need it."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder.absolute() / ".compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        **os.environ,
        **({"KINOPT_ACCELERATOR": "any"} if preset == "smoke" else {}),
    }


def perform_parts(
    minutes: float,
    preset: str,
    folder: Path,
    commit: bool = False,
    parts: Sequence[Part] = PARTS,
) -> int:
    """Runs the parts one after another, and prints what became of each.

    Args:
        minutes: For all of them.
        preset: Of the experiments; with "smoke" the tests take a CPU for an accelerator.
        folder: Where the summary, compiled programs and, without `commit`, all rows are kept.
        commit: Whether rows are added to those of `benchmarks/results`.
        parts: What is run.

    Returns:
        0; 1 if a part failed, or reached its limit without a row; 130 after Ctrl-C.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * minutes
    found: list[Ended] = []
    try:
        for number, part in enumerate(parts):
            left = sum(later.share for later in parts[number:])
            limit = (deadline - time.monotonic()) * part.share / left
            found.append(_perform_part(part, limit, preset, folder, commit))
    except KeyboardInterrupt:
        print("\nInterrupted. All rows that were measured are kept.")
        return INTERRUPTED
    finally:
        text = summary(found)
        print(f"\n{text}")
        (folder / "gpu.md").write_text(text + "\n", encoding="utf-8")
    return int(any(failed(ended) for ended in found))


def failed(ended: Ended) -> bool:
    """Whether somebody should look at it.

    >>> failed(Ended("speed.steps", "all of it", 9.0, 4))
    False
    >>> failed(Ended("speed.steps", "at its limit", 9.0, 4)), failed(Ended("a", "status 2", 9.0, 4))
    (False, True)
    """
    return ended.how != "all of it" and not (ended.how == "at its limit" and ended.rows)


def summary(found: list[Ended]) -> str:
    """A line for each part."""
    lines = [
        [e.name, e.how, f"{e.seconds:.0f}", "" if e.name == TESTS else str(e.rows)] for e in found
    ]
    return table_of(["part", "ended", "seconds", "rows"], lines)


def _perform_part(part: Part, limit: float, preset: str, folder: Path, commit: bool) -> Ended:
    rows_folder = None if commit else folder
    rows_path = rows_of(part.name, rows_folder)
    before = _lines(rows_path)
    print(f"\n== {part.name}, at most {limit:.0f} s", flush=True)
    began = time.monotonic()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # begun in the background, as its parts
        signal.signal(signal.SIGINT, signal.default_int_handler)  # would be: deaf to their limits
    process = subprocess.Popen(
        command_of(part.name, preset, rows_folder), cwd=ROOT, env=environment(preset, folder)
    )
    try:
        status = _waited(process, limit)
    except KeyboardInterrupt:  # the terminal has told the part, too
        _waited(process, GRACE)
        raise
    how = {0: "all of it", None: "at its limit"}.get(status, f"status {status}")
    return Ended(part.name, how, time.monotonic() - began, _lines(rows_path) - before)


def _waited(process: subprocess.Popen, limit: float) -> int | None:
    """The exit status; None where the process was still at work at the limit, and was ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(max(limit, 0))
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    process.kill()
    process.wait()
    return None


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
