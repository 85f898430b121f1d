"""Averages at a temperature from a path on a shell, with their errors between chains.

A path of density pi is turned into one of exp(-loss/T) by its weights,

$$
w = exp(-loss/T) / pi,    <f>_T = sum w f / sum w
$$

the same path for every T. A chain c gives A_c = sum w f and B_c = sum w; the error of the ratio
R = sum_c A_c / sum_c B_c is that between C chains,

$$
error^2 = C/(C - 1) sum_c (A_c - R B_c)^2 / (sum_c B_c)^2
$$

The evidence Z_T, the integral of exp(-loss/T), is measured against a Gaussian q at the lowest
minimum, of covariance T H^(-1), of which a share s lies where the path can go:

$$
log Z_T = log sum w - log sum q/pi + log s
$$

Reference: Torrie, Valleau, "Nonphysical sampling distributions in Monte Carlo free-energy
estimation: umbrella sampling", J. Computational Physics 23 (1977) 187.
"""

from typing import Any

import numpy as np

from kinopt.basins.chains import effective_number

__all__ = ["effective", "evidence", "log_ratio", "log_weights", "ratio"]


def log_weights(loss: np.ndarray, log_density: np.ndarray, temperature: float) -> np.ndarray:
    """Log w of each step, up to a constant: the largest is 0.

    >>> log_weights(np.array([[0.0, 2.0]]), np.array([[0.0, -1.0]]), 1.0)
    array([[ 0., -1.]])
    """
    logs = -loss / temperature - log_density
    return logs - logs.max()


def ratio(above: np.ndarray, below: np.ndarray) -> tuple[Any, Any]:
    """Sum A / sum B and its error, for A [chains, ...] and B [chains].

    >>> mean, error = ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    >>> float(mean), float(error)
    (1.0, 0.5)
    """
    number, total = len(below), below.sum()
    mean = above.sum(axis=0) / total
    away = above - np.multiply.outer(below, mean)
    return mean, np.sqrt(number / (number - 1) * (away**2).sum(axis=0)) / total


def log_ratio(above: np.ndarray, below: np.ndarray) -> tuple[Any, Any]:
    """Log(sum A / sum B) and its error, for A [chains, ...] and B [chains].

    >>> mean, error = log_ratio(np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    >>> float(mean), float(error)
    (-0.69..., 0.0)
    """
    mean, error = ratio(above, below)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(mean), error / mean


def effective(values: np.ndarray, weights: np.ndarray) -> float:
    """How many independent samples at this temperature the mean of values [chains, times] is worth.

    $$
    N = Var_T(f) / Var(sum w f / sum w)
    $$

    The variance of the ratio is that of w (f - mean), with its autocorrelation and the differences
    between chains (`kinopt.basins.mixing` has the same). 0 for values that never change.

    >>> rng = np.random.default_rng(0)
    >>> values = rng.normal(size=(4, 1000))
    >>> 3000 < effective(values, np.ones((4, 1000))) < 5500
    True
    """
    share = weights / weights.sum()
    mean = (share * values).sum()
    influence = share * values.size * (values - mean)
    number = effective_number(influence)
    if not number > 0:
        return 0.0
    return float((share * (values - mean) ** 2).sum() / (influence.var() / number))


def evidence(
    logs: np.ndarray,
    top: float,
    log_density: np.ndarray,
    distance_sq: np.ndarray,
    log_det: float,
    n: int,
    temperature: float,
) -> tuple[float, float]:
    """Log Z_T and its error, but for the share of the Gaussian that the path can reach.

    Args:
      logs: log w, [chains, times], less its largest.
      top: that largest.
      log_density: log pi, [chains, times].
      distance_sq: (x - x_1).H (x - x_1), [chains, times].
      log_det: of the Hessian H at the lowest minimum.
      n: number of parameters.
      temperature: T.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4, 2000))  # a standard normal, which is the reference itself
    >>> pi = -(x**2) / 2
    >>> estimate, error = evidence(0 * x, 0.0, pi, x**2, 0.0, 1, 1.0)
    >>> bool(abs(estimate - np.log(2 * np.pi) / 2) < 1e-12)
    True
    """
    reference = -distance_sq / (2 * temperature) + log_det / 2 - log_density
    reference -= n / 2 * np.log(2 * np.pi * temperature)
    most = reference.max()
    estimate, error = log_ratio(np.exp(logs).sum(axis=1), np.exp(reference - most).sum(axis=1))
    return float(estimate + top - most), float(error)
