"""What lanes are given, checked before anything is compiled: keys, meshes, functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh

from kinopt._checks import shown

__all__ = [
    "check_mesh",
    "check_outside",
    "is_scalar",
    "is_whole",
    "key_arrays",
    "kind_of",
    "on_one_device",
    "outside_meshes",
    "returned",
]

KEYS = "one key for each seed, such as jax.random.split(jax.random.key(0), 100)"

UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def check_mesh(mesh: Any) -> None:
    """Raises on what is not a mesh of devices."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, or None; got {shown(mesh)}. For a list of devices: "
            f"jax.sharding.Mesh(devices, ('seeds',))."
        )


def check_outside(*arrays: Any) -> None:
    """The lanes are a loop in Python, around programs that it compiles."""
    # Under `jit` a new array is traced too, whatever the arguments are.
    if any(isinstance(x, Tracer) for x in (*jax.tree.leaves(arrays), jnp.zeros(()))):
        raise TypeError(
            "an ensemble cannot run under jax.jit, vmap, grad or scan: it compiles its own "
            "programs and calls them until all seeds have ended. Call it outside; many starts or "
            "settings are seeds: params with stacked=True, or an optimizer made from the key."
        )


def key_arrays(keys: Any) -> tuple[jax.Array, Any]:
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
        return on_one_device(jax.random.key_data(keys)), jax.random.key_impl(keys)
    return on_one_device(jnp.asarray(keys)), None


def on_one_device(x: jax.Array) -> jax.Array:
    """Starts and keys are cut into shares; what lies on a mesh is brought together first."""
    if not x.is_fully_addressable or len(x.devices()) == 1:
        return x
    return jax.device_put(x, min(x.devices(), key=lambda device: device.id))


def outside_meshes():
    """A context without the mesh of `jax.set_mesh`: each program is for one device."""
    return jax.set_mesh(Mesh(np.empty((), object), ()))


def returned(name: str, function: Callable, *arguments) -> Any:
    """What a function returns for arguments of these shapes."""
    results = []
    try:
        jax.eval_shape(lambda *a: results.append(function(*a)), *arguments)
    except UNTRACEABLE as error:
        raise TypeError(
            f"{name} must be a function that JAX can trace; it asked for the value of an array, as "
            f"float(x), np.sin(x) or `if x > 0` do. Use jax.numpy, and jnp.where: {error}"
        ) from error
    return results[0]


def is_scalar(value: Any, kind: Any) -> bool:
    """Whether a value is an array of shape [] of this kind of number."""
    return isinstance(value, jax.Array) and value.shape == () and jnp.issubdtype(value.dtype, kind)


def is_whole(value: Any) -> bool:
    """Whether a value is an outcome: a whole number or a truth, of shape []."""
    return isinstance(value, int) or is_scalar(value, jnp.integer) or is_scalar(value, jnp.bool)


def kind_of(value: Any) -> str:
    """What a function returned, as an error shows it."""
    return shown(value) if isinstance(value, jax.Array) else f"a {type(value).__name__}"
