"""Will it help: three numbers at the end of a plain training.

Train as you do, without collisions, with a rate that decays; then ask `report` of the parameters
and of a gradient from many samples. Here a student learns from five units that are alike.
"""

import jax
import jax.numpy as jnp
import optax

import kinopt
from kinopt import metrics

directions = jnp.eye(30, 5) + 0.25  # the teacher's units, at a cosine of 0.7
teacher = directions / jnp.linalg.norm(directions, axis=0)
params = {"hidden": {"kernel": 0.05 * jax.random.normal(jax.random.key(0), (30, 5))}}


def loss(params, x):
    """A batch's error."""
    said, wanted = (jnp.tanh(x @ w).sum(axis=1) for w in (params["hidden"]["kernel"], teacher))
    return jnp.mean((said - wanted) ** 2) / 2


def train(params, first, rate, steps=500):
    """Adam, and what stands before it, with a rate that decays to zero."""
    optimizer = optax.chain(first, optax.adam(optax.cosine_decay_schedule(rate, steps)))

    def step(carry, key):
        params, state = carry
        grads = jax.grad(loss)(params, jax.random.normal(key, (64, 30)))
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


many = jax.random.normal(jax.random.key(2), (4096, 30))
rates = (0.03, 0.06, 0.12)


def best(first):
    """The parameters at the best of the rates."""
    return min((train(params, first, rate) for rate in rates), key=lambda p: loss(p, many))


plain = best(optax.identity())
grads = jax.grad(loss)(plain, many)
layer = metrics.report(plain, grads=grads)["hidden/kernel"]
common = layer.common_mode  # what all gradients share
cos_w = layer.weight_correlation  # mean |cos| between the weights
cos_g = metrics.report(grads)["hidden/kernel"].weight_correlation  # the same of the gradients
print(f"common share {common:.2f}, cosines of gradients {cos_g:.2f}, of weights {cos_w:.2f}")

if common >= 0.4 and cos_g >= 0.3:  # worth a search, and the rate is tuned anew
    soft = best(kinopt.soft_collision(0.7, normalize=True, alike="gradients"))
    print(f"error: plain {loss(plain, many):.1e}, soft {loss(soft, many):.1e}")
