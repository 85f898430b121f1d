"""Where a descent goes, step by step, for tests that compare it with a loop over numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def descend(tx, steps, loss, start):
    """Points along the way, the start first, and the states, in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(start, jnp.float64)
        state = tx.init(x)

        @jax.jit
        def step(x, state):
            value, gradient = jax.value_and_grad(loss)(x)
            update, state = tx.update(gradient, state, x, value=value)
            return optax.apply_updates(x, update), state

        points, states = [x], [state]
        for _ in range(steps):
            x, state = step(x, state)
            points.append(x)
            states.append(state)
        return np.array(points), states
