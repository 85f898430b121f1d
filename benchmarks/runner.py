"""Runs an experiment: rows are written as they come, then the table and the picture.

Ctrl-C ends the measuring, not the writing. A run that was ended so, or killed, goes on with
`--resume`. An experiment whose `run(settings, done)` takes a second argument leaves out what is on
record; one whose `run(settings)` does not is measured again, and the rows that are on record
already are not written twice (its rows must come in the same order every time).
"""

import inspect
import itertools
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import INTERRUPTED, reading, record
from benchmarks.record import Done, Row

__all__ = ["INTERRUPTED", "perform"]


def perform(
    name: str,
    experiment: ModuleType,
    preset: str,
    settings: Any,
    rows_path: Path,
    table_path: Path | None = None,
    resume: bool = False,
) -> int:
    """Runs one experiment and prints its table and where everything was written.

    Args:
        name: The experiment's name.
        experiment: Its module.
        preset: The preset its settings come from.
        settings: Its settings.
        rows_path: The file its rows are appended to; its picture goes beside it.
        table_path: The file its table goes to; None prints it only.
        resume: Goes on with the last run that had this preset and these settings, if there is one.

    Returns:
        The exit status.
    """
    if torn := record.mend(rows_path):
        print(torn)
    origin = record.provenance(name, preset, settings)
    rows = record.to_resume(record.read(rows_path), origin) if resume else []
    if rows:
        print(f"Going on with the run of {rows[0]['date']}, which has {len(rows)} rows.")
        if rows[0]["commit"] != origin["commit"]:
            print(f"Its first row is from another commit, {rows[0]['commit']}: they will be mixed.")
        origin["date"] = rows[0]["date"]
    elif resume:
        print("There is no such run on record: this one begins anew.")
    status = 0
    done = Done(list(rows), rows_path.parent / ".checkpoints" / f"{name} {origin['date']}")
    try:
        for measured in _remaining(experiment, settings, done):
            rows.append(record.append(rows_path, measured, origin))
    except KeyboardInterrupt:
        status = INTERRUPTED
        print(f"\nInterrupted. Measured until then: {len(rows)} rows. To go on: --resume.")
    if not rows:
        print("Nothing was written.")
        return status
    print("Rows:", rows_path)
    try:
        _show(name, experiment, rows, table_path, rows_path.parent)
    except KeyboardInterrupt:
        status = INTERRUPTED
        print("\nInterrupted before table and picture were made. All rows are kept.")
    return status


def _show(
    name: str, experiment: ModuleType, rows: list[Row], table_path: Path | None, folder: Path
) -> None:
    """Prints the table, writes it where it is to be, and draws the picture."""
    text = reading.tables(experiment, rows)
    print(f"\n{text}\n")
    if headline := reading.headline(experiment, rows):
        print(f"In short: {headline}.\n")
    if table_path is not None:
        table_path.write_text(text + "\n", encoding="utf-8")
        print("Table:", table_path)
    if path := reading.save_picture(name, experiment, rows, folder):
        print("Picture:", path)


def _remaining(experiment: ModuleType, settings: Any, done: Done) -> Iterable[Row]:
    """The rows that are not on record yet."""
    if len(inspect.signature(experiment.run).parameters) > 1:
        return experiment.run(settings, done)
    return itertools.islice(experiment.run(settings), len(done.rows), None)
