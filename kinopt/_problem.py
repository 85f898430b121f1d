"""The arguments of an ensemble, checked before anything is compiled."""

import inspect
from collections.abc import Collection
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

LOSS = "{arguments} -> loss{aux}, a floating scalar (a JAX array of shape []){with_aux}"
BATCHES = "key, step -> batch, such as kinopt.ensemble.minibatches(data, batch_size)"
SUMMARY = "params -> a pytree of arrays"
STOP = "params, value -> integer of shape [], 0 to go on or k > 0 to end with outcome k"
OPTIMIZER = (
    "an Optax transformation such as optax.adam(1e-2), or a function that makes one for each "
    "seed's key, lambda key: kinopt.bbi(0.1, key=key)"
)
FACTORIES = ("optax", "kinopt")
"""Libraries whose functions make optimizers from numbers, none of them from a key alone."""


STEP = jax.ShapeDtypeStruct((), np.int32)
"""A step's number, before there is one."""


def as_problem(
    loss_fn,
    optimizer,
    params: PyTree,
    keys,
    num_steps,
    stacked,
    stop,
    batches,
    has_aux,
    summary=None,
    keep=("params",),
) -> tuple[Problem, Programs, Seeds]:
    """The problem, its programs, and the seeds with their starts."""
    check_flag("has_aux", has_aux)
    check_function("loss_fn", loss_fn, _wanted_loss(batches, has_aux))
    for name, function, wanted in (
        ("stop", stop, STOP),
        ("batches", batches, BATCHES),
        ("summary", summary, SUMMARY),
    ):
        if function is not None:
            check_function(name, function, f"{wanted}, or None")
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
    problem = Problem(
        loss_fn,
        optimizer,
        stop,
        batches,
        summary,
        num_steps=num_steps,
        stacked=bool(stacked),
        key_impl=impl,
        has_aux=bool(has_aux),
        keep=_names(keep, {"aux": has_aux, "summary": summary is not None}),
    )
    programs = programs_of(problem.functions, problem.settings)
    key = jax.ShapeDtypeStruct(data.shape[1:], data.dtype)
    programs.fact(
        ("checked", stacked is None, described((params, data))),
        lambda: _check_functions(problem, one, key, rows if doubtful else None),
    )
    return problem, programs, Seeds(data, params, problem.shared)


def _wanted_loss(batches, has_aux) -> str:
    """What loss_fn is to take and to give."""
    return LOSS.format(
        arguments="params" if batches is None else "params, batch",
        aux=", aux" if has_aux else "",
        with_aux=", and a pytree of arrays" if has_aux else "",
    )


def _names(keep: Any, has: dict[str, bool]) -> frozenset[str]:
    """What is to come back of every seed, by name; aux and summary do where there are any."""
    known = ", ".join(map(repr, (*KEEP, *has)))
    wanted = f"keep must be some of the names {known}, such as ('params',)"
    if isinstance(keep, str) or not isinstance(keep, Collection):
        raise TypeError(f"{wanted}; got {shown(keep)}.")
    for name in keep:
        if name not in (*KEEP, *has):
            raise ValueError(
                f"{wanted}; got {shown(name)}. Values, outcomes and numbers of steps always come "
                f"back."
            )
        if not has.get(name, True):
            given = "has_aux=True and a loss_fn that returns it" if name == "aux" else "summary="
            raise ValueError(f"keep names {name!r}, which needs {given}.")
    return frozenset(keep) & frozenset(KEEP)


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
    shared = problem.shared
    batch = returned("batches", lambda key, step: problem.batch(key, step, shared), key, STEP)
    batch = jax.tree.map(jax.typeof, batch)
    said = _loss_of(problem, start, batch)
    is_loss = _is_said(problem, said)
    if rows is not None and _is_loss(problem, rows, batch):
        number = jax.tree.leaves(start)[0].shape[0]
        both = "one row as well as all of them" if is_loss else "one row, and not all of them"
        raise ValueError(
            f"every leaf of params has a leading axis of {number}, as many as there are keys, and "
            f"loss_fn takes {both}. Say stacked=True where each seed starts from its own row, or "
            f"stacked=False where every seed starts from the whole."
        )
    if not is_loss:
        wanted = _wanted_loss(problem.batches, problem.has_aux)
        raise TypeError(f"loss_fn must be a function, {wanted}; it returned {kind_of(said)}.")
    value, aux = said if problem.has_aux else (said, None)
    _check_arrays("aux, which loss_fn returns beside the loss,", aux)
    if problem.summary is not None:
        _check_arrays("what summary returns", returned("summary", problem.summary, start))
    if problem.stop is not None:
        said = returned("stop", problem.stop, start, value)
        if not is_whole(said):
            raise TypeError(f"stop must be a function, {STOP}; it returned {kind_of(said)}.")
    if not hasattr(problem.optimizer, "update"):
        made = returned("optimizer", lambda key: problem.optimizer_of(key), key)
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise TypeError(f"optimizer must be {OPTIMIZER}; it made {kind_of(made)}.")


def _loss_of(problem: Problem, params: PyTree, batch: PyTree) -> Any:
    """What loss_fn says of these."""
    arguments = (params,) if problem.batches is None else (params, batch)
    return returned("loss_fn", problem.loss_fn, *arguments)


def _is_said(problem: Problem, said: Any) -> bool:
    """Whether it is a loss, with what else it should come with."""
    if not problem.has_aux:
        return is_scalar(said, jnp.floating)
    return isinstance(said, tuple) and len(said) == 2 and is_scalar(said[0], jnp.floating)


def _is_loss(problem: Problem, params: PyTree, batch: PyTree) -> bool:
    """Whether loss_fn takes these parameters and returns a loss."""
    try:
        return _is_said(problem, _loss_of(problem, params, batch))
    except Exception:  # the answer is no, whatever it says
        return False


def _check_arrays(what: str, tree: PyTree) -> None:
    """Raises on leaves that are no numbers."""
    for x in jax.tree.leaves(tree):
        number = isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float | complex)
        if not number or jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
            raise TypeError(f"{what} must be a pytree of arrays of numbers; it has {shown(x)}.")
