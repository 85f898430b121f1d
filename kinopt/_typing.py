"""The array types that appear in signatures; shapes are checked in the tests only."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float

Neurons: TypeAlias = Float[Array, "neurons features"]
"""A layer as the collision laws see it: one row for each neuron."""

Scalar: TypeAlias = Float[Array, ""]
"""A number computed on the device."""

Number: TypeAlias = float | np.number | np.ndarray | jax.Array
"""A real number where it is given: Python's, NumPy's, or an array of shape [], traced or not."""

Key: TypeAlias = int | np.integer | np.ndarray | jax.Array
"""A seed (int), a typed key (`jax.random.key`) or raw key data (uint32)."""

PyTree: TypeAlias = Any
"""Parameters, gradients, masks: any nesting that JAX can flatten."""

Schedule: TypeAlias = Callable[[Any], Any]
"""A number that depends on the step: step count -> value, as in Optax."""
