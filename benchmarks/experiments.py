"""Finds the experiments: every module of a family folder, the demo and its tuning."""

import ast
import difflib
import importlib
from pathlib import Path
from types import ModuleType

__all__ = ["FACTS", "FAMILIES", "UsageError", "describe", "facts", "load", "names", "title"]

FAMILIES = ("ko", "bbi", "speed", "evidence")
FACTS = ("Reproduces", "Needs", "Takes", "Scale")
FOLDER = Path(__file__).parent


class UsageError(ValueError):
    """What the user can put right; the command line prints it without a traceback."""


def names() -> list[str]:
    """All experiments: "demo", "tuning", and "family.module" for each public module."""
    found = [
        f"{family}.{path.stem}"
        for family in FAMILIES
        for path in sorted((FOLDER / family).glob("*.py"))
        if not path.stem.startswith("_")
    ]
    return ["demo", "tuning", *found]


def describe(name: str) -> str:
    """An experiment's docstring, read without importing it."""
    source = (FOLDER / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def title(name: str) -> str:
    """An experiment's question: the first line of its docstring, as long as it goes on."""
    return describe(name).partition("\n\n")[0].replace("\n", " ")


def facts(name: str) -> dict[str, str]:
    """What the docstring's last paragraph says under each of `FACTS`, in this order."""
    found: dict[str, str] = {}
    label = None
    for line in describe(name).rpartition("\n\n")[2].splitlines():
        start, colon, rest = line.partition(": ")
        if colon and start in FACTS:
            label = start
            found[label] = rest.strip()
        elif label:
            found[label] += " " + line.strip()
    return {label: found[label] for label in FACTS if label in found}


def load(name: str) -> ModuleType:
    """Imports an experiment.

    Raises:
        UsageError: There is none of this name; the message lists the near ones.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, cutoff=0.4)
        near += [other for other in known if name in other and other not in near]
        hint = f"near it: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
        raise UsageError(f"There is no experiment {name!r}; {hint}.")
    return importlib.import_module(f"benchmarks.{name}")
