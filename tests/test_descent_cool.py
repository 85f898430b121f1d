"""Annealing the drift alone, and decoupled decay, against a loop over numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kinopt
from tests import trajectory

CURVATURES = np.array([1.0, 3.0, 0.5])
START = (1.0, -2.0, 0.5)


def loss(x):
    return jnp.sum(jnp.asarray(CURVATURES) * x**2) / 2


def descend(tx, steps):
    points, states = trajectory.descend(tx, steps, loss, START)
    return points, states[-1]


def by_hand(rates, cool, decay):
    """Algorithm 1 without bounces; Delta t of the kick is the first one where it is cooled."""
    theta, pi, energy, points = np.array(START), np.zeros(3), None, [np.array(START)]
    for rate in rates:
        v, g = float(np.sum(CURVATURES * theta**2) / 2), CURVATURES * theta
        energy = v if energy is None else energy
        found, asked = float(pi @ pi), energy**2 / v - v
        if abs(found - asked) >= 1e-10 and found > 0:
            pi = pi * np.sqrt(asked / found)
        pi = pi - (rates[0] if cool else rate) * (v / energy + energy / v) / 2 * g
        theta = theta + rate * v / energy * pi - decay * rate / rates[0] * theta
        points.append(theta)
    return np.array(points)


@pytest.mark.parametrize(("cool", "decay"), [(True, 0.0), (False, 0.05), (True, 0.05)])
def test_the_step_written_out(cool, decay):
    schedule = optax.linear_schedule(0.125, 0.0, 32)  # exact in float32
    points, state = descend(kinopt.bbi(schedule, cool=cool, weight_decay=decay), 20)
    with jax.enable_x64(True):
        rates = [float(schedule(jnp.asarray(n))) for n in range(20)]
    np.testing.assert_allclose(points, by_hand(rates, cool, decay), rtol=0, atol=1e-9)
    assert kinopt.ecd_stats(state).num_bounces == 0


@pytest.mark.parametrize(
    "factory", [kinopt.bbi, kinopt.ecdsep, lambda *a, **b: kinopt.ecd(*a, extra_energy=1.0, **b)]
)
def test_at_a_constant_rate_nothing_is_cooled(factory):
    plain, _ = descend(factory(0.1), 12)
    cooled, _ = descend(factory(0.1, cool=True), 12)
    scheduled, _ = descend(factory(optax.constant_schedule(0.1), cool=True), 12)
    np.testing.assert_array_equal(cooled, plain)
    np.testing.assert_array_equal(scheduled, plain)


def test_nothing_decays_where_nothing_moves():
    x = jnp.ones(3)
    tx = kinopt.bbi(0.1, weight_decay=0.1, fixed_bounce_every=1, num_fixed_bounces=None)
    state = tx.init(x)
    moved, state = tx.update(x, state, x, value=1.5)
    waiting, state = tx.update(x, state, x, value=1.5)  # Algorithm 1 takes a step for a bounce
    assert kinopt.ecd_stats(state).num_bounces == 1
    np.testing.assert_array_equal(waiting, 0)
    assert np.all(moved < -0.1)
    halted, _ = tx.update(x, state, x, value=0.0)
    np.testing.assert_array_equal(halted, 0)


def test_energy_is_restored_whatever_the_schedule_does():
    schedule = optax.cosine_decay_schedule(0.1, 40)
    for cool in (False, True):
        _, state = descend(kinopt.bbi(schedule, cool=cool, extra_energy=1.0), 30)
        with jax.enable_x64(True):
            stats = kinopt.ecd_stats(state)
            assert stats.energy == 6.5625 + 1
            assert 0 < stats.potential < stats.energy
            assert np.isfinite(stats.energy_error)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cool": 1}, TypeError, "cool must be True or False"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay"),
        ({"weight_decay": "1"}, TypeError, "weight_decay"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        kinopt.ecd.__wrapped__(0.1, **arguments)


@pytest.mark.parametrize("arguments", [{"cool": True}, {"weight_decay": 0.1}])
def test_a_schedule_must_start_above_zero(arguments):
    warmup = optax.linear_schedule(0.0, 0.1, 10)
    kinopt.bbi(warmup)
    with pytest.raises(ValueError, match="starts at 0"):
        kinopt.bbi(warmup, **arguments)


def test_decay_asks_for_the_parameters():
    x = jnp.ones(3)
    tx = kinopt.bbi(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="weight decay needs the parameters"):
        tx.update(x, tx.init(x), value=1.0)
