"""How operations on small arrays are done number by number; see `kinopt._scalars`.

A value is an object array of numbers, or a number: that of an array of shape []. A rule makes of an
equation and its values the value that it stands for, or the values where it makes several; or
`NotImplemented`, and whole arrays are used.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["MAKERS", "MOST_ENTRIES", "RULES", "is_apart", "parts_of"]

MOST_ENTRIES = 16
"""Entries of the largest array that is taken apart: compile time grows with them."""


def is_apart(x: Any) -> bool:
    """Whether it is an object array of numbers."""
    return isinstance(x, np.ndarray) and x.dtype == object


def parts_of(numbers: Iterable[Any], shape: tuple[int, ...]) -> np.ndarray:
    """An object array of this shape."""
    parts = np.empty(math.prod(shape), object)
    for n, number in enumerate(numbers):  # at once, NumPy would look for arrays in them
        parts[n] = number
    return parts.reshape(shape)


def shaped(numbers: Iterable[Any], shape: tuple[int, ...]) -> Any:
    """An object array of this shape; the number itself for a scalar."""
    return parts_of(numbers, shape) if shape else next(iter(numbers))


def as_parts(x: Any) -> np.ndarray:
    """A value as an object array, of shape [] for a number."""
    return x if is_apart(x) else parts_of([x], ())


def _entrywise(eqn: Any, *given: Any) -> Any:
    """The same operation on every entry."""
    shape = np.broadcast_shapes(*map(np.shape, given))
    rows = zip(*(np.broadcast_to(as_parts(x), shape).flat for x in given), strict=True)
    found = [eqn.primitive.bind(*row, **eqn.params) for row in rows]
    if not eqn.primitive.multiple_results:
        return shaped(found, shape)
    return [shaped(column, shape) for column in zip(*found, strict=True)]


def _folded(function: Callable[[Any, Any], Any]) -> Callable:
    """A reduction: first entry, second, and so on."""

    def rule(eqn: Any, x: np.ndarray) -> Any:
        axes = eqn.params["axes"]
        kept = [n for n in range(x.ndim) if n not in axes]
        rows = x.transpose(*kept, *axes).reshape(math.prod(x.shape[n] for n in kept), -1)
        return shaped(
            (functools.reduce(function, row) for row in rows), tuple(x.shape[n] for n in kept)
        )

    return rule


def _first_best(better: Callable[[Any, Any], Any]) -> Callable:
    """Where the extreme of a vector is, or its first NaN."""

    def rule(eqn: Any, x: np.ndarray) -> Any:
        if x.ndim != 1:
            return NotImplemented
        best, place = x[0], np.zeros((), eqn.params["index_dtype"])
        for n, new in enumerate(x[1:], 1):
            takes = (better(new, best) | (new != new)) & (best == best)
            best, place = jnp.where(takes, new, best), jnp.where(takes, n, place)
        return place

    return rule


def _dot(eqn: Any, a: np.ndarray, b: np.ndarray) -> Any:
    """Products of small matrices, as sums of products."""
    over, batch = eqn.params["dimension_numbers"]
    out = eqn.outvars[0].aval
    as_out = functools.partial(jax.lax.convert_element_type, new_dtype=out.dtype)

    def rows(x, over, batch):
        """Vectors to be multiplied: [batches, rows, ...]."""
        free = [n for n in range(x.ndim) if n not in (*over, *batch)]
        sizes = [math.prod(x.shape[n] for n in axes) for axes in (batch, free)]
        return x.transpose(*batch, *free, *over).reshape(*sizes, -1)

    def product(row, column):
        return functools.reduce(
            jax.lax.add, map(jax.lax.mul, map(as_out, row), map(as_out, column))
        )

    pairs = (
        itertools.product(*both)
        for both in zip(rows(a, over[0], batch[0]), rows(b, over[1], batch[1]), strict=True)
    )
    return shaped(itertools.starmap(product, itertools.chain(*pairs)), out.shape)


def _broadcast(eqn: Any, x: Any) -> Any:
    shape = eqn.params["shape"]
    if math.prod(shape) > MOST_ENTRIES:
        return NotImplemented
    x, inner = as_parts(x), [1] * len(shape)
    for axis, size in zip(eqn.params["broadcast_dimensions"], x.shape, strict=True):
        inner[axis] = size
    return np.broadcast_to(x.reshape(inner), shape)


def _slice(eqn: Any, x: np.ndarray) -> Any:
    start, limit = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, start, limit, steps))]


def _pad(eqn: Any, x: np.ndarray, value: Any) -> Any:
    config = eqn.params["padding_config"]
    if any(min(sizes) < 0 or sizes[2] for sizes in config):
        return NotImplemented
    padded = shaped([value] * math.prod(eqn.outvars[0].aval.shape), eqn.outvars[0].aval.shape)
    padded[
        tuple(slice(low, low + size) for (low, _, _), size in zip(config, x.shape, strict=True))
    ] = x
    return padded


def _reshape(eqn: Any, x: Any) -> Any:
    return shaped(as_parts(x).flat, eqn.outvars[0].aval.shape)


def _counts(eqn: Any) -> Any:
    """What Threefry counts entries by: the two halves of a number of 64 bits."""
    shape = eqn.params["shape"]
    if math.prod(shape) > MOST_ENTRIES:
        return NotImplemented
    low = np.arange(math.prod(shape), dtype=np.uint32).reshape(shape)
    return [np.zeros_like(low), low]


def _barrier(eqn: Any, *given: Any) -> Any:
    """One barrier for the numbers of all arrays."""
    parts = [as_parts(x) for x in given]
    numbers = iter(eqn.primitive.bind(*(n for x in parts for n in x.flat), **eqn.params))
    return [shaped(itertools.islice(numbers, x.size), x.shape) for x in parts]


def _bitcast(eqn: Any, x: Any) -> Any:
    same = eqn.invars[0].aval.dtype.itemsize == eqn.outvars[0].aval.dtype.itemsize
    return _entrywise(eqn, x) if same else NotImplemented


def _iota(eqn: Any) -> Any:
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    if math.prod(shape) > MOST_ENTRIES:
        return NotImplemented
    return np.indices(shape)[axis].astype(eqn.params["dtype"])


ENTRYWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor
ge gt imag integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter
not or population_count pow real reduce_precision rem round rsqrt select_n shift_left
shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh
threefry2x32 xor
"""

RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(ENTRYWISE.split(), _entrywise),
    "reduce_sum": _folded(jax.lax.add),
    "reduce_prod": _folded(jax.lax.mul),
    "reduce_max": _folded(jax.lax.max),
    "reduce_min": _folded(jax.lax.min),
    "reduce_and": _folded(jax.lax.bitwise_and),
    "reduce_or": _folded(jax.lax.bitwise_or),
    "optimization_barrier": _barrier,
    "bitcast_convert_type": _bitcast,
    "iota_2x32_shape": _counts,
    "argmax": _first_best(jax.lax.gt),
    "argmin": _first_best(jax.lax.lt),
    "dot_general": _dot,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "iota": _iota,
    "reshape": _reshape,
    "squeeze": _reshape,
    "transpose": lambda eqn, x: x.transpose(eqn.params["permutation"]),
    "rev": lambda eqn, x: np.flip(x, eqn.params["dimensions"]),
    "concatenate": lambda eqn, *parts: np.concatenate(parts, axis=eqn.params["dimension"]),
    "stack": lambda eqn, *parts: np.stack([as_parts(x) for x in parts], axis=eqn.params["axis"]),
    "split": lambda eqn, x: np.split(x, np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"]),
}

MAKERS = frozenset({"broadcast_in_dim", "iota", "iota_2x32_shape", "reshape", "stack"})
"""Operations that make an array of numbers. What makes numbers of numbers alone needs no rule."""
