"""When a descent bounces, and what a bounce does to the momentum.

A frictionless particle can circle for ever high above the minimum. BBI (section 3.3) breaks such
orbits by bounces: Pi is replaced by a random vector of the same length,

$$
Pi <- |Pi| N/|N|,    N_i ~ Normal(0, 1)
$$

Algorithm 1 bounces for two reasons, which are two rules here: the clock (`periodic`: T0, Nb) and
a lack of progress (`patience`: T1). A bounce of finite strength nu keeps some of the direction,

$$
Pi <- |Pi| M/|M|,    M = Pi/|Pi| + nu N
$$

and the whole bounce is its limit for nu = infinity. ECDSep bounces a little at every step
(`rotation`: nu); `periodic(20, None, nu=0.1)` refreshes a part every 20 steps. A whole bounce takes
a step of its own in Algorithm 1, and is counted; a partial one happens on the way, and is not.

Rules compose: `kinopt.ecd(..., bounces=(periodic(20, 4), patience(100)))` bounces when either is
due. Each rule keeps its own counters and learns of every step whether the descent bounced, on its
own account or another's, and whether the loss was the lowest so far.

>>> import kinopt
>>> optimizer = kinopt.ecd(0.01, bounces=[periodic(1000, 1), patience(3000)])  # this is bbi(0.01)
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from kinopt._checks import check_count, check_number, shown
from kinopt._typing import Number, PyTree

__all__ = [
    "BounceRule",
    "PatienceState",
    "PeriodicState",
    "as_rules",
    "patience",
    "periodic",
    "rotation",
]


@dataclasses.dataclass(frozen=True)
class BounceRule:
    """When to bounce, as a little counting machine.

    Args:
      init: () -> counters, any tree of arrays.
      due: counters -> bool array of shape []: whether this step is a bounce.
      advance: (counters, due, bounced, progressed) -> counters. `due`: this rule asked for the
        bounce; `bounced`: some rule did; `progressed`: the loss is the lowest so far. Not called
        for steps that are halted or skipped.
      nu: strength of the bounce, a number >= 0; None: infinite, a whole bounce. Those that are due
        in one step add up: their squares sum.
    """

    init: Callable[[], PyTree] = lambda: ()
    due: Callable[[Any], Any] = lambda counters: jnp.zeros((), bool)
    advance: Callable[[Any, Any, Any, Any], PyTree] = lambda counters, due, bounced, progress: ()
    nu: Number | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the old direction is kept."""
        return self.nu is None


Bounces: TypeAlias = BounceRule | Iterable[BounceRule] | None
"""What `bounces=` takes: a rule, several, or None."""


class PeriodicState(NamedTuple):
    """Counters of `periodic`."""

    clock: jax.Array  # int32 []: c0 of Algorithm 1, steps since the last bounce of this rule
    num_fixed: jax.Array  # int32 []: nb of Algorithm 1, bounces of this rule so far


class PatienceState(NamedTuple):
    """Counter of `patience`."""

    waited: jax.Array  # int32 []: c1 of Algorithm 1, steps since the last progress or bounce


def periodic(every: Number, times: Number | None, nu: Number | None = None) -> BounceRule:
    """Bounce after every `every` steps, `times` times (Algorithm 1: T0, Nb, c0, nb).

    A step counts when the descent moves: bounces do not. After the last bounce the clock runs on
    past `every`, which it never equals again. Where Algorithm 1 still bounces once with Nb = 0,
    `times=0` means no bounce.

    Args:
      every: T0 >= 1, in steps.
      times: Nb >= 0; None: for ever.
      nu: strength >= 0 of a partial bounce, which costs no step; None: a whole bounce.

    Raises:
      TypeError: if `every` or `times` is not a whole number, or `nu` no number.
      ValueError: if `every` is below 1, `times` or `nu` below 0.

    >>> rule = periodic(every=2, times=1)
    >>> counters = rule.init()
    >>> for step in range(5):
    ...     due = rule.due(counters)
    ...     print(bool(due), end=" ")
    ...     counters = rule.advance(counters, due, due, False)
    False False True False False
    """
    every = check_count("every (T0)", every, optional=False, traced=True)
    times = check_count("times (Nb)", times, least=0, traced=True)
    check_number("nu", nu, least=0, optional=True)
    # A partial bounce happens in a step that moves, which is the first of the next period.
    restart = 0 if nu is None else 1

    def init():
        return PeriodicState(clock=jnp.zeros((), jnp.int32), num_fixed=jnp.zeros((), jnp.int32))

    def due(counters):
        here = counters.clock == jnp.asarray(every, jnp.int32)
        return here if times is None else here & (jnp.asarray(times, jnp.int32) > 0)

    def advance(counters, due, bounced, progressed):
        del progressed
        num_fixed = counters.num_fixed + due.astype(jnp.int32)
        restarts = due if times is None else due & (num_fixed < jnp.asarray(times, jnp.int32))
        ticks = due | ~bounced  # a bounce of another rule stops the clock for that step
        clock = jnp.where(ticks, optax.safe_increment(counters.clock), counters.clock)
        return PeriodicState(
            clock=jnp.where(restarts, jnp.full((), restart, jnp.int32), clock), num_fixed=num_fixed
        )

    return BounceRule(init, due, advance, nu)


def patience(steps: Number) -> BounceRule:
    """Bounce after `steps` steps without a new lowest loss (Algorithm 1: T1, c1).

    The loss of a step is that at its start. A bounce, of whatever rule, starts the wait again and
    does not count as progress itself.

    Args:
      steps: T1 >= 1.

    Raises:
      TypeError: if `steps` is not a whole number.
      ValueError: if `steps` is below 1.

    >>> rule = patience(2)
    >>> counters = rule.init()
    >>> for progressed in (True, False, False, False):
    ...     due = rule.due(counters)
    ...     print(bool(due), end=" ")
    ...     counters = rule.advance(counters, due, due, jnp.array(progressed))
    False False False True
    """
    steps = check_count("steps (T1)", steps, optional=False, traced=True)

    def init():
        return PatienceState(waited=jnp.zeros((), jnp.int32))

    def due(counters):
        return counters.waited == jnp.asarray(steps, jnp.int32)

    def advance(counters, due, bounced, progressed):
        del due
        waited = optax.safe_increment(counters.waited)
        return PatienceState(jnp.where(bounced | progressed, jnp.zeros((), jnp.int32), waited))

    return BounceRule(init, due, advance)


def rotation(nu: Number) -> BounceRule:
    """Turn the momentum by a small random angle at every step, its length kept (ECDSep: nu).

    $$
    Pi <- |Pi| M/|M|,    M = Pi/|Pi| + nu N,    N_i ~ Normal(0, 1)
    $$

    The angle is about nu sqrt(n) for n parameters. Costs one normal draw for each parameter at
    each step. These rotations are not counted in `num_bounces`.

    Args:
      nu: strength >= 0. Several rotations add up: their squares sum.

    Raises:
      TypeError: if `nu` is not a number.
      ValueError: if `nu` is negative.

    >>> rotation(1e-5).nu
    1e-05
    """
    check_number("nu", nu, least=0)
    return BounceRule(due=lambda counters: jnp.ones((), bool), nu=nu)


def as_rules(bounces: Any) -> tuple[BounceRule, ...]:
    """The rules that a `bounces` argument names, as a tuple.

    Args:
      bounces: a rule, several, or None.

    Returns:
      A tuple of `BounceRule`.

    Raises:
      TypeError: if it names something that is not a rule.

    >>> as_rules(None), len(as_rules(patience(10))), len(as_rules([patience(10), rotation(0.1)]))
    ((), 1, 2)
    """
    if bounces is None or isinstance(bounces, BounceRule):
        return () if bounces is None else (bounces,)
    rules = tuple(bounces) if isinstance(bounces, Iterable) else (bounces,)
    for rule in rules:
        if not isinstance(rule, BounceRule):
            raise TypeError(
                "bounces must be a bounce rule or several, such as "
                "kinopt.bounces.periodic(1000, 1) (with the brackets), or None; got "
                f"{shown(rule)}."
            )
    return rules
