"""How the energy shell is distributed over the potential V (BBI paper, Eqs. 40, 41, 43)."""

import operator
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, xlogy
from jax.typing import ArrayLike

from kinopt._checks import check_count, check_numbers, is_concrete, shown
from kinopt.hamiltonians import Hamiltonian, velocity_factor
from kinopt.theory._numerics import floating, gauss_legendre, log_sphere_area, positive_part

__all__ = ["phase_space_density", "potential_density", "potential_fractions"]


def _check(hamiltonian, n, **numbers) -> None:
    if not isinstance(hamiltonian, Hamiltonian):
        raise TypeError(
            f"hamiltonian must be one of kinopt.hamiltonians, such as born_infeld(); got "
            f"{shown(hamiltonian)}."
        )
    check_count("n", n, optional=False)
    for name, value in numbers.items():
        check_numbers(name, value, finite=False)


def _log_phase_space_density(hamiltonian: Hamiltonian, v, energy, n):
    known = ~(jnp.isnan(v) | jnp.isnan(energy))
    positive, v = positive_part(v)
    allowed, q = positive_part(hamiltonian.momentum_sq(v, energy))
    density = xlogy((n - 2) / 2, q) - jnp.log(velocity_factor(hamiltonian, v, q))
    density = jnp.where(positive & allowed, log_sphere_area(n) + density, -jnp.inf)
    return jnp.where(known, density, jnp.nan)


def phase_space_density(
    hamiltonian: Hamiltonian, v: ArrayLike, energy: ArrayLike, n: SupportsIndex, log: bool = True
) -> jax.Array:
    """Measure of the momenta that the energy shell holds at a point of potential V.

    $$
    rho(V) = int d^n Pi delta(H(V, |Pi|^2) - E) = Omega_n q^((n-2)/2) / (2 dH/dq)
    $$

    at q = q(V, E), Omega_n = 2 pi^(n/2) / Gamma(n/2). For Born-Infeld it is the integrand of
    Eq. 40, Omega_n (E/V) (E^2/V - V)^((n-2)/2); for H = V + q/2, Eq. 41 with its factor,
    Omega_n (2 (E - V))^((n-2)/2).

    Args:
      hamiltonian: H.
      v: potential V, any shape. Where V <= 0, or E leaves no momentum, the density is 0.
      energy: E, broadcast against v.
      n: number of parameters.
      log: whether to return log rho.

    Returns:
      log rho or rho, of the broadcast shape; NaN where V or E is.

    Raises:
      TypeError: if an argument is no number, or no Hamiltonian.
      ValueError: if n is below 1.

    >>> from kinopt.hamiltonians import born_infeld
    >>> rho = phase_space_density(born_infeld(), v=0.5, energy=2.0, n=2, log=False)
    >>> round(float(rho / (2 * jnp.pi)), 4)  # E/V
    4.0
    """
    _check(hamiltonian, n, v=v, energy=energy)
    v, energy = jnp.broadcast_arrays(*floating(v, energy))
    size = operator.index(n)
    density = jnp.vectorize(lambda v, e: _log_phase_space_density(hamiltonian, v, e, size))
    return density(v, energy) if log else jnp.exp(density(v, energy))


def potential_density(
    hamiltonian: Hamiltonian,
    v: ArrayLike,
    energy: ArrayLike,
    n: SupportsIndex,
    v_min: ArrayLike = 0.0,
    log: bool = True,
) -> jax.Array:
    """How phase-space volume, and so time, is distributed over V near a quadratic minimum.

    $$
    dVol/dV = rho(V) Omega_n (2 (V - V_I))^((n-2)/2)
    $$

    the density at V times the shell |eta|^2 = 2 (V - V_I) of that V. It is not normalized; a
    Hessian would only divide it by sqrt(det). For Born-Infeld and V_I = 0 it goes as 1/V: every
    decade of V gets equal time. `potential_fractions` compares it with a histogram.

    Args:
      hamiltonian: H.
      v: potential V, any shape.
      energy: E, broadcast against v.
      n: number of parameters.
      v_min: V_I, the potential at the minimum. The density is 0 below.
      log: whether to return the logarithm.

    Returns:
      The density or its logarithm, of the broadcast shape.

    Raises:
      TypeError: if an argument is no number, or no Hamiltonian.
      ValueError: if n is below 1.

    >>> from kinopt.hamiltonians import born_infeld
    >>> v = jnp.array([1e-6, 1e-4, 1e-2])
    >>> density = potential_density(born_infeld(), v, 1.0, n=2, log=False)
    >>> (v * density / (2 * jnp.pi) ** 2).round(4).tolist()
    [1.0, 1.0, 1.0]
    """
    _check(hamiltonian, n, v=v, energy=energy, v_min=v_min)
    v, energy, v_min = jnp.broadcast_arrays(*floating(v, energy, v_min))
    density = phase_space_density(hamiltonian, v, energy, n) + _log_shell(
        v - v_min, operator.index(n)
    )
    return density if log else jnp.exp(density)


def _log_shell(height, n):
    """Log of the volume of points by the height V - V_I, for a unit Hessian."""
    above, height = positive_part(height)
    return jnp.where(above, log_sphere_area(n) + xlogy((n - 2) / 2, 2 * height), -jnp.inf)


BIN_NODES = 64
"""Gauss-Legendre nodes in each bin of a histogram."""


def potential_fractions(
    hamiltonian: Hamiltonian,
    edges: ArrayLike,
    energy: ArrayLike,
    n: SupportsIndex,
    v_min: ArrayLike = 0.0,
) -> jax.Array:
    """The fraction of time that V should spend in each bin, of the time in all of them.

    The integrals of `potential_density` over the bins, divided by their sum: what a histogram of V
    along a bouncing trajectory in a quadratic basin tends to if it mixes, and its cumulative sum is
    the distribution for a Kolmogorov-Smirnov test.

    Args:
      hamiltonian: H.
      edges: increasing potentials [bins + 1], the first at V_I or above, and above 0.
      energy: E.
      n: number of parameters.
      v_min: V_I, the potential at the minimum.

    Returns:
      Fractions [bins], which sum to 1; NaN where no bin can be reached.

    Raises:
      TypeError: if an argument is no number, or no Hamiltonian.
      ValueError: if n is below 1, or the edges do not increase from V_I and above 0.

    >>> from kinopt.hamiltonians import born_infeld
    >>> edges = jnp.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    >>> potential_fractions(born_infeld(), edges, 1.0, n=2).round(4).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    _check(hamiltonian, n, energy=energy, v_min=v_min)
    check_numbers("edges", edges, shape=("bins + 1",))
    if is_concrete(edges, v_min):
        heights = np.asarray(edges, np.float64)
        if (
            len(heights) < 2
            or heights[0] < v_min
            or heights[0] <= 0
            or (np.diff(heights) <= 0).any()
        ):
            raise ValueError(
                f"edges must increase from v_min = {v_min} or above, and above 0, and bound at "
                f"least one bin; got {shown(edges)}."
            )
    edges, energy, v_min = floating(edges, energy, v_min)
    # V - V_I = c (e^s - 1), s = r^2: the density is smooth in r, also where V_I is tiny (it goes
    # as 1/V, a constant in s) and at V_I itself ((V - V_I)^((n-2)/2) dV goes as r^(n-1) dr).
    scale = jnp.maximum(v_min, edges[0])
    r = jnp.sqrt(jnp.log1p(jnp.maximum(edges - v_min, 0) / scale))
    nodes, log_weights = gauss_legendre(r[:-1], r[1:], BIN_NODES)
    height = scale * jnp.expm1(nodes**2)
    density = phase_space_density(hamiltonian, v_min + height, energy, n) + _log_shell(
        height, operator.index(n)
    )
    log_jacobian = jnp.log(2 * nodes * scale) + nodes**2
    return jax.nn.softmax(logsumexp(density + log_jacobian + log_weights, axis=-1))
