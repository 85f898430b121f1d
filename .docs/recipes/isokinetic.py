"""Steps of given length on minibatches: where to begin, and what to look at.

The first step length is a hundredth of the length of all parameters as one vector. Then two numbers
are worth a search: that length, and `eta`. `kick` says what `eta` does: far below 1 the direction
hardly turns from step to step, far above it forgets where it came from.
"""

import jax
import jax.numpy as jnp
import optax

import kinopt

keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (512, 4))
y = jnp.sin(x @ jnp.array([1.0, -2.0, 0.5, 0.0]))
params = {
    "hidden": 0.5 * jax.random.normal(keys[1], (4, 32)),
    "head": 0.2 * jax.random.normal(keys[2], (32, 1)),
}


def loss_of(params, batch):
    """Mean squared error of a layer of 32 on some of the examples."""
    error = (jnp.tanh(x[batch] @ params["hidden"]) @ params["head"])[:, 0] - y[batch]
    return jnp.mean(error**2)


steps = 400
length = 0.01 * optax.tree.norm(params)
optimizer = kinopt.isokinetic(
    optax.cosine_decay_schedule(length, steps), weight_decay=1e-3, mask="hidden"
)
state = optimizer.init(params)


@jax.jit
def step(params, state, batch):
    """One step of training; `value` is the loss that the gradient is of."""
    value, grads = jax.value_and_grad(loss_of)(params, batch)
    updates, state = optimizer.update(grads, state, params, value=value)
    return optax.apply_updates(params, updates), state


before = loss_of(params, slice(None))
for n in range(steps):
    params, state = step(params, state, jax.random.randint(jax.random.key(n), (64,), 0, len(x)))
stats = kinopt.ecd_stats(state)
assert loss_of(params, slice(None)) < 0.3 * before
assert stats.kick > 0
assert stats.num_clamped == stats.num_skipped == 0
