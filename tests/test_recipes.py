"""The recipes of the pages run as they are pasted, each on its own."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / ".docs" / "recipes").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_runs(script, monkeypatch):
    monkeypatch.setenv("NETWORKS", "4")  # where a recipe trains many
    runs(script.read_text(encoding="utf-8"), str(script))


def runs(code: str, name: str) -> None:
    """Runs the code; what it leaves behind has numbers in it, and no NaN."""
    names: dict = {}
    exec(compile(code, name, "exec"), names)
    del names["__builtins__"]  # which contain themselves
    arrays = [x for x in jax.tree.leaves(list(names.values())) if isinstance(x, jax.Array)]
    floating = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    assert floating
    assert not any(bool(jnp.any(jnp.isnan(x))) for x in floating)
