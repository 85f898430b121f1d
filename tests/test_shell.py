"""The energy shell at its borders, seen through the optimizers."""

import jax
import jax.numpy as jnp
import numpy as np

import kinopt
from kinopt import hamiltonians

X = jnp.array([0.6, -0.8])


def after(tx, *values):
    """The last update and the state after losses whose gradient is X."""
    state, update = tx.init(X), None
    for value in values:
        update, state = tx.update(X, state, X, value=jnp.float32(value))
    return update, state


def test_it_ends_where_v_is_eps2():
    tx = kinopt.bbi(0.05, eps2=0.25)
    update, state = after(tx, 1.0, 0.25)
    np.testing.assert_array_equal(update, 0)
    assert int(state.num_halted) == 1
    update, state = after(tx, 1.0, np.nextafter(np.float32(0.25), np.float32(1)))
    assert np.all(update != 0)
    assert int(state.num_halted) == 0


def test_a_first_step_that_rounding_puts_above_the_energy_is_not_clamped():
    """From rest q(V, E(V)) = 0, give or take: at some of these losses it is below."""
    values = jnp.linspace(0.1, 10, 5000)
    h = hamiltonians.separable(0.3)
    assert np.any(jax.vmap(lambda v: h.momentum_sq(v, h.start(v, jnp.zeros(()))))(values) < 0)
    tx = kinopt.ecdsep(0.05, s=0.3)
    state = jax.vmap(lambda value: tx.update(X, tx.init(X), X, value=value)[1])(values)
    np.testing.assert_array_equal(state.num_clamped, 0)


def test_the_search_for_f_min_starts_with_a_part_of_all_the_energy():
    """1e-3 of the ceiling, 3 + 2, above f_min = 1; from then on E = 5 - f_min."""
    tx = kinopt.bbi(0.05, f_min=1.0, adapt_f_min=True, extra_energy=2.0)
    _, state = after(tx, 3.0)
    np.testing.assert_allclose(state.bracket.gap, 4e-3, rtol=1e-5)
    _, state = after(tx, 3.0, 1.0)  # reached: f_min falls to 1 - 2 * 4e-3
    np.testing.assert_allclose(state.f_min, 1 - 8e-3, rtol=1e-6)
    np.testing.assert_allclose(state.energy, 4 + 8e-3, rtol=1e-6)
