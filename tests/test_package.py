"""The package as a whole: imports point one way, examples run, checks of it can fail."""

import ast
import contextlib
import inspect
import io
import pathlib
import pickle
import re
import sys
import tomllib

import jax.numpy as jnp
import jaxtyping
import pytest

import kinopt

ROOT = pathlib.Path(__file__).parent.parent

# What each module or package of kinopt may import from kinopt; DESIGN: arrows point one way.
EVERYWHERE = {"_typing", "_checks"}
LAYERS = {
    "_typing": set(),
    "_keys": set(),
    "_checks": set(),
    "_threefry": set(),
    "trees": {"_threefry"},
    "layers": {"trees"},
    "collisions": {"_batching", "_keys", "_threefry", "trees", "layers"},
    "metrics": {"trees", "layers", "collisions"},
    "plots": {"metrics"},
    "landscapes": set(),
    "hamiltonians": set(),
    "theory": {"_keys", "hamiltonians"},
    "bounces": set(),
    "brackets": set(),
    "descent_state": {"_keys", "trees", "hamiltonians", "bounces", "brackets"},
    "shell": {"brackets", "descent_state"},
    "_batching": {"trees"},
    "hyperparameters": set(),
    "momenta": {"trees"},
    "dynamics": {
        "_keys",
        "momenta",
        "_batching",
        "trees",
        "hamiltonians",
        "descent_state",
        "shell",
    },
    "descent_checks": {"hamiltonians", "descent_state"},
    "spheres": {"trees", "layers"},
    "isokinetic": {
        "_batching",
        "_keys",
        "trees",
        "layers",
        "spheres",
        "momenta",
        "descent_state",
        "descent_checks",
    },
    "diagonal_metric": {"trees", "layers"},
    "descent_stats": {"descent_state", "isokinetic"},
    "descent": {"hamiltonians", "bounces", "descent_state", "descent_checks", "dynamics"},
    "time_step": {"_keys", "trees"},
    "_scalar_keys": set(),
    "_scalar_rules": set(),
    "_scalars": {"_scalar_keys", "_scalar_rules", "_threefry"},
    "_build": {"_batching", "_scalars"},
    "_line": {"_batching", "trees"},
    "_advance": {"_build", "_line", "trees"},
    "_programs": set(),
    "_workers": {"_advance", "_build", "_line", "_programs"},
    "_checkpoint": {"_line"},
    "_lane_checks": set(),
    "_engine": {
        "_advance",
        "_build",
        "_checkpoint",
        "_lane_checks",
        "_line",
        "_programs",
        "_workers",
    },
    "lanes": {"_checkpoint", "_line", "_programs", "_workers", "_engine", "_lane_checks"},
    "_minibatches": set(),
    "_training": {"_advance", "_batching", "_build", "_line", "_minibatches", "_workers", "trees"},
    "_problem": {"_lane_checks", "_programs", "_training", "_workers"},
    "ensemble": {
        "_checkpoint",
        "_lane_checks",
        "_line",
        "_minibatches",
        "_problem",
        "_training",
        "_workers",
        "_engine",
    },
    "basins": {
        "_keys",
        "_engine",
        "_lane_checks",
        "_line",
        "_programs",
        "_workers",
        "layers",
    },
    "averages": {"_keys", "_lane_checks", "_programs", "basins", "hamiltonians", "theory"},
}


def imported_from_kinopt(source: str) -> set[str]:
    """The parts of kinopt that a module of it names, wherever in the module it does."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            if node.level:
                names.add("a relative import, which says less of where it leads")
            elif parts[0] == "kinopt":
                names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
            names |= {".".join(path[1:2]) or "all of it" for path in paths if path[0] == "kinopt"}
    return names


def test_imports_point_one_way():
    for path in sorted((ROOT / "kinopt").rglob("*.py")):
        part = path.relative_to(ROOT / "kinopt").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        foreign = imported_from_kinopt(path.read_text()) - {part} - EVERYWHERE
        assert foreign <= LAYERS[part], f"{path.name} imports {foreign - LAYERS[part]}"


@pytest.mark.parametrize(
    "source",
    [
        "from kinopt.descent import bbi",
        "from kinopt import descent",
        "import kinopt.descent as d",
        "def later():\n    import kinopt.descent",
        "import kinopt",
        "from . import descent",
        "from .descent import bbi",
        "from .. import descent",
    ],
)
def test_an_import_the_wrong_way_is_found(source):
    assert imported_from_kinopt(source) - LAYERS["collisions"]
    assert imported_from_kinopt("import jax\nfrom kinopt.trees import norm") == {"trees"}


LONGEST = 300
"""Lines of a module: past them a second idea may have moved in."""


def is_long(source: str) -> bool:
    """Whether a module has more lines than that, and not two thirds of them in docstrings."""
    docstrings = [
        node.body[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node) is not None
    ]
    told = sum((text.end_lineno or 0) - text.lineno + 1 for text in docstrings)
    lines = len(source.splitlines())
    return lines > LONGEST and 3 * told < 2 * lines


def test_a_module_is_short():
    paths = sorted((ROOT / "kinopt").rglob("*.py"))
    assert paths
    assert [str(path.relative_to(ROOT)) for path in paths if is_long(path.read_text())] == []


def test_a_long_module_is_found():
    code = "x = 1\n"
    assert not is_long(code * LONGEST)
    assert is_long(code * (LONGEST + 1))
    told = '    """Told.\n' + "\n" * 200 + '    """\n'  # 202 lines
    assert not is_long("def f():\n" + told + code * 100)
    assert is_long("def f():\n" + told + code * 101)
    assert is_long("def f():\n    x = 1\n" + told + code * 99), "that string is no docstring"


def test_what_is_public_can_be_pickled():
    """A module of a package that has the name of a function in it would stand in its way."""
    modules = [kinopt, *(m for m in vars(kinopt).values() if inspect.ismodule(m))]
    things = [getattr(m, name) for m in modules for name in getattr(m, "__all__", ())]
    things = [thing for thing in things if inspect.isfunction(thing) or inspect.isclass(thing)]
    assert len(things) > 50
    assert all(pickle.loads(pickle.dumps(thing)) is thing for thing in things)


@pytest.mark.parametrize("law", ["soft", "hard"])
def test_a_law_knows_of_no_device(law):
    """Where neurons lie is for `collisions/crowd.py` alone."""
    source = (ROOT / "kinopt" / "collisions" / f"{law}.py").read_text()
    assert "device" not in source.lower()


CORE = {"jax", "jaxtyping", "numpy", "optax", "kinopt"}
NEVER = {"benchmarks", "notebooks", "tests"}


def foreign_imports(source: str) -> set[str]:
    """What a module imports when it is imported, and should not: all but the core's packages.

    In a function, an extra is imported by whoever calls it; the repository's own folders never are.
    """
    found = set()

    def look(node: ast.AST, at_import: bool) -> None:
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        for module in modules:
            top = module.split(".")[0]
            known = top in CORE or top in sys.stdlib_module_names
            if top in NEVER or (at_import and not known):
                found.add(top)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            look(child, at_import and not inside)

    look(ast.parse(source), True)
    return found


def test_core_needs_no_extra():
    """Flax, Matplotlib and scikit-learn are extras; the plots alone import one at their top."""
    for path in (ROOT / "kinopt").rglob("*.py"):
        allowed = {"matplotlib"} if path.parent.name == "plots" else set()
        assert foreign_imports(path.read_text()) <= allowed, path.name


@pytest.mark.parametrize(
    "source",
    [
        "import flax",
        "from flax import nnx",
        "try:\n    import flax\nexcept ImportError:\n    flax = None",
        "if True:\n    import flax.linen as nn",
        "class Lazy:\n    import flax",
        "def later():\n    from benchmarks import data",
    ],
)
def test_an_import_of_an_extra_is_found(source):
    assert foreign_imports(source) in ({"flax"}, {"benchmarks"})
    assert foreign_imports("import os, jax\ndef f():\n    import flax") == set()


def test_a_session_of_tests_checks_shapes_and_types():
    """The hook of conftest.py is at work in the functions of kinopt, and in these alone."""
    with pytest.raises(jaxtyping.TypeCheckError):
        kinopt.collisions.soft.soft_law(jnp.ones(3), jnp.ones((2, 3)), 0.1)


@pytest.mark.slow
def test_the_readme_examples_run_as_pasted():
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert examples
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for example in examples:
            exec(example, {})
    loss = re.search(r"loss (\d\.\d+)", printed.getvalue())
    assert loss
    assert float(loss[1]) < 0.5
    assert "head/kernel" in printed.getvalue()


def test_no_address_is_made_up():
    """What is not known is left out: where the repository is published, and whom to write to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not {"urls", "authors", "maintainers"} & project.keys()
    citation = (ROOT / ".github" / "CITATION.cff").read_text()
    assert not re.search(r"^ *-? *(url|repository[\w-]*|doi|email|orcid):", citation, re.MULTILINE)
    assert "http" not in citation
