"""Basins: when a seed has found one, how often each was found, and how long a seed stays in each.

Near a minimum theta_I the loss is quadratic, and in the coordinates that make its Hessian one,

$$
eta = H^(1/2) (theta - theta_I),     V = V_I + |eta|^2 / 2      (BBI, Eqs. 44, 45)
$$

the basin is |eta| < 1 (sections 3.1 and A.3): `quadratic_basins` is the stop rule for it.

Two different things can be counted. How many seeds *enter* each basin first (`statistics`) is what
the paper's Fig. 6 shows. What share of the time a seed that goes on for ever *spends* in each
(`dwell`, `occupancy`) is what a mixing system's phase-space volume predicts (Eq. 10). They need not
agree: a flow through an entrance is not the volume behind it. `kinopt.theory` has both numbers.

Intervals cover 95 %. For k successes in n trials they are Wilson's,

$$
(p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n),    p = k/n,    z = 1.96
$$

which stay inside [0, 1] and do not collapse at k = 0. That of a ratio k_1 : k_2 is the image of
Wilson's for k_1 of k_1 + k_2 under p -> p/(1 - p).
"""

from kinopt.basins.entries import BasinStatistics, statistics, wilson_interval, z_score
from kinopt.basins.quadratic import quadratic_basins
from kinopt.basins.stays import DwellState, Occupancy, dwell, occupancy

__all__ = [
    "BasinStatistics",
    "DwellState",
    "Occupancy",
    "dwell",
    "occupancy",
    "quadratic_basins",
    "statistics",
    "wilson_interval",
    "z_score",
]
