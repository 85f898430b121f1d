"""What a descent refuses, and what it warns of: arguments, and what `update` is given."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import (
    check_choice,
    check_dtype,
    check_flag,
    check_key,
    check_number,
    is_plain,
    is_traced,
    shown,
)
from kinopt._typing import PyTree
from kinopt.descent_state import Direction, ECDState, IntegratorName
from kinopt.hamiltonians import Hamiltonian

__all__ = [
    "NO_PARAMS",
    "check_arguments",
    "check_start_of_schedule",
    "checked_value",
    "refuse_other_gradients",
    "warn_of_no_start",
]

NO_PARAMS = (
    "weight decay needs the parameters: call update(grads, state, params, value=loss), or leave "
    "weight_decay out."
)


def check_arguments(
    learning_rate: Any,
    hamiltonian: Any,
    numbers: dict[str, Any],
    flags: dict[str, Any],
    initial_direction: Any,
    integrator: Any,
    key: Any,
    mu_dtype: Any,
) -> None:
    """Refuses what can be seen to be wrong before any array is there.

    Args:
      learning_rate: see `kinopt.ecd`, like the rest.
      hamiltonian: a `Hamiltonian`.
      numbers: `f_min`, which may have any sign, and others, which may not be negative.
      flags: True or False.
      initial_direction: see `kinopt.ecd`.
      integrator: see `kinopt.ecd`.
      key: see `kinopt.ecd`.
      mu_dtype: see `kinopt.ecd`.

    Raises:
      TypeError: for what has another type than the argument.
      ValueError: for what is out of range, and for a start that could never move.
    """
    # A schedule that ends at zero gives an array of zero, under optax.inject_hyperparams.
    may_end = isinstance(learning_rate, jax.Array)
    least, above = (0, None) if may_end else (None, 0)
    check_number("learning_rate", learning_rate, least=least, above=above, schedule=True)
    if not isinstance(hamiltonian, Hamiltonian):
        raise TypeError(
            "hamiltonian must be a kinopt.hamiltonians.Hamiltonian, for instance born_infeld() "
            f"(with the brackets), or None; got {shown(hamiltonian)}."
        )
    for name, number in numbers.items():
        above = 0 if name == "objective_power" else None
        least = None if name in ("f_min", "objective_power") else 0
        check_number(name, number, above=above, least=least)
    for name, flag in flags.items():
        check_flag(name, flag)
    check_choice("initial_direction", initial_direction, Direction)
    check_choice("integrator", integrator, IntegratorName)
    check_key("key", key)
    check_dtype("mu_dtype", mu_dtype)
    extra_energy = numbers["extra_energy"]
    if not hamiltonian.moves_from_rest and is_plain(extra_energy) and float(extra_energy) == 0:
        raise ValueError(
            "this Hamiltonian feels no force at rest, so a run without extra energy would never "
            f"move. Pass extra_energy > 0; got {shown(extra_energy)}."
        )


def check_start_of_schedule(learning_rate: Any) -> None:
    """Refuses a schedule that starts at zero where its first value is the measure of the others.

    Raises:
      ValueError: if it does, and this can be seen.
    """
    if not callable(learning_rate):
        return
    start: Any = learning_rate(jnp.zeros((), jnp.int32))
    if not is_traced(start) and float(start) == 0:
        raise ValueError(
            "learning_rate starts at 0, and cool and weight_decay take the schedule's value at "
            "count 0 as its peak, so that there would be no kick. Let the warm-up start above 0, "
            "or leave both out."
        )


def checked_value(value: Any) -> jax.Array:
    """The loss that `update` was given, as a scalar.

    Raises:
      ValueError: if it is missing or not a scalar.
      TypeError: if it is not a real number.
    """
    if value is None:
        raise ValueError(
            "energy-conserving descent needs the loss: it sets the speed. Call "
            "update(grads, state, params, value=loss) with the loss that the gradients belong to "
            "(jax.value_and_grad gives both); flax.nnx.Optimizer.update takes value=loss too. "
            "The stock linen TrainState.apply_gradients hands on no value: subclass it, and in "
            "apply_gradients(self, *, grads, value) call self.tx.update(grads, self.opt_state, "
            "self.params, value=value), as the recipe for linen shows."
        )
    value = jnp.asarray(value)
    if value.shape:
        raise ValueError(
            f"value must be the scalar loss, got shape {value.shape}. Pass its mean, or vmap the "
            "update for several runs."
        )
    if jnp.iscomplexobj(value):
        raise TypeError(f"value must be a real loss; got {value.dtype}. Pass its real part.")
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)


def refuse_other_gradients(gradients: PyTree, momentum: PyTree) -> None:
    """Gradients and parameters must agree; the momentum has the parameters' structure.

    Raises:
      ValueError: if structure or shapes differ.
      TypeError: if a gradient is complex.
    """
    if jax.tree.structure(gradients) != jax.tree.structure(momentum):
        raise ValueError(
            "the gradients have another structure than the parameters the state was made for:\n"
            f"  gradients:  {jax.tree.structure(gradients)}\n"
            f"  parameters: {jax.tree.structure(momentum)}\n"
            "Pass the same tree to init and to jax.grad; for a part of a model, use optax.masked."
        )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(gradients)]
    expected = [jnp.shape(leaf) for leaf in jax.tree.leaves(momentum)]
    if shapes != expected:
        raise ValueError(
            f"the gradients have shapes {shapes}, the parameters {expected}. Call init again for "
            "parameters of another shape."
        )
    for leaf in jax.tree.leaves(gradients):
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"a gradient is complex ({leaf.dtype}), the parameters of this state are real. "
                "Pass the gradient of a real loss with respect to those parameters."
            )


def warn_of_no_start(value: jax.Array, state: ECDState, f_min: Any) -> None:
    """Warns where the first loss is at or below f_min. Waits for the device: call it once."""
    if int(state.count) == 0 and float(value) <= float(f_min):
        warnings.warn(
            f"the first loss, {float(value):.6g}, is not above f_min = {float(f_min):.6g}, so that "
            "V = loss - f_min is not positive and nothing moves until the loss rises. Pass an "
            "f_min below the lowest loss you expect, or adapt_f_min=True, which finds it.",
            stacklevel=3,
        )


def is_concrete(*values: Any) -> bool:
    """Whether values can be looked at: outside jit, vmap and grad."""
    return not any(is_traced(value) for value in values)


def as_array(leaf: Any) -> jax.Array | np.ndarray:
    """A gradient as an array; those of integer parameters are float0, which jax.numpy lacks."""
    return leaf if getattr(leaf, "dtype", None) == jax.dtypes.float0 else jnp.asarray(leaf)
