"""The arguments of an ensemble, checked before anything is compiled."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import check_count, check_flag, check_function, shown
from kinopt._lane_checks import (
    is_scalar,
    is_whole,
    key_arrays,
    kind_of,
    on_one_device,
    returned,
)
from kinopt._programs import Programs, described, programs_of
from kinopt._training import KEEP, Problem
from kinopt._typing import PyTree
from kinopt._workers import Seeds

__all__ = ["as_problem"]

LOSS = "params -> loss, a floating scalar (a JAX array of shape [])"
STOP = "params, value -> integer of shape [], 0 to go on or k > 0 to end with outcome k"
OPTIMIZER = (
    "an Optax transformation such as optax.adam(1e-2), or a function that makes one for each "
    "seed's key, lambda key: kinopt.bbi(0.1, key=key)"
)
FACTORIES = ("optax", "kinopt")
"""Libraries whose functions make optimizers from numbers, none of them from a key alone."""


def as_problem(
    loss_fn, optimizer, params: PyTree, keys, num_steps, stacked, stop, keep
) -> tuple[Problem, Programs, Seeds]:
    """The problem, its programs, and the seeds with their starts."""
    check_function("loss_fn", loss_fn, LOSS)
    if stop is not None:
        check_function("stop", stop, f"{STOP}, or None")
    _check_optimizer(optimizer)
    num_steps = check_count("num_steps", num_steps, least=0, optional=False)
    if stacked is not None:
        check_flag("stacked", stacked)
    params = _arrays(params)
    data, impl = key_arrays(keys)
    rows = _rows(params, len(data))
    if stacked and rows is None:
        shapes = ", ".join(str(x.shape) for x in jax.tree.leaves(params))
        raise ValueError(
            f"with stacked=True every leaf of params needs a leading axis of {len(data)} seeds, "
            f"one for each key; got leaves of shape {shapes}"
        )
    one = rows if stacked else params
    doubtful = stacked is None and len(data) > 1
    names = _names(keep)
    problem = Problem(loss_fn, optimizer, stop, num_steps, bool(stacked), impl, names)
    settings = num_steps, problem.stacked, problem.key_impl, names
    programs = programs_of((loss_fn, optimizer, stop), settings)
    key = jax.ShapeDtypeStruct(data.shape[1:], data.dtype)
    programs.fact(
        ("checked", stacked is None, described((params, data))),
        lambda: _check_functions(problem, one, key, rows if doubtful else None),
    )
    return problem, programs, Seeds(data, params)


def _names(keep: Any) -> frozenset[str]:
    """What is to come back of every seed, by name."""
    wanted = f"keep must be some of the names {', '.join(map(repr, KEEP))}, such as ('params',)"
    if isinstance(keep, str) or not isinstance(keep, Collection):
        raise TypeError(f"{wanted}; got {shown(keep)}.")
    for name in keep:
        if name not in KEEP:
            raise ValueError(
                f"{wanted}; got {shown(name)}. Values, outcomes and numbers of steps always come "
                f"back."
            )
    return frozenset(keep)


def _check_optimizer(optimizer) -> None:
    if isinstance(optimizer, type):
        raise TypeError(f"optimizer must be {OPTIMIZER}; got {shown(optimizer)}, not an instance.")
    if callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None)):
        return
    if not callable(optimizer):
        raise TypeError(f"optimizer must be {OPTIMIZER}; got {shown(optimizer)}.")
    module = (getattr(optimizer, "__module__", None) or "").partition(".")[0]
    inner = "<" in getattr(optimizer, "__qualname__", "<")  # a lambda, or made by a function
    if module in FACTORIES and not inner:
        raise TypeError(
            f"optimizer must be {OPTIMIZER}; got the function {module}.{optimizer.__name__} "
            f"itself, which takes no key for its first argument: call it."
        )
    try:
        inspect.signature(optimizer).bind(None)
    except TypeError as error:
        raise TypeError(
            f"optimizer must be {OPTIMIZER}; got {shown(optimizer)}, which cannot be called with a "
            f"key alone: {error}."
        ) from None
    except ValueError:  # it has no signature
        pass


def _arrays(params: PyTree) -> PyTree:
    """The parameters as arrays, all of them numbers that have a gradient."""
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    if not paths:
        raise ValueError("params has no leaves: there is nothing to optimize.")
    for path, leaf in paths:
        array = isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex)
        if not array or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            kind = f"{jnp.result_type(leaf)} in " if array else ""
            raise TypeError(
                f"params must be a pytree of floating or complex arrays; got {kind}{shown(leaf)}"
                f"{f' at {place!r}' if place else ''}. The start is a value, not a function of the "
                f"key; what is not trained belongs into loss_fn."
            )
    return jax.tree.map(lambda x: on_one_device(jnp.asarray(x, jnp.result_type(x))), params)


def _rows(params: PyTree, number: int) -> PyTree | None:
    """Shapes of one seed's start, if every leaf has an axis of so many starts."""
    if all(x.ndim and x.shape[0] == number for x in jax.tree.leaves(params)):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params)
    return None


def _check_functions(problem: Problem, start: PyTree, key: Any, rows: PyTree | None) -> None:
    """Calls loss, stop rule and optimizer once, on shapes, and looks at what they return.

    Args:
      problem: what the seeds have in common.
      start: one seed's start.
      key: shape of a key's data.
      rows: shapes of a row of the start, where it could be a stack of starts; else None.
    """
    value = returned("loss_fn", problem.loss_fn, start)
    is_loss = is_scalar(value, jnp.floating)
    if rows is not None and _is_loss(problem.loss_fn, rows):
        number = jax.tree.leaves(start)[0].shape[0]
        both = "one row as well as all of them" if is_loss else "one row, and not all of them"
        raise ValueError(
            f"every leaf of params has a leading axis of {number}, as many as there are keys, and "
            f"loss_fn takes {both}. Say stacked=True where each seed starts from its own row, or "
            f"stacked=False where every seed starts from the whole."
        )
    if not is_loss:
        raise TypeError(f"loss_fn must be a function, {LOSS}; it returned {kind_of(value)}.")
    if problem.stop is not None:
        said = returned("stop", problem.stop, start, value)
        if not is_whole(said):
            raise TypeError(f"stop must be a function, {STOP}; it returned {kind_of(said)}.")
    if not hasattr(problem.optimizer, "update"):
        made = returned("optimizer", lambda key: problem.optimizer_of(key), key)
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise TypeError(f"optimizer must be {OPTIMIZER}; it made {kind_of(made)}.")


def _is_loss(loss_fn: Callable[[PyTree], Any], params: PyTree) -> bool:
    """Whether it takes these parameters and returns a loss."""
    try:
        return is_scalar(returned("loss_fn", loss_fn, params), jnp.floating)
    except Exception:  # the answer is no, whatever it says
        return False
