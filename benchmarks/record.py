"""One JSON row for every run: what was measured, and everything needed to measure it again.

A row is flat. The measured values keep their names; beside them stand `experiment`, `preset`,
`settings`, `seed`, `commit`, `versions`, `device` and `date`.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import kinopt

__all__ = ["PROVENANCE", "Row", "append", "latest", "provenance", "read"]

Row = dict[str, Any]

PROVENANCE = (
    "experiment",
    "preset",
    "settings",
    "seed",
    "commit",
    "versions",
    "device",
    "date",
)
"""The names of a row that say where it comes from, not what was measured."""

PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy")
FOLDER = Path(__file__).parent


def commit() -> str:
    """The commit that is checked out, "-modified" if files differ, or "unknown" without git."""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(FOLDER), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    # Results are left out: the rows of one run must not make the next one look modified.
    tracked = ("--", str(FOLDER.parent), f":(exclude){FOLDER / 'results'}")
    try:
        modified = git("status", "--porcelain", "--untracked-files=no", *tracked)
        return git("rev-parse", "HEAD") + ("-modified" if modified else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(experiment: str, preset: str, settings: Any) -> Row:
    """The part of a row that is not measured; all rows of one run share it.

    Args:
        experiment: The experiment's name, "speed.collisions".
        preset: The name of the preset that was asked for.
        settings: The experiment's settings dataclass, after changes from the command line.
    """
    devices = jax.devices()
    return {
        "experiment": experiment,
        "preset": preset,
        "settings": dataclasses.asdict(settings),
        "seed": getattr(settings, "seed", None),
        "commit": commit(),
        "versions": {
            "kinopt": kinopt.__version__,
            **{name: importlib.metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
        },
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def append(path: Path, measured: Row, origin: Row) -> Row:
    """Adds one row to a file of rows, and returns it.

    Raises:
        ValueError: A measured value takes a name that `origin` needs.
    """
    if clash := measured.keys() & origin.keys():
        raise ValueError(f"A row cannot measure {sorted(clash)}: these names tell its origin.")
    row = _plain({**measured, **origin})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
    return row


def read(path: Path) -> list[Row]:
    """All rows of a file; none if it does not exist."""
    return list(_rows(path)) if path.exists() else []


def latest(rows: list[Row]) -> list[Row]:
    """The rows of the last run only."""
    return [row for row in rows if row["date"] == rows[-1]["date"]]


def _rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"Line {number} of {path} is not JSON: {error}") from None


def _plain(value: Any) -> Any:
    """Only what JSON knows: arrays become lists, and numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
