"""The experiment on minibatches: Eq. 48, Eq. 49, and diffusion."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.bbi import stochastic

SETTINGS = dataclasses.replace(
    stochastic.PRESETS["smoke"], num_seeds=8, duration=200.0, burn_in=20.0, num_steps=1000
)


def test_batches_have_the_mean_and_the_spread_they_say():
    batches = SETTINGS.batches
    bottoms = jax.vmap(batches.draw)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(np.std(bottoms, axis=0), batches.spread, rtol=0.03)
    correlation = np.corrcoef(np.asarray(bottoms).T)[0, 1]
    assert correlation == pytest.approx(batches.correlation, abs=0.03)
    theta = jnp.array([0.5, -1.0])
    mean = jnp.mean(jax.vmap(lambda bottom: batches.value(theta, bottom))(bottoms))
    assert float(mean) == pytest.approx(float(batches.full(theta)), rel=0.02)


@pytest.mark.slow
def test_the_energy_is_restored_by_the_factor_of_eq_48():
    """To second order in the time step: half of it leaves a quarter of the error."""
    wide, narrow = (stochastic.energy(SETTINGS, dt) for dt in (0.1, 0.05))
    assert wide["median_factor"] > 0.05
    assert narrow["median_error"] < 1e-3 < wide["median_error"]
    assert wide["median_error"] / narrow["median_error"] == pytest.approx(4, abs=1.2)
    assert wide["median_drift"] > 0.1


def test_the_second_relation_has_the_coefficient_of_the_algorithm():
    row = stochastic.steady_state(SETTINGS, 0.1)
    coefficient, error = row["q_00"]
    assert error < 0.03
    assert abs(coefficient - 0.5) < 4 * error
    assert abs(coefficient - 0.25) > 4 * error
    # The first relation holds once the turning by the rescaling is counted.
    difference, error = row["with_rescaling"]
    assert abs(difference) < 4 * error


def test_the_walk_of_sgd_is_that_of_a_plain_loop():
    batches = SETTINGS.shallow
    method = stochastic._methods(SETTINGS)["SGD with momentum"]

    def look(theta, bottom, value, gradient, state, moved, moved_state):
        return bottom, moved

    key = jax.random.key(3)
    walk = stochastic.walk(method.build(0.1, 0.9, key), batches, jnp.ones(2), key, 50, look)
    bottoms, path = map(np.asarray, walk)
    theta, momentum = np.ones(2), np.zeros(2)
    for bottom, found in zip(bottoms, path, strict=True):
        momentum = 0.9 * momentum + np.array(batches.curvature) * (theta - bottom)
        theta = theta - 0.1 * momentum
        np.testing.assert_allclose(found, theta, rtol=1e-4, atol=1e-5)
