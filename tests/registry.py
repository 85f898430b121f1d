"""Every transformation of the library, with what the shared batteries must know of it.

A new transformation is one more entry here, and every battery runs over it.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import kinopt
from tests.toy_law import wind_collision


@dataclasses.dataclass(frozen=True)
class Case:
    """A transformation and its capabilities."""

    name: str
    factory: Callable[..., optax.GradientTransformationExtraArgs]
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    static: tuple[str, ...] = ()  # what inject_hyperparams must leave alone
    hyperparameter: str = "coll_coef"  # a number that inject_hyperparams can change
    rounding: float = 1e-5  # what another order of the same sums may change in an update
    is_variant: bool = False  # differs from another case inside its law only: a slow test
    same_state: bool = False  # and arguments as another case, which is no variant, has them
    leaves: tuple[str, ...] = ("body/kernel", "stack")  # of `parameters`, that surely change
    needs_params: bool = False
    needs_value: bool = False

    def make(self) -> optax.GradientTransformationExtraArgs:
        return self.factory(**self.arguments)


ONE_LEAF = {"mask": "kernel"}
"""Of a variant: what it does to two leaves takes twice as long to compile, and shows no more."""


def _soft(is_variant=True, same_state=False, **options) -> Case:
    name = "-".join(["soft", *options])
    return Case(
        name,
        kinopt.soft_collision,
        {"coll_coef": 0.1, **options, **(ONE_LEAF if is_variant else {})},
        static=kinopt.static_args(kinopt.soft_collision),
        is_variant=is_variant,
        same_state=same_state,
        leaves=("body/kernel",) if is_variant else Case.leaves,
        needs_params=True,
    )


def _hard(is_variant=True, same_state=False, coll_coef=0.8, rounding=1e-5, **options) -> Case:
    name = "-".join(["hard", *(str(option) for option in options.values())])
    return Case(
        name,
        kinopt.hard_collision,
        {"coll_coef": coll_coef, **options, **(ONE_LEAF if is_variant else {})},
        static=kinopt.static_args(kinopt.hard_collision),
        rounding=rounding,
        is_variant=is_variant,
        same_state=same_state,
        leaves=("body/kernel",) if is_variant else Case.leaves,
        needs_params=True,
    )


def _descent(name, factory, *, is_variant=True, **arguments) -> Case:
    counts = ("key", "fixed_bounce_every", "num_fixed_bounces", "patience")
    return Case(
        name,
        factory,
        {"learning_rate": 0.05, **arguments},
        static=tuple(n for n in counts if n in inspect.signature(factory).parameters),
        hyperparameter="learning_rate",
        is_variant=is_variant,
        needs_value=True,
    )


def _in_metric(name, factory, scales=None, **options) -> Case:
    def made(learning_rate):
        return kinopt.in_metric(factory(learning_rate), scales)

    return _descent(name, made, **options)


def _ecd(name, **arguments) -> Case:
    hamiltonian = getattr(kinopt.hamiltonians, name)()
    return _descent(f"ecd-{name}", kinopt.ecd, hamiltonian=hamiltonian, **arguments)


CASES = [
    _soft(is_variant=False),
    _soft(self_term=False),
    _soft(normalize=True),
    _soft(coll_coef=None, alike="gradients"),
    _soft(block_size=3),
    _soft(cell_size=3, is_variant=False, same_state=True),
    _soft(cell_size=8, cells="hash", every=2),
    # "auto": the factor for the kernel, pairs for the stack
    _hard(is_variant=False, same_state=True),
    _hard(coll_coef=0.99, distance="l2"),  # with raw distances 0.8 accepts no pair here
    _hard(combine="metropolis", scatter="pairs"),
    _hard(is_variant=False, combine="matching"),
    _hard(combine="matching", cell_size=5, cells="hash"),
    _hard(cell_size=8, every=2),
    _hard(scatter="pairs", combine="sum"),
    _hard(scatter="gaussian", combine="sum"),
    _hard(restitution=0.5, approaching_only=True, block_size=3),
    Case(
        "toy",
        wind_collision,
        {"coll_coef": 0.5, **ONE_LEAF},
        static=kinopt.static_args(wind_collision),
        is_variant=True,
        leaves=("body/kernel",),
        needs_params=True,
    ),
    _descent("bbi", kinopt.bbi, is_variant=False),
    _descent("bbi-bouncing", kinopt.bbi, fixed_bounce_every=1, num_fixed_bounces=2),
    _descent("bbi-leapfrog", kinopt.bbi, integrator="leapfrog", extra_energy=1.0),
    _descent("bbi-adaptive", kinopt.bbi, adapt_f_min=True, f_min=3.0),
    _descent("bbi-random", kinopt.bbi, initial_direction="random", extra_energy=1.0),
    _descent("ecdsep", kinopt.ecdsep, eta=2.0, nu=1e-2),
    _descent("bbi-cool", kinopt.bbi, cool=True, weight_decay=1e-2, extra_energy=1.0),
    _descent("isokinetic", kinopt.isokinetic, is_variant=False),
    _descent("isokinetic-turning", kinopt.isokinetic, nu=0.01, weight_decay=1e-2, mask="kernel"),
    _descent("isokinetic-neurons", kinopt.isokinetic, nu=0.01, per_neuron=True),
    _in_metric("isokinetic-in-metric", kinopt.isokinetic, is_variant=False),
    _in_metric("isokinetic-in-scales", kinopt.isokinetic, scales=0.5),
    _ecd("massive", extra_energy=1.0),
    _ecd("logarithmic", extra_energy=1.0),
]


def parameters(dtype=jnp.float32) -> dict[str, Any]:
    """A small tree with a Dense layer, a stacked one, a bias and an empty branch."""
    keys = jax.random.split(jax.random.key(1), 3)
    return {
        "body": {
            "kernel": 0.5 * jax.random.normal(keys[0], (8, 16), dtype),
            "bias": jnp.linspace(-1, 1, 16, dtype=dtype),
        },
        "frozen": None,
        "stack": 0.3 * jax.random.normal(keys[1], (2, 8, 4), dtype),
    }


def loss(params) -> jax.Array:
    """A smooth function of all parameters, above zero."""
    parts = [jnp.sum(jnp.square(jnp.sin(x) + 0.3)) for x in jax.tree.leaves(params)]
    return sum(part.astype(jnp.promote_types(part.dtype, jnp.float32)) for part in parts)


def step(tx, params, state):
    """One update; what a training loop does with any of these."""
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params, value=value)
    return updates, state
