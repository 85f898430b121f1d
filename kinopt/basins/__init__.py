"""Basins: which there are, how often each was found, and how long a seed stays in each.

From a loss and some points, `discover` finds the minima below them, says which point belongs to
which, and how much may not have been seen. Where minima mean the same, a symmetry says so
(`sign_flips`, `permuted_neurons`, `rigid_motions`). `assign` follows the path of steepest descent
from each point, and `barriers` says how high the ways between minima go. Whether shares of time can
be believed is said by `mixing`, with its reasons.

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

from kinopt.basins.discovery import Discovered, discover
from kinopt.basins.entries import BasinStatistics, statistics, wilson_interval, z_score
from kinopt.basins.flow import Assigned, assign
from kinopt.basins.passes import Barriers, barriers
from kinopt.basins.quadratic import quadratic_basins
from kinopt.basins.stays import DwellState, Occupancy, dwell, occupancy
from kinopt.basins.symmetries import permuted_neurons, rigid_motions, sign_flips
from kinopt.basins.unseen import unseen_mass
from kinopt.basins.verdicts import Mixing, mixing

__all__ = [
    "Assigned",
    "Barriers",
    "BasinStatistics",
    "Discovered",
    "DwellState",
    "Mixing",
    "Occupancy",
    "assign",
    "barriers",
    "discover",
    "dwell",
    "mixing",
    "occupancy",
    "permuted_neurons",
    "quadratic_basins",
    "rigid_motions",
    "sign_flips",
    "statistics",
    "unseen_mass",
    "wilson_interval",
    "z_score",
]
