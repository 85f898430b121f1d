"""Sharded parameters: nothing is to be set.

The momentum is sharded like its parameter; the energy is one number for all devices.
"""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, PartitionSpec

import kinopt

mesh = jax.make_mesh((jax.device_count(),), ("x",), axis_types=(AxisType.Explicit,))
with jax.set_mesh(mesh):
    w = jax.device_put(jnp.ones((64, 16)), PartitionSpec("x", None))
    optimizer = optax.chain(kinopt.soft_collision(0.05), kinopt.bbi(0.1))
    state = jax.jit(optimizer.init)(w)
    value, grads = jax.value_and_grad(lambda w: jnp.sum(w**2))(w)
    updates, state = jax.jit(optimizer.update)(grads, state, w, value=value)
assert updates.sharding == w.sharding
