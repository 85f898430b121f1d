"""A thousand small networks in one call, with Flax linen: minibatches, dropout, test accuracy.

Every seed has its own start, order of the data and dropout, all by its key. `summary` is asked for
once, at the end of each: what comes back of a network is its accuracy. With `checkpoint=folder` a
killed run goes on. `NETWORKS` is how many.
"""

import os

import jax
import jax.numpy as jnp
import optax
from flax import linen
from sklearn.datasets import load_digits

import kinopt

NETWORKS = int(os.environ.get("NETWORKS", "1000"))
pixels, labels = map(jnp.asarray, load_digits(return_X_y=True))
pixels, labels = pixels.astype(jnp.float32) / 16, labels.astype(jnp.int32)
train, test = (pixels[:1400], labels[:1400]), (pixels[1400:], labels[1400:])


class Classifier(linen.Module):
    """One hidden layer, and dropout."""

    @linen.compact
    def __call__(self, x, training=False):
        """Logits of the digits."""
        x = linen.relu(linen.Dense(32)(x))
        return linen.Dense(10)(linen.Dropout(0.1, deterministic=not training)(x))


model = Classifier()


def loss(params, batch):
    """The cross entropy of a batch; the key is another for every seed and step."""
    (x, y), key = batch
    logits = jnp.asarray(model.apply(params, x, training=True, rngs={"dropout": key}))
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def accuracy(params):
    """On digits that no network has seen."""
    return jnp.mean(jnp.argmax(jnp.asarray(model.apply(params, test[0])), axis=-1) == test[1])


keys = jax.random.split(jax.random.key(0), NETWORKS)
result = kinopt.ensemble.run(
    loss,
    optax.adam(3e-3),
    jax.vmap(lambda key: model.init(key, pixels[:1]))(keys),
    keys,
    num_steps=10 * (1400 // 64),
    stacked=True,
    batches=kinopt.ensemble.minibatches(train, 64, keyed=True),
    summary=accuracy,
    keep=(),
)
found = result.summary
print(f"accuracy {found.mean():.3f} ± {found.std():.3f}, {found.min():.3f} to {found.max():.3f}")
