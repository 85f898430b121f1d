"""Hamiltonians H(V, |Pi|^2): what the kinetic energy of a descent is.

Energy-conserving descent (BBI paper, sections 2 and A.2) moves a particle of position Theta and
momentum Pi by Hamilton's equations. The loss enters only through V = loss - f_min, the momentum
only through q = |Pi|^2, so that

$$
dTheta/dt = 2 dH/dq Pi        velocity factor, `velocity_factor`
dPi/dt = -dH/dV grad V        force factor, `force_factor`
$$

A Hamiltonian is therefore two functions: the energy H(V, q), and its inverse q(V, E), which says
how much momentum the energy E leaves at V. `jax.grad` gives everything else. The four here slow
down as V -> 0, each in its own way:

    name         H(V, q)                        q(V, E)             start from rest
    born_infeld  sqrt(V (V + q))        Eq. 31  (E - V)(E + V)/V    yes
    massive      V q / 2                Eq. 36  2 E/V               needs extra energy
    logarithmic  V (w - 1 - log(w)/2)   Eq. 37  V w (w - 1)         needs extra energy
    separable    log V + log(s + q)     ECDSep  exp(E)/V - s        yes

A fifth takes five lines:

>>> import kinopt
>>> from kinopt.hamiltonians import Hamiltonian
>>> newton = Hamiltonian(
...     energy=lambda v, p2: v + p2 / 2,
...     momentum_sq=lambda v, e: 2 * (e - v),
... )
>>> optimizer = kinopt.ecd(0.1, newton, extra_energy=1.0)
>>> float(force_factor(newton, jnp.array(0.5), jnp.array(2.0)))
1.0
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from kinopt._checks import check_choice, check_function, check_number, is_zero
from kinopt._typing import Number, Scalar

__all__ = [
    "Hamiltonian",
    "born_infeld",
    "force_factor",
    "logarithmic",
    "massive",
    "separable",
    "velocity_factor",
]

ScalarFunction: TypeAlias = Callable[[Any, Any], Any]
"""A function of two scalars."""

Drift: TypeAlias = Literal["shell", "kicked"]
"""Whose momentum the velocity factor of the drift is: see `Hamiltonian`."""


def _unlimited(v: Scalar, energy: Scalar) -> Scalar:
    del energy
    return jnp.full_like(v, jnp.inf)


@dataclasses.dataclass(frozen=True)
class Hamiltonian:
    """The energy of a descent as a function of the potential and the squared momentum.

    Args:
      energy: H(V, q), the energy at potential V > 0 and squared momentum q >= 0. Differentiable in
        both arguments, at q = 0 too.
      momentum_sq: q(V, E), its inverse in q: `energy(v, momentum_sq(v, e)) == e`. Negative where
        the potential alone exceeds E.
      initial_energy: E at the first step, from V there and the extra energy delta E. By default
        H(V, 0) + delta E (Eq. 13).
      moves_from_rest: False when dH/dV = 0 at Pi = 0, so that a start without extra energy would
        never move; `kinopt.ecd` then refuses such a start.
      drift: "shell", the velocity factor is that of the momentum the energy asks for, as in
        Algorithm 1; "kicked", that of the momentum after the kick, as in ECDSep. Both are right to
        the order of the step, but they must not be mixed.
      speed_limit: c(V, E), what |dTheta/dt| cannot exceed. By default there is no limit.

    All functions take and return scalars (arrays of shape []).

    >>> h = born_infeld()
    >>> round(float(h.energy(3.0, h.momentum_sq(3.0, 5.0))), 5)
    5.0
    """

    energy: ScalarFunction
    momentum_sq: ScalarFunction
    initial_energy: ScalarFunction | None = None
    moves_from_rest: bool = True
    drift: Drift = "shell"
    speed_limit: ScalarFunction = _unlimited

    def __post_init__(self):
        check_function("energy", self.energy, "H(V, q)")
        check_function("momentum_sq", self.momentum_sq, "q(V, E), the inverse of H")
        check_function("speed_limit", self.speed_limit, "c(V, E)")
        if self.initial_energy is not None:
            check_function("initial_energy", self.initial_energy, "V, delta E -> E")
        check_choice("drift", self.drift, Drift)

    def start(self, v: Number, extra_energy: Number) -> Scalar:
        """Energy of a run that starts at potential `v` with `extra_energy` (Eq. 13).

        >>> float(born_infeld().start(jnp.array(3.0), jnp.array(0.5)))
        3.5
        """
        if self.initial_energy is not None:
            return self.initial_energy(v, extra_energy)
        return self.energy(v, jnp.zeros_like(v)) + extra_energy


def velocity_factor(hamiltonian: Hamiltonian, v: Number, momentum_sq: Number) -> Scalar:
    """The factor of Pi in the velocity.

    $$
    dTheta/dt = 2 dH/dq Pi
    $$

    Args:
      hamiltonian: H.
      v: potential V > 0, shape [].
      momentum_sq: q = |Pi|^2 >= 0, shape [].

    Returns:
      The factor, shape [].

    >>> q = born_infeld().momentum_sq(3.0, 5.0)
    >>> round(float(velocity_factor(born_infeld(), 3.0, q)), 6)  # V/E, Eq. 12
    0.6
    """
    return 2 * jax.grad(hamiltonian.energy, argnums=1)(v, momentum_sq)


def force_factor(hamiltonian: Hamiltonian, v: Number, momentum_sq: Number) -> Scalar:
    """The factor of -grad V in the force.

    $$
    dPi/dt = -dH/dV grad V
    $$

    Args:
      hamiltonian: H.
      v: potential V > 0, shape [].
      momentum_sq: q = |Pi|^2 >= 0, shape [].

    Returns:
      The factor, shape [].

    >>> q = born_infeld().momentum_sq(3.0, 5.0)
    >>> round(float(force_factor(born_infeld(), 3.0, q)), 6)  # (V/E + E/V)/2, Eq. 11
    1.133333
    """
    return jax.grad(hamiltonian.energy, argnums=0)(v, momentum_sq)


def born_infeld() -> Hamiltonian:
    """Born-Infeld, the Hamiltonian of BBI.

    $$
    H = sqrt(V (V + q))      (BBI paper, Eq. 31)
    $$

    On the energy shell q = E^2/V - V, the velocity factor is V/E and the force factor
    (V/E + E/V)/2 (Eqs. 11, 12). The speed cannot exceed sqrt(V) (Eq. 2). E starts at V0 + delta E.

    >>> float(born_infeld().speed_limit(4.0, 9.0))
    2.0
    """
    # Written with separate roots: V (V + q) underflows in float32 where V is below 1e-19.
    # (E - V)(E + V)/V, not V((E/V)^2 - 1), which overflows there and cancels where V is near E.
    return Hamiltonian(
        energy=lambda v, p2: jnp.sqrt(v) * jnp.sqrt(v + p2),
        momentum_sq=lambda v, e: (e - v) * ((e + v) / v),
        initial_energy=lambda v, extra: v + extra,  # not the rounded sqrt(v) sqrt(v)
        speed_limit=lambda v, e: jnp.sqrt(v),
    )


def massive() -> Hamiltonian:
    """A particle of mass 1/V.

    $$
    H = V q / 2      (BBI paper, Eq. 36)
    $$

    q = 2 E/V, velocity factor V, force factor E/V (Eq. 35). A particle at rest feels no force, so
    a run needs extra energy; its amount only sets the scale of time. E starts at delta E.

    >>> float(massive().momentum_sq(0.5, 1.0))
    4.0
    """
    return Hamiltonian(
        energy=lambda v, p2: v * p2 / 2,
        momentum_sq=lambda v, e: 2 * e / v,
        moves_from_rest=False,
        speed_limit=lambda v, e: jnp.sqrt(2 * e * v),
    )


def _logarithmic_energy(v, p2):
    # d = w - 1 = (sqrt(1 + 4q/V) - 1)/2, without the cancellation at small q.
    ratio = p2 / v
    d = 2 * ratio / (1 + jnp.sqrt(1 + 4 * ratio))
    return v * (d - jnp.log1p(d) / 2)


def _logarithmic_momentum_sq(v, e):
    # Newton on d - log(1 + d)/2 = h with h = E/V. Four iterations from these starts reach the
    # last digit of float64 for h from 1e-30 to 1e30; the closed form by Lambert's W overflows at
    # h = 400.
    h = e / v
    d = jnp.where(h < 1, 2 * h, h + jnp.log1p(h) / 2 + 0.4)
    for _ in range(4):
        d = d - (d - jnp.log1p(d) / 2 - h) * (1 + d) / (0.5 + d)
    return v * d * (1 + d)


def logarithmic() -> Hamiltonian:
    """The Hamiltonian of the logarithmic action (BBI paper, Eq. 37).

    $$
    S = - int dt V/2 log(1 - |dTheta/dt|^2 / V)
    $$

    With w = 1/(1 - |dTheta/dt|^2/V), the momentum dL/d(dTheta/dt) is Pi = w dTheta/dt, so that
    q = V w (w - 1), and

    $$
    H = Pi dTheta/dt - L = V (w - 1 - log(w)/2),     w = (1 + sqrt(1 + 4 q/V))/2
    $$

    Velocity factor 1/w, force factor (w - 1 - log w)/2, speed limit sqrt(V). A particle at rest
    has H = 0 and feels no force, so a run needs extra energy: E starts at delta E > 0. H >= 0
    everywhere, so a given E is allowed at every V: the dynamics does not confine.

    >>> h = logarithmic()
    >>> round(float(h.energy(3.0, h.momentum_sq(3.0, 5.0))), 5)
    5.0
    """
    return Hamiltonian(
        energy=_logarithmic_energy,
        momentum_sq=_logarithmic_momentum_sq,
        moves_from_rest=False,
        speed_limit=lambda v, e: jnp.sqrt(v),
    )


def separable(s: Number = 1.0) -> Hamiltonian:
    """The separable Hamiltonian of ECDSep.

    $$
    H = log V + log(s + q)
    $$

    q = exp(E)/V - s, velocity factor 2/(s + q), force factor 1/V. Potential and momentum do not
    mix, which makes the discrete step symplectic. The extra energy is a squared momentum: E starts
    at log V0 + log(s + delta E). The speed cannot exceed 1/sqrt(s). With `objective_power=eta` in
    `kinopt.ecd`, V = (loss - f_min)^eta.

    Args:
      s: regularizer s >= 0 of the logarithm. With s = 0 a run needs extra energy.

    Raises:
      TypeError: if `s` is not a number.
      ValueError: if `s` is negative.

    Reference: De Luca, Gatti, Silverstein, "Improving Energy Conserving Descent for Machine
    Learning: Theory and Practice" (2023).

    >>> float(separable(s=4.0).speed_limit(1.0, 1.0))
    0.5
    """
    check_number("s", s, least=0)

    def like(x):
        return jnp.asarray(s, jnp.result_type(x, float))

    return Hamiltonian(
        energy=lambda v, p2: jnp.log(v) + jnp.log(like(p2) + p2),
        momentum_sq=lambda v, e: jnp.exp(e - jnp.log(v)) - like(v),
        initial_energy=lambda v, extra: jnp.log(v) + jnp.log(like(v) + extra),
        moves_from_rest=not is_zero(s),
        drift="kicked",
        speed_limit=lambda v, e: 1 / jnp.sqrt(like(v)),
    )
