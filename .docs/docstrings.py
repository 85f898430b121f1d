"""How docstrings become pages: doctests, cross references and the comments of tuple fields.

Docstrings are written to be read with `help()`. On a page a doctest is a highlighted block, a name
in backquotes that is public is a link, and the comment beside a field of a NamedTuple describes it.
"""

import re
from pathlib import Path

import griffe

PAGES = Path(__file__).parent / "pages" / "reference"

NAME = re.compile(r"(?<!\[)`([A-Za-z_][\w.]*)(?:\(\))?`(?!\])")
COMMENT = re.compile(r"\s#\s(.*?)\s*(?:#\s*pyright:.*)?$")


def documented(package: griffe.Module) -> list[str]:
    """The paths of everything the reference shows: what its pages name, and what modules export."""
    paths = []
    for page in sorted(PAGES.glob("*.md")):
        for path in re.findall(r"^::: ([\w.]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            paths.append(path)
            thing = package[path.partition(".")[2]]
            if thing.is_module:
                paths += [f"{path}.{name}" for name in thing.exports or []]
    return paths


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
    in_doctest = False
    for line in text.splitlines():
        if line.startswith(">>>") and not in_doctest:
            lines += ["", "```pycon"]
            in_doctest = True
        elif in_doctest and not line.strip():
            lines.append("```")
            in_doctest = False
        if not in_doctest and not line.startswith("    >>>"):
            line = NAME.sub(lambda match: _link(match, names, own), line)
            line = re.sub(r"^References?: ", "**Source.** ", line)
        lines.append(line)
    if in_doctest:
        lines.append("```")
    return "\n".join(lines)


def _link(match: re.Match, names: dict[str, str], own: str) -> str:
    path = names.get(match[1])
    known = path is not None and path != own
    return f"[{match[0]}][{path}]" if known else match[0]


class Docstrings(griffe.Extension):
    """Rewrites every docstring of the package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Called by griffe."""
        self._rewrite(pkg, linked_names(documented(pkg)))

    def _rewrite(self, thing: griffe.Object, names: dict[str, str]) -> None:
        for member in thing.members.values():
            if not member.is_alias:
                self._rewrite(member, names)
        if thing.is_attribute and thing.parent.is_class and not thing.docstring:
            _describe_field(thing)
        if thing.docstring:
            own = names.get(thing.name, thing.path)
            thing.docstring.value = to_markdown(thing.docstring.value, names, own)


def _describe_field(field: griffe.Attribute) -> None:
    """The comment after a field, or on the line before it, as its docstring."""
    source = field.parent.module.lines_collection[field.filepath]
    before, line = source[field.lineno - 2], source[field.lineno - 1]
    comment = COMMENT.search(line) or COMMENT.search(before)
    if before.strip().startswith("# ") and "pyright" in line:
        comment = COMMENT.search(before)
    if comment and "pyright:" not in comment[1]:
        text = comment[1][:1].upper() + comment[1][1:] + "."
        # "int32 [seeds]: what it is": the type and shape as code.
        text = re.sub(r"^([\w ]*\[[^\]]*\]):", lambda m: f"`{m[1][:1].lower()}{m[1][1:]}`:", text)
        field.docstring = griffe.Docstring(text, parent=field)
