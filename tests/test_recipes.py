"""The README's recipes run as they are pasted, each on its own."""

import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def recipes() -> list[str]:
    """Every Python block of the section "Recipes"."""
    section = re.search(r"^## Recipes\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    blocks = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return blocks.findall(section[1]) if section else []


def test_there_are_recipes():
    assert recipes()


@pytest.mark.parametrize("recipe", recipes(), ids=itertools.count(1))
def test_a_recipe_runs(recipe):
    names: dict = {}
    exec(compile(recipe, "README.md, Recipes", "exec"), names)
    del names["__builtins__"]  # which contain themselves
    arrays = [x for x in jax.tree.leaves(list(names.values())) if isinstance(x, jax.Array)]
    floating = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    assert floating
    assert not any(bool(jnp.any(jnp.isnan(x))) for x in floating)
