"""Averages at a temperature from trajectories at an energy, by what is known of their density.

The share of time that a walk on a Born-Infeld energy shell spends at theta is rho(V), whatever the
loss is. Steps that are weighted by

$$
w = exp(-loss/T) / rho(V)
$$

are then samples at the temperature T, at every T. `canonical` does that, from the settings to the
errors: `recipe` sets the shell up, `walk` moves on it so that rho is exact, `chains` runs several,
`weights` turns steps into averages, `doubts` says when not to believe them, and `readings` has the
result. Nothing in it is special to Born-Infeld but the density, which goes as V^(-n/2): about equal
time for every decade of temperature in a harmonic well. Samplers that are made for more parameters,
such as tempering, go on where this one ends.
"""

from kinopt.averages.estimate import canonical
from kinopt.averages.readings import Canonical

__all__ = ["Canonical", "canonical"]
