"""What is read off an experiment's rows: tables, a headline and a picture, each of a run.

A run is what the functions of an experiment are given; which runs count is decided here, once: the
last of each preset and data set.
"""

from pathlib import Path
from types import ModuleType

from benchmarks import record
from benchmarks.record import Row

__all__ = ["headline", "picture_file", "save_picture", "tables"]

RESOLUTION = 110  # dots per inch


def tables(experiment: ModuleType, rows: list[Row]) -> str:
    """The tables of the runs that count, the newest first, and how to read them."""
    parts = [_device(run) + experiment.table(run) for run in record.current(rows)]
    return "\n\n".join([*parts, *filter(None, [getattr(experiment, "READING", None)])])


def _device(run: list[Row]) -> str:
    """What a table of an accelerator's rows begins with; all others are of a CPU."""
    device = run[0]["device"]
    return "" if device["platform"] == "cpu" else f"On {device['count']} x {device['kind']}:\n\n"


def headline(experiment: ModuleType, rows: list[Row]) -> str | None:
    """The newest run in a few words; None for an experiment that has none."""
    if not hasattr(experiment, "headline"):
        return None
    return experiment.headline(record.current(rows)[0])


def picture_file(name: str, folder: Path) -> Path:
    """Where an experiment's picture lies, if there is one."""
    return folder / f"{name}.png"


def save_picture(name: str, experiment: ModuleType, rows: list[Row], folder: Path) -> Path | None:
    """Draws the newest run; returns where, or None for an experiment without a picture."""
    if not hasattr(experiment, "plot"):
        return None
    path = picture_file(name, folder)
    experiment.plot(record.current(rows)[0]).savefig(path, dpi=RESOLUTION)
    return path
