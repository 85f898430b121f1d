"""A flag that all the members of a `vmap` share.

Under `vmap`, a `cond` on a flag of each member becomes a `select`, which computes both sides. A
random draw that few members need is then paid for at every step. `any_lane` turns the flags into
one: `cond(any_lane(flag), ...)` stays a `cond`, however deep the `vmap`s are nested, and draws only
when some member needs it. What it returns is not this member's own flag: select by that inside.

>>> def roll(key, wanted):
...     draw = lambda: jax.numpy.where(wanted, jax.random.normal(key), 0.0)
...     return jax.lax.cond(any_lane(wanted), draw, lambda: 0.0)
>>> keys = jax.random.split(jax.random.key(0), 3)
>>> wanted = jax.numpy.array([False, True, False])
>>> "select_n" in str(jax.make_jaxpr(jax.vmap(roll))(keys, wanted)).split("cond[")[0]
False
"""

import jax
import jax.numpy as jnp

__all__ = ["any_lane"]


@jax.custom_batching.custom_vmap
def any_lane(flag: jax.Array) -> jax.Array:
    """Whether `flag` holds for any member of the enclosing `vmap`s: a bool of shape [], shared."""
    return flag


@any_lane.def_vmap
def _any_of_members(axis_size, in_batched, flags):
    del axis_size, in_batched
    return any_lane(jnp.any(flags)), False
