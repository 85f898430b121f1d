"""Orbax: save parameters and optimizer state, and go on as if nothing had happened.

The random key is raw data in the state, so a resumed run is the uninterrupted one, bit for bit.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

import kinopt

loss = lambda w: jnp.mean((w - 1.0) ** 2)  # noqa: E731
optimizer = optax.chain(kinopt.soft_collision(0.1), kinopt.bbi(0.1, fixed_bounce_every=4, key=1))


@jax.jit
def step(w, state):
    """One step of training."""
    value, grads = jax.value_and_grad(loss)(w)
    updates, state = optimizer.update(grads, state, w, value=value)
    return optax.apply_updates(w, updates), state


w = jax.random.normal(jax.random.key(0), (8, 4))
state = optimizer.init(w)
for _ in range(3):
    w, state = step(w, state)

with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(Path(folder) / "step-3", (w, state))
    checkpointer.wait_until_finished()
    like = jax.eval_shape(lambda: (w, optimizer.init(w)))
    w2, state2 = checkpointer.restore(Path(folder) / "step-3", like)

for _ in range(3):
    w, state = step(w, state)
    w2, state2 = step(w2, state2)
assert (w == w2).all()
