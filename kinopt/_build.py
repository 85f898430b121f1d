"""How a round of steps of many lanes is compiled.

A step of a few numbers in each lane is fifty operations that take less time than it takes to start
them. What is done about that depends on the device:

    arrays of a few entries are taken apart              `kinopt._scalars`
    a round becomes one function on a CPU                `_single_function`
    a GPU asks its host at no branch                     `kinopt._batching.branchless`
    and seldom whether a round is over                   `piece`
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from kinopt._batching import branchless
from kinopt._scalars import Apart
from kinopt._typing import PyTree

__all__ = ["Build", "outside_function"]


SINGLE_OPTIONS = {
    # It must not hand large sums to a library (YNN), which can only be called between functions.
    "xla_cpu_experimental_ynn_fusion_type": "",
    # Vectors of 512 bits, where there are any.
    "xla_cpu_prefer_vector_width": "512",
    # No estimates of 1/sqrt(x): each width of vectors has its own, hence, by its place, each lane.
    "xla_cpu_enable_platform_dependent_math": False,
}
"""Of the compiler, for a single function."""


class Build(NamedTuple):
    """What is done. The last digits of what becomes of a seed may depend on it."""

    is_small: bool = False  # arrays are taken apart
    is_single: bool = False  # a round is one function
    is_branchless: bool = False
    piece: int = 4  # steps between two looks at how many lanes are free

    def steps(
        self, step: Callable[..., tuple], lanes: tuple
    ) -> tuple[Any, Callable[[Any], Any], Callable[[Any], tuple]]:
        """What a loop over steps carries; a step of all lanes on it; and lanes out of it.

        Args:
          step: of one lane: trees -> the same trees, one step later.
          lanes: these trees, with a leading axis of lanes.
        """
        if not self.is_small:
            one = jax.vmap(step)
            return lanes, lambda lanes: one(*lanes), lambda lanes: lanes
        apart = Apart.of(jax.tree.map(lambda x: x[0], lanes))
        one = jax.vmap(functools.partial(apart.evaluate, lambda lane: step(*lane)))
        return apart.numbers(lanes, lead=1), one, functools.partial(apart.tree, lead=1)

    def round(self, steps: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """The round, to be called."""
        return _single_function(steps) if self.is_single else steps

    @property
    def compiler_options(self) -> dict[str, str | bool]:
        """What XLA is asked, as far as its version knows it."""
        return SINGLE_OPTIONS if self.is_single else {}

    def context(self) -> contextlib.AbstractContextManager[None]:
        """Where a round is traced."""
        return branchless() if self.is_branchless else contextlib.nullcontext()


def _single_function(function):
    """Asks XLA's CPU compiler for one function, instead of one call for each operation in it.

    An operation costs some 80 ns to call. A step of a descent is fifty of them, on a hundred lanes
    of a few numbers each: the calls would take longer than the work. The compiler does this
    unasked for loops on less than a kilobyte; this is how it marks them. Where a compiler does not
    know the mark, nothing changes but the time.
    """

    def call(*arguments):
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            return function(*arguments)

    return call


def outside_function() -> contextlib.AbstractContextManager[Any]:
    """Where the mark of a single function is not set: inside of it."""
    return set_xla_metadata(xla_cpu_small_call=None, inlineable=None)
