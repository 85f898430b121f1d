"""What a descent does, read from its state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import is_traced, shown
from kinopt._typing import PyTree
from kinopt.descent_state import ECDState
from kinopt.isokinetic import IsokineticState

__all__ = ["ECDStats", "IsokineticStats", "ecd_stats"]


class ECDStats(NamedTuple):
    """What `ecd_stats` shows; see `ECDState` for shapes and types. Prints one line for each."""

    energy: jax.Array  # E
    potential: jax.Array  # V at the start of the last step
    momentum_sq: jax.Array  # |Pi|^2 after the last step
    speed: jax.Array  # |dTheta/dt| for that potential and momentum
    speed_limit: jax.Array  # what it cannot exceed: sqrt(V) for Born-Infeld
    energy_error: jax.Array  # H - E before the last rescaling; grows with the time step
    lowest_value: jax.Array  # lowest loss
    num_bounces: jax.Array  # bounces
    num_stayed: jax.Array  # bounces that were due after the run had arrived, and not made
    num_halted: jax.Array  # steps with V <= eps2
    num_clamped: jax.Array  # steps with V > E
    num_skipped: jax.Array  # updates passed over: something not finite, or overflowing

    def __repr__(self) -> str:
        shut = "  # has not moved: V <= 0 at the first loss; lower f_min, or adapt_f_min=True"
        return _printed(self) + (shut if _never_moved(self) else "")


class IsokineticStats(NamedTuple):
    """The same for `kinopt.isokinetic`; see `IsokineticState`."""

    potential: jax.Array  # F - F_0 at the start of the last step
    kick: (
        jax.Array
    )  # mean delta of the last step: far below 1, u hardly turns; far above, it forgets
    lowest_value: jax.Array  # lowest loss
    num_clamped: jax.Array  # steps with F <= F_0, on which u was set to e
    num_skipped: jax.Array  # updates passed over: something not finite

    def __repr__(self) -> str:
        return _printed(self)


def _printed(stats: ECDStats | IsokineticStats) -> str:
    lines = [f"  {name}={_brief(value)}" for name, value in stats._asdict().items()]
    return "\n".join([f"{type(stats).__name__}(", *lines, ")"])


def _brief(value) -> str:
    if is_traced(value) or isinstance(value, jax.ShapeDtypeStruct) or np.ndim(value) > 1:
        return shown(value)
    if np.ndim(value) == 1:
        return "[" + ", ".join(map(_brief, value[:8])) + (", ...]" if len(value) > 8 else "]")
    return f"{value.item():.4g}" if isinstance(value, jax.Array | np.ndarray) else repr(value)


def _never_moved(stats: ECDStats) -> bool:
    fields = (stats.num_halted, stats.speed_limit)  # of which the second is set by every step
    if any(is_traced(x) or not isinstance(x, jax.Array) for x in fields):
        return False
    return bool(jnp.any((stats.num_halted > 0) & (stats.speed_limit == 0)))


_HARMLESS = ("EmptyState", "MaskedState", "MaskedNode", "PartitionState", "MultiStepsState")
_HARMLESS += ("ApplyIfFiniteState", "SnapshotState", "MonitorState", "ECDState", "IsokineticState")
"""States of Optax that say nothing of a change to the update."""


def _is_descent(x) -> bool:
    return isinstance(x, ECDState | IsokineticState)


def _descents(opt_state: PyTree) -> list[ECDState | IsokineticState]:
    return [x for x in jax.tree.leaves(opt_state, is_leaf=_is_descent) if _is_descent(x)]


def _named_states(opt_state: PyTree) -> set[str]:
    """Names of the states of Optax and kinopt in a part of an optimizer state."""
    kind, names = type(opt_state), set()
    if kind.__module__.partition(".")[0] in ("optax", "kinopt"):
        names.add(kind.__name__)
    if isinstance(opt_state, tuple | list):
        return names.union(*map(_named_states, opt_state))
    if isinstance(opt_state, dict):
        return names.union(*map(_named_states, opt_state.values()))
    return names


def _check_last_in_chain(opt_state: PyTree) -> None:
    """Raises where a state shows a transformation that changes the update after a descent.

    States without a name of their own (`optax.scale`, `add_decayed_weights`) cannot be told from
    harmless ones; those after a descent go unnoticed.
    """
    if _is_descent(opt_state) or not isinstance(opt_state, tuple | list | dict):
        return
    parts = list(opt_state.values()) if isinstance(opt_state, dict) else list(opt_state)
    for part in parts:
        _check_last_in_chain(part)
    if type(opt_state) is not tuple:  # a chain's state is a plain tuple
        return
    place = next((n for n, part in enumerate(parts) if _descents(part)), len(parts))
    later = sorted(_named_states(tuple(parts[place + 1 :])) - set(_HARMLESS))
    if later:
        raise ValueError(
            f"the state holds {', '.join(later)} after an energy-conserving descent in the "
            "same chain. The descent's update is a displacement, which a later transformation or "
            "learning rate distorts, so that energy is not conserved. Put the descent last: "
            "optax.chain(clip, collision, kinopt.bbi(...))."
        )


def ecd_stats(opt_state: PyTree) -> ECDStats | IsokineticStats:
    """Diagnostics of an energy-conserving descent, found anywhere in an optimizer state.

    Args:
      opt_state: an `ECDState` or `IsokineticState`, or the state of a chain, `masked`, `partition`,
        `MultiSteps`, `inject_hyperparams`, ... that contains exactly one. Works under `jit`; for a
        state with a leading axis (`vmap`), so have the statistics.

    Returns:
      An `ECDStats` of arrays; for `kinopt.isokinetic` an `IsokineticStats`.

    Raises:
      ValueError: if the state contains no descent or several, or if it shows another
        transformation chained after the descent. (`optax.scale` and `add_decayed_weights` leave
        nothing in a state to be seen by: there a growing `energy_error` is the sign.)

    >>> import jax.numpy as jnp, kinopt, optax
    >>> optimizer = optax.chain(optax.clip_by_global_norm(10.0), kinopt.bbi(0.1))
    >>> x = jnp.array([3.0, 4.0])
    >>> state = optimizer.init(x)
    >>> _, state = optimizer.update(2 * x, state, x, value=jnp.sum(x**2))
    >>> kinopt.ecd_stats(state)
    ECDStats(
      energy=25
      potential=25
      momentum_sq=1
      speed=0.9806
      speed_limit=5
      energy_error=0
      lowest_value=25
      num_bounces=0
      num_stayed=0
      num_halted=0
      num_clamped=0
      num_skipped=0
    )
    """
    found = _descents(opt_state)
    if len(found) != 1:
        raise ValueError(
            f"expected one descent in the optimizer state, found {len(found)}. "
            + (
                "Pass the part of the state that belongs to one descent."
                if found
                else "Pass the state of kinopt.bbi, ecd, ecdsep or isokinetic, or of a chain "
                "around it."
            )
        )
    _check_last_in_chain(opt_state)
    kind = ECDStats if isinstance(found[0], ECDState) else IsokineticStats
    return kind(*(jnp.asarray(getattr(found[0], name)) for name in kind._fields))
