"""Runs an experiment: rows are written as they come, then the table and the picture.

Ctrl-C ends the measuring, not the writing.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import record

__all__ = ["INTERRUPTED", "perform"]

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it: 128 + SIGINT."""


def perform(
    name: str,
    experiment: ModuleType,
    preset: str,
    settings: Any,
    rows_path: Path,
    table_path: Path | None = None,
) -> int:
    """Runs one experiment and prints its table and where everything was written.

    Args:
        name: The experiment's name.
        experiment: Its module.
        preset: The preset its settings come from.
        settings: Its settings.
        rows_path: The file its rows are appended to; its picture goes beside it.
        table_path: The file its table goes to; None prints it only.

    Returns:
        The exit status.
    """
    origin = record.provenance(name, preset, settings)
    rows = []
    status = 0
    try:
        for measured in experiment.run(settings):
            rows.append(record.append(rows_path, measured, origin))
    except KeyboardInterrupt:
        status = INTERRUPTED
        print(f"\nInterrupted. Measured until then: {len(rows)} rows.")
    if not rows:
        print("Nothing was written.")
        return status
    written = [rows_path]
    if hasattr(experiment, "table"):
        text = experiment.table(rows)
        print(f"\n{text}\n")
        if table_path is not None:
            table_path.write_text(text + "\n", encoding="utf-8")
            written.append(table_path)
    if hasattr(experiment, "plot"):
        written.append(experiment.plot(rows, rows_path.parent))
    print("Written: " + ", ".join(map(str, written)))
    return status
