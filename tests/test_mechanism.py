"""What collisions do to neurons that are alike, in closed form: they brake, and part nobody."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinopt
from kinopt.collisions.hard import hard_law
from kinopt.collisions.soft import soft_law

jit_soft = jax.jit(soft_law, static_argnames=("self_term", "alike"))
ALL = {"combine": "metropolis", "scatter": "gaussian"}


def cluster(copies, others, seed=0):
    """Copies of one neuron, and others that are orthogonal to it and to each other."""
    rows = np.concatenate([np.zeros(copies, int), 1 + np.arange(others)])
    w = 0.7 * np.eye(1 + others)[rows]
    return w, np.random.default_rng(seed)


@given(c=st.floats(0, 1), m=st.floats(-0.99, 0.99), self_term=st.booleans())
def test_two_copies_brake_their_common_motion_and_keep_the_relative_one(c, m, self_term):
    """M = [[1, m], [m, 1]]: the sum by 1 - c (1 + m), the difference by 1 - c (1 - m)."""
    w = jnp.array([[1.0, 2.0], [1.0, 2.0]])
    g = jnp.array([[1.0, 0.0], [m, (1 - m * m) ** 0.5]])
    after, _ = jit_soft(w, g, c, self_term=self_term)
    itself = 1.0 if self_term else 0.0
    np.testing.assert_allclose(
        after[0] + after[1], (1 - c * (itself + m)) * (g[0] + g[1]), atol=2e-5
    )
    np.testing.assert_allclose(
        after[0] - after[1], (1 - c * (itself - m)) * (g[0] - g[1]), atol=2e-5
    )


@pytest.mark.parametrize("copies", [2, 5])
def test_a_cluster_that_moves_together_is_braked_by_its_size(copies):
    """k copies: 1 - c k for what is common, 1 for what tells them apart; 1 - c for the others."""
    w, rng = cluster(copies, 4)
    together, apart = rng.normal(size=5), rng.normal(size=(copies, 5))
    apart = 1e-4 * (apart - apart.mean(axis=0))
    g = np.concatenate([together + apart, rng.normal(size=(4, 5))])
    with jax.enable_x64(True):
        after = np.asarray(jit_soft(jnp.asarray(w), jnp.asarray(g), 0.1)[0])
    mean = after[:copies].mean(axis=0)
    np.testing.assert_allclose(mean, (1 - 0.1 * copies) * together, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        after[:copies] - mean, apart, rtol=0, atol=1e-3 * np.abs(apart).max()
    )
    np.testing.assert_allclose(after[copies:], 0.9 * g[copies:], rtol=1e-12)


@pytest.mark.parametrize("alike", ["both", "gradients"])
@pytest.mark.parametrize("distance", [0.0, 1e-3, 0.1])
def test_no_force_along_the_line_between_copies(distance, alike):
    """Copies that move alike go on doing so, whatever lies between them and whoever is beside."""
    rng = np.random.default_rng(1)
    w, g = rng.normal(size=(2, 6, 8))
    w[1], g[1] = w[0] + distance * rng.normal(size=8), g[0]
    after, _ = jit_soft(jnp.asarray(w, jnp.float32), jnp.asarray(g, jnp.float32), 0.3, alike=alike)
    relative = np.asarray(after[0] - after[1])
    # Other neurons see the two of them at slightly different angles: of first order in distance.
    assert np.linalg.norm(relative) <= 2 * distance * np.linalg.norm(g[0]) + 1e-6


@pytest.mark.parametrize("alike", ["both", "gradients"])
def test_nothing_happens_at_a_stationary_point_and_to_a_row_without_gradient(alike):
    w, g = jnp.asarray(np.random.default_rng(2).normal(size=(2, 6, 8)), jnp.float32)
    w = w.at[1].set(w[0])
    np.testing.assert_array_equal(jit_soft(w, jnp.zeros_like(g), 0.3, alike=alike)[0], 0)
    after, _ = jit_soft(w, g.at[2].set(0), 0.3, alike=alike)
    np.testing.assert_array_equal(after[2], 0)


@pytest.mark.parametrize("coll_coef", [0.05, 0.2])
def test_a_larger_rate_is_stable_under_the_brake(coll_coef):
    """F = h/2 (sum_i y_i)^2 of k units (1, y_i): a step multiplies sum y by 1 - eta k h (1 - c k).

    Plain descent is stable up to eta = 2 / (k h), with collisions up to 2 / (k h (1 - c k)).
    """
    k, h = 4, 0.5

    def loss(params):
        return h / 2 * jnp.sum(params[1]) ** 2

    def growth(rate, tx):
        params = jnp.stack([jnp.ones(k), 1e-3 * jnp.ones(k)])  # [features, neurons], as in Flax
        before = jnp.sum(params[1])
        updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
        return float(jnp.sum((params - rate * updates)[1]) / before)

    largest = 2 / (k * h)
    soft = kinopt.soft_collision(coll_coef)
    for rate, tx, brake in [
        (0.99 * largest, kinopt.soft_collision(0.0), 1),
        (1.01 * largest, kinopt.soft_collision(0.0), 1),
        (0.99 * largest / (1 - coll_coef * k), soft, 1 - coll_coef * k),
        (1.01 * largest / (1 - coll_coef * k), soft, 1 - coll_coef * k),
    ]:
        factor = growth(rate, tx)
        np.testing.assert_allclose(factor, 1 - rate * k * h * brake, rtol=1e-4)
        assert (abs(factor) < 1) == (rate * brake < largest)


def test_hard_collisions_leave_copies_that_move_together_alone():
    """Eq. 7 asks for the fastest relative motion: of such copies it is zero."""
    w, g = np.random.default_rng(3).normal(size=(2, 6, 8)).astype(np.float32)
    w[1], g[1] = w[0], g[0]
    law = jax.jit(functools.partial(hard_law, restitution=0, combine="metropolis"))
    after, stats = law(w, g, jax.random.key(0), 0.999)
    assert stats.accepted_fraction > 0.5
    np.testing.assert_allclose(after[0], after[1], atol=1e-6)


@pytest.mark.parametrize("copies", [2, 5])
def test_hard_collisions_brake_what_tells_neurons_apart(copies):
    """All k of a crowd collide: the mean of G stays, the rest is braked by 1 - k / 2(k - 1)."""
    w = jnp.zeros((copies, 40))
    g = jax.random.normal(jax.random.key(1), (copies, 40))
    keys = jax.random.split(jax.random.key(2), 400)
    after, stats = jax.jit(jax.vmap(lambda key: hard_law(w, g, key, 1.0, **ALL)))(keys)
    np.testing.assert_allclose(stats.accepted_fraction, 1)
    centre = g.mean(axis=0)
    np.testing.assert_allclose(after.mean(axis=1), jnp.tile(centre, (400, 1)), atol=1e-5)
    expected = centre + (1 - copies / (2 * (copies - 1))) * (g - centre)
    error = after.std(axis=0) / np.sqrt(len(keys))
    z = (after.mean(axis=0) - expected) / error
    assert np.sqrt(np.mean(np.square(z))) < 1 + 5 / np.sqrt(2 * z.size)


def test_a_hard_collision_wakes_a_row_without_gradient():
    g = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    after, _ = jax.jit(hard_law)(jnp.zeros((2, 2)), g, jax.random.key(0), 0.5)
    np.testing.assert_allclose(after.sum(axis=0), g.sum(axis=0), atol=1e-6)
    assert jnp.linalg.norm(after[1]) > 0
