"""How docstrings become pages: doctests, cross references and the comments of tuple fields.

Docstrings are written to be read with `help()`. On a page a doctest is a highlighted block, a name
in backquotes that is public is a link, and the comment beside a field of a NamedTuple describes it.
"""

import re
import unicodedata

import griffe
from content import documented

NAME = re.compile(r"(?<!\[)`([A-Za-z_][\w.]*)(?:\(\))?`(?!\])")
GREEK = re.compile(
    r"(?<![\w.])(d?)(delta|epsilon|eta|theta|lambda|mu|nu|pi|rho|sigma|Delta|Theta|Pi|Omega|Gamma)"
    r"(?![A-Za-z0-9:-]|_[a-z]{2})(?: (?=[tEV]\b))?"
)
SPELT = {"lambda": "lamda"}  # as Unicode does
COMMENT = re.compile(r"\s# (?!pyright)(.*?)(?:\s+# pyright:.*)?$")


def linked_names(paths: list[str]) -> dict[str, str]:
    """What a docstring may call a documented object -> its path.

    A name that two modules have is known with its module only.
    """
    found: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split(".")
        for start in range(len(parts)):
            found.setdefault(".".join(parts[start:]), set()).add(path)
    return {name: min(paths) for name, paths in found.items() if len(paths) == 1}


def to_markdown(text: str, names: dict[str, str], own: str) -> str:
    """A docstring as Markdown: doctests fenced, public names linked."""
    lines: list[str] = []
    in_doctest = in_equation = False
    for line in text.splitlines():
        if line.startswith(">>>") and not in_doctest:
            lines += ["", "```pycon"]
            in_doctest = True
        elif in_doctest and not line.strip():
            lines.append("```")
            in_doctest = False
        if not in_doctest and not line.startswith("    >>>"):
            line = NAME.sub(lambda match: _link(match, names, own), line)
            in_equation ^= line.strip() == "$$"
            if not in_equation:
                line = _symbols(line)
            line = re.sub(r"^References?: ", "**Source.** ", line)
        lines.append(line)
    if in_doctest:
        lines.append("```")
    return "\n".join(lines)


def _symbols(line: str) -> str:
    """Greek letters that go by their names, outside of code."""
    parts = re.split(r"(`[^`]*`|\$[^$]+\$|\]\[[^\]]*\])", line)
    return "".join(part if n % 2 else GREEK.sub(_letter, part) for n, part in enumerate(parts))


def _letter(match: re.Match) -> str:
    differential, name = match.groups()
    size = "CAPITAL" if name[0].isupper() else "SMALL"
    return differential + unicodedata.lookup(f"GREEK {size} LETTER {SPELT.get(name, name)}")


def _link(match: re.Match, names: dict[str, str], own: str) -> str:
    path = names.get(match[1])
    known = path is not None and path != own
    return f"[{match[0]}][{path}]" if known else match[0]


class Docstrings(griffe.Extension):
    """Rewrites every docstring of the package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Called by griffe."""
        self._rewrite(pkg, linked_names(documented()))

    def _rewrite(self, thing: griffe.Object, names: dict[str, str]) -> None:
        for member in thing.members.values():
            if not member.is_alias:
                self._rewrite(member, names)
        if thing.docstring:
            text = thing.docstring.value
            if thing.is_class and "Args:" not in text:
                text += _fields(thing)
            own = names.get(thing.name, thing.path)
            thing.docstring.value = to_markdown(text, names, own)


def _fields(thing: griffe.Class) -> str:
    """The fields of a tuple, with the comments beside them, as a section of its docstring."""
    source = thing.lines_collection[thing.filepath]
    fields = []
    for name, member in thing.members.items():
        if member.is_attribute and not name.startswith("_") and member.annotation is not None:
            comments = [COMMENT.search(source[member.lineno - back]) for back in (1, 2)]
            said = [found[1] for found in comments if found and found[1]]
            if said:  # "int32 [seeds]: what it is": a shape is code
                shape, colon, rest = said[0].rpartition("]:")
                text = f"`{shape}]`:{rest}" if colon else said[0]
                fields.append(f"    {name}: {text}")
    return "\n\nAttributes:\n" + "\n".join(fields) if fields else ""
