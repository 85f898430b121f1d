"""Phase-space volumes of quadratic basins under Born-Infeld (BBI paper, Eqs. 10, 46, 47).

With V = V_I + |eta|^2/2 the volume is a number of dimensions and determinants times

$$
int_0^1 d eta eta^(n-1) / (V_I + eta^2/2)^(n/2) = 2^(a-1) B(a, 0; X),   a = n/2
$$

an incomplete beta function B(a, 0; X) = int_0^X x^(a-1) / (1 - x) dx at X = 1 / (1 + 2 V_I). The
paper writes it as 2F1, of which the usual implementations fail: `jax.scipy.special.hyp2f1` for
arguments below -1, `scipy.special.hyp2f1` from n = 200. Here it is an integral that a sum over
equal steps gives to rounding, for every n and V_I.
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from kinopt._checks import check_number, is_plain
from kinopt._typing import Scalar
from kinopt.theory._numerics import (
    check_hessian,
    floating,
    log_determinant,
    log_sphere_area,
    positive_part,
)

__all__ = ["basin_ratio", "basin_volume"]

VOLUME_NODES = 512
"""Of the trapezoidal rule in `basin_volume`. It is exact to rounding in float64 where its step is
below 0.3, which is for V_I > 1e-48."""


def _log_incomplete_beta(a, lam):
    """Log B(a, 0; X) = log int_0^X x^(a-1) / (1 - x) dx with X = exp(-lam), for a >= 1/2, lam > 0.

    Put x = X exp(-t/a): B = X^a / a int_0^inf e^-t / (1 - exp(-lam - t/a)) dt. In y = log t the
    integrand is analytic for |Im y| < pi/2 and decays at both ends, so that the trapezoidal rule
    converges exponentially, and its steps follow the integrand from a lam << 1, where it has a long
    plateau, to a lam >> 1, where it is e^-t.
    """
    low = jnp.minimum(jnp.log(a * lam), 0) - 38  # the integrand falls as e^y: by 3e-17
    high = jnp.log(45.0)  # and as e^-t: by 3e-20
    step = (high - low) / (VOLUME_NODES - 1)
    y = low + step * jnp.arange(VOLUME_NODES, dtype=step.dtype)
    t = jnp.exp(y)
    integrand = y - t - jnp.log(-jnp.expm1(-lam - t / a))
    return jnp.log(step) + logsumexp(integrand) - a * lam - jnp.log(a)


def _log_basin_integral(n, v_min):
    """Log int_0^1 eta^(n-1) / (V_I + eta^2/2)^(n/2) d eta, the last factor of Eq. 46.

    With x = eta^2 / (2 V_I + eta^2) it is 2^(n/2 - 1) times an incomplete beta function. At
    V_I = 0 it diverges: NaN there and below.
    """
    positive, v_min = positive_part(v_min)
    integral = (n / 2 - 1) * jnp.log(2.0) + _log_incomplete_beta(n / 2, jnp.log1p(2 * v_min))
    return jnp.where(positive, integral, jnp.nan)


def basin_volume(
    v_min: ArrayLike, hessian: ArrayLike, energy: ArrayLike, log: bool = True
) -> Scalar:
    """Phase-space volume of a quadratic basin |eta| < 1 under Born-Infeld (BBI paper, Eqs. 46, 47).

    $$
    Vol(M_I) = Omega_n^2 E^(n-1) / prod_i m_i int_0^1 d eta eta^(n-1) / (V_I + eta^2/2)^(n/2)
    = Omega_n^2 E^(n-1) / prod_i m_i V_I^(-n/2) / n 2F1(n/2, n/2; n/2+1; -1/(2 V_I))
    $$

    in the paper's regime V << E, for V = V_I + |eta|^2/2 and Hessian eigenvalues m_i^2. It grows
    without bound, as log(1/V_I), when V_I -> 0: that is why a mixing descent finds the lowest
    minimum. Right to rounding, in float32 and float64 (that of the logarithm's largest terms, of
    the order of n), from n = 1 to 10^6 and beyond, for V_I from 1e-48 up.

    Args:
      v_min: V_I > 0, the potential at the minimum, shape []. At 0 the volume diverges.
      hessian: positive definite [n, n], or its eigenvalues m_i^2 [n].
      energy: E > 0, shape [].
      log: whether to return the logarithm; the volume itself overflows early.

    Returns:
      log Vol or Vol, shape []. NaN where the Hessian is singular or not positive definite, and for
      traced numbers that are out of range.

    Raises:
      TypeError: if an argument is no number.
      ValueError: if a number is out of range, or the Hessian is not square.

    >>> v_min = 1e-3  # for n = 2: (2 pi)^2 E / (m_1 m_2) log(1 + 1/(2 V_I))
    >>> round(float(basin_volume(v_min, jnp.eye(2), 1.0, log=False) / (2 * jnp.pi) ** 2), 4)
    6.2166
    """
    check_number("v_min", v_min, above=0)
    check_number("energy", energy, above=0)
    check_hessian("hessian", hessian)
    v_min, hessian, energy = floating(v_min, hessian, energy)
    n = hessian.shape[-1]
    volume = (
        2 * log_sphere_area(n)
        + (n - 1) * jnp.log(energy)
        - log_determinant(hessian) / 2
        + _log_basin_integral(n, v_min)
    )
    return volume if log else jnp.exp(volume)


def basin_ratio(
    hessian_1: ArrayLike,
    hessian_2: ArrayLike,
    v_min_1: ArrayLike = 0.0,
    v_min_2: ArrayLike = 0.0,
    energy: ArrayLike = 1.0,
) -> Scalar:
    """Vol(M_1) / Vol(M_2), the predicted ratio of times in two basins (BBI paper, Eqs. 10, 18).

    $$
    Vol(M_1) / Vol(M_2) = sqrt(det H_2 / det H_1)    where V_1 = V_2
    $$

    and more for the deeper one otherwise (Eq. 46). This is about time: for runs that end when they
    first enter a basin, see `entry_flux_ratio`.

    Args:
      hessian_1: positive definite [n, n], or its eigenvalues [n].
      hessian_2: likewise, in the same n.
      v_min_1: V_I > 0 of the first basin.
      v_min_2: of the second. Both may be 0: the limit of equal depths. One alone may not: its
        volume diverges.
      energy: E > 0; both volumes go as E^(n-1), so it cancels.

    Returns:
      The ratio, shape []. NaN where a Hessian is singular or not positive definite, and for traced
      numbers that are out of range.

    Raises:
      TypeError: if an argument is no number.
      ValueError: if a number is out of range, one V_I alone is 0, a Hessian is not square, or the
        two have different n.

    >>> round(float(basin_ratio(jnp.array([0.864, 0.864]), jnp.array([1.664, 1.664]))), 4)
    1.9259
    """
    depths = {"v_min_1": v_min_1, "v_min_2": v_min_2}
    for name, depth in depths.items():
        check_number(name, depth, least=0)
    check_number("energy", energy, above=0)
    check_hessian("hessian_1", hessian_1)
    check_hessian("hessian_2", hessian_2)
    if np.shape(hessian_1)[0] != np.shape(hessian_2)[0]:
        raise ValueError(
            f"hessian_1 and hessian_2 must have the same n, as volumes of different dimensions do "
            f"not compare; got {np.shape(hessian_1)[0]} and {np.shape(hessian_2)[0]}."
        )
    if all(map(is_plain, depths.values())) and np.equal(v_min_1, 0) != np.equal(v_min_2, 0):
        raise ValueError(
            f"v_min_1 and v_min_2 must both be above 0, or both 0; got {v_min_1} and {v_min_2}. "
            f"The volume of a basin that reaches V = 0 diverges: give both depths above f_min."
        )
    hessian_1, hessian_2, v_min_1, v_min_2, energy = floating(
        hessian_1, hessian_2, v_min_1, v_min_2, energy
    )
    n = hessian_1.shape[-1]
    both_zero = (v_min_1 == 0) & (v_min_2 == 0)  # infinity over infinity
    integrals = _log_basin_integral(n, v_min_1) - _log_basin_integral(n, v_min_2)
    shapes = (log_determinant(hessian_2) - log_determinant(hessian_1)) / 2
    ratio = jnp.exp(shapes + jnp.where(both_zero, 0, integrals))
    return jnp.where(energy > 0, ratio, jnp.nan)
