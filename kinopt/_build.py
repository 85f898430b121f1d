"""How a program of many lanes is compiled.

A step of a few numbers in each lane is fifty operations that take less time than it takes to start
them. What is done about that depends on the device:

    arrays of a few entries are taken apart              `kinopt._scalars`
    all there is to do becomes one function on a CPU     `_single_function`
    a GPU asks its host at no branch                     `kinopt._batching.branchless`
    and seldom whether a round is over                   `piece`
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from kinopt._batching import branchless
from kinopt._scalars import Apart
from kinopt._typing import PyTree

__all__ = ["Build", "Form"]


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
    is_whole: bool = False  # so are all of them, and what puts seeds into lanes
    is_branchless: bool = False
    piece: int = 4  # steps between two looks at how many lanes are free

    def form(self, lanes: PyTree) -> "Form":
        """How lanes are carried: trees with a leading axis of lanes in every leaf."""
        leaves, structure = jax.tree.flatten(lanes)
        lane = jax.tree.unflatten(structure, [x[0] for x in leaves])
        return Form(structure, Apart.of(lane) if self.is_small else None)

    def round(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """A round, to be called: what it reads, and what it makes anew."""
        return _single_function(function) if self.is_single and not self.is_whole else function

    def whole(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """All there is to do, likewise."""
        return _single_function(function) if self.is_whole else function

    @property
    def compiler_options(self) -> dict[str, str | bool]:
        """What XLA is asked, as far as its version knows it."""
        return SINGLE_OPTIONS if self.is_single else {}

    def context(self) -> contextlib.AbstractContextManager[None]:
        """Where a round is traced."""
        return branchless() if self.is_branchless else contextlib.nullcontext()


class Form(NamedTuple):
    """Lanes as a list of arrays, each with a leading axis of lanes."""

    structure: Any
    apart: Apart | None  # whose numbers these are; None: leaves, as they are

    def numbers(self, lanes: PyTree) -> list[jax.Array]:
        """The list of these trees."""
        return self.apart.numbers(lanes, lead=1) if self.apart else jax.tree.leaves(lanes)

    def tree(self, numbers: list[jax.Array]) -> PyTree:
        """The trees of this list."""
        if self.apart:
            return self.apart.tree(numbers, lead=1)
        return jax.tree.unflatten(self.structure, numbers)

    def call(self, function: Callable[[PyTree], PyTree], made: "Form") -> Callable[[list], list]:
        """A function of one lane, tree -> tree, as one of all lanes, list -> list of that form."""
        apart, parts = self.apart, made.apart
        if apart is None or parts is None:
            return lambda numbers: jax.tree.leaves(jax.vmap(function)(self.tree(numbers)))
        return jax.vmap(lambda numbers: apart.evaluate(function, numbers, parts))


def _single_function(function):
    """Asks XLA's CPU compiler for one function, instead of one call for each operation in it.

    An operation costs some 80 ns to call. A step of a descent is fifty of them, on a hundred lanes
    of a few numbers each: the calls would take longer than the work. The compiler does this
    unasked for loops on less than a kilobyte; this is how it marks them. Where a compiler does not
    know the mark, nothing changes but the time.
    """

    @jax.jit
    def inside(read, *arguments):
        with set_xla_metadata(xla_cpu_small_call=None, inlineable=None):
            zero = sum(map(_zero_of, jax.tree.leaves(read)), jnp.zeros((), jnp.int32))
            leaves, structure = jax.tree.flatten(function(read, *arguments))
            return jax.tree.unflatten(structure, [leaves[0] + zero, *leaves[1:]])

    def call(*arguments):
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            return inside(*arguments)

    return call


def _zero_of(x: jax.Array) -> jax.Array:
    """Zero, int32 [], that comes of an array: there are no 256 bits in a number.

    The compiler aborts the process where a function has an argument that nothing in it reads, as
    may happen when `x * 0` has been simplified. This it does not see through; the next one does.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if not x.size:
        return jnp.zeros((), jnp.int32)
    entry = jnp.real(x[(0,) * x.ndim])
    if jnp.issubdtype(entry.dtype, jnp.floating):
        entry = jax.lax.bitcast_convert_type(entry, f"uint{8 * entry.dtype.itemsize}")
    return jax.lax.population_count(entry.astype(jnp.uint32)).astype(jnp.int32) >> 8
