"""What the tests of energy-conserving descent share: landscapes and a compiled training loop."""

import jax
import jax.numpy as jnp
import optax


def zakharov(x):
    s = jnp.sum(jnp.arange(1, x.size + 1) * x) / 2
    return jnp.sum(x**2) + s**2 + s**4


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def run(tx, loss, x, steps, record=lambda x, value, update, state: (x, value)):
    """Scan over steps: the last parameters and state, and what was recorded at each step.

    `record` sees the parameters and the loss before the step, the update, and the state after it.
    """

    def body(carry, _):
        x, state = carry
        value, gradient = jax.value_and_grad(loss)(x)
        update, after = tx.update(gradient, state, x, value=value)
        return (optax.apply_updates(x, update), after), record(x, value, update, after)

    return jax.jit(lambda x: jax.lax.scan(body, (x, tx.init(x)), length=steps))(x)
