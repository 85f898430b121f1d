"""Builds RESULTS.md: a section for every experiment that has committed rows."""

import json
from pathlib import Path

from benchmarks import experiments, record
from benchmarks.markdown import table_of
from benchmarks.record import PROVENANCE, Row

__all__ = ["build"]

FOLDER = Path(__file__).parent
MOST_LINES = 30  # of an experiment that has no table of its own
HEAD = """# Results

Built by `python -m benchmarks report` from the rows in [results](results). Every row carries its
settings, seed, commit, versions and device.
"""


def build(results: Path = FOLDER / "results", target: Path = FOLDER / "RESULTS.md") -> Path:
    """Writes the report, and returns where."""
    known = [name for name in experiments.names() if (results / f"{name}.jsonl").exists()]
    sections = [_section(name, results) for name in known]
    target.write_text("\n".join([HEAD, *sections]), encoding="utf-8")
    return target


def _section(name: str, results: Path) -> str:
    """The experiment's question and why it is asked, its table, its picture, its origin."""
    rows = record.read(results / f"{name}.jsonl")
    module = experiments.load(name)
    table = module.table(rows) if hasattr(module, "table") else _plain_table(rows)
    title, _, rest = experiments.describe(name).partition("\n\n")
    story = rest.partition("\n\n")[0]
    parts = [f"## {name}: {title}", story, table]
    picture = f"{name.rpartition('.')[2]}.png"
    if (results / picture).exists():
        parts.append(f"![{name}](results/{picture})")
    parts.append(_origin(rows[-1], name))
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain_table(rows: list[Row]) -> str:
    """The measured numbers and words of the last rows; lists stay in the file."""
    rows = rows[-MOST_LINES:]
    names = [
        name
        for name, value in rows[-1].items()
        if name not in PROVENANCE and not isinstance(value, list | dict)
    ]
    return table_of(
        [*names, "date"],
        [[*(_cell(row.get(name)) for name in names), row["date"][:10]] for row in rows],
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _origin(row: Row, name: str) -> str:
    device = row["device"]
    versions = ", ".join(f"{package} {version}" for package, version in row["versions"].items())
    return (
        f"[Last of all rows](results/{name}.jsonl): {row['date'][:10]}, preset {row['preset']}, "
        f"commit {row['commit'][:12]}, {device['count']} x {device['kind']}, {versions}; settings "
        f"`{json.dumps(row['settings'])}`."
    )
