"""Thousands of seeds: each to its own end, with a stop rule.

Seeds that end make room for those that wait, on every core, or with `mesh=` on every device; what
becomes of a seed does not depend on how many run, or where. Any Optax optimizer will do.
"""

import jax
import jax.numpy as jnp

import kinopt

landscape = kinopt.landscapes.two_basins()
hessians = jax.vmap(jax.hessian(landscape.fn))(jnp.asarray(landscape.minimizers, jnp.float32))


def bbi(key):
    """The optimizer of a seed."""
    return kinopt.bbi(1e-2, f_min=1e-3, fixed_bounce_every=20, patience=750, key=key)


result = kinopt.ensemble.run(
    landscape.fn,
    bbi,
    jnp.array([10.0, -10.0]),
    jax.random.split(jax.random.key(0), 200),
    num_steps=25_000,
    stop=kinopt.basins.quadratic_basins(landscape.minimizers, hessians),
)
found = kinopt.basins.statistics(result.outcome, num_basins=2)
predicted = kinopt.theory.basin_ratio(*hessians)  # by volume; see the results for what it predicts
print(f"{found.ratio:.2f}, 95 % in {found.ratio_interval}; volume {predicted:.2f}")
