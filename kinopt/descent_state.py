"""What a descent is and what it remembers: settings, and the state between two steps."""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from kinopt import brackets, trees
from kinopt._checks import is_zero
from kinopt._keys import key_data
from kinopt._typing import Key, Number, PyTree, Scalar, Schedule
from kinopt.bounces import BounceRule
from kinopt.hamiltonians import Hamiltonian

__all__ = [
    "INTEGRATORS",
    "Direction",
    "ECDState",
    "Integrator",
    "IntegratorName",
    "Settings",
    "at_rest",
    "initial_state",
    "step_lengths",
]

Direction: TypeAlias = Literal["gradient", "random"]
"""Of the first momentum."""

IntegratorName: TypeAlias = Literal["paper", "leapfrog"]
"""How a step puts kick, bounce and drift: see `INTEGRATORS`."""


class ECDState(NamedTuple):
    """State of an energy-conserving descent. `[]` is the shape of a scalar.

    Floating scalars are float32 or wider, whatever the type of the parameters. What only shows is
    a few scalars, read by `kinopt.ecd_stats`; a step never looks at them.
    """

    # What the next step needs.
    # int32 []: steps so far, the skipped ones left out
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    energy: jax.Array  # float []: E, set at the first step that moves; 0 before
    momentum: PyTree  # like the parameters, in mu_dtype: Pi after the last step
    momentum_sq: jax.Array  # float []: |Pi|^2 over all leaves
    initial_value: jax.Array  # float []: loss at the first step that moves; inf before
    lowest_value: jax.Array  # float []: lowest loss so far; inf before the first
    f_min: jax.Array  # float []: Delta V, the value that the loss is expected to reach
    counters: tuple  # one entry for each bounce rule, its counters
    bracket: brackets.Bracket | tuple  # the search for f_min; () without adapt_f_min
    key: jax.Array  # uint32 [...]: data of the base key of all bounces

    # What only shows.
    potential: jax.Array  # float []: V at the start of the last step
    speed: jax.Array  # float []: |dTheta/dt| by Hamilton's equations for potential and momentum
    speed_limit: jax.Array  # float []: what the speed cannot exceed at this potential
    energy_error: jax.Array  # float []: H(V, |Pi|^2) - E before the last rescaling
    num_bounces: jax.Array  # int32 []: bounces so far, of all rules
    num_stayed: jax.Array  # int32 []: bounces that were due where the run has arrived, and not made
    num_halted: jax.Array  # int32 []: steps on which V <= eps2
    num_clamped: jax.Array  # int32 []: steps on which V > E, and the particle was stopped
    num_skipped: jax.Array  # int32 []: updates passed over: something not finite, or overflowing

    only_shown = (
        *("potential", "speed", "speed_limit", "energy_error"),
        *("num_bounces", "num_stayed", "num_halted", "num_clamped", "num_skipped"),
    )


class Integrator(NamedTuple):
    """Where a step puts the kick, and what a bounce does."""

    kick_before: float  # part of the kick before the energy is restored
    kick_after: float  # part of the kick after it
    bounces_in_place: bool  # a bounce takes a step of its own, in which nothing moves
    drifts_at_midpoint: bool  # drift with V half a step ahead


INTEGRATORS: dict[IntegratorName, Integrator] = {
    "paper": Integrator(0.0, 1.0, bounces_in_place=True, drifts_at_midpoint=False),
    "leapfrog": Integrator(0.5, 0.5, bounces_in_place=False, drifts_at_midpoint=True),
}


class Settings(NamedTuple):
    """What a descent is: the arguments of `kinopt.ecd`, checked. Numbers may be traced."""

    learning_rate: Number | Schedule  # Delta t
    hamiltonian: Hamiltonian
    f_min: Number  # Delta V
    extra_energy: Number  # delta E
    objective_power: Number  # p in V = (loss - f_min)^p
    rules: tuple[BounceRule, ...]
    starts_at_random: bool
    conserve_energy: bool
    adapt_f_min: bool
    stay: bool  # no bounce where the run has arrived
    integrator: Integrator
    key: Key
    eps1: Number
    eps2: Number
    mu_dtype: Any  # type of the momentum, or None
    cool: bool = False  # the schedule anneals the drift alone
    weight_decay: Number = 0.0  # decoupled

    @property
    def decays(self) -> bool:
        """Whether a step reads the parameters."""
        return not is_zero(self.weight_decay)


def step_lengths(rate: Number | Schedule, count: jax.Array, dtype: Any) -> tuple[Scalar, Scalar]:
    """What a schedule gives for this step, and at the start; a number is the same all along."""
    if not callable(rate):
        number = jnp.asarray(rate, dtype)
        return number, number
    return jnp.asarray(rate(count), dtype), jnp.asarray(rate(jnp.zeros_like(count)), dtype)


def at_rest(params: PyTree, mu_dtype: Any) -> tuple[PyTree, jnp.dtype]:
    """A momentum of zero like the parameters, and the type of the state's numbers.

    Raises:
      TypeError: for complex parameters.
    """
    # Placeholders of optax.tree.map_params have no leaves: nothing here may need one.
    for path, leaf in jax.tree.leaves_with_path(params):
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"the parameter {jax.tree_util.keystr(path) or '(the only one)'} is complex "
                f"({jnp.result_type(leaf)}). jax.grad of a complex parameter is the conjugate of "
                "the direction of ascent, so that a descent would climb. Descend in real and "
                "imaginary parts: differentiate p -> loss(p['re'] + 1j * p['im']), or conjugate "
                "the gradient and wrap the descent as in "
                "optax.contrib.split_real_and_imaginary(optax.GradientTransformation(tx.init, "
                "functools.partial(tx.update, value=value)))."
            )
    floating = [leaf for leaf in jax.tree.leaves(params) if trees.is_floating(leaf)]

    def zeros(leaf):
        return jnp.zeros_like(leaf, mu_dtype if trees.is_floating(leaf) else None)

    return jax.tree.map(zeros, params), trees.accumulator_dtype(*floating)


def initial_state(settings: Settings, params: PyTree) -> ECDState:
    """The state before the first step: at rest, no energy yet."""
    momentum, dtype = at_rest(params, settings.mu_dtype)

    def zero(dtype):
        return jnp.zeros((), dtype)

    return ECDState(
        count=zero(jnp.int32),
        energy=zero(dtype),
        momentum=momentum,
        momentum_sq=zero(dtype),
        potential=zero(dtype),
        speed=zero(dtype),
        speed_limit=zero(dtype),
        energy_error=zero(dtype),
        initial_value=jnp.full((), jnp.inf, dtype),
        lowest_value=jnp.full((), jnp.inf, dtype),
        # A copy: the state may be donated while the argument lives on in the transformation.
        f_min=jnp.array(settings.f_min, dtype, copy=True),
        num_bounces=zero(jnp.int32),
        num_stayed=zero(jnp.int32),
        num_halted=zero(jnp.int32),
        num_clamped=zero(jnp.int32),
        num_skipped=zero(jnp.int32),
        counters=tuple(rule.init() for rule in settings.rules),
        bracket=brackets.empty(dtype) if settings.adapt_f_min else (),
        key=key_data(settings.key),
    )
