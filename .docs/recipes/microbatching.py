"""Large batches in small parts: `optax.microbatching` gives the mean loss and the mean gradient.

The loss must be the mean over the parts, like the gradient. `optax.MultiSteps` passes the last
part's loss.
"""

import jax
import jax.numpy as jnp
import optax

import kinopt

loss = lambda w, x, y: jnp.mean((x @ w - y) ** 2)  # noqa: E731
x, w = jax.random.normal(jax.random.key(0), (64, 3)), jnp.zeros(3)
value_and_grad = optax.microbatching.microbatch(
    jax.value_and_grad(loss),
    argnums=(1, 2),  # x and y, eight rows at a time
    microbatch_size=8,
    accumulator=optax.microbatching.AccumulationType.MEAN,
)
optimizer = kinopt.bbi(0.1)
value, grads = value_and_grad(w, x, x.sum(axis=1))
updates, state = optimizer.update(grads, optimizer.init(w), value=value)
