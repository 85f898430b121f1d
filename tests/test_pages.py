"""The pages under .docs: nothing public is left out, nothing they quote is stale."""

import importlib
import inspect
import pathlib
import re
import sys
from typing import NamedTuple

import pytest

import kinopt
import kinopt.plots
from tests.links import anchors, dead_links

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


def undescribed(thing: object) -> str | None:
    """What is wrong with the first line of a docstring; None where all is well."""
    text = inspect.cleandoc(vars(thing).get("__doc__") or "")  # not that of a base class
    if not text or text.startswith(f"{getattr(thing, '__name__', '')}("):
        return "it has no docstring of its own"
    first = text.partition("\n")[0]
    return None if first.endswith((".", "?", ":")) else f"no sentence: {first!r}"


def unsaid(function) -> list[str]:
    """What the docstring of a function leaves out."""
    text = inspect.cleandoc(function.__doc__ or "")
    signature = inspect.signature(function)
    missing = [
        name
        for name in signature.parameters
        if not re.search(rf"^ +\*{{0,2}}{name}: \S", text, re.MULTILINE)
    ]
    returned = signature.return_annotation
    named = isinstance(returned, type) and returned.__module__.startswith("kinopt")
    raises = re.search(r"^ +raise ", inspect.getsource(function), re.MULTILINE)
    needed = {"Returns:": not named, "Raises:": bool(raises), ">>> ": True}
    for word, is_needed in needed.items():
        if is_needed and not re.search(f"^ *{word}", text, re.MULTILINE):
            missing.append(word)
    return missing


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_is_described(path):
    thing = PUBLIC[path]
    if inspect.isclass(thing) or inspect.ismodule(thing):
        assert undescribed(thing) is None
    elif callable(thing):
        # Anything else, a compiled function say, would pass by what a function is held to below.
        assert inspect.isfunction(thing)
        assert (inspect.getdoc(thing) or "").partition("\n")[0].endswith((".", "?", ":"))


@pytest.mark.parametrize("path", [path for path in FUNCTIONS if ".plots." not in path])
def test_a_public_function_says_all_it_should(path):
    """Every argument, what it returns and raises, and an example that the doctests run."""
    assert unsaid(PUBLIC[path]) == []


def test_a_docstring_that_lacks_something_is_found():
    class Pair(NamedTuple):
        left: int

    class OwnError(ValueError):
        pass

    class Fragment:
        """Half of a"""

    assert undescribed(Pair) == undescribed(OwnError) == "it has no docstring of its own"
    assert undescribed(Fragment) == "no sentence: 'Half of a'"

    def silent(said, unsaid):
        """All but everything.

        Args:
            said: This is.
        """
        raise ValueError(said, unsaid)

    assert unsaid(silent) == ["unsaid", "Returns:", "Raises:", ">>> "]


LINKED = [ROOT / "README.md", *sorted((ROOT / ".github").glob("*.md"))]
LINKED += [ROOT / "benchmarks" / "RESULTS.md"]


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    assert dead_links(path.read_text(encoding="utf-8"), path.parent) == []


def test_a_link_that_leads_nowhere_is_found():
    fine = "[a](README.md) [b](https://example.org/x) [c](README.md#two-commands) [d](#here)"
    wrong = "[e](READYOU.md) [f](README.md#ten-commands) [g](#there)"
    text = f"# Here\n\n{fine} {wrong}\n\n```\n[code](is no link)\n# there\n```\n"
    assert dead_links(text, ROOT) == ["READYOU.md", "README.md#ten-commands", "#there"]


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


@pytest.mark.parametrize("page", sorted(PAGES.rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_finds_what_it_asks_for(content, page):
    filled = content.fill(page.read_text(encoding="utf-8"))
    assert "{{" not in filled
    for path in re.findall(r"\]\[(kinopt[\w.]*)\]", filled):
        assert path in content.documented()
    for anchor in re.findall(r"\]\((#[^)]*)\)", filled):
        assert anchor.removeprefix("#") in anchors(filled)


def test_a_page_that_asks_for_nothing_known_is_an_error(content):
    for wrong in ("cell | demo | sgdd | learning rate", "headline | no.such", "recipee | linen"):
        with pytest.raises((LookupError, FileNotFoundError)):
            content.fill(f"{{{{ {wrong} }}}}")


@pytest.mark.parametrize(
    "wrong",
    [
        '<script src="https://example.org/x.js">',
        "<img src=//example.org/x.png>",
        '<link rel="stylesheet" href="https://example.org/x.css">',
        "src: url(https://example.org/x.ttf)",
        '@import "https://example.org/x.css"',
        "see [`bbi`][kinopt.bbi]",
        "see [`bbi`][]",
    ],
)
def test_a_built_page_with_a_fault_is_found(content, wrong):
    right = '<a href="https://example.org">, <script src="assets/x.js">, url(../assets/math.ttf)'
    assert content.faults(right) == []
    assert len(content.faults(f"{right} {wrong} {right}")) == 1


def test_search_works_from_a_folder_and_finds_the_reference_first(content):
    """The plugin `offline` loads its shim from elsewhere unless one of its name is at hand."""
    config = (ROOT / ".docs" / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(r"^  - offline\b", config, re.MULTILINE)
    shim = re.search(r"^  polyfills: \[(.*iframe-worker.*)\]$", config, re.MULTILINE)
    assert shim
    assert "window.Worker=" in (PAGES / shim[1]).read_text(encoding="utf-8")
    pages = [path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md")]
    reference = [content.importance(page) for page in pages if page.startswith("reference/")]
    others = {page: content.importance(page) for page in pages if "/" not in page}
    assert min(reference) > max(others.values())
    assert others.pop("results.md") == others.pop("changes.md") < min(others.values())


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
    mean = "evidence.learning", "mean over tasks"
    assert cell(*mean, "bbi") < cell(*mean, "bbi, cool") - 1, "cool mends most"
    assert abs(cell(*mean, "isokinetic, cool")) < 0.31, "level"
    assert cell(*mean, "isokinetic") > cell(*mean, "isokinetic, cool"), "cool gains nothing"
    tasks = ("regression", "mixture", "autoencoder", "six", "shift")
    unit = [cell("evidence.regression", "isokinetic, cool", task) for task in tasks]
    assert max(unit[:2]) < 0 < min(unit[2:]), "ahead on two, behind on three"
    assert unit[4] > 0.2, "much so on the last"
    rates = "evidence.rates"
    assert cell(rates, "ecdsep, cool", "x 10") > -0.2, "tenfold loses nothing"
    assert cell(rates, "ecdsep, cool", "all rates") > cell(rates, "adamw", "all rates")
    for row in ("isokinetic, cool", "isokinetic, per neuron"):
        assert cell(rates, row, "x 0.1") < 2 * cell(rates, "adamw", "x 0.1"), "far more"
        assert cell(rates, row, "x 10") > cell(rates, "adamw", "x 10") - 1.3, "little more"
    nets = "evidence.architectures"
    for text in ("characters", "code"):
        alone, neurons, momentum = (
            cell(nets, row, text)
            for row in ("isokinetic", "isokinetic, per neuron", "normalized sgd, per neuron")
        )
        assert neurons < -0.04 < 0 < momentum < 0.03 < alone, "behind with one, ahead with many"
        metric, muon = cell(nets, "isokinetic, in metric", text), cell(nets, "muon", text)
        assert muon < metric < -0.02, "ahead after few steps"
    gap, metric, muon, deeper_gap, deeper_metric, deeper_muon = (
        cell("evidence.longer", row, text)
        for text in ("characters, longer", "code, deeper")
        for row in ("isokinetic, per neuron", "isokinetic, in metric", "muon")
    )
    assert muon < 0 < 2 * metric < gap, "most of the gap is closed"
    assert deeper_muon < deeper_metric < deeper_gap < 0, "both are ahead, by more"
    spheres = [f"isokinetic{name}" for name in ("", ", per tensor", ", per neuron")]
    behind = [cell(nets, name, "equation") for name in spheres]
    assert 0 < behind[0] < min(behind[1:]), "with many spheres further than with one"
    assert cell(nets, "normalized sgd, per neuron", "equation") < -0.5
    assert cell(nets, spheres[2], "sentences") < -2
    assert cell(nets, spheres[2], "mnist") < -0.5
    assert abs(cell(nets, spheres[2], "cifar10-small")) < 0.19, "level"
    for images in ("mnist", "cifar10-small"):
        difference = cell(nets, spheres[2], images) - cell(nets, spheres[0], images)
        assert abs(difference) < 1, "no difference between one and many is sure"
    ratios, annealed = "evidence.ratios", ("adamw, annealed", "isokinetic, annealed")
    for name in ("shift", "six", "mixture"):
        for figure in ("error", "deviation"):
            adam, ecd = (cell(ratios, row, f"{name}, {figure}") for row in ("adam", "ecd"))
            assert adam < ecd, "neither ahead nor steadier"
        tensor = cell(ratios, "ecd, per tensor", f"{name}, deviation")
        assert adam < tensor < ecd, "a sphere for each tensor is steadier than one"
        adamw, unit = (cell(ratios, row, f"{name}, error") for row in annealed)
        assert (unit < adamw) == (name != "shift"), "two of the three"
        adamw, unit = (cell(ratios, row, f"{name}, deviation") for row in annealed)
        assert unit > 1.95 * adamw, "with twice the spread or more"
    ratio = "ratio to adam"
    assert cell("speed.steps", "50,000,000 / bbi", ratio) < 1.05
    without, with_noise = (
        cell("speed.steps", f"50,000,000 / ecdsep{x}", ratio) for x in (", nu=0", "")
    )
    assert without < 1.5 < 2.5 < with_noise, "for the random numbers"


def test_the_words_on_alike_units_agree_with_the_rows(content):
    """Those of "Will it help?" and of the choice, around their tables."""

    def cell(row: str, column: str) -> float:
        return number(content.cell("evidence.alike", row, column))

    for units in (5, 10):
        adam = f"adam / {units}"
        for cosine in ("cosine 0.7", "cosine 0.9"):
            for law in ("soft", "soft, gradients"):
                assert cell(f"{adam} / {law}", cosine) < -0.1, "they pay where units are alike"
            for rival in ("larger start", "noise", "penalty"):
                assert cell(f"{adam} / {rival}", cosine) > -0.3, "little, or a loss"
        assert abs(cell(f"{adam} / soft", "cosine 0")) < 0.2, "seldom where they are orthogonal"
        assert cell(f"{adam} / soft, gradients", "cosine 0") < -1, "it pays there too"
        assert cell(f"{adam} / muon", "cosine 0.9") < -0.5, "far ahead of plain Adam"
        for law in ("soft", "soft, gradients"):
            kind = f"decayed / {units} / {law}"
            assert cell(f"sgd, {kind}", "errors") > cell(f"sgd, {kind}", "tasks named") / 2
            assert cell(f"adam, {kind}", "of them lose") == 0
            assert cell(f"adam, {kind}", "errors") < cell(f"adam, {kind}", "if all were named")
    for law in ("soft", "soft, gradients"):
        few, many = (cell(f"adam, decayed / {units} / {law}", "errors") for units in (5, 10))
        assert few < many, "the held-out units are harder"
    more = cell("sgd / 10 / momentum", "cosine 0"), cell("sgd / 10 / soft, gradients", "cosine 0")
    assert more[0] < more[1] < 0, "momentum does more"
    ahead = cell("adam, decayed / 10", "muon")
    assert ahead > 12, "of 24"


README_SAYS = (
    "a million of two basins in {{ cell | speed.ensemble | 1,000,000 / kinopt.ensemble | seconds | "
    "NVIDIA H200 }} s on an H200",
    "Adam {{ cell | evidence.alike | adam, 500 decayed / 5 tanh / 0.7 | plain }}; soft "
    "{{ cell | evidence.alike | adam, 500 decayed / 5 tanh / 0.7 | soft }} to it, "
    '`alike="gradients"` '
    "{{ cell | evidence.alike | adam, 500 decayed / 5 tanh / 0.7 | soft, gradients }}, Muon "
    "{{ cell | evidence.alike | adam, 500 decayed / 5 tanh / 0.7 | muon }}; of ten units Adam "
    "{{ cell | evidence.alike | adam, 500 decayed / 10 tanh / 0.7 | plain }}, "
    "{{ cell | evidence.alike | adam, 500 decayed / 10 tanh / 0.7 | soft }}, "
    "{{ cell | evidence.alike | adam, 500 decayed / 10 tanh / 0.7 | soft, gradients }}, "
    "{{ cell | evidence.alike | adam, 500 decayed / 10 tanh / 0.7 | muon }}; with SGD fewer "
    "gains, and losses; with a trained output at 0.8 soft "
    "{{ cell | evidence.expected | committee | soft }} |",
    "the training loss from {{ cell | ko.condensation | relu / none | loss }} to "
    "{{ cell | ko.condensation | relu / soft / 0.1 | loss }}, the mean abs. cosine from "
    "{{ cell | ko.condensation | relu / none | mean abs. cosine }} to "
    "{{ cell | ko.condensation | relu / soft / 0.1 | mean abs. cosine }};",
    "`bbi` is at 1e-22 after {{ cell | bbi.zakharov | bbi | steps to 1e-22 }} steps, Adam after "
    "{{ cell | bbi.zakharov | adam | steps to 1e-22 }};",
    "from {{ cell | bbi.ackley | bbi, published step | here, Eq. 15 }} of 100 starts, tuned "
    "momentum from {{ cell | bbi.ackley | gdm | here, Eq. 15 }}",
    "ratio {{ cell | bbi.basins | leapfrog | ratio ± standard error }}, predicted",
    "soft on the head {{ cell | evidence.when | sgd: soft, head | all tasks }} points of accuracy "
    "with SGD, {{ cell | evidence.when | adamw: soft, head | all tasks }} with AdamW; hard "
    "{{ cell | evidence.when | sgd: hard, head | all tasks }} and "
    "{{ cell | evidence.when | adamw: hard, head | all tasks }}",
    "soft {{ cell | ko.text | soft 0.5 | difference }} points; the sum of hard collisions "
    "{{ cell | ko.text | hard 0.2, rms | difference }}",
    "SGD {{ cell | demo | sgd | test accuracy (%) }} %, AdamW "
    "{{ cell | demo | adamw | test accuracy (%) }}, `bbi` "
    "{{ cell | demo | bbi | test accuracy (%) }};",
    "`isokinetic` {{ cell | evidence.learning | mean over tasks | isokinetic, cool }} points, with "
    "`cool=False` {{ cell | evidence.learning | mean over tasks | isokinetic }}, on half of its "
    "state; `ecdsep` with `cool=True` and decay "
    "{{ cell | evidence.learning | mean over tasks | ecdsep, cool }}; `bbi` "
    "{{ cell | evidence.learning | mean over tasks | bbi }}. Two small "
    "transformers, nats more than AdamW after some 300 steps: one sphere "
    "{{ cell | evidence.architectures | isokinetic | characters }} and "
    "{{ cell | evidence.architectures | isokinetic | code }}, `per_neuron=True` "
    "{{ cell | evidence.architectures | isokinetic, per neuron | characters }} and "
    "{{ cell | evidence.architectures | isokinetic, per neuron | code }}, `in_metric` "
    "{{ cell | evidence.architectures | isokinetic, in metric | characters }} and "
    "{{ cell | evidence.architectures | isokinetic, in metric | code }}, Muon "
    "{{ cell | evidence.architectures | muon | characters }} and "
    "{{ cell | evidence.architectures | muon | code }}; after 1,500 steps `per_neuron=True` "
    "{{ cell | evidence.longer | isokinetic, per neuron | characters, longer }}, `in_metric` "
    "{{ cell | evidence.longer | isokinetic, in metric | characters, longer }}, Muon "
    "{{ cell | evidence.longer | muon | characters, longer }}; of four layers after 250 "
    "{{ cell | evidence.longer | isokinetic, per neuron | code, deeper }}, "
    "{{ cell | evidence.longer | isokinetic, in metric | code, deeper }}, "
    "{{ cell | evidence.longer | muon | code, deeper }} |",
)
"""What the README says of the rows. It is read as it stands, and cannot be filled as a page is."""

IN_HEADLINES = {
    "predicted by volume 1.918": ("bbi.basins", "predicted 1.918"),
    "`bbi` -6.61 ± 1.09 points to SGD": ("bbi.images", "%, bbi -6.61 ± 1.09,"),
    "3 of 5 activations": ("ko.condensation", "soft: 3 of 5 activations"),
}
"""The README's words, and what a headline of the report must hold for them."""


def unfounded(readme: str, said: list[str]) -> set[str]:
    """Figures with an error in the README that none of these sentences holds."""
    figure = re.compile(r"[-+]?\d[\d.]* ± [\d.]+\d|\d+ \(\d+ to \d+\)")
    return {found for found in figure.findall(readme) if not any(found in line for line in said)}


def test_the_figures_of_the_readme_are_those_of_the_rows(content):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = [content.fill(line).replace("\N{NO-BREAK SPACE}", " ") for line in README_SAYS]
    for line in said:
        assert line in readme
    for words, (experiment, wanted) in IN_HEADLINES.items():
        assert words in readme
        assert wanted in content.headline(experiment)
    assert unfounded(readme, [*said, *IN_HEADLINES]) == set()


def test_a_figure_without_a_row_is_found():
    assert unfounded("soft 1.5 ± 0.1, bbi 3 (1 to 5)", ["soft 1.5 ± 0.1"]) == {"3 (1 to 5)"}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


NOT_MEASURED = re.compile(
    r"(collisions?|neurons)[^.|]{0,80}\b(repel|repuls\w+|push\w*)|"
    r"collisions?[^.|]{0,80}\bpart(s|ed|ing)? (them|the neurons)|"
    r"neurons[^.|]{0,60} (move|moves|drives?|keeps?)[^.|]{0,20} apart",
    re.IGNORECASE,
)
"""What a collision is measured not to do; "repulsion" is the paper's word."""


def test_nothing_says_that_collisions_push():
    notebooks = (ROOT / "notebooks").glob("*.ipynb")
    folders = (PAGES, ROOT / ".github", ROOT / "kinopt", ROOT / "benchmarks")
    paths = [ROOT / "README.md", *notebooks]
    for folder in folders:
        paths += [*folder.rglob("*.md"), *folder.rglob("*.py")]
    assert len(paths) > 100
    wrong = []
    for path in paths:
        text = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
        lines = [line for line in text.splitlines() if NOT_MEASURED.search(line)]
        wrong += [(path.name, line) for line in lines if "not " not in line and "paper" not in line]
    assert wrong == []
    assert NOT_MEASURED.search("neurons that are alike repel or scatter")
    assert NOT_MEASURED.search("Collisions part the neurons of a layer")
