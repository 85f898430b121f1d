"""The minimizations of `speed.lanes` are Optimistix's own, stepped by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest

from benchmarks.speed.lanes import rosenbrock


@pytest.mark.slow
def test_a_loop_by_hand_ends_where_the_solver_does():
    loop, keys = rosenbrock(), jax.random.split(jax.random.key(0), 12)

    def step(walk):
        carry, outcome = loop.step(walk[0])
        return carry, outcome.astype(jnp.int32), walk[2] + 1

    def ended(key):
        """Not in lanes, whose rounding may send a steep valley elsewhere."""
        start = loop.init(key), jnp.zeros((), jnp.int32), 0
        return jax.lax.while_loop(lambda walk: (walk[1] == 0) & (walk[2] < 1000), step, start)

    carry, outcome, num_steps = jax.jit(jax.vmap(ended))(keys)
    assert outcome.tolist() == [1] * 12
    assert num_steps.max() > 3 * num_steps.min()
    solver = optimistix.BFGS(rtol=1e-4, atol=1e-6)

    def loss(y, steepness):
        return jnp.sum(steepness * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)

    for n in range(3):
        y, steepness, _ = loop.init(keys[n])
        found = optimistix.minimise(loss, solver, y, steepness, max_steps=1000, throw=False)
        assert abs(int(found.stats["num_steps"]) - int(num_steps[n])) <= 2
        np.testing.assert_allclose(carry[0][n], found.value, atol=1e-3)
