"""optax.inject_hyperparams: change a coefficient while training, without compiling again.

Masks, axes, keys and block sizes shape the program: `kinopt.static_args` names them.
"""

import jax
import jax.numpy as jnp
import optax

import kinopt


def build(coll_coef, learning_rate, mask):
    """The optimizer with two numbers to turn."""
    return optax.chain(kinopt.soft_collision(coll_coef, mask=mask), optax.adam(learning_rate))


optimizer = optax.inject_hyperparams(build, static_args=kinopt.static_args(build))(
    coll_coef=0.1, learning_rate=1e-2, mask="head"
)
params = {"head": jax.random.normal(jax.random.key(0), (6, 3)), "bias": jnp.zeros(3)}
state = optimizer.init(params)
step = jax.jit(optimizer.update)
grads = params
_, state = step(grads, state, params)
state.hyperparams["coll_coef"] = jnp.float32(0.0)  # off, from now on
before = state
_, state = step(grads, state, params)
assert kinopt.collision_stats(before)["head"].gain > 0
assert kinopt.collision_stats(state)["head"].gain == 0
assert step._cache_size() == 1  # compiled once
