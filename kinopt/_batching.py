"""A flag that all the members of a `vmap` share.

Under `vmap`, a `cond` on a flag of each member becomes a `select`, which computes both sides. A
random draw that few members need is then paid for at every step. `any_lane` turns the flags into
one: `if_any_lane(flag, ...)` stays a `cond`, however deep the `vmap`s are nested, and draws only
when some member needs it. What decides is not this member's own flag: select by that inside.

>>> def roll(key, wanted):
...     draw = lambda: jax.numpy.where(wanted, jax.random.normal(key), 0.0)
...     return if_any_lane(wanted, draw, lambda: 0.0)
>>> keys = jax.random.split(jax.random.key(0), 3)
>>> wanted = jax.numpy.array([False, True, False])
>>> "select_n" in str(jax.make_jaxpr(jax.vmap(roll))(keys, wanted)).split("cond[")[0]
False
"""

import contextlib
import contextvars
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kinopt import trees
from kinopt._typing import PyTree

__all__ = ["any_lane", "branchless", "if_any_lane"]

_selects = contextvars.ContextVar("_selects", default=False)


@jax.custom_batching.custom_vmap
def any_lane(flag: jax.Array) -> jax.Array:
    """Whether `flag` holds for any member of the enclosing `vmap`s: a bool of shape [], shared."""
    return flag


@any_lane.def_vmap
def _any_of_members(axis_size, in_batched, flags):
    del axis_size, in_batched
    return any_lane(jnp.any(flags)), False


@contextlib.contextmanager
def branchless():
    """What is traced in this context computes both sides of `if_any_lane`, and selects.

    A GPU asks its host at every branch, which takes longer than both sides for a few numbers.
    """
    token = _selects.set(True)
    try:
        yield
    finally:
        _selects.reset(token)


def if_any_lane(
    flag: jax.Array, then: Callable[[], PyTree], otherwise: Callable[[], PyTree]
) -> PyTree:
    """`then()` where `flag` holds for any member of the enclosing `vmap`s, `otherwise()` elsewhere.

    Args:
      flag: bool [], of this member.
      then: what is right for a member whether its own flag holds or not.
      otherwise: what is right where it does not, and cheaper.
    """
    if _selects.get():
        return trees.where(flag, then(), otherwise())
    return jax.lax.cond(any_lane(flag), then, otherwise)
