"""What the pages take from elsewhere, so that nothing is written twice and no figure goes stale.

A page asks by {{ name | argument | ... }}. Figures come from `benchmarks/RESULTS.md`, which a test
holds equal to the committed rows; recipes are the files that the tests run. What is asked for and
not found is an error, so a page cannot quote a row that is gone.
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
PLACE = re.compile(r"\{\{ ([^{}]+) \}\}")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^()\s]+)\)")
PAGES = {  # where a link into the repository leads on the pages
    "benchmarks/RESULTS.md": "results.md",
    ".github/CHANGELOG.md": "changes.md",
    ".docs/pages/choose.md": "choose.md",
    ".docs/pages/equations.md": "equations.md",
    ".docs/pages/help.md": "help.md",
    ".docs/pages/recipes.md": "recipes.md",
    ".docs/pages/settings.md": "settings.md",
    "kinopt/layers/__init__.py": "reference/collisions.md",
    "kinopt/hamiltonians.py": "reference/hamiltonians.md",
}

IMPORTANCE = {"reference/": 8, "results.md": 1e-4, "changes.md": 1e-4}
"""How much what search finds on a page counts; 1 on the others. The results name everything."""

FOREIGN = re.compile(
    r"""src=["']?(?:https?:)?//[^"' ]+|<link[^>]+href=["']?(?:https?:)?//[^>]+>|"""
    r"""(?:url\(|@import )["']?(?:https?:)?//[^)"']+"""
)
UNRESOLVED = re.compile(r"\]\[kinopt[\w.]*\]|\]\[\]")


def importance(path: str) -> float:
    """How much what search finds on this page counts, beside what it finds elsewhere.

    >>> importance("reference/ensemble.md") > importance("recipes.md") > importance("results.md")
    True
    """
    return next((value for start, value in IMPORTANCE.items() if path.startswith(start)), 1)


def faults(text: str) -> list[str]:
    """What a built page must not have: what it loads from elsewhere, and open references.

    >>> faults('<script src="https://example.org/x.js">, [`bbi`][kinopt.bbi]')
    ['src="https://example.org/x.js', '][kinopt.bbi]']
    """
    return FOREIGN.findall(text) + UNRESOLVED.findall(text)


def documented() -> list[str]:
    """The paths of everything the reference shows: what its pages name, and what modules export."""
    paths = []
    for page in sorted((HERE / "pages" / "reference").glob("*.md")):
        shown = re.findall(
            r"^::: ([\w.]+)(?:\n +options: (.*))?", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        for path, options in shown:
            members = [] if "members: false" in options else _exports(path)
            paths += [path, *(f"{path}.{name}" for name in members)]
    return paths


def _exports(path: str) -> list[str]:
    """The `__all__` of a module, read without importing it; nothing for a function or class."""
    place = ROOT / path.replace(".", "/")
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.exists():
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    return ast.literal_eval(node.value)
    return []


def link_names(markdown: str) -> str:
    """Links every public name in backquotes to its place in the reference."""
    known = set(documented())

    def link(found: re.Match) -> str:
        return f"[{found[0]}][{found[1]}]" if found[1] in known else found[0]

    return re.sub(r"(?<!\[)`(kinopt\.[\w.]+)`", link, markdown)


def fill(markdown: str) -> str:
    """Replaces every {{ name | argument }} by what the function of that name says."""

    def said(found: re.Match) -> str:
        name, *arguments = (part.strip() for part in found[1].split("|"))
        if name not in PARTS:
            raise LookupError(f"a page asks for {name!r}; there are {sorted(PARTS)}")
        return PARTS[name](*arguments)

    return PLACE.sub(said, markdown)


def results() -> str:
    """The report with all tables, its links turned to the pages."""
    text = _read("benchmarks/RESULTS.md").partition("\n")[2]
    return _relinked(text, "benchmarks/")


def section(experiment: str) -> str:
    """The report's section about an experiment."""
    sections = re.split(r"^## ", _read("benchmarks/RESULTS.md"), flags=re.MULTILINE)
    for part in sections:
        if part.startswith(f"{experiment}: "):
            return part
    raise LookupError(f"RESULTS.md has no section about {experiment!r}")


def cell(experiment: str, row: str, column: str, device: str = "") -> str:
    """One cell of an experiment's tables: the row by its first cells, "tanh / soft / 0.1".

    The first there is, or the first of those that are headed "On 1 x DEVICE:".
    """
    wanted = [part.strip() for part in row.split(" / ")]
    text = section(experiment)
    for table in _tables(text.partition(f" x {device}:\n")[2] if device else text):
        header, *lines = table
        for line in lines:
            if column in header and line[: len(wanted)] == wanted:
                found = line[header.index(column)].strip("*° ")
                return found.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    raise LookupError(f"{experiment} has no row {row!r} with a column {column!r}")


def paragraph(experiment: str, start: str) -> str:
    """The paragraph of an experiment's section that begins so."""
    for part in section(experiment).split("\n\n"):
        if part.startswith(start):
            return part
    raise LookupError(f"{experiment} has no paragraph that begins with {start!r}")


def headline(experiment: str) -> str:
    """What the report's first table says was found."""
    (table, *_) = _tables(_read("benchmarks/RESULTS.md"))
    for line in table[1:]:
        found, link, _ = line[-1].partition(f" ([{experiment}]")
        if link:
            return found
    raise LookupError(f"no headline of {experiment!r}")


def tally(experiment: str) -> str:
    """How many of a section's comparisons are significant: bold; without a circle, comparable."""
    cells = [cell for line in _tables(section(experiment))[0][1:] for cell in line if "±" in cell]
    bold = [cell for cell in cells if cell.startswith("**")]

    def count(part: list[str]) -> str:
        gains = sum(cell.startswith("**+") for cell in part)
        return f"{gains} gain and {len(part) - gains} lose"

    alone = [cell for cell in bold if "°" not in cell]
    return (
        f"of {len(cells)} comparisons {count(bold)} significantly; "
        f"where the collision is the only difference, {count(alone)}"
    )


def recipe(name: str) -> str:
    """A recipe's title, what it says, and its code."""
    code = _read(f".docs/recipes/{name}.py")
    told, code = re.fullmatch(r'"""(.*?)"""\n+(.*)', code, re.DOTALL).groups()
    first, _, rest = told.partition("\n\n")
    title, _, what = first.partition(": ")
    code = code.replace("  # noqa: E731", "")
    what = what[:1].upper() + what[1:]
    return f"### {title}\n\n{what}\n\n{rest.strip()}\n\n```python\n{code}```"


def readme(title: str) -> str:
    """A section of the README; "top" is what stands before the first."""
    text = _read("README.md")
    if title == "top":
        found = re.match(r"# .*?\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    else:
        found = re.search(
            rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE
        )
    if not found:
        raise LookupError(f"the README has no section {title!r}")
    return _relinked(found[1])


def changes() -> str:
    """The changelog."""
    return _read(".github/CHANGELOG.md").partition("\n")[2]


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _tables(text: str) -> list[list[list[str]]]:
    """All tables as lists of lines of cells, the header first."""
    tables, lines = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [part.strip() for part in line.strip().strip("|").split(" | ")]
            lines.append([part.strip("| ") for part in cells])
        elif lines:
            tables.append([lines[0], *lines[2:]])
            lines = []
    return tables


def _relinked(text: str, folder: str = "") -> str:
    """Links into the repository lead to a page, or are plain text where there is none."""

    def link(found: re.Match) -> str:
        picture, said, target = found.groups()
        if target.startswith(("http", "#")):
            return found[0]
        path = target if not folder else folder + target
        if picture:
            return f"![{said}]({path.removeprefix('benchmarks/')})"
        return f"[{said}]({PAGES[path]})" if path in PAGES else said

    return LINK.sub(link, text)


PARTS: dict[str, Callable[..., str]] = {
    "cell": cell,
    "changes": changes,
    "headline": headline,
    "paragraph": paragraph,
    "readme": readme,
    "recipe": recipe,
    "results": results,
    "tally": tally,
}
