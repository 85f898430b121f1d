r"""Energy-conserving descent: optimization by frictionless motion at constant energy.

A particle moves on the potential V = (loss - f_min)^p (BBI paper, Eq. 1 and section A.2) by
Hamilton's equations of some H(V, |Pi|^2) under which it slows down as V -> 0. Nothing rubs: it
cannot stop at a local minimum above f_min, and spends most of its time near the global one. One
loop makes the whole family; a member is a choice of Hamiltonian x objective x bounce rules:

    bbi     = ecd(born_infeld(), bounces=(periodic(T0, Nb), patience(T1)))
    ecdsep  = ecd(separable(s), objective_power=eta, bounces=rotation(nu))

One step of Algorithm 1, at Theta with V and the gradient there, is

$$
Pi    <- a Pi,  a = sqrt(q(V, E)) / |Pi|    restore the energy E (Eq. 48)
Pi    <- Pi - dt dH/dV grad V               kick (Eq. 11)
Theta <- Theta + 2 dt dH/dq Pi              drift (Eq. 12)
$$

and a bounce, due every now and then, replaces Pi by a random vector of the same length. For
Born-Infeld dH/dV = (V/E + E/V)/2 and 2 dH/dq = V/E. The step reads gradient and momentum, and
never the parameters; |Pi|^2 is carried from step to step.

Departures from Algorithm 1: the direction of a bounce is isotropic (Gaussian); Nb = 0 means no
fixed bounce; where V > E, which Algorithm 1 passes over, the particle is stopped (Pi = 0) and
falls from rest; where the energy asks for momentum and there is none, it sets off along minus the
gradient; V <= eps2 freezes the parameters for as long as it lasts instead of ending the loop; a
loss or gradient that is not finite is passed over; a run that has arrived is not sent up again by
the next bounce (`stay`, see `kinopt.shell`).
"""

from kinopt.descent.family import ecd
from kinopt.descent.members import bbi, ecdsep

__all__ = ["bbi", "ecd", "ecdsep"]
