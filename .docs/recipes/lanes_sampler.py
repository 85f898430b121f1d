"""A sampler's warm-up, for every chain as long as it needs: until its acceptance is right.

Random-walk Metropolis on densities of unlike widths. A chain adapts its step size, and is done when
its mean acceptance has stayed near 0.44 for a while.
"""

import jax
import jax.numpy as jnp

import kinopt

AIM, NEAR = 0.44, 0.02


def init(key):
    """A chain: its width, place, step size, mean acceptance, and for how long that was right."""
    width, key = jax.random.split(key)
    return {
        "key": key,
        "width": 10 ** jax.random.uniform(width, minval=-2.0, maxval=2.0),
        "x": jnp.zeros(()),
        "log_size": jnp.zeros(()),
        "accepted": jnp.zeros(()),
        "steady": 0,
    }


def step(chain):
    """A proposal, and a smaller or larger step size after it."""
    key, propose, accept = jax.random.split(chain["key"], 3)
    new = chain["x"] + jnp.exp(chain["log_size"]) * jax.random.normal(propose)
    log_ratio = (chain["x"] ** 2 - new**2) / (2 * chain["width"] ** 2)
    probability = jnp.exp(jnp.minimum(0.0, log_ratio))
    accepted = 0.99 * chain["accepted"] + 0.01 * probability
    steady = jnp.where(abs(accepted - AIM) < NEAR, chain["steady"] + 1, 0)
    chain = {
        "key": key,
        "width": chain["width"],
        "x": jnp.where(jax.random.uniform(accept) < probability, new, chain["x"]),
        "log_size": chain["log_size"] + 0.05 * (probability - AIM),
        "accepted": accepted,
        "steady": steady,
    }
    return chain, steady >= 50


warm = kinopt.lanes.run(step, init, jax.random.split(jax.random.key(0), 500), num_steps=20_000)
sizes = jnp.exp(warm.carry["log_size"]) / warm.carry["width"]
print(f"steps: {warm.num_steps.min()} to {warm.num_steps.max()}")
print(f"step size, in widths: {sizes.mean():.1f} ± {sizes.std():.1f}")
