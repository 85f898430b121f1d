"""Phase-space volume of a region |eta| < 1 of a true landscape, and the flux into it.

The region is an ellipsoid around a minimizer, |eta|^2 = (Theta - Theta_I)^T H_I (Theta - Theta_I),
as `kinopt.basins.quadratic_basins` uses it to end a run. Integrals over it are means over
directions, and along each ray a quadrature that resolves V from V_I up.
"""

from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp
from jax.typing import ArrayLike

from kinopt._checks import check_count, check_function, check_number, check_numbers
from kinopt._keys import key_data, typed_key
from kinopt._typing import Key, Scalar
from kinopt.hamiltonians import Hamiltonian, born_infeld
from kinopt.theory._numerics import (
    floating,
    gauss_legendre,
    log_determinant,
    log_sphere_area,
    positive_part,
)
from kinopt.theory.density import phase_space_density

__all__ = ["entry_flux", "region_volume"]

LossFunction = Callable[[Any], Any]
"""F: parameters [n] -> loss []."""

RADIAL_NODES = 64
"""Gauss-Legendre nodes from the minimizer to |eta| = 1."""


def _directions(n: int, num_directions: int, key: Key, dtype) -> jax.Array:
    """Unit vectors [num_directions, n]: equally spaced in the plane, random in more dimensions."""
    if n == 1:
        return jnp.asarray([[1.0], [-1.0]], dtype)
    if n == 2:
        angle = 2 * jnp.pi * jnp.arange(num_directions, dtype=dtype) / num_directions
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    half = jax.random.normal(typed_key(key_data(key), key), (num_directions // 2, n), dtype)
    half = half / jnp.linalg.norm(half, axis=-1, keepdims=True)
    return jnp.concatenate([half, -half])


def _ellipsoid(loss_fn, minimizer, hessian, f_min, directions):
    """The surface |eta| = 1: potential along rays, log |A^-T omega|, log sqrt det H.

    With H = L L^T, Theta = Theta_I + eta A omega, A = L^-T, for unit vectors omega; a piece of the
    surface is dS = det A |A^-T omega| d omega.
    """
    factor = jnp.linalg.cholesky(hessian)
    rays = jax.scipy.linalg.solve_triangular(factor.T, directions.T, lower=False).T
    stretch = jnp.log(jnp.linalg.norm(directions @ factor.T, axis=-1))

    def potential(eta):
        """V at distance eta along each ray."""
        return jax.vmap(lambda ray: loss_fn(minimizer + eta * ray))(rays) - f_min

    return potential, stretch, log_determinant(hessian) / 2


def _as_arrays(loss_fn, minimizer, hessian, energy, f_min, hamiltonian, num_directions):
    """The arguments of a region, checked: arrays, the Hamiltonian, and the number of directions."""
    check_function("loss_fn", loss_fn, "parameters [n] -> loss []")
    check_numbers("minimizer", minimizer, shape=("n",))
    n = np.shape(minimizer)[0]
    check_numbers("hessian", hessian, shape=(n, n))
    check_number("energy", energy)
    check_number("f_min", f_min)
    number = check_count("num_directions", num_directions, least=2, optional=False)
    arrays = floating(minimizer, hessian, energy, f_min)
    return *arrays, born_infeld() if hamiltonian is None else hamiltonian, number


def entry_flux(
    loss_fn: LossFunction,
    minimizer: ArrayLike,
    hessian: ArrayLike,
    energy: ArrayLike,
    f_min: ArrayLike = 0.0,
    hamiltonian: Hamiltonian | None = None,
    *,
    log: bool = True,
    num_directions: SupportsIndex = 1024,
    key: Key = 0,
) -> Scalar:
    """How much phase-space volume enters a region |eta| < 1 in a unit of time.

    $$
    J = int_{|eta|=1} dS int d^n Pi delta(H - E) (velocity · normal)_+
    = c_n Omega_n int_{|eta|=1} q(V(Theta), E)^((n-1)/2) dS
    $$

    At a point of the surface the momenta of the shell have the measure Omega_n q^((n-2)/2) /
    (2 dH/dq) and the speed 2 dH/dq sqrt(q), in all directions alike; (cos angle)_+ has the mean
    c_n = Gamma(n/2) / (2 sqrt(pi) Gamma((n+1)/2)). Under the microcanonical measure as much leaves
    as enters.

    Args:
      loss_fn: F, parameters [n] -> loss [].
      minimizer: the centre Theta_I, [n].
      hessian: positive definite [n, n]; it sets the ellipsoid, whatever F does there.
      energy: E.
      f_min: Delta V, V = F - f_min.
      hamiltonian: H; by default Born-Infeld.
      log: whether to return the logarithm.
      num_directions: points on the surface. For n = 2 they are equally spaced, and a few tens give
        all digits; in more dimensions they are random, for an error of 1/sqrt(num_directions) times
        the spread over the surface.
      key: of the random directions.

    Returns:
      log J or J, shape []; 0 where the energy does not reach the surface. NaN where V is not
      positive on all of it (f_min is too high), or the Hessian is singular or not positive
      definite.

    Raises:
      TypeError: if an argument is no number, or loss_fn no function.
      ValueError: if shapes do not fit, or a number is out of range.

    >>> bowl = lambda x: jnp.sum(x**2) / 2  # V = 1/2 on a circle of length 2 pi; c_2 = 1/pi
    >>> flux = entry_flux(bowl, jnp.zeros(2), jnp.eye(2), energy=1.0, log=False)
    >>> round(float(flux / (4 * jnp.pi)) ** 2, 4)  # q(1/2, 1)
    1.5
    """
    center, hessian, energy, f_min, hamiltonian, number = _as_arrays(
        loss_fn, minimizer, hessian, energy, f_min, hamiltonian, num_directions
    )
    n = center.shape[0]
    directions = _directions(n, number, key, center.dtype)
    potential, stretch, log_root = _ellipsoid(loss_fn, center, hessian, f_min, directions)
    positive, v = positive_part(potential(1.0))
    allowed, q = positive_part(jax.vmap(lambda v: hamiltonian.momentum_sq(v, energy))(v))
    through = jnp.where(positive & allowed, (n - 1) / 2 * jnp.log(q) + stretch, -jnp.inf)
    log_mean = logsumexp(through) - jnp.log(through.size)
    log_cosine = gammaln(n / 2) - gammaln((n + 1) / 2) - jnp.log(2 * jnp.sqrt(jnp.pi))
    flux = log_cosine + 2 * log_sphere_area(n) - log_root + log_mean
    flux = jnp.where(jnp.all(positive), flux, jnp.nan)
    return flux if log else jnp.exp(flux)


def region_volume(
    loss_fn: LossFunction,
    minimizer: ArrayLike,
    hessian: ArrayLike,
    energy: ArrayLike,
    f_min: ArrayLike = 0.0,
    hamiltonian: Hamiltonian | None = None,
    *,
    log: bool = True,
    num_directions: SupportsIndex = 1024,
    key: Key = 0,
) -> Scalar:
    """Phase-space volume of a region |eta| < 1 on the true landscape (BBI paper, Eq. 40).

    $$
    Vol = int_{|eta|<1} d^n Theta rho(V(Theta)),   V = F - f_min
    $$

    `basin_volume` is this for a quadratic F, Born-Infeld and V << E.

    Args:
      loss_fn: F, parameters [n] -> loss [].
      minimizer: the centre Theta_I, [n].
      hessian: positive definite [n, n]; it sets the ellipsoid, whatever F does there.
      energy: E.
      f_min: Delta V.
      hamiltonian: H; by default Born-Infeld.
      log: whether to return the logarithm.
      num_directions: rays from the centre, as in `entry_flux`.
      key: of the random directions.

    Returns:
      log Vol or Vol, shape []. NaN where V is not positive in all of the region, or the Hessian is
      singular or not positive definite.

    Raises:
      TypeError: if an argument is no number, or loss_fn no function.
      ValueError: if shapes do not fit, or a number is out of range.

    >>> from kinopt.theory import basin_volume
    >>> bowl = lambda x: 1e-3 + jnp.sum(x**2) / 2
    >>> volume = region_volume(bowl, jnp.zeros(2), jnp.eye(2), energy=10.0)
    >>> bool(abs(volume - basin_volume(1e-3, jnp.eye(2), 10.0)) < 1e-5)
    True
    """
    center, hessian, energy, f_min, hamiltonian, number = _as_arrays(
        loss_fn, minimizer, hessian, energy, f_min, hamiltonian, num_directions
    )
    n = center.shape[0]
    directions = _directions(n, number, key, center.dtype)
    potential, _, log_root = _ellipsoid(loss_fn, center, hessian, f_min, directions)
    # eta^2 = 2 V_I (e^s - 1) and s = r^2, as in `potential_fractions`.
    v_min = loss_fn(center) - f_min
    edge = jnp.sqrt(jnp.log1p(0.5 / v_min))
    r, log_weights = gauss_legendre(jnp.zeros_like(edge), edge, RADIAL_NODES)
    eta = jnp.sqrt(2 * v_min * jnp.expm1(r**2))
    log_shell = (n - 2) * jnp.log(eta) + jnp.log(2 * r * v_min) + r**2 + log_weights
    v = jax.lax.map(potential, eta)  # [nodes, directions]: a ray at a time would hold all of them
    density = phase_space_density(hamiltonian, v, energy, n)
    log_mean = logsumexp(density + log_shell[:, None]) - jnp.log(directions.shape[0])
    volume = log_sphere_area(n) - log_root + log_mean
    volume = jnp.where((v_min > 0) & jnp.all(v > 0), volume, jnp.nan)
    return volume if log else jnp.exp(volume)
