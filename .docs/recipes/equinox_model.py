"""Equinox: a weight is (out, in), so the neurons of a layer are its first axis.

`equinox.filter` leaves the functions of a model out; `neuron_axes` says the rest.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import kinopt

model = eqx.nn.MLP(8, 3, width_size=32, depth=2, key=jax.random.key(0))
x = jax.random.normal(jax.random.key(1), (64, 8))
y = jnp.argmax(x[:, :3], axis=1)

optimizer = optax.chain(
    kinopt.soft_collision(
        0.05, mask=kinopt.layer_mask("layers/2/weight"), neuron_axes=kinopt.NeuronAxes(0)
    ),
    optax.adamw(1e-2),
)
state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))


@eqx.filter_jit
def step(model, state):
    """One step of training."""

    def loss(model):
        logits = jax.vmap(model)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    value, grads = eqx.filter_value_and_grad(loss)(model)
    params = eqx.filter(model, eqx.is_inexact_array)
    updates, state = optimizer.update(grads, state, params, value=value)
    return eqx.apply_updates(model, updates), state, value


for _ in range(50):
    model, state, value = step(model, state)
print(kinopt.collision_stats(state))
