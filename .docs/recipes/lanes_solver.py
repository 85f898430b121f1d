"""Thousands of solves: any step-by-step solver in lanes, here Optimistix's BFGS.

Each goes on until the solver says that it has converged; its lane takes up the next one then. A
`vmap` of the whole solve would go on until the slowest has converged.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix

import kinopt

solver = optimistix.BFGS(rtol=1e-4, atol=1e-6)
fixed = {}, jax.ShapeDtypeStruct((), jnp.float32), None, frozenset()


def rosenbrock(y, steepness):
    """The value, and no auxiliary output."""
    return steepness * (y[1] - y[0] ** 2) ** 2 + (1 - y[0]) ** 2, None


def begin(key):
    """A start and a steepness of its own for each seed, and the solver's state."""
    one, two = jax.random.split(key)
    y, steepness = jax.random.normal(one, (2,)), 10 ** jax.random.uniform(two, maxval=4.0)
    return y, steepness, solver.init(rosenbrock, y, steepness, *fixed)


# A carry is of arrays; what else is in the state is the same at every step.
state = eqx.filter_eval_shape(begin, jax.random.key(0))[2]
rest = eqx.filter(state, lambda x: isinstance(x, jax.ShapeDtypeStruct), inverse=True)


def init(key):
    """The first carry."""
    y, steepness, state = begin(key)
    return y, steepness, eqx.filter(state, eqx.is_array)


def step(carry):
    """A step of the solver; 1 once it has converged, 2 where it failed."""
    y, steepness, arrays = carry
    state = eqx.combine(arrays, rest)
    y, state, _ = solver.step(rosenbrock, y, steepness, {}, state, frozenset())
    done, result = solver.terminate(rosenbrock, y, steepness, {}, state, frozenset())
    outcome = jnp.where(result == optimistix.RESULTS.successful, jnp.where(done, 1, 0), 2)
    return (y, steepness, eqx.filter(state, eqx.is_array)), outcome


result = kinopt.lanes.run(step, init, jax.random.split(jax.random.key(0), 500), num_steps=500)
found = result.carry[0][result.outcome == 1]
print(f"{len(found)} of 500 at {found.mean(axis=0)}, after at most {result.num_steps.max()} steps")
