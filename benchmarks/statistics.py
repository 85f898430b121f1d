"""Whether a mean difference between paired runs may be chance."""

import numpy as np
from scipy import stats

__all__ = ["holm", "paired_p"]


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
