"""A function with what is known about it, and what all of them are made of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kinopt._checks import check_count, check_numbers
from kinopt._typing import Scalar

__all__ = ["Landscape", "dimension", "landscape", "sin_pi_squared"]


@dataclasses.dataclass(frozen=True, eq=False)  # compared and hashed by identity, as functions are
class Landscape:
    """A function of x [n] and what is known about it. Call it as you would call `fn`.

    Args:
      fn: x [n] -> value [].
      minimum: the value of the global minimum.
      minimizers: where it is attained, [points, n], float64.
      domain: lower and upper corner of the box where it is usually studied, [2, n], float64.

    >>> from kinopt.landscapes import booth
    >>> low, high = booth().domain
    >>> low.tolist(), high.tolist(), booth().n
    ([-10.0, -10.0], [10.0, 10.0], 2)
    """

    fn: Callable[[Any], Scalar]
    minimum: float
    minimizers: np.ndarray
    domain: np.ndarray

    @property
    def n(self) -> int:
        """The number of coordinates."""
        return self.minimizers.shape[1]

    def __call__(self, x: ArrayLike) -> Scalar:
        """The value at x [n].

        Raises:
          TypeError: if x is not real numbers.
          ValueError: if x has another shape. For many points, use `jax.vmap`.
        """
        check_numbers("x", x, finite=False)
        x = jnp.asarray(x)
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
        if x.shape != (self.n,):
            raise ValueError(
                f"this landscape takes one point of shape ({self.n},), got {x.shape}. For many "
                "points, use jax.vmap(landscape)(points)."
            )
        return self.fn(x)


def landscape(fn, minimizers, low: float, high: float, minimum: float = 0.0) -> Landscape:
    """A landscape in the box [low, high]^n; its arrays cannot be written to."""
    points = np.atleast_2d(np.asarray(minimizers, np.float64))
    domain = np.broadcast_to(np.array([[low], [high]]), (2, points.shape[1])).copy()
    points.flags.writeable = domain.flags.writeable = False
    return Landscape(fn, minimum, points, domain)


def dimension(n, smallest: int = 1) -> int:
    """The number of coordinates that was asked for, as an int."""
    return check_count("n, the number of coordinates,", n, least=smallest, optional=False)


def sin_pi_squared(x):
    """sin(pi x)^2. It has period 1; taking whole numbers away first is exact."""
    return jnp.sin(jnp.pi * (x - jnp.round(x))) ** 2
