"""Flax nnx: the loss goes through `Optimizer.update`, for those that ask for it.

`nnx.Optimizer` hands `value=` on as it is. A collision alone needs none.
"""

import jax.numpy as jnp
from flax import nnx

import kinopt

model, x = nnx.Linear(3, 1, rngs=nnx.Rngs(0)), jnp.eye(3)
optimizer = nnx.Optimizer(model, kinopt.bbi(0.1), wrt=nnx.Param)


@nnx.jit
def step(model, optimizer):
    """One step of training."""
    loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(x) - 1) ** 2))(model)
    optimizer.update(model, grads, value=loss)
    return loss


losses = [float(step(model, optimizer)) for _ in range(100)]
