"""Schedules: collisions that fade out, and a time step that changes.

A coefficient may be any Optax schedule of the update count. Where it is 0 the gradients pass
through bit for bit: so a collision is turned off, and the optimizer's state stays as it is.
"""

import jax
import jax.numpy as jnp
import optax

import kinopt

fading = optax.linear_schedule(0.2, 0.0, transition_steps=20)
collision = kinopt.soft_collision(fading)
time_step = optax.exponential_decay(0.1, transition_steps=10, decay_rate=0.9)
optimizer = optax.chain(collision, kinopt.bbi(time_step))

w = jax.random.normal(jax.random.key(0), (6, 3))
state = optimizer.init(w)
gains = []
for _ in range(30):
    value, grads = jax.value_and_grad(lambda w: jnp.mean((w - 1.0) ** 2))(w)
    updates, state = optimizer.update(grads, state, w, value=value)
    w = optax.apply_updates(w, updates)
    (stats,) = kinopt.collision_stats(state).values()
    gains.append(float(stats.gain))
assert gains[0] > gains[10] > gains[20] == 0
