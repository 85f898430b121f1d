"""Where one length for all parameters is behind, as on a transformer: a metric, or many spheres.

`in_metric` gives each entry a scale, which it learns from the rows and the columns of the
gradients. With `per_neuron=True` every neuron turns by its own gradient, and goes a share of the
step that belongs to its number of weights. `neuron_axes` says what the neurons are where it is not
the last axis: the tokens of an embedding, the heads and features of a query, a key or a value, and
no biases.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import kinopt


class Reader(nn.Module):
    """Which of eight symbols comes next."""

    @nn.compact
    def __call__(self, tokens):
        """Logits after each symbol."""
        x = nn.Embed(8, 16, name="tokens")(tokens)
        x = x + nn.MultiHeadDotProductAttention(2)(x, mask=nn.make_causal_mask(tokens))
        return nn.Dense(8, name="head")(nn.LayerNorm()(x))


def axes(path, tensor):
    """What counts the neurons of a Flax parameter; None: the last axis."""
    name = jax.tree_util.keystr(path)
    if "bias" in name:
        return kinopt.NeuronAxes(tuple(range(tensor.ndim)), ())  # no neurons: each is one number
    if "embedding" in name:
        return kinopt.NeuronAxes(0)
    of_heads = tensor.ndim == 3 and "out" not in name
    return kinopt.NeuronAxes((1, 2)) if of_heads else None


text = jnp.cumsum(jnp.arange(400) % 3) % 8  # each symbol follows from the two before
model, steps = Reader(), 200
start = model.init(jax.random.key(0), text[None, :12])["params"]


def schedule(share):
    """A cosine from this share of the length of all parameters to zero."""
    return optax.cosine_decay_schedule(share * optax.tree.norm(start), steps)


in_metric = kinopt.in_metric(kinopt.isokinetic(schedule(0.1), weight_decay=1e-3))
per_neuron = kinopt.isokinetic(
    schedule(0.03),
    eta=30.0,
    per_neuron=True,
    neuron_axes=lambda params: jax.tree.map_with_path(axes, params),
)


def loss_of(params, place):
    """Of the next symbol, in nats, on windows of the text."""
    windows = text[place[:, None] + jnp.arange(13)]
    logits = model.apply({"params": params}, windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()


def train(optimizer):
    """The loss after all steps. `value` is the loss that the gradient is of."""

    @jax.jit
    def step(params, state, n):
        place = jax.random.randint(jax.random.fold_in(jax.random.key(1), n), (16,), 0, 380)
        value, grads = jax.value_and_grad(loss_of)(params, place)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params, state = start, optimizer.init(start)
    for n in range(steps):
        params, state = step(params, state, n)
    return loss_of(params, jnp.arange(16))


before = loss_of(start, jnp.arange(16))
for optimizer in (in_metric, per_neuron):
    assert train(optimizer) < 0.5 * before
