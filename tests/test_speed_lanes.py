"""The minimizations of `speed.lanes` are Optimistix's own, stepped by hand."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optimistix

from benchmarks.speed.lanes import rosenbrock
from kinopt import lanes


def test_a_loop_by_hand_ends_where_the_solver_does():
    loop, keys = rosenbrock(), jax.random.split(jax.random.key(0), 12)
    result = inspect.unwrap(lanes.run)(loop.step, loop.init, keys, num_steps=1000)
    assert result.outcome.tolist() == [1] * 12
    assert result.num_steps.max() > 3 * result.num_steps.min()
    solver = optimistix.BFGS(rtol=1e-4, atol=1e-6)

    def loss(y, steepness):
        return jnp.sum(steepness * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)

    for n in range(3):
        y, steepness, _ = loop.init(keys[n])
        found = optimistix.minimise(loss, solver, y, steepness, max_steps=1000, throw=False)
        assert abs(int(found.stats["num_steps"]) - int(result.num_steps[n])) <= 2
        np.testing.assert_allclose(result.carry[0][n], found.value, atol=1e-3)
