"""Many seeds at once: `vmap` over the keys of the bounces.

Every run has its own energy, counters and key.
"""

import jax
import jax.numpy as jnp
import optax

import kinopt


def train(key):
    """The losses of one seed."""
    optimizer = kinopt.bbi(0.05, fixed_bounce_every=20, num_fixed_bounces=10, key=key)

    def step(carry, _):
        x, state = carry
        value, grads = jax.value_and_grad(lambda x: jnp.mean(x**2 - jnp.cos(3 * x) + 1))(x)
        updates, state = optimizer.update(grads, state, value=value)
        return (optax.apply_updates(x, updates), state), value

    x = jnp.full(3, 3.0)
    return jax.lax.scan(step, (x, optimizer.init(x)), length=1000)[1]


losses = jax.vmap(train)(jax.random.split(jax.random.key(0), 16))  # [seeds, steps]
