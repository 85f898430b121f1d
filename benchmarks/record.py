"""One JSON row for every run: what was measured, and everything needed to measure it again.

A row is flat. The measured values keep their names; beside them stand `experiment`, `preset`,
`settings`, `seed`, `commit`, `versions`, `device` and `date`. All rows of one run share the date on
which it began, also those that were added when it was resumed.

A row is on the disk before the next one is measured. A machine that dies while it writes leaves a
torn last line, which `mend` removes before anything is added.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import kinopt

__all__ = [
    "NOTHING",
    "PROVENANCE",
    "Done",
    "Row",
    "append",
    "budget",
    "current",
    "grouped",
    "last",
    "mend",
    "provenance",
    "read",
    "to_resume",
    "where",
]

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
        file.flush()
        os.fsync(file.fileno())
    return row


def mend(path: Path) -> str | None:
    """Removes a torn last line, which a kill in the middle of `append` leaves behind.

    Returns:
        What was wrong, for people; None if nothing was.
    """
    content = path.read_bytes() if path.exists() else b""
    whole, _, torn = content.rpartition(b"\n")
    if not torn:
        return None
    path.write_bytes(whole + b"\n" if whole else b"")
    return f"{path.name} ended in a torn line ({len(torn)} bytes), which was removed."


def read(path: Path) -> list[Row]:
    """All rows of a file; none if it does not exist."""
    return list(_rows(path)) if path.exists() else []


def where(rows: list[Row], **values: Any) -> list[Row]:
    """The rows that have these values.

    >>> where([{"law": "soft", "rate": 0.1}, {"law": "hard", "rate": 0.1}], law="hard")
    [{'law': 'hard', 'rate': 0.1}]
    """
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def grouped(rows: list[Row], *names: str) -> dict[Any, list[Row]]:
    """The rows by the value of this name, or by the values of several.

    >>> grouped([{"law": "soft", "n": 1}, {"law": "hard", "n": 2}], "law")
    {'soft': [{'law': 'soft', 'n': 1}], 'hard': [{'law': 'hard', 'n': 2}]}
    """
    found: dict[Any, list[Row]] = {}
    for row in rows:
        values = tuple(row[name] for name in names)
        found.setdefault(values if len(names) > 1 else values[0], []).append(row)
    return found


def last(rows: list[Row], name: str) -> np.ndarray:
    """The last value of a list in each row.

    >>> last([{"loss": [2.0, 1.0]}, {"loss": [3.0]}], "loss")
    array([1., 3.])
    """
    return np.array([row[name][-1] for row in rows])


def current(rows: list[Row]) -> list[list[Row]]:
    """The last run of each preset and data set, the newest first: what nothing supersedes.

    Runs of the preset gpu come last: they are short, on a device that few readers have.
    """

    def kind(row: Row) -> tuple[str, str]:
        return row["preset"], str(row["settings"].get("data"))

    last: dict[tuple[str, str], str] = {}
    for row in rows:
        last.pop(kind(row), None)  # so that the newest run comes last
        last[kind(row)] = row["date"]
    runs = list(reversed(last.items()))
    runs.sort(key=lambda run: run[0][0] == "gpu")
    return [[row for row in rows if (kind(row), row["date"]) == run] for run in runs]


def budget(rows: list[Row], comparisons: int) -> dict[str, int]:
    """What the reading of an experiment whose methods search says of it: how much was compared."""
    settings = rows[0]["settings"]
    seeds, trials = settings["num_seeds"], settings["num_trials"]
    each = settings["trial_seeds"]
    return {"seeds": seeds, "number": comparisons, "trials": trials, "trial_seeds": each}


def to_resume(rows: list[Row], origin: Row) -> list[Row]:
    """The rows of the last run of this experiment with this preset and these settings."""
    kin = _plain({name: origin[name] for name in ("experiment", "preset", "settings")})
    same = [row for row in rows if kin.items() <= {key: row[key] for key in kin}.items()]
    return where(same, date=same[-1]["date"]) if same else []


@dataclasses.dataclass(frozen=True)
class Done:
    """What a run that is resumed has on record already; nothing in a new run.

    >>> done = Done([{"law": "soft", "rate": 0.1}])
    >>> done(law="soft"), done(law="soft", rate=0.2)
    (True, False)
    """

    rows: list[Row] = dataclasses.field(default_factory=list)
    checkpoints: Path | None = None  # a folder for work that is longer than a row; None: nowhere

    def __call__(self, **identity: Any) -> bool:
        """Whether a row with these values is on record."""
        wanted = _plain(identity)
        return any(all(row.get(key) == wanted[key] for key in wanted) for row in self.rows)

    def left(self, cases: Iterable[Row]) -> list[Row]:
        """Those of the cases, each what identifies a row, that are not on record."""
        return [case for case in cases if not self(**case)]


NOTHING = Done()
"""For a run that begins anew."""


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
