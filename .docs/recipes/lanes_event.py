"""A simulation until an event: who gets out of a potential well, and when.

Each particle diffuses until it has crossed one of two barriers; the outcome says which.
"""

import jax
import jax.numpy as jnp

import kinopt

DT, TEMPERATURE = 0.01, 0.5


def force(x):
    """Of the well x^2/2 - x^3/10, whose right side is lower."""
    return -x + 0.3 * x**2


def init(key):
    """A particle at rest, with its generator."""
    return {"x": jnp.zeros(()), "time": jnp.zeros(()), "key": key}


def step(particle):
    """Euler and Maruyama's step; 1: out on the left, 2: on the right."""
    key, now = jax.random.split(particle["key"])
    noise = jnp.sqrt(2 * TEMPERATURE * DT) * jax.random.normal(now)
    x = particle["x"] + DT * force(particle["x"]) + noise
    outcome = jnp.where(x < -2, 1, jnp.where(x > 2, 2, 0))
    return {"x": x, "time": particle["time"] + DT, "key": key}, outcome


result = kinopt.lanes.run(step, init, jax.random.split(jax.random.key(0), 500), num_steps=100_000)
time, right = result.carry["time"], result.outcome == 2
print(f"out after {time.mean():.1f} ± {time.std():.1f}, {right.mean():.0%} on the right")
