"""How much probability the basins that were not seen may have."""

from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import check_count, check_numbers

__all__ = ["unseen_mass"]

DELTA = 0.05
"""The bound fails with this probability at most."""


def unseen_mass(counts: Any, num_points: SupportsIndex) -> tuple[jax.Array, jax.Array]:
    """The chance that a further point would lead to a basin not yet seen: estimate, and bound.

    With N_1 basins that one point each of m led to (Good, Turing),

    $$
    M = N_1 / m,    M_0 <= N_1/m + (1 + sqrt(2)) sqrt(log(2/delta) / m)
    $$

    the second with probability 1 - delta = 0.95. The mass not seen exceeds its mean by
    sqrt(log(1/delta)/m) at most (McAllester, Ortiz, "Concentration inequalities for the missing
    mass and for histogram rule error", JMLR 4 (2003)); N_1/m, which a point changes by 2/m, is
    below its mean by sqrt(2 log(1/delta)/m) at most (McDiarmid); and the mean of N_1/m is that of
    the mass not seen by m - 1 points, which is not smaller. Each has half of delta.

    Args:
      counts: int [basins], how many points led to each.
      num_points: m, all points, those that led nowhere included; they must be independent draws.

    Returns:
      Estimate and bound, float, in [0, 1].

    Raises:
      TypeError: if they are no numbers.
      ValueError: if there are fewer points than were counted.

    >>> estimate, bound = unseen_mass([40, 30, 29, 1], 100)
    >>> print(f"{estimate:.2f} {bound:.2f}")
    0.01 0.47
    """
    check_numbers("counts", counts, shape=("basins",), least=0)
    total = check_count("num_points", num_points, optional=False)
    seen = np.asarray(counts)
    if seen.sum() > total:
        raise ValueError(
            f"num_points must be at least the sum of counts, {seen.sum()}; got {total}."
        )
    estimate = np.sum(seen == 1) / total
    bound = min(1.0, estimate + (1 + np.sqrt(2)) * np.sqrt(np.log(2 / DELTA) / total))
    return jnp.asarray(estimate, float), jnp.asarray(bound, float)
