"""optax.MultiSteps: the collision sees the accumulated gradient, once for each real step.

That is the gradient of the large batch, as it should be: colliding each part would not be the same.
A descent of this library needs the mean loss of the parts, so there use `optax.microbatching`.
"""

import jax
import jax.numpy as jnp
import optax

import kinopt

x = jax.random.normal(jax.random.key(0), (64, 8))
y = x @ jax.random.normal(jax.random.key(1), (8, 4))
loss = lambda w, x, y: jnp.mean((x @ w - y) ** 2)  # noqa: E731

inner = optax.chain(kinopt.soft_collision(0.1), optax.sgd(0.1))
optimizer = optax.MultiSteps(inner, every_k_schedule=4)
w = whole = jax.random.normal(jax.random.key(2), (8, 4))
state = optimizer.init(w)
update = jax.jit(optimizer.update)
for part in jnp.split(jnp.arange(64), 4):
    grads = jax.grad(loss)(w, x[part], y[part])
    updates, state = update(grads, state, w)
    w = optax.apply_updates(w, updates)

updates, _ = jax.jit(inner.update)(jax.grad(loss)(whole, x, y), inner.init(whole), whole)
assert jnp.allclose(w, optax.apply_updates(whole, updates), rtol=1e-4)
print(kinopt.collision_stats(state))
