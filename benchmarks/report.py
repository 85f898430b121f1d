"""Builds RESULTS.md and its pictures: both papers' items, then a section for every experiment."""

import json
import re
from pathlib import Path

from benchmarks import experiments, reading, record
from benchmarks.markdown import table_of
from benchmarks.papers import ITEMS, Item
from benchmarks.record import Row

__all__ = ["build"]

FOLDER = Path(__file__).parent
HEAD = """# Results

Built by `python -m benchmarks report` from the rows in [results](results). Every row carries its
settings, seed, commit, versions and device.

## Every table and figure of both papers

"KO" is "KO: Kinetics-inspired Neural Optimizer with PDE Simulation Approaches", "BBI" is
"Born-Infeld (BI) for AI: Energy-Conserving Descent (ECD) for Optimization". No authors' code is
published for KO. The preset says at what scale a result was found: laptop is smaller than the
paper.
"""


def build(
    results: Path = FOLDER / "results", target: Path = FOLDER / "RESULTS.md", draw: bool = False
) -> Path:
    """Writes the report, and returns where.

    Args:
        results: The folder of rows and pictures.
        target: The file to write.
        draw: Draws the pictures anew, too; without it those that lie there are linked.
    """
    rows = {name: record.read(results / f"{name}.jsonl") for name in experiments.names()}
    rows = {name: found for name, found in rows.items() if found}
    sections = [_section(name, found, results, draw) for name, found in rows.items()]
    target.write_text("\n".join([HEAD, _items(rows), *sections]), encoding="utf-8")
    return target


def _items(rows: dict[str, list[Row]]) -> str:
    """The table of both papers' tables and figures, each with its state."""
    lines, first = [], {}
    for item in ITEMS:
        answered = first.setdefault((item.paper, item.experiment), item)
        state = _state(item, rows) if answered is item else f"with {answered.place}"
        lines.append([item.paper, item.place, item.claim, item.authors, state])
    header = ["paper", "item", "paper says", "authors' code", "here"]
    return table_of(header, lines, aligned=False) + "\n"


def _state(item: Item, rows: dict[str, list[Row]]) -> str:
    """What was found here and at what scale, or why nothing was."""
    name = item.experiment
    if name == "README":
        return "in words in the [README](../README.md)"
    if name not in experiments.names():
        return "no experiment yet"
    scale = experiments.facts(name).get("Scale", "")
    if name not in rows:
        return f"not run: {scale or 'no rows are committed'}"
    module = experiments.load(name)
    headline = reading.headline(module, rows[name]) or "measured"
    link = f"[{name}](#{_anchor(name)})"
    preset = record.current(rows[name])[0][0]["preset"]
    return f"{headline} ({link}, preset {preset}). {scale}".strip()


def _heading(name: str) -> str:
    return f"{name}: {experiments.title(name)}"


def _anchor(name: str) -> str:
    """The link target that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", _heading(name).lower()).replace(" ", "-")


def _section(name: str, rows: list[Row], results: Path, draw: bool) -> str:
    """The experiment's question and why it is asked, its table, its picture, its origin.

    Why it is asked is the docstring's second paragraph, and what follows it up to a full stop.
    """
    module = experiments.load(name)
    paragraphs = experiments.describe(name).split("\n\n")[1:]
    last = next(n for n, paragraph in enumerate(paragraphs) if paragraph.endswith("."))
    parts = [f"## {_heading(name)}", *paragraphs[: last + 1], reading.tables(module, rows)]
    if draw:
        reading.save_picture(name, module, rows, results)
    if reading.picture_file(name, results).exists():
        parts.append(f"![{name}](results/{name}.png)")
    parts.append(_origin(record.current(rows)[0][-1], name))
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(row: Row, name: str) -> str:
    device = row["device"]
    versions = ", ".join(f"{package} {version}" for package, version in row["versions"].items())
    return (
        f"[All rows](results/{name}.jsonl); the first table: {row['date'][:10]}, preset "
        f"{row['preset']}, "
        f"commit {row['commit'][:12]}, {device['count']} x {device['kind']}, {versions}; settings "
        f"`{json.dumps(row['settings'])}`."
    )
