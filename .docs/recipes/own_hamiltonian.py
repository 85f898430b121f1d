"""A Hamiltonian of your own: the energy and its inverse; forces come from `jax.grad`.

Here a relativistic particle whose speed of light is V, so that it slows down towards the minimum.
"""

import jax
import jax.numpy as jnp
import optax

import kinopt
from kinopt.hamiltonians import Hamiltonian

relativistic = Hamiltonian(
    energy=lambda v, p2: v * jnp.sqrt(1 + p2),
    momentum_sq=lambda v, e: (e / v - 1) * (e / v + 1),
    speed_limit=lambda v, e: v,
)
optimizer, x = kinopt.ecd(0.1, relativistic), jnp.array([1.0, -2.0])
state = optimizer.init(x)
for _ in range(100):
    value, grads = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
    updates, state = optimizer.update(grads, state, value=value)
    x = optax.apply_updates(x, updates)
print(kinopt.ecd_stats(state).lowest_value)
