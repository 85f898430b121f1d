"""What the formulas share: types, logarithms that do not overflow, quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from kinopt._checks import check_numbers

__all__ = [
    "check_hessian",
    "floating",
    "gauss_legendre",
    "log_determinant",
    "log_sphere_area",
    "positive_part",
]


def floating(*values) -> list[jax.Array]:
    """Arrays of one floating type, float32 or wider."""
    dtype = jnp.promote_types(jnp.result_type(0.0, *values), jnp.float32)
    return [jnp.asarray(value, dtype) for value in values]


def log_sphere_area(n) -> jax.Array:
    """Log Omega_n, the area of the unit sphere in n dimensions."""
    return jnp.log(2.0) + n / 2 * jnp.log(jnp.pi) - gammaln(n / 2)


def check_hessian(name: str, hessian, n: int | None = None) -> None:
    """Raises on what is neither a matrix [n, n] nor eigenvalues [n] of finite real numbers."""
    check_numbers(name, hessian)
    shape = np.shape(hessian)
    good = len(shape) in (1, 2) and shape[0] == shape[-1] > 0 and n in (None, shape[0])
    if not good:
        size = "n" if n is None else n
        raise ValueError(
            f"{name} must be a Hessian [{size}, {size}] or its eigenvalues [{size}]; got shape "
            f"{list(shape)}."
        )


def log_determinant(hessian: jax.Array) -> jax.Array:
    """Log det of a matrix [n, n] or of eigenvalues [n]; NaN where it is not positive definite.

    A matrix is singular where rounding could have made a pivot of the Cholesky factor: each is
    judged by its own diagonal entry, so that directions may differ in scale as they like.
    """
    if hessian.ndim == 1:
        return jnp.where(jnp.all(hessian > 0), jnp.sum(jnp.log(hessian)), jnp.nan)
    pivots = jnp.diagonal(jnp.linalg.cholesky(hessian))
    rounding = hessian.shape[0] * jnp.finfo(hessian.dtype).eps * jnp.diagonal(hessian)
    return jnp.where(jnp.all(pivots**2 > rounding), 2 * jnp.sum(jnp.log(pivots)), jnp.nan)


def positive_part(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether x > 0, and x with ones where it is not: logarithms there have harmless gradients."""
    return x > 0, jnp.where(x > 0, x, 1)


def gauss_legendre(low: jax.Array, high: jax.Array, nodes: int) -> tuple[jax.Array, jax.Array]:
    """Gauss-Legendre between low and high [...]: nodes and logarithms of weights [..., nodes]."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    half = (high - low)[..., None] / 2
    shape = (1,) * (half.ndim - 1) + (nodes,)
    points = jnp.asarray(points, half.dtype).reshape(shape)
    weights = jnp.asarray(weights, half.dtype).reshape(shape)
    return low[..., None] + half * (1 + points), jnp.log(half) + jnp.log(weights)
