"""The package as a whole: imports point one way, examples run, public names are documented."""

import ast
import contextlib
import io
import pathlib
import re
import sys

import kinopt

ROOT = pathlib.Path(__file__).parent.parent

# What each module or package of kinopt may import from kinopt; DESIGN: arrows point one way.
EVERYWHERE = {"_typing", "_checks"}
LAYERS = {
    "_typing": set(),
    "_keys": set(),
    "_checks": set(),
    "trees": set(),
    "layers": {"trees"},
    "collisions": {"_keys", "trees", "layers"},
    "metrics": {"trees", "layers", "collisions"},
    "plots": {"metrics"},
    "landscapes": set(),
    "hamiltonians": set(),
    "theory": {"_keys", "hamiltonians"},
    "bounces": set(),
    "brackets": set(),
    "descent_state": {"_keys", "trees", "hamiltonians", "bounces", "brackets"},
    "shell": {"brackets", "descent_state"},
    "_batching": set(),
    "hyperparameters": set(),
    "dynamics": {
        "_keys",
        "_batching",
        "trees",
        "hamiltonians",
        "descent_state",
        "shell",
    },
    "descent": {"hamiltonians", "bounces", "descent_state", "dynamics"},
    "lanes": {"_batching"},
    "_programs": {"lanes"},
    "_problem": {"lanes", "_programs"},
    "_workers": {"lanes", "_programs"},
    "ensemble": {"lanes", "_problem", "_workers"},
    "basins": set(),
}


def imported_from_kinopt(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kinopt":
            parts = (node.module or "").split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("kinopt.")}
    return names


def test_imports_point_one_way():
    for path in sorted((ROOT / "kinopt").rglob("*.py")):
        part = path.relative_to(ROOT / "kinopt").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        foreign = imported_from_kinopt(path) - {part} - EVERYWHERE
        assert foreign <= LAYERS[part], f"{path.name} imports {foreign - LAYERS[part]}"


def test_core_needs_no_extra():
    """Flax, Matplotlib and scikit-learn are extras; nothing of the core imports them at its top."""
    allowed = {"jax", "jaxtyping", "numpy", "optax", "kinopt"}
    for path in (ROOT / "kinopt").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                for module in [*modules, getattr(node, "module", None)]:
                    top = (module or "kinopt").split(".")[0]
                    standard = top in sys.stdlib_module_names
                    assert standard or top in allowed, f"{path.name} imports {top}"


def test_public_names_exist_and_are_documented():
    for name in kinopt.__all__:
        assert (getattr(kinopt, name).__doc__ or "").strip(), f"{name} has no docstring"


def test_the_readme_example_runs_as_pasted():
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(example[1], {})
    loss = re.search(r"loss (\d\.\d+)", printed.getvalue())
    assert loss
    assert float(loss[1]) < 0.5
    assert "head/kernel" in printed.getvalue()
