"""Test functions whose minima are known, for looking at how an optimizer moves.

A landscape is a function of one vector x [n], the value of its global minimum, the points where it
is attained, and the box in which it is usually studied:

    name                 n        minimum        minimizers  the BBI paper
    ackley               any      0              1           section 4.1, Eq. 15
    zakharov             any      0              1           section 4.2, Eq. 16
    two_basins           2        about 0        2           section 4.3, Eq. 17
    rosenbrock           >= 2     0              1
    rastrigin            any      0              1
    griewank             any      0              1
    levy                 any      0              1
    styblinski_tang      any      -39.17 n       1
    himmelblau           2        0              4
    beale                2        0              1
    booth                2        0              1
    three_hump_camel     2        0              1
    six_hump_camel       2        -1.03          2
    lennard_jones        6 to 39  -1 to -44.3    1, and its motions and permutations

An optimizer that slows down as V = loss - minimum -> 0 needs V, not just the loss, to the last
digit. Where the textbook formula subtracts numbers that are nearly equal, it is rewritten here so
that V keeps its relative precision next to a minimizer: 1 - cos t = 2 sin^2(t/2),
1 - e^-t = -expm1(-t). A landscape whose minimum is not 0 cannot be helped in this way.

All are differentiable any number of times, at their minimizers too (for Ackley see there), work
under `jax.jit` and `jax.vmap`, and compute in the type of x.

References: Jamil, Yang, "A literature survey of benchmark functions for global optimisation
problems" (2013); Surjanovic, Bingham, "Virtual library of simulation experiments" (2013).

>>> import jax, jax.numpy as jnp, kinopt
>>> valley = kinopt.landscapes.rosenbrock()
>>> float(valley(jnp.array([-1.0, 1.0]))), jax.grad(valley)(jnp.ones(2)).tolist()
(4.0, [0.0, 0.0])
"""

from kinopt.landscapes.any_dimension import griewank, levy, rastrigin, rosenbrock, styblinski_tang
from kinopt.landscapes.clusters import lennard_jones
from kinopt.landscapes.landscape import Landscape
from kinopt.landscapes.paper import ackley, two_basins, zakharov
from kinopt.landscapes.plane import (
    beale,
    booth,
    himmelblau,
    six_hump_camel,
    three_hump_camel,
)

__all__ = [
    "Landscape",
    "ackley",
    "beale",
    "booth",
    "griewank",
    "himmelblau",
    "lennard_jones",
    "levy",
    "rastrigin",
    "rosenbrock",
    "six_hump_camel",
    "styblinski_tang",
    "three_hump_camel",
    "two_basins",
    "zakharov",
]
