"""How far a gas is from Maxwell's distribution: estimators for one box of velocities.

The box is at rest and at temperature T = 1; Maxwell's velocities are then standard normal.
"""

import math

import jax
import numpy as np

__all__ = ["H_MAXWELL", "excess_h", "kolmogorov_smirnov", "measure"]


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.scipy.special.ndtr(x))


def _maxwell_cdf(speed: np.ndarray) -> np.ndarray:
    density = np.sqrt(2 / np.pi) * speed * np.exp(-np.square(speed) / 2)
    return 2 * _normal_cdf(speed) - 1 - density


def kolmogorov_smirnov(samples: np.ndarray, cdf) -> float:
    """The largest |F_n - F| over the real line."""
    expected = cdf(np.sort(samples.ravel()))
    below = np.arange(expected.size) / expected.size
    return float(np.max(np.maximum(expected - below, below + 1 / expected.size - expected)))


def excess_h(v: np.ndarray, cells: int) -> float:
    """H - H_Maxwell of one box at T = 1, from cells that are equally likely under Maxwell."""
    index = np.minimum((_normal_cdf(v) * cells).astype(int), cells - 1)
    counts = np.bincount(np.ravel_multi_index(tuple(index.T), (cells,) * 3), minlength=cells**3)
    share = counts[counts > 0] / len(v)
    bias = (cells**3 - 1) / (2 * len(v))
    return float(np.sum(share * np.log(share * cells**3)) - bias)


H_MAXWELL = -1.5 * math.log(2 * math.pi * math.e)
"""int f log f of the Maxwell distribution at T = 1 (Eq. 10, without the positions)."""


def measure(v: np.ndarray, cells: int) -> dict[str, float]:
    """All statistics of one box [particles, 3] of zero momentum and T = 1."""
    v = np.asarray(v, np.float64)
    energy = np.square(v).sum(axis=1)
    return {
        "excess_h": excess_h(v, cells),
        "ks_components": kolmogorov_smirnov(v, _normal_cdf),
        "ks_speeds": kolmogorov_smirnov(np.sqrt(energy), _maxwell_cdf),
        "kurtosis": float(np.square(energy).mean() / (5 / 3 * energy.mean() ** 2) - 1),
        "stress": float(np.square(v[:, 0]).mean() / (energy.mean() / 3) - 1),
    }
