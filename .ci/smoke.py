"""The installed package by itself: run in an environment that has nothing but it."""

import importlib.metadata
import importlib.util
import pathlib
import sys

import jax.numpy as jnp
import optax

import kinopt

package = pathlib.Path(kinopt.__file__).parent
assert package.is_relative_to(sys.prefix), f"{package} is not the installed one"
assert kinopt.__version__ == importlib.metadata.version("kinopt")
assert (package / "py.typed").exists()
assert not any(map(importlib.util.find_spec, ("flax", "matplotlib", "benchmarks", "tests")))

params = {"head": jnp.array([[1.0, 1.0], [0.0, 0.1]])}
grads = {"head": jnp.array([[1.0, 1.0], [0.0, 0.0]])}
soft = optax.chain(kinopt.soft_collision(0.1), optax.sgd(1.0))
updates, state = soft.update(grads, soft.init(params), params)
assert abs(kinopt.collision_stats(state)["head"].gain - 0.1995) < 1e-3

x = jnp.array([1.0, -2.0])
bbi = kinopt.bbi(0.1)
update, state = bbi.update(2 * x, bbi.init(x), x, value=jnp.sum(x**2))
assert jnp.sum((x + update) ** 2) < jnp.sum(x**2)
assert kinopt.ecd_stats(state).energy == 5
print(f"kinopt {kinopt.__version__} works from {package}")
