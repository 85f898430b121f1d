"""What a descent refuses, and what it warns of: arguments, and what `update` is given."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import (
    check_dtype,
    check_flag,
    check_key,
    check_number,
    is_concrete,
    is_zero,
    shown,
)
from kinopt._typing import PyTree
from kinopt.descent_state import ECDState, Settings
from kinopt.hamiltonians import Hamiltonian

__all__ = [
    "NO_PARAMS",
    "check_settings",
    "check_start_of_schedule",
    "checked_step",
    "warn_of_no_start",
]

NO_PARAMS = (
    "weight decay needs the parameters: call update(grads, state, params, value=loss), or leave "
    "weight_decay out."
)


def check_settings(settings: Settings) -> None:
    """Refuses what can be seen to be wrong before any array is there.

    Raises:
      TypeError: for what has another type than the argument of `kinopt.ecd`.
      ValueError: for what is out of range, and for a start that could never move.
    """
    learning_rate, hamiltonian = settings.learning_rate, settings.hamiltonian
    # A schedule that ends at zero gives an array of zero, under optax.inject_hyperparams.
    may_end = isinstance(learning_rate, jax.Array)
    least, above = (0, None) if may_end else (None, 0)
    check_number("learning_rate", learning_rate, least=least, above=above, schedule=True)
    if not isinstance(hamiltonian, Hamiltonian):
        raise TypeError(
            "hamiltonian must be a kinopt.hamiltonians.Hamiltonian, for instance born_infeld() "
            f"(with the brackets), or None; got {shown(hamiltonian)}."
        )
    check_number("f_min", settings.f_min)
    check_number("objective_power", settings.objective_power, above=0)
    for name in ("extra_energy", "eps1", "eps2", "weight_decay"):
        check_number(name, getattr(settings, name), least=0)
    for name in ("conserve_energy", "adapt_f_min", "stay", "cool"):
        check_flag(name, getattr(settings, name))
    check_key("key", settings.key)
    check_dtype("mu_dtype", settings.mu_dtype)
    extra_energy = settings.extra_energy
    if not hamiltonian.moves_from_rest and is_zero(extra_energy):
        raise ValueError(
            "this Hamiltonian feels no force at rest, so a run without extra energy would never "
            f"move. Pass extra_energy > 0; got {shown(extra_energy)}."
        )
    if settings.cool or settings.decays:
        check_start_of_schedule(learning_rate)


def check_start_of_schedule(learning_rate: Any) -> None:
    """Refuses a schedule that starts at zero where its first value is the measure of the others.

    Raises:
      ValueError: if it does, and this can be seen.
    """
    if not callable(learning_rate):
        return
    start: Any = learning_rate(jnp.zeros((), jnp.int32))
    if is_concrete(start) and float(start) == 0:
        raise ValueError(
            "learning_rate starts at 0, and cool and weight_decay take the schedule's value at "
            "count 0 as its peak, so that there would be no kick. Let the warm-up start above 0, "
            "or leave both out."
        )


def checked_step(value: Any, gradients: PyTree, momentum: PyTree) -> tuple[jax.Array, PyTree]:
    """The loss that `update` was given, as a scalar, and the gradient, as a tree of arrays.

    Raises:
      ValueError: if the loss is missing or not a scalar, or the gradient's structure or shapes are
        not those of the momentum, which has the parameters'.
      TypeError: if one of them is complex.
    """
    loss = _checked_value(value)
    gradients = jax.tree.map(_as_array, gradients)
    _refuse_other_gradients(gradients, momentum)
    return loss, gradients


def _checked_value(value: Any) -> jax.Array:
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


def _refuse_other_gradients(gradients: PyTree, momentum: PyTree) -> None:
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


def _as_array(leaf: Any) -> jax.Array | np.ndarray:
    """A gradient as an array; those of integer parameters are float0, which jax.numpy lacks."""
    return leaf if getattr(leaf, "dtype", None) == jax.dtypes.float0 else jnp.asarray(leaf)
