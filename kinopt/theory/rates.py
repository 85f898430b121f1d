"""How fast a shallow valley is descended, with friction and without (BBI paper, Eqs. 7, 8)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kinopt._checks import check_numbers
from kinopt.theory._numerics import floating

__all__ = ["born_infeld_rate", "gradient_descent_rate"]


def gradient_descent_rate(curvature: ArrayLike, friction: ArrayLike = 1.0) -> jax.Array:
    """The rate m^2 / f at which friction-dominated descent shrinks Theta (BBI paper, Eq. 7).

    $$
    V = m^2 Theta^2 / 2,   Theta ~ exp(-m^2 t / f)
    $$

    Args:
      curvature: m^2 >= 0, eigenvalues of the Hessian, any shape.
      friction: f > 0; 1 for gradient flow, dTheta/dt = -grad V.

    Returns:
      The rate, of the broadcast shape.

    Raises:
      TypeError: if an argument is not real numbers.
      ValueError: if one is out of range.

    >>> gradient_descent_rate(1e-4).item() < born_infeld_rate(1e-4).item()
    True
    """
    check_numbers("curvature", curvature, least=0)
    check_numbers("friction", friction, above=0)
    curvature, friction = floating(curvature, friction)
    return curvature / friction


def born_infeld_rate(curvature: ArrayLike) -> jax.Array:
    """The rate m / sqrt(2) at which Born-Infeld's speed limit shrinks Theta (BBI paper, Eq. 8).

    $$
    |dTheta/dt| <= sqrt(V) = m |Theta| / sqrt(2),   Theta ~ exp(-m t / sqrt(2))
    $$

    attained where V << E. It falls with the root of the curvature, where Eq. 7 falls with the
    curvature itself: in a shallow valley Born-Infeld is faster.

    Args:
      curvature: m^2 >= 0, eigenvalues of the Hessian, any shape.

    Returns:
      The rate, of the shape of `curvature`.

    Raises:
      TypeError: if it is not real numbers.
      ValueError: if it is negative.

    >>> born_infeld_rate(2.0).item()
    1.0
    """
    check_numbers("curvature", curvature, least=0)
    (curvature,) = floating(curvature)
    return jnp.sqrt(curvature / 2)
