"""Means with their errors, and whether a mean difference between paired runs may be chance."""

import numpy as np
from scipy import stats

__all__ = ["difference_and_p", "holm", "mean_and_error", "paired_p"]


def mean_and_error(values: np.ndarray, sign: str = "") -> str:
    """Mean, and the standard error where more than one value gives one."""
    mean = f"{values.mean():{sign}.2f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def difference_and_p(difference: np.ndarray) -> tuple[str, str]:
    """A mean paired difference with its error, and its p value, as two cells of a table.

    >>> difference_and_p(np.array([1.0, 2.0, 3.0]))
    ('+2.00 ± 0.58', '0.074')
    >>> difference_and_p(np.zeros(3)), difference_and_p(np.array([1.0]))
    (('none at all', ''), ('+1.00', ''))
    """
    if len(difference) > 1 and not difference.any():
        return "none at all", ""
    p = f"{paired_p(difference):.2g}" if len(difference) > 1 else ""
    return mean_and_error(difference, "+"), p


def paired_p(difference: np.ndarray) -> float:
    """The p value of "no difference" in a t test; 1 where all differences are zero.

    Args:
        difference: Of each pair, at least two.

    >>> round(paired_p(np.array([1.0, 2.0, 3.0])), 4)
    0.0742
    """
    difference = np.asarray(difference, float)
    if not difference.any():
        return 1.0
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    if error == 0:
        return 0.0
    return float(2 * stats.t.sf(abs(difference.mean() / error), len(difference) - 1))


def holm(p_values: list[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses of no difference fall when all are tested together (Holm 1979).

    The smallest p value must be below level / n, the next one below level / (n - 1), and so on
    until one is not.

    >>> holm([0.001, 0.04, 0.03])
    [True, False, False]
    """
    rejected = [False] * len(p_values)
    for rank, n in enumerate(np.argsort(p_values)):
        if p_values[n] > level / (len(p_values) - rank):
            break
        rejected[n] = True
    return rejected
