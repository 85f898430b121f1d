"""What can be predicted: where a descent spends its time, where it enters, how fast it arrives.

A bouncing descent that mixes visits every place of its energy shell alike (BBI paper, section
3.1). With H(V, q), q = |Pi|^2, the momenta that belong to a point of potential V have the measure

$$
rho(V) = int d^n Pi delta(H - E) = Omega_n q^((n-2)/2) / (2 dH/dq),      q = q(V, E)
$$

with Omega_n = 2 pi^(n/2) / Gamma(n/2) the area of the unit sphere. This one formula is Eq. 40 for
Born-Infeld and Eq. 41 for a frictionless Newtonian particle (`phase_space_density`). Near a
minimum, V = V_I + |eta|^2/2 with |eta|^2 = (Theta - Theta_I)^T H_I (Theta - Theta_I), so that

$$
Vol = int_{|eta|<1} d^n Theta rho(V)        `basin_volume` (Eqs. 46, 47), `basin_ratio` (Eq. 10)
dVol/dV = rho(V) Omega_n |eta|^(n-2)        `potential_density`, `potential_fractions` (Eq. 43)
$$

Volume is what long trajectories show: the fraction of *time* in a basin. What a run shows that
ends at its *first entry* is another thing, a hitting probability. When the start is mixed, it goes
with the rate at which trajectories enter, the flux through the surface |eta| = 1:

$$
J = int_{|eta|=1} dS int d^n Pi delta(H - E) (velocity · normal)_+
= c_n Omega_n int_{|eta|=1} q^((n-1)/2) dS
$$

The velocity is 2 dH/dq Pi, so dH/dq drops out; c_n = Gamma(n/2) / (2 sqrt(pi) Gamma((n+1)/2)) is
the mean of (cos angle)_+ over directions (`entry_flux`). `region_volume` and `entry_flux` integrate
over the true landscape, not its quadratic approximation.

Volumes are in logarithms: E^(n-1) alone leaves float32 at n = 25, with the E = 44 of the paper's
section 4.3. Everything can be differentiated and works under `jit` and `vmap`.

Beside it stand the rates of Eqs. 7 and 8, and the generalization bound of the KO paper (Theorems
3.1 and 3.2).

>>> import jax.numpy as jnp
>>> wide, narrow = 0.864 * jnp.eye(2), 1.664 * jnp.eye(2)  # the two basins of Eq. 17
>>> round(float(basin_ratio(wide, narrow)), 4)
1.9259
"""

from kinopt.theory.density import phase_space_density, potential_density, potential_fractions
from kinopt.theory.generalization import correlation_kl, pac_bayes_bound
from kinopt.theory.rates import born_infeld_rate, gradient_descent_rate
from kinopt.theory.ratios import entry_flux_ratio, occupancy_ratio
from kinopt.theory.regions import entry_flux, region_volume
from kinopt.theory.volumes import basin_ratio, basin_volume

__all__ = [
    "basin_ratio",
    "basin_volume",
    "born_infeld_rate",
    "correlation_kl",
    "entry_flux",
    "entry_flux_ratio",
    "gradient_descent_rate",
    "occupancy_ratio",
    "pac_bayes_bound",
    "phase_space_density",
    "potential_density",
    "potential_fractions",
    "region_volume",
]
