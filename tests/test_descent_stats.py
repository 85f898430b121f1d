"""What is shown of a descent: how it prints, and what it says of the order of a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kinopt

X = jnp.array([3.0, 4.0])


def _after_one(tx):
    state = tx.init(X)
    return tx.update(2 * X, state, X, value=jnp.sum(X**2))[1]


def test_it_prints_one_short_line_for_each_field():
    stats = kinopt.ecd_stats(_after_one(kinopt.bbi(0.1)))
    lines = repr(stats).splitlines()
    assert str(stats) == repr(stats)
    assert (lines[0], lines[-1]) == ("ECDStats(", ")")
    assert [line.split("=")[0].strip() for line in lines[1:-1]] == list(stats._fields)
    assert "  speed=0.9806" in lines
    assert max(map(len, lines)) < 30


def test_it_prints_several_and_traced_ones():
    tx = kinopt.bbi(0.1)
    update = jax.vmap(lambda v: tx.update(X, tx.init(X), value=v)[1])
    few, many = (repr(kinopt.ecd_stats(update(jnp.arange(1.0, n)))) for n in (9, 10))
    assert "energy=[1, 2, 3, 4, 5, 6, 7, 8]" in few
    assert "energy=[1, 2, 3, 4, 5, 6, 7, 8, ...]" in many
    seen = []
    jax.jit(lambda v: seen.append(repr(kinopt.ecd_stats(update(v)))))(jnp.ones(3))
    assert "energy=float32[3]" in seen[0]


def test_it_is_a_tuple_of_arrays_in_and_out_of_jit():
    state = _after_one(kinopt.bbi(0.1))
    stats = jax.jit(kinopt.ecd_stats)(state)
    assert isinstance(stats, kinopt.ECDStats)
    assert all(isinstance(leaf, jax.Array) for leaf in stats)
    jax.tree.map(np.testing.assert_array_equal, stats, kinopt.ecd_stats(state))


bbi = kinopt.bbi(0.1)
AFTER = {
    "adam": optax.chain(bbi, optax.adam(0.1)),
    "adamw": optax.chain(bbi, optax.adamw(0.1)),
    "rmsprop": optax.chain(bbi, optax.rmsprop(0.1)),
    "momentum": optax.chain(bbi, optax.trace(0.9)),
    "average": optax.chain(bbi, optax.ema(0.9)),
    "noise": optax.chain(bbi, optax.add_noise(0.1, 0.5, 0)),
    "schedule": optax.chain(bbi, optax.scale_by_learning_rate(optax.constant_schedule(0.1))),
    "injected": optax.chain(bbi, optax.inject_hyperparams(optax.scale)(0.5)),
    "plateau": optax.chain(bbi, optax.contrib.reduce_on_plateau()),
    "collision": optax.chain(bbi, kinopt.soft_collision(0.1)),
    "deep": optax.chain(optax.chain(bbi, optax.identity()), optax.chain(optax.adam(0.1))),
    "masked": optax.chain(optax.masked(bbi, True), optax.masked(optax.adam(0.1), True)),
    "in masked": optax.masked(optax.chain(bbi, optax.adam(0.1)), True),
    "in partition": optax.partition({"a": optax.chain(bbi, optax.adam(0.1))}, "a"),
}


@pytest.mark.parametrize("name", AFTER)
def test_what_changes_the_update_after_a_descent_is_found(name):
    with pytest.raises(ValueError, match=r"after an energy-conserving.*Put the descent last"):
        kinopt.ecd_stats(AFTER[name].init(X))


BEFORE = {
    "alone": bbi,
    "clip": optax.chain(optax.clip(1.0), bbi),
    "noise": optax.chain(optax.add_noise(0.1, 0.5, 0), bbi),
    "adam": optax.chain(optax.scale_by_adam(), bbi),
    "identity": optax.chain(bbi, optax.identity()),
    "masked": optax.masked(bbi, True),
    "accumulated": optax.MultiSteps(bbi, 2),
    "injected": optax.inject_hyperparams(kinopt.bbi, static_args=kinopt.static_args(kinopt.bbi))(
        0.1
    ),
    "beside": optax.partition({"a": optax.adam(0.1), "b": bbi}, "b"),
    "finite": optax.apply_if_finite(bbi, 3),
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_comes_before_or_beside_is_not(name):
    assert int(kinopt.ecd_stats(BEFORE[name].init(X)).num_skipped) == 0
