"""What the formulas share: types, logarithms that do not overflow, quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

__all__ = ["floating", "gauss_legendre", "log_determinant", "log_sphere_area", "positive_part"]


def floating(*values) -> list[jax.Array]:
    """Arrays of one floating type, float32 or wider."""
    dtype = jnp.promote_types(jnp.result_type(0.0, *values), jnp.float32)
    return [jnp.asarray(value, dtype) for value in values]


def log_sphere_area(n) -> jax.Array:
    """Log Omega_n, the area of the unit sphere in n dimensions."""
    return jnp.log(2.0) + n / 2 * jnp.log(jnp.pi) - gammaln(n / 2)


def log_determinant(hessian: jax.Array) -> jax.Array:
    """Log det of a matrix [n, n] or of eigenvalues [n]; NaN where it is not positive definite."""
    if hessian.ndim == 1:
        return jnp.sum(jnp.log(hessian))
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(hessian))))


def positive_part(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether x > 0, and x with ones where it is not: logarithms there have harmless gradients."""
    return x > 0, jnp.where(x > 0, x, 1)


def gauss_legendre(low: jax.Array, high: jax.Array, nodes: int) -> tuple[jax.Array, jax.Array]:
    """Gauss-Legendre between low and high [...]: nodes and logarithms of weights [..., nodes]."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    half = (high - low)[..., None] / 2
    points, weights = jnp.asarray(points, half.dtype), jnp.asarray(weights, half.dtype)
    return low[..., None] + half * (1 + points), jnp.log(half) + jnp.log(weights)
