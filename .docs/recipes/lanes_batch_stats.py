"""A carry of your own: batch statistics, which a loss changes beside the parameters.

`ensemble.run` carries parameters and the optimizer's state. What else goes from step to step, the
running means of a batch norm, needs `lanes.run`: a step is any function of its carry. Each network
trains until a batch is learned, and its test accuracy is taken with its own statistics.
"""

import os

import jax
import jax.numpy as jnp
import optax
from flax import linen
from sklearn.datasets import load_digits

import kinopt

NETWORKS = int(os.environ.get("NETWORKS", "100"))
pixels, labels = map(jnp.asarray, load_digits(return_X_y=True))
pixels, labels = pixels.astype(jnp.float32) / 16, labels.astype(jnp.int32)
train, test = (pixels[:1400], labels[:1400]), (pixels[1400:], labels[1400:])
batches = kinopt.ensemble.minibatches(train, 64)


class Classifier(linen.Module):
    """One hidden layer with batch norm."""

    @linen.compact
    def __call__(self, x, training=False):
        """Logits of the digits."""
        x = linen.Dense(32)(x)
        x = linen.BatchNorm(momentum=0.9, use_running_average=not training)(x)
        return linen.Dense(10)(linen.relu(x))


model, optimizer = Classifier(), optax.adam(3e-3)


def init(key):
    """The carry of a network: `variables` holds params and batch_stats."""
    variables = model.init(key, pixels[:1])
    state = optimizer.init(variables["params"])
    return {"variables": variables, "state": state, "key": key, "count": 0}


def loss(params, stats, x, y):
    """The cross entropy, and the new statistics."""
    variables = {"params": params, "batch_stats": stats}
    logits, new = model.apply(variables, x, training=True, mutable=["batch_stats"])
    value = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), y).mean()
    return value, new["batch_stats"]


def step(carry):
    """An update of parameters and statistics; 1 once the loss of a batch is low."""
    params, stats = carry["variables"]["params"], carry["variables"]["batch_stats"]
    x, y = batches(carry["key"], carry["count"])
    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, x, y)
    updates, state = optimizer.update(grads, carry["state"], params)
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": stats}
    count = carry["count"] + 1
    carry = {"variables": variables, "state": state, "key": carry["key"], "count": count}
    return carry, value < 0.1


keys = jax.random.split(jax.random.key(0), NETWORKS)
result = kinopt.lanes.run(step, init, keys, num_steps=500)
logits = jax.vmap(lambda variables: jnp.asarray(model.apply(variables, test[0])))(
    result.carry["variables"]
)
found = jnp.mean(jnp.argmax(logits, axis=-1) == test[1], axis=1)
print(f"steps: {result.num_steps.min()} to {result.num_steps.max()}")
print(f"accuracy {found.mean():.3f} ± {found.std():.3f}")
