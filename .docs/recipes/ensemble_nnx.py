"""The same with Flax nnx: a model is split into its structure and its parameters.

The structure is one for all seeds; the parameters are what `ensemble.run` trains. Dropout takes its
key from the batch: another for every seed and step.
"""

import os

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import kinopt

NETWORKS = int(os.environ.get("NETWORKS", "1000"))
pixels, labels = map(jnp.asarray, load_digits(return_X_y=True))
pixels, labels = pixels.astype(jnp.float32) / 16, labels.astype(jnp.int32)
train, test = (pixels[:1400], labels[:1400]), (pixels[1400:], labels[1400:])


class Classifier(nnx.Module):
    """One hidden layer, and dropout."""

    def __init__(self, rngs):
        self.hidden, self.head = nnx.Linear(64, 32, rngs=rngs), nnx.Linear(32, 10, rngs=rngs)
        self.dropout = nnx.Dropout(0.1)

    def __call__(self, x, key=None):
        """Logits of the digits; with a key, units drop out."""
        x = nnx.relu(self.hidden(x))
        return self.head(self.dropout(x, deterministic=key is None, rngs=key))


structure = nnx.graphdef(Classifier(nnx.Rngs(0)))


def start(key):
    """The parameters of a new model."""
    return nnx.state(Classifier(nnx.Rngs(key)), nnx.Param)


def loss(params, batch):
    """The cross entropy of a batch."""
    (x, y), key = batch
    logits = nnx.merge(structure, params)(x, key)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def accuracy(params):
    """On digits that no network has seen."""
    return jnp.mean(jnp.argmax(nnx.merge(structure, params)(test[0]), axis=-1) == test[1])


keys = jax.random.split(jax.random.key(0), NETWORKS)
result = kinopt.ensemble.run(
    loss,
    optax.adam(3e-3),
    jax.vmap(start)(keys),
    keys,
    num_steps=10 * (1400 // 64),
    stacked=True,
    batches=kinopt.ensemble.minibatches(train, 64, keyed=True),
    summary=accuracy,
    keep=(),
)
found = result.summary
print(f"accuracy {found.mean():.3f} ± {found.std():.3f}, {found.min():.3f} to {found.max():.3f}")
