"""What the pages take from elsewhere, so that nothing is written twice."""

import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = re.compile(r"\{\{ (\w+)(?: ([\w.-]+))? \}\}")


def fill(markdown: str) -> str:
    """Replaces {{ name }} and {{ name argument }} by what the function of that name returns."""
    return PLACE.sub(lambda found: _call(found[1], found[2]), markdown)


def _call(name: str, argument: str | None) -> str:
    function: Callable[..., str] | None = PARTS.get(name)
    if function is None:
        raise KeyError(f"no part of a page is called {name!r}; there are {sorted(PARTS)}")
    return function(argument) if argument else function()


PARTS: dict[str, Callable[..., str]] = {}
