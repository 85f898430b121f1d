"""The pages under .docs: nothing public is left out, nothing they quote is stale."""

import importlib
import inspect
import pathlib
import re
import sys

import pytest

import kinopt
import kinopt.plots

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ROOT / ".docs" / "pages"


@pytest.fixture(scope="module")
def content():
    """The module that fills the pages; it needs nothing but Python."""
    sys.path.insert(0, str(ROOT / ".docs"))
    try:
        yield importlib.import_module("content")
    finally:
        sys.path.remove(str(ROOT / ".docs"))


def find(path: str):
    """The object of this dotted path."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            thing = getattr(thing, name)
        return thing
    raise ModuleNotFoundError(path)


def public() -> dict[str, object]:
    """All public names: those of `kinopt`, and those of its public modules."""
    modules = [*(m for m in map(kinopt.__dict__.get, kinopt.__all__) if inspect.ismodule(m))]
    found = {f"kinopt.{name}": getattr(kinopt, name) for name in kinopt.__all__}
    for module in [*modules, kinopt.plots]:
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
    return found


PUBLIC = public()
FUNCTIONS = [path for path, thing in PUBLIC.items() if inspect.isfunction(thing)]


def test_every_public_name_is_in_the_reference(content):
    assert set(PUBLIC) - set(content.documented()) == set()


def test_what_the_reference_names_exists(content):
    paths = list(content.documented())
    assert paths
    assert all(find(path) is not None for path in paths)


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_is_described(path):
    thing = PUBLIC[path]
    if inspect.isclass(thing) or callable(thing) or inspect.ismodule(thing):
        text = inspect.getdoc(thing) or ""
        assert not text.startswith(f"{getattr(thing, '__name__', '')}("), "no docstring of its own"
        assert text.partition("\n")[0].endswith((".", "?", ":")), f"a first line: {text[:60]!r}"


@pytest.mark.parametrize("path", [path for path in FUNCTIONS if ".plots." not in path])
def test_a_public_function_says_all_it_should(path):
    """Every argument, what it returns and raises, and an example that the doctests run."""
    function = PUBLIC[path]
    text = inspect.getdoc(function) or ""
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^ +\*{{0,2}}{name}: \S", text, re.MULTILINE), f"{name} is not described"
    returned = inspect.signature(function).return_annotation
    named = isinstance(returned, type) and returned.__module__.startswith("kinopt")
    assert named or re.search(r"^Returns:", text, re.MULTILINE)
    if re.search(r"^ +raise ", inspect.getsource(function), re.MULTILINE):
        assert re.search(r"^Raises:", text, re.MULTILINE)
    assert ">>> " in text


def test_the_code_of_an_equation_exists():
    names = re.findall(r"`((?:kinopt|benchmarks)\.[\w.]+)`", (PAGES / "equations.md").read_text())
    assert names
    for name in set(names):
        find(name)


@pytest.mark.parametrize(("paper", "last"), [("KO", 19), ("BBI", 57)])
def test_every_equation_has_its_line(paper, last):
    page = (PAGES / "equations.md").read_text()
    text = re.search(rf"^## {paper}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert text
    found: set[int] = set()
    for first_cell in re.findall(r"^\| ([^|]*Eqs?\. [^|]*)\|", text[1], re.MULTILINE):
        numbers = re.search(r"Eqs?\. ([\d, ]+(?:to \d+)?)", first_cell)
        assert numbers
        start, _, end = numbers[1].partition(" to ")
        parts = [int(part) for part in start.split(",") if part.strip()]
        found |= set(range(parts[-1], int(end) + 1)) if end else set(parts)
    assert found == set(range(1, last + 1))


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_finds_what_it_asks_for(content, page):
    filled = content.fill(page.read_text(encoding="utf-8"))
    assert "{{" not in filled
    for path in re.findall(r"\]\[(kinopt[\w.]*)\]", filled):
        assert path in content.documented()


def test_a_page_that_asks_for_nothing_known_is_an_error(content):
    for wrong in ("cell | demo | sgdd | learning rate", "headline | no.such", "recipee | linen"):
        with pytest.raises((LookupError, FileNotFoundError)):
            content.fill(f"{{{{ {wrong} }}}}")


def test_every_recipe_is_on_the_page():
    shown = set(re.findall(r"\{\{ recipe \| (\w+) \}\}", (PAGES / "recipes.md").read_text()))
    assert shown == {path.stem for path in (ROOT / ".docs" / "recipes").glob("*.py")}


STEPS = ("step to 0.5", "published step")


def number(text: str) -> float:
    """The first number of a cell."""
    found = re.search(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", text)
    assert found, text
    return float(found[0].replace(",", ""))


def test_the_words_of_the_choice_agree_with_the_rows(content):
    """Figures come from the report; here is what the sentences around them say."""

    def cell(*place: str) -> float:
        return number(content.cell(*place))

    when = "evidence.when"
    for base in ("sgd", "adamw"):
        for law in ("soft, head", "soft, all", "hard, head"):
            assert cell(when, f"{base}: {law}", "all tasks") < 0.1, "collisions gained nothing"
    assert cell("ko.text", "soft 0.5", "difference") > 0.1
    assert cell("ko.text", "hard 0.2, rms", "difference") < -20

    def relu(c: str, column: str) -> float:
        return cell("ko.condensation", f"relu / {c}", column)

    assert relu("soft / 0.1", "mean abs. cosine") < relu("none", "mean abs. cosine")
    assert relu("soft / 0.1", "loss") < relu("none", "loss") < relu("soft / 0.3", "loss")
    steps = "steps to 1e-22"
    bbi, adam = cell("bbi.zakharov", "bbi", steps), cell("bbi.zakharov", "adam", steps)
    assert bbi < 0.55 * adam, "half as many steps"
    assert cell("bbi.zakharov", "adam", "here") < 1e-22 < cell("bbi.zakharov", "bbi", "here") * 1.1
    for column in ("here, Eq. 15", "here, as coded"):
        momentum = cell("bbi.ackley", "gdm", column)
        large, small = (cell("bbi.ackley", f"bbi, {step}", column) for step in STEPS)
        assert large < momentum < small
    held = cell("bbi.ackley", "bbi, published step / 0.2", "at the end")
    assert held < cell("bbi.ackley", "bbi, published step", "here, Eq. 15") / 2
    accuracy = "test accuracy (%)"
    assert cell("demo", "bbi", accuracy) <= cell("demo", "sgd", accuracy) + 0.1
    ratio = "ratio to adam"
    assert cell("speed.steps", "50,000,000 / bbi", ratio) < 1.05
    assert cell("speed.steps", "50,000,000 / ecdsep", ratio) > 5
