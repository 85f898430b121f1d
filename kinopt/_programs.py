"""Programs that are compiled once for a problem, and let go when what it is made of is let go.

`jax.jit` knows a program by the function object and drops it with that object. An ensemble's
programs are made of several such objects, a loss, an optimizer, a stop rule, and are kept here as
long as all of them live, by their identity: the same objects again compile nothing. Only
executables are kept, which do not refer to Python functions; a jitted function would hold on to its
trace, and that to functions with derivatives of their own.

What cannot be hashed or weakly referenced (an instance with `__slots__`, a dataclass that can be
changed) has no identity to go by: its programs are made anew for every call.
"""

import concurrent.futures
import functools
import itertools
import os
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import jax
import numpy as np

from kinopt._typing import PyTree

__all__ = ["Device", "Programs", "described", "num_cores", "programs_of"]

Device: TypeAlias = Any
"""A `jax.Device`, which is no type to type checkers."""

MOST_PROBLEMS = 128
"""Problems whose programs are kept. The bound is for losses that an executable must keep alive,
because it calls them (`jax.pure_callback` of a method): the oldest are dropped."""

_kept: OrderedDict[Hashable, tuple["Programs", list[weakref.ref]]] = OrderedDict()
_lock = threading.RLock()
_contexts = itertools.count()


@jax.jit
def _context():
    """A number for each of JAX's settings (64 bits, precision): it is traced anew for each."""
    return np.int32(next(_contexts))


def num_cores() -> int:
    """Cores of this machine that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def described(tree: PyTree) -> Hashable:
    """What a program knows of its arguments: how they nest, their shapes and types."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((x.shape, x.dtype) for x in leaves)


class Programs:
    """What has been found out about a problem and compiled for it; it does not hold the problem."""

    def __init__(self):
        self.found: dict[Hashable, Any] = {}

    def fact(self, name: Hashable, find: Callable[[], Any]) -> Any:
        """What `find` finds; it is asked once for each name, under each of JAX's settings."""
        name = name, int(_context())
        if name not in self.found:
            self.found[name] = find()
        return self.found[name]

    def compiled(
        self,
        function: Callable,
        fixed: tuple,
        arguments: dict[Device, tuple],
        donated: tuple = (),
        options: dict[str, str | bool] | None = None,
    ) -> dict[Device, Any]:
        """Executables of `function(*fixed, *arguments)`, one for each device.

        Args:
          function: what to compile.
          fixed: its first arguments, not arrays: the task, then what can be hashed.
          arguments: its other arguments, which lie on the device.
          donated: which of them the executable may overwrite.
          options: of the compiler; left out where its version does not know them.
        """
        context = int(_context())
        names = {
            device: (function.__name__, fixed[1:], device, described(given), context)
            for device, given in arguments.items()
        }
        missing = [device for device, name in names.items() if name not in self.found]
        lowered = []
        for device in missing:
            fresh = functools.partial(function, *fixed)  # JAX's caches go with this object
            program = jax.jit(fresh, donate_argnums=donated)
            lowered.append(program.lower(*arguments[device]))
        with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
            made = pool.map(lambda program: _compiled(program, options or {}), lowered)
            self.found.update(zip(map(names.get, missing), made, strict=True))
        return {device: self.found[name] for device, name in names.items()}

    def call(self, function: Callable, fixed: tuple, *arguments: PyTree) -> Any:
        """What `function(*fixed, *arguments)` returns, compiled once for shapes and types.

        It runs where the first of the arguments lies, which may be arrays of NumPy.

        >>> def scaled(task, number, x):
        ...     return task(x) * number
        >>> programs = Programs()
        >>> programs.call(scaled, (jax.numpy.sin, 2), np.zeros(2)).tolist(), len(programs.found)
        ([0.0, 0.0], 1)
        """
        # `jnp.asarray` compiles for each shape of an array of NumPy.
        first = jax.device_put(jax.tree.leaves(arguments)[0])
        device = min(first.devices(), key=lambda device: device.id)
        arguments = jax.device_put(arguments, device)
        return self.compiled(function, fixed, {device: arguments})[device](*arguments)


def _compiled(lowered: Any, options: dict[str, str | bool]) -> Any:
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if not options or "No such compile option" not in str(error):
            raise
        return lowered.compile()


def _objects(thing: Any) -> list[Any]:
    """The objects that a function or an optimizer stands and falls with."""
    if isinstance(thing, types.MethodType):  # a new object each time it is looked up
        return [types.MethodType, *_objects(thing.__self__), *_objects(thing.__func__)]
    if isinstance(thing, tuple):  # an Optax transformation: tuples have no weak references
        return [type(thing), *(x for part in thing for x in _objects(part))]
    hash(thing)
    return [thing]


def programs_of(functions: tuple, settings: Hashable) -> Programs:
    """The programs of a problem: those it had, or none yet.

    Args:
      functions: what it is made of; None where it does without.
      settings: what else its programs depend on.
    """
    key: Hashable = None

    def forget(_) -> None:
        with _lock:
            _kept.pop(key, None)

    try:
        groups = [[] if thing is None else _objects(thing) for thing in functions]
        objects = [x for group in groups for x in group]
        references = [weakref.ref(x, forget) for x in objects]
    except TypeError:
        return Programs()
    key = tuple(tuple(map(id, group)) for group in groups), settings
    with _lock:
        programs, held = _kept.pop(key, (None, []))
        # Of another object at the same address, whose end nobody has been told of yet.
        if programs is None or any(r() is not x for r, x in zip(held, objects, strict=True)):
            programs, held = Programs(), references
        _kept[key] = programs, held  # the latest comes last
        if len(_kept) > MOST_PROBLEMS:
            _kept.popitem(last=False)
    return programs
