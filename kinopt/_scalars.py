"""Small arrays as numbers: what compilers call scalar replacement of aggregates.

A lane of a small problem is a few arrays of a few numbers each. Over many lanes, an operation on an
array of two numbers is a loop of two turns inside a loop over the lanes, which fills no vector
register, and a sum over the two is a kernel of its own on a GPU. With a variable for each entry
every operation runs over the lanes alone, and a compiler fuses nearly all of them into one loop:

    x: f32[lanes, 2]                x_0, x_1: f32[lanes]
    y = sum(x * x, axis=1)    ->    y = x_0 * x_0 + x_1 * x_1

`Apart` takes trees of arrays apart, works out functions on their numbers, one equation of the jaxpr
after the other, and puts them together again. What has no rule (`kinopt._scalar_rules`) gets whole
arrays, as always. Sums are added from the first entry to the last.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Literal

from kinopt._scalar_keys import DRAWS, KeyParts
from kinopt._scalar_rules import MAKERS, MOST_ENTRIES, RULES, is_apart, parts_of
from kinopt._threefry import is_threefry
from kinopt._typing import PyTree

__all__ = ["Apart"]


def _is_small(x: Any) -> bool:
    """Whether arrays of this shape and type are taken apart."""
    extended = jnp.issubdtype(x.dtype, jax.dtypes.extended)  # keys
    return len(x.shape) > 0 and 0 < math.prod(x.shape) <= MOST_ENTRIES and not extended


def _entries(x: Any, lead: int = 0) -> np.ndarray:
    """An array as an object array of its entries; `lead` leading axes stay in each."""
    if not isinstance(x, Tracer):
        x = np.asarray(x)  # a constant
    shape = x.shape[lead:]
    return parts_of((x[(slice(None),) * lead + index] for index in np.ndindex(shape)), shape)


def _whole(x: Any, lead: int = 0) -> Any:
    """The array of such entries, whose leading axes are those of the array."""
    if isinstance(x, KeyParts):
        return x.whole()
    if not is_apart(x):
        return x
    stacked = jnp.stack(list(x.flat), axis=lead)
    return stacked.reshape(stacked.shape[:lead] + x.shape)


def _as_value(x: Any, like: Any) -> Any:
    """An object array of numbers where the array is small; all other arrays as they are."""
    if is_apart(x) and not x.size:  # the end of an array, x[1:] of one entry: nothing to stack
        return jnp.zeros(like.shape, like.dtype)
    return _entries(x) if _is_small(like) and not is_apart(x) else x


def _flat(values: Iterable[Any]) -> list[Any]:
    return [n for x in values for n in (x.flat if is_apart(x) else (_whole(x),))]


def _typed(values: list[Any], like: Iterable[Any]) -> list[Any]:
    """The same, as arrays: constants have the types of Python, or NumPy."""
    typed = zip(values, like, strict=True)
    return [jnp.asarray(n, like.dtype) for x, like in typed for n in _flat([x])]


def _nested(numbers: Iterable[Any], like: Iterable[Any]) -> list[Any]:
    """Values of these shapes and types out of what `_flat` returned."""
    left, values = iter(numbers), []
    for x in like:
        number = math.prod(x.shape)
        values.append(
            parts_of(itertools.islice(left, number), x.shape) if _is_small(x) else next(left)
        )
    return values


class Apart(NamedTuple):
    """How trees of one kind are taken apart."""

    structure: Any
    like: tuple[jax.ShapeDtypeStruct, ...]  # leaves of such a tree

    @classmethod
    def of(cls, tree: PyTree) -> "Apart":
        """That of trees like this one."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves))

    def numbers(self, tree: PyTree, lead: int = 0) -> list[Any]:
        """Entries of small leaves, and other leaves whole; `lead` more axes come first in all."""
        leaves = zip(jax.tree.leaves(tree), self.like, strict=True)
        return _flat(_entries(x, lead) if _is_small(like) else x for x, like in leaves)

    def tree(self, numbers: list[Any], lead: int = 0) -> PyTree:
        """The tree of these numbers."""
        leaves = [_whole(x, lead) for x in _nested(numbers, self.like)]
        return jax.tree.unflatten(self.structure, leaves)

    def evaluate(
        self,
        function: Callable[[PyTree], PyTree],
        numbers: list[Any],
        made: "Apart | None" = None,
    ) -> list[Any]:
        """The numbers of `function(tree)`, which is like `made` or the tree, of those of a tree."""
        closed = jax.make_jaxpr(function)(jax.tree.unflatten(self.structure, self.like))
        return _typed(_run(closed, _nested(numbers, self.like)), (made or self).like)


def _run(closed: Any, arguments: list[Any]) -> list[Any]:
    """A closed jaxpr, on values."""
    values: dict[Any, Any] = {}

    def read(x):
        return _as_value(x.val, x.aval) if isinstance(x, Literal) else values[x]

    jaxpr = closed.jaxpr
    for names, given in ((jaxpr.constvars, closed.consts), (jaxpr.invars, arguments)):
        values.update((v, _as_value(x, v.aval)) for v, x in zip(names, given, strict=True))
    for eqn in jaxpr.eqns:
        values.update(zip(eqn.outvars, _apply(eqn, [read(x) for x in eqn.invars]), strict=True))
    return [read(x) for x in jaxpr.outvars]


def _apply(eqn: Any, given: list[Any]) -> list[Any]:
    """What an equation makes of values: by its rule, or on whole arrays."""
    name = eqn.primitive.name
    found = NotImplemented
    if name in NESTED:
        return NESTED[name](eqn, *given)
    if name in KEYED:
        found = KEYED[name](eqn, *given)
        if found is not NotImplemented:
            return [found]
    given = [_whole(x) if isinstance(x, KeyParts) else x for x in given]
    in_numbers = all(is_apart(x) or np.ndim(x) == 0 for x in given)
    if in_numbers and name in RULES and (name in MAKERS or any(map(is_apart, given))):
        found = RULES[name](eqn, *given)
    if found is NotImplemented:
        params = eqn.primitive.get_bind_params(eqn.params)
        found = eqn.primitive.bind(*map(_whole, given), **params)
    found = found if eqn.primitive.multiple_results else [found]
    return [_as_value(x, v.aval) for x, v in zip(found, eqn.outvars, strict=True)]


# Rules for equations with jaxprs of their own: an equation and its values -> the values it makes.


def _inlined(name: str) -> Callable:
    return lambda eqn, *given: _run(eqn.params[name], list(given))


def _cond(eqn: Any, index: Any, *given: Any) -> list[Any]:
    like, made = ([x.aval for x in variables] for variables in (eqn.invars[1:], eqn.outvars))

    def on_numbers(branch):
        return lambda *numbers: _typed(_run(branch, _nested(numbers, like)), made)

    found = jax.lax.switch(index, list(map(on_numbers, eqn.params["branches"])), *_flat(given))
    return _nested(found, made)


# Rules for keys.


def _wrapped(eqn: Any, data: Any) -> Any:
    fits = is_apart(data) and is_threefry(eqn.outvars[0].aval.dtype)
    return KeyParts(data) if fits else NotImplemented


def _unwrapped(eqn: Any, key: Any) -> Any:
    return key.data if isinstance(key, KeyParts) else NotImplemented


def _drawn(eqn: Any, key: Any, *numbers: Any) -> Any:
    """What is drawn of one key: worked out on its numbers."""
    made = eqn.outvars[0].aval
    keys = is_threefry(made.dtype)
    few = math.prod(made.shape) * (2 if keys else 1) <= MOST_ENTRIES
    if not (isinstance(key, KeyParts) and key.data.shape == (2,) and few):
        return NotImplemented
    like = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in eqn.invars[1:]]
    data = jax.ShapeDtypeStruct((2,), np.uint32)
    closed = jax.make_jaxpr(DRAWS[eqn.primitive.name](eqn.params))(data, *like)
    (found,) = _run(closed, [key.data, *numbers])
    return KeyParts(found) if keys else found


def _in_shape(eqn: Any, key: Any) -> Any:
    """The same keys, or some of them, in another shape."""
    if not isinstance(key, KeyParts):
        return NotImplemented
    data = RULES["slice"](eqn, key.data) if eqn.primitive.name == "slice" else key.data
    return KeyParts(data.reshape(*eqn.outvars[0].aval.shape, 2))


KEYED: dict[str, Callable] = {
    **dict.fromkeys(("reshape", "slice", "squeeze"), _in_shape),
    "random_wrap": _wrapped,
    "random_unwrap": _unwrapped,
    **dict.fromkeys(DRAWS, _drawn),
}
"""Rules for equations that may have keys among their values; the others get whole keys."""

NESTED: dict[str, Callable[..., list[Any]]] = {
    "jit": _inlined("jaxpr"),
    "pjit": _inlined("jaxpr"),
    "closed_call": _inlined("call_jaxpr"),
    "custom_jvp_call": _inlined("call_jaxpr"),
    "custom_vjp_call": _inlined("call_jaxpr"),
    "cond": _cond,
}
