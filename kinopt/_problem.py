"""The arguments of an ensemble, checked before anything is compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh

from kinopt._checks import check_count, check_flag, check_function, shown
from kinopt._programs import Programs, described, programs_of
from kinopt._typing import PyTree
from kinopt.lanes import Problem

__all__ = ["as_problem", "check_mesh", "check_outside", "outside_meshes"]

LOSS = "params -> loss, a floating scalar (a JAX array of shape [])"
STOP = "params, value -> integer of shape [], 0 to go on or k > 0 to end with outcome k"
OPTIMIZER = (
    "an Optax transformation such as optax.adam(1e-2), or a function that makes one for each "
    "seed's key, lambda key: kinopt.bbi(0.1, key=key)"
)
KEYS = "one key for each seed, such as jax.random.split(jax.random.key(0), 100)"
FACTORIES = ("optax", "kinopt")
"""Libraries whose functions make optimizers from numbers, none of them from a key alone."""

UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def as_problem(
    loss_fn, optimizer, params: PyTree, keys, num_steps, stacked, stop
) -> tuple[Problem, Programs, PyTree, jax.Array]:
    """The problem, its programs, the parameters as arrays, and the keys' data."""
    check_function("loss_fn", loss_fn, LOSS)
    if stop is not None:
        check_function("stop", stop, f"{STOP}, or None")
    _check_optimizer(optimizer)
    num_steps = check_count("num_steps", num_steps, least=0, optional=False)
    if stacked is not None:
        check_flag("stacked", stacked)
    params = _arrays(params)
    data, impl = _key_data(keys)
    rows = _rows(params, len(data))
    if stacked and rows is None:
        shapes = ", ".join(str(x.shape) for x in jax.tree.leaves(params))
        raise ValueError(
            f"with stacked=True every leaf of params needs a leading axis of {len(data)} seeds, "
            f"one for each key; got leaves of shape {shapes}"
        )
    one = rows if stacked else params
    doubtful = stacked is None and len(data) > 1
    problem = Problem(loss_fn, optimizer, stop, num_steps, bool(stacked), impl)
    programs = programs_of(problem)
    key = jax.ShapeDtypeStruct(data.shape[1:], data.dtype)
    programs.fact(
        ("checked", stacked is None, described((params, data))),
        lambda: _check_functions(problem, one, key, rows if doubtful else None),
    )
    return problem, programs, params, data


def check_mesh(mesh: Any) -> None:
    """Raises on what is not a mesh of devices."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, or None; got {shown(mesh)}. For a list of devices: "
            f"jax.sharding.Mesh(devices, ('seeds',))."
        )


def check_outside(params, keys) -> None:
    """An ensemble is a loop in Python, around programs that it compiles."""
    # Under `jit` a new array is traced too, whatever the arguments are.
    if any(isinstance(x, Tracer) for x in (*jax.tree.leaves((params, keys)), jnp.zeros(()))):
        raise TypeError(
            "an ensemble cannot run under jax.jit, vmap, grad or scan: it compiles its own "
            "programs and calls them until all seeds have ended. Call it outside; many starts or "
            "settings are seeds: params with stacked=True, or an optimizer made from the key."
        )


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
    return jax.tree.map(lambda x: _on_one_device(jnp.asarray(x, jnp.result_type(x))), params)


def _key_data(keys) -> tuple[jax.Array, Any]:
    """Data [seeds, ...] of the keys, and the generator of typed ones."""
    array = isinstance(keys, jax.Array | np.ndarray)
    typed = array and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    raw = array and keys.dtype == np.uint32
    if not (typed or raw) or keys.ndim != (1 if typed else 2):
        error = ValueError if typed or raw else TypeError
        raise error(f"keys must be {KEYS}; got {shown(keys)}.")
    if not len(keys):
        raise ValueError(f"keys is empty, and an ensemble needs at least one seed: {KEYS}.")
    if typed:
        return _on_one_device(jax.random.key_data(keys)), jax.random.key_impl(keys)
    return _on_one_device(jnp.asarray(keys)), None


def _on_one_device(x: jax.Array) -> jax.Array:
    """Starts and keys are cut into shares; what lies on a mesh is brought together first."""
    if not x.is_fully_addressable or len(x.devices()) == 1:
        return x
    return jax.device_put(x, min(x.devices(), key=lambda device: device.id))


def outside_meshes():
    """A context without the mesh of `jax.set_mesh`: each program is for one device."""
    return jax.set_mesh(Mesh(np.empty((), object), ()))


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
    value = _returned("loss_fn", problem.loss_fn, start)
    is_loss = _is_scalar(value, jnp.floating)
    if rows is not None and _is_loss(problem.loss_fn, rows):
        number = jax.tree.leaves(start)[0].shape[0]
        both = "one row as well as all of them" if is_loss else "one row, and not all of them"
        raise ValueError(
            f"every leaf of params has a leading axis of {number}, as many as there are keys, and "
            f"loss_fn takes {both}. Say stacked=True where each seed starts from its own row, or "
            f"stacked=False where every seed starts from the whole."
        )
    if not is_loss:
        raise TypeError(f"loss_fn must be a function, {LOSS}; it returned {_seen(value)}.")
    if problem.stop is not None:
        said = _returned("stop", problem.stop, start, value)
        whole = isinstance(said, int) or _is_scalar(said, jnp.integer) or _is_scalar(said, jnp.bool)
        if not whole:
            raise TypeError(f"stop must be a function, {STOP}; it returned {_seen(said)}.")
    if not hasattr(problem.optimizer, "update"):
        made = _returned("optimizer", lambda key: problem.optimizer_of(key), key)
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise TypeError(f"optimizer must be {OPTIMIZER}; it made {_seen(made)}.")


def _is_loss(loss_fn: Callable[[PyTree], Any], params: PyTree) -> bool:
    """Whether it takes these parameters and returns a loss."""
    try:
        return _is_scalar(_returned("loss_fn", loss_fn, params), jnp.floating)
    except Exception:  # the answer is no, whatever it says
        return False


def _returned(name: str, function: Callable, *arguments) -> Any:
    """What a function returns for arguments of these shapes."""
    returned = []
    try:
        jax.eval_shape(lambda *a: returned.append(function(*a)), *arguments)
    except UNTRACEABLE as error:
        raise TypeError(
            f"{name} must be a function that JAX can trace; it asked for the value of an array, as "
            f"float(x), np.sin(x) or `if x > 0` do. Use jax.numpy, and jnp.where: {error}"
        ) from error
    return returned[0]


def _is_scalar(value, kind) -> bool:
    return isinstance(value, jax.Array) and value.shape == () and jnp.issubdtype(value.dtype, kind)


def _seen(value) -> str:
    return shown(value) if isinstance(value, jax.Array) else f"a {type(value).__name__}"
