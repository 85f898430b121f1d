"""Flax linen: collide the head of a model, and see what the collisions do.

`TrainState` needs no change. The statistics are in the optimizer's state.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen
from flax.training.train_state import TrainState

import kinopt


class Classifier(linen.Module):
    """Two layers; the second is called "head"."""

    @linen.compact
    def __call__(self, x):
        """Logits of three classes."""
        return linen.Dense(3, name="head")(jnp.tanh(linen.Dense(32)(x)))


model = Classifier()
x = jax.random.normal(jax.random.key(0), (64, 8))
y = jnp.argmax(x[:, :3], axis=1)
optimizer = optax.chain(
    kinopt.soft_collision(0.05, mask=kinopt.layer_mask("head")),
    optax.adamw(1e-2),
)
state = TrainState.create(
    apply_fn=model.apply, params=model.init(jax.random.key(1), x), tx=optimizer
)


@jax.jit
def step(state):
    """One step of training."""

    def loss(params):
        logits = state.apply_fn(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), value


for _ in range(50):
    state, value = step(state)
print(kinopt.collision_stats(state.opt_state)["params/head/kernel"])
print(kinopt.metrics.report(state.params))
