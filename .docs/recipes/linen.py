"""Flax linen: collide the head of a model, and see what the collisions do.

For collisions `TrainState` needs no change; the statistics are in the optimizer's state. A descent
asks for the loss, `value=`, which `TrainState` does not hand on: a subclass does.
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
    kinopt.soft_collision(0.05, mask="head"),
    optax.adamw(1e-2),
)
state = TrainState.create(
    apply_fn=model.apply, params=model.init(jax.random.key(1), x), tx=optimizer
)


def loss(params):
    """The cross entropy."""
    logits = jnp.asarray(model.apply(params, x))
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def step(state):
    """One step of training."""
    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), value


for _ in range(50):
    state, value = step(state)
print(kinopt.collision_stats(state.opt_state)["params/head/kernel"])
print(kinopt.metrics.report(state.params))


class WithLoss(TrainState):
    """Hands the loss on."""

    def apply_gradients(self, *, grads, value):
        """One update; `value` is the loss that belongs to the gradients."""
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params, value=value)
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state)


@jax.jit
def step_with_loss(state):
    """One step of a descent."""
    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads, value=value), value


optimizer = optax.chain(kinopt.soft_collision(mask="head"), kinopt.bbi(0.1))
state = WithLoss.create(apply_fn=model.apply, params=model.init(jax.random.key(1), x), tx=optimizer)
for _ in range(50):
    state, value = step_with_loss(state)
print(kinopt.ecd_stats(state.opt_state))
