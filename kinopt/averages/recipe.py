"""How a walk is set up: f_min, energy, step and bounces from the lowest minimum's Hessian.

With n directions in which the loss rises, a harmonic system of temperature T has a loss of about
n T/2 above its lowest. The shell is made for the coldest temperature T_min that is asked for and
for a hot one, at which barriers are crossed:

$$
f_min = f - n T_min / 4
E = max((n/2)^(3/2) T_hot, (f - f_min + x T_max) / 0.9)
Delta t = min(sqrt(2 / lambda_max), sqrt(10 / tr H)),    h = Delta t sqrt(f - f_min + n T_min / 2)
$$

where f is the lowest minimum, H its Hessian, lambda_max the largest eigenvalue; a shell's density
falls off from V = (n/2) T_hot on. x is where a gamma distribution of shape n/2 leaves 1e-6: what
lies above 0.9 E is not sampled. h is how far a descent with time step Delta t goes at the loss of
T_min. A bounce comes every pi / (Delta t sqrt(tr H / 2n)) steps, half a turn in a mean direction.

The hot temperature is at least T_max, and T_min min(6, 1 + 25/n): the hotter, the more crossings,
and the smaller the part of the walk that the cold averages are made of, faster as n grows. This was
found by trials with two Gaussians of 10 dimensions and a chain of 16 sites.
"""

import math
from typing import NamedTuple

import numpy as np
from jax.scipy.special import gammaincc

from kinopt.averages.walk import WALL

__all__ = ["Recipe", "recipe"]

TAIL = 1e-6
"""Of a harmonic system's weight, what may lie above the wall."""


class Recipe(NamedTuple):
    """Settings of a walk."""

    dt: float  # Delta t
    f_min: float  # loss at V = 0
    hot: float  # T_hot
    energy: float  # E
    bounce_every: int  # steps from one bounce to the next
    length: float  # h, of a step


def recipe(
    lowest: float,
    hessian: np.ndarray,
    num_zero_modes: int,
    temperatures: np.ndarray,
    given: dict,
) -> Recipe:
    """The settings for a lowest minimum with this Hessian [n, n].

    Args:
      lowest: loss there.
      hessian: of the loss there, or how stiff it is at T_min (`kinopt.averages.minima`).
      num_zero_modes: directions that do not count, those of the smallest eigenvalues.
      temperatures: those asked for, [temperatures].
      given: from names of `Recipe`'s fields to a number, or None to find it here.

    >>> found = recipe(1.0, np.diag([1.0, 4.0]), 0, np.array([1.0]), {"dt": 0.5})
    >>> [round(number, 3) for number in found]
    [0.5, 0.5, 6.0, 15.906, 6, 0.612]
    """
    sizes = np.linalg.eigvalsh(hessian)
    rising = sizes[min(num_zero_modes, len(sizes) - 1) :]
    n, trace = len(rising), rising.sum()
    coldest, hottest = temperatures.min(), temperatures.max()

    def either(name, found):
        return found if given.get(name) is None else given[name]

    dt = float(either("dt", min(math.sqrt(2 / rising[-1]), math.sqrt(10 / trace))))
    f_min = float(either("f_min", lowest - n * coldest / 4))
    hot = float(either("hot", max(hottest, coldest * min(6, 1 + 25 / n))))
    above = lowest - f_min
    energy = max((n / 2) ** 1.5 * hot, (above + _gamma_tail(n / 2) * hottest) / WALL)
    every = max(1, math.ceil(math.pi / (dt * math.sqrt(trace / (2 * n)))))
    return Recipe(
        dt=dt,
        f_min=f_min,
        hot=hot,
        energy=float(either("energy", energy)),
        bounce_every=int(either("bounce_every", every)),
        length=dt * math.sqrt(max(above + n * coldest / 2, 0)),
    )


def _gamma_tail(shape: float) -> float:
    """Where a gamma distribution leaves `TAIL`, by bisection."""
    low, high = 0.0, shape + 40 + 10 * math.sqrt(shape)
    for _ in range(60):
        middle = (low + high) / 2
        above = float(gammaincc(shape, middle)) > TAIL
        low, high = (middle, high) if above else (low, middle)
    return high
