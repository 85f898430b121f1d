"""Which arguments `optax.inject_hyperparams` must leave alone.

`optax.inject_hyperparams(factory)` turns each number among the arguments into an array in the
state, and each function into a schedule of the step count. That is right for a learning rate. It is
wrong for a key, a count that sets a shape, a mask and a Hamiltonian: those belong to its
`static_args`.
"""

import inspect
from collections.abc import Callable

from kinopt._checks import check_function

__all__ = ["static_args"]

_HYPERPARAMETERS = frozenset(
    {"coll_coef", "restitution", "learning_rate", "f_min", "extra_energy", "objective_power"}
    | {"eta", "nu", "s", "eps1", "eps2"}
)
"""Numbers that may change from step to step."""


def static_args(factory: Callable) -> tuple[str, ...]:
    """The arguments of a factory of kinopt that `optax.inject_hyperparams` must leave alone.

    Args:
        factory: `kinopt.soft_collision`, `bbi`, ... or a function with their arguments.

    Returns:
        The names of all arguments but the numbers that a step reads.

    Raises:
        TypeError: `factory` cannot be called.

    >>> import jax.numpy as jnp, kinopt, optax
    >>> factory = kinopt.bbi
    >>> tx = optax.inject_hyperparams(factory, static_args=static_args(factory))(0.1)
    >>> state = tx.init(jnp.zeros(3))
    >>> sorted(state.hyperparams)
    ['eps1', 'eps2', 'extra_energy', 'f_min', 'learning_rate']
    """
    check_function("factory", factory, "such as kinopt.bbi")
    names = inspect.signature(factory).parameters
    return tuple(name for name in names if name not in _HYPERPARAMETERS)
