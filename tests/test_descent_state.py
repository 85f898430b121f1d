"""What a descent does at the edges: bad numbers, the end, odd parameters, narrow types, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kinopt
from tests.descents import rosenbrock, run, zakharov


def bowl(x):
    return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(x))


@functools.cache
def compiled(**settings):
    """A descent with few bounces and its jitted update; shared, since compiling takes longest."""
    tx = kinopt.bbi(0.05, **settings)
    return tx, jax.jit(lambda gradient, state, value: tx.update(gradient, state, value=value))


def assert_identical(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


X = jnp.array([1.0, -2.0, 0.5])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_a_bad_step_changes_nothing_and_is_forgotten(bad, where):
    """Before the first step, and on a step that is due to bounce."""
    tx, update = compiled(extra_energy=1.0, fixed_bounce_every=3)
    x, state = X, tx.init(X)
    x_clean, clean = X, tx.init(X)
    for n in range(8):
        value, gradient = jax.value_and_grad(bowl)(x)
        if n in (0, 3):
            spoilt = gradient.at[1].set(bad) if where == "gradient" else gradient
            displacement, after = update(spoilt, state, bad if where == "value" else value)
            np.testing.assert_array_equal(displacement, 0)
            assert_identical(after._replace(num_skipped=state.num_skipped), state)
            assert int(after.num_skipped) == int(state.num_skipped) + 1
            state = after
        displacement, state = update(gradient, state, value)
        x = optax.apply_updates(x, displacement)
        value, gradient = jax.value_and_grad(bowl)(x_clean)
        displacement, clean = update(gradient, clean, value)
        x_clean = optax.apply_updates(x_clean, displacement)
    np.testing.assert_array_equal(x, x_clean)
    assert_identical(state._replace(num_skipped=clean.num_skipped), clean)
    assert (int(state.num_skipped), int(state.num_bounces)) == (2, 1)


def test_frozen_at_the_end_and_moving_again():
    tx, update = compiled(f_min=1.0)
    state = tx.init(X)
    for halted, value in enumerate([1.0, 0.5], start=1):  # the first update included
        displacement, state = update(X, state, value)
        np.testing.assert_array_equal(displacement, 0)
        assert int(state.num_halted) == halted
        assert int(state.count) == halted
    displacement, state = update(X, state, 3.0)
    assert float(state.energy) == 2.0  # of the first step that moves
    assert (displacement != 0).all()
    momentum = np.asarray(state.momentum)
    displacement, state = update(X, state, 0.5)
    np.testing.assert_array_equal(displacement, 0)
    np.testing.assert_array_equal(state.momentum, momentum)
    displacement, state = update(X, state, 2.5)
    assert (displacement != 0).all()
    assert int(state.num_halted) == 3


def test_a_batch_above_the_energy_stops_the_particle():
    """V > E: Pi = 0, then a fall from rest with V clamped to E, so -dt^2 grad; counted."""
    tx, update = compiled()
    state = tx.init(X)
    _, state = update(X, state, 2.0)
    assert float(state.energy_error) == 0  # a start out of nothing is no error
    _, state = update(X, state, 1.0)
    assert float(state.momentum_sq) > 1
    displacement, state = update(X, state, 50.0)
    np.testing.assert_allclose(displacement, -(0.05**2) * X, rtol=1e-6)
    assert int(kinopt.ecd_stats(state).num_clamped) == 1
    assert float(state.energy) == 2.0
    displacement, state = update(0 * X, state, 50.0)  # no slope either: nothing, and no NaN
    np.testing.assert_array_equal(displacement, 0)
    displacement, state = update(X, state, 1.0)  # and off again, along minus the gradient
    np.testing.assert_allclose(displacement / displacement[0], X / X[0], rtol=1e-6)
    assert float(displacement @ X) < 0
    assert (int(state.num_clamped), float(state.energy_error)) == (2, 0)
    _, state = update(X * jnp.nan, state, 50.0)  # passed over, so nothing was clamped
    assert (int(state.num_clamped), int(state.num_skipped)) == (2, 1)


def test_energy_is_kept_across_minibatches():
    """Eq. 48: |Pi|^2 before the kick is q(V, E) whatever the batch did to V."""
    tx, update = compiled(extra_energy=1.0)
    state = tx.init(X)
    flat = jnp.full_like(X, 1e-30)  # no slope to speak of: the kick changes nothing
    for value in [2.0, 0.1, 1.7, 0.01, 2.5]:
        _, state = update(flat, state, value)
        np.testing.assert_allclose(state.energy, 3.0)
        np.testing.assert_allclose(state.momentum_sq, 9 / value - value, rtol=1e-5)


def test_first_momentum_has_the_norm_of_all_leaves_together():
    """Eq. 14, for a tree and for the same numbers in one leaf."""
    tx = kinopt.bbi(0.1, extra_energy=2.0)
    whole = jnp.array([3.0, -1.0, 2.0, 0.5])
    tree = {"a": whole[:1], "b": [whole[1:3], None], "c": whole[3]}
    one, _ = tx.update(2 * whole, tx.init(whole), value=1.5)
    several, state = tx.update(jax.tree.map(lambda x: 2 * x, tree), tx.init(tree), value=1.5)
    together = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(several)])
    np.testing.assert_allclose(together, one, rtol=1e-6)
    before_kick = np.sqrt(3.5**2 / 1.5 - 1.5)
    kick = 0.1 * (1.5 / 3.5 + 3.5 / 1.5) / 2 * np.linalg.norm(2 * whole)
    np.testing.assert_allclose(np.sqrt(state.momentum_sq), before_kick + kick, rtol=1e-6)


def test_zero_first_gradient_takes_a_random_direction():
    tx, update = compiled(extra_energy=1.0)
    displacement, state = update(0 * X, tx.init(X), 2.0)
    np.testing.assert_allclose(state.momentum_sq, 9 / 2 - 2, rtol=1e-6)
    assert (displacement != 0).all()
    tx, update = compiled()  # without extra energy there is nothing to move with
    displacement, state = update(0 * X, tx.init(X), 2.0)
    np.testing.assert_array_equal(displacement, 0)
    assert np.isfinite(float(state.momentum_sq))


def test_random_first_direction_differs_with_the_key():
    firsts = []
    for key in (0, 1, jax.random.key(0), jax.random.key_data(jax.random.key(0))):
        tx = kinopt.bbi(0.1, extra_energy=1.0, initial_direction="random", key=key)
        firsts.append(np.asarray(tx.update(0 * X, tx.init(X), value=2.0)[0]))
    assert not np.allclose(firsts[0], firsts[1])
    np.testing.assert_array_equal(firsts[0], firsts[2])
    np.testing.assert_array_equal(firsts[0], firsts[3])


def test_odd_leaves():
    """None, integers (float0 gradients), 0-d, empty, one entry."""
    params = {
        "integer": jnp.arange(3),
        "none": None,
        "scalar": jnp.float32(2),
        "empty": jnp.zeros((0, 2)),
        "one": jnp.ones(1),
    }
    loss = lambda p: p["scalar"] ** 2 + jnp.sum(p["one"] ** 2)  # noqa: E731
    tx = kinopt.bbi(0.1, extra_energy=1.0, fixed_bounce_every=2)
    state = tx.init(params)
    value, gradient = jax.value_and_grad(loss, allow_int=True)(params)
    assert gradient["integer"].dtype == jax.dtypes.float0
    for _ in range(4):
        updates, state = tx.update(gradient, state, params, value=value)
        moved = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(moved["integer"], params["integer"])
        assert moved["integer"].dtype == params["integer"].dtype
    assert int(state.num_bounces) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state.momentum)))


def test_one_parameter_descends():
    tx = kinopt.bbi(0.05, fixed_bounce_every=30)
    _, (_, values) = run(tx, lambda x: x**2, jnp.float32(2.0), 600)
    assert values[-1] < 1e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_narrow_types_keep_scalars_wide_and_finite(dtype):
    x = jnp.array([1.0, -2.0], dtype)
    tx = kinopt.bbi(0.05, fixed_bounce_every=20)
    (x, state), (_, values) = run(tx, bowl, x, 300)
    assert state.energy.dtype == state.momentum_sq.dtype == jnp.float32
    assert state.momentum.dtype == x.dtype == jnp.dtype(dtype)
    assert np.isfinite(np.asarray(values)).all()
    assert np.isfinite(np.asarray(state.momentum, np.float32)).all()
    assert int(state.num_skipped) == 0
    assert values[-1] < 0.05 * values[0]
    norm = float(jnp.sum(state.momentum.astype(jnp.float32) ** 2))
    np.testing.assert_allclose(state.momentum_sq, norm, rtol=1e-5)


def test_float32_ends_in_the_frozen_state_and_without_nan():
    """eps2 = 1e-40 is zero in float32: the end is where |Pi|^2 = E^2/V would overflow."""
    tx = kinopt.bbi(2.6e-3, **{"fixed_bounce_every": None, "patience": None})
    (x, state), (_, values) = run(tx, zakharov, -jnp.ones(10, jnp.float32), 20_000)
    assert np.isfinite(np.asarray(values)).all()
    assert values[-1] < 1e-22
    assert int(state.num_skipped) == 0
    assert np.isfinite(float(state.momentum_sq))
    del x


def test_mu_dtype():
    tx = kinopt.bbi(0.1, mu_dtype=jnp.bfloat16)
    state = tx.init(X)
    assert state.momentum.dtype == jnp.bfloat16
    updates, state = tx.update(X, state, value=1.0)
    assert (updates.dtype, state.momentum.dtype) == (X.dtype, jnp.bfloat16)


def test_schedule_of_the_step():
    """The first displacement from rest is -dt^2 grad, with dt of that step."""
    tx = kinopt.bbi(lambda count: 0.1 / (1 + count))
    state = tx.init(X)
    updates, state = tx.update(X, state, value=1.0)
    np.testing.assert_allclose(updates, -(0.1**2) * X, rtol=1e-6)
    updates, _ = tx.update(X, state._replace(momentum_sq=0 * state.momentum_sq), value=1.0)
    assert float(jnp.linalg.norm(updates)) < 0.06


def _primitives(jaxpr, inside=()):
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        yield name, inside
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _primitives(inner, (*inside, name))


@pytest.mark.parametrize("integrator", ["paper", "leapfrog"])
def test_directions_are_drawn_under_a_condition(integrator):
    tx = kinopt.bbi(0.1, integrator=integrator)
    state = tx.init(X)
    jaxpr = jax.make_jaxpr(lambda g, s, v: tx.update(g, s, value=v))(X, state, 1.0)
    draws = [inside for name, inside in _primitives(jaxpr.jaxpr) if name == "erf_inv"]
    assert draws
    assert all("cond" in inside for inside in draws)


def test_under_vmap_members_are_on_their_own():
    """One member's NaN or bounce is no other's; equal to the loop bit for bit."""
    tx, update = compiled(extra_energy=1.0, fixed_bounce_every=2)
    members = [X, 2 * X, -X]
    states = [tx.init(x) for x in members]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together = jax.jit(jax.vmap(lambda g, s, v: tx.update(g, s, value=v)))
    for n in range(4):
        values = [jnp.float32(2.0), jnp.float32(jnp.nan if n == 1 else 3.0), jnp.float32(1.0)]
        updates, stacked = together(jnp.stack(members), stacked, jnp.stack(values))
        for m, state in enumerate(states):
            alone, states[m] = update(members[m], state, values[m])
            np.testing.assert_allclose(updates[m], alone, rtol=1e-6)
    np.testing.assert_array_equal(stacked.num_bounces, [1, 1, 1])
    np.testing.assert_array_equal(stacked.num_skipped, [0, 1, 0])


class TestErrors:
    def test_value_is_missing(self):
        tx = kinopt.bbi(0.1)
        with pytest.raises(ValueError, match="value=loss"):
            tx.update(X, tx.init(X), X)

    def test_value_is_not_scalar(self):
        tx = kinopt.bbi(0.1)
        with pytest.raises(ValueError, match="scalar loss"):
            tx.update(X, tx.init(X), X, value=jnp.ones(3))

    def test_gradients_of_another_structure(self):
        tx = kinopt.bbi(0.1)
        with pytest.raises(ValueError, match="structure"):
            tx.update({"a": X}, tx.init({"b": X}), value=1.0)
        with pytest.raises(ValueError, match="shapes"):
            tx.update(X[:1], tx.init(X), value=1.0)

    def test_an_optimizer_after_it(self):
        tx = optax.chain(kinopt.bbi(0.1), optax.adam(0.1))
        with pytest.raises(ValueError, match=r"ScaleByAdamState.*Put the descent last"):
            kinopt.ecd_stats(tx.init(X))

    def test_stats_of_something_else(self):
        with pytest.raises(ValueError, match="found 0"):
            kinopt.ecd_stats(optax.sgd(0.1).init(X))
        two = optax.chain(kinopt.bbi(0.1), kinopt.bbi(0.1))
        with pytest.raises(ValueError, match="found 2"):
            kinopt.ecd_stats(two.init(X))


def test_names_occur_once_in_the_state():
    state = kinopt.bbi(0.1, adapt_f_min=True).init({"w": X})
    for name in (*kinopt.ECDStats._fields, "count", "momentum", "f_min", "key"):
        assert optax.tree.get(state, name) is not None


def test_bounces_change_the_direction_and_not_the_length():
    tx, update = compiled(extra_energy=1.0, fixed_bounce_every=3)
    state = tx.init(X)
    for _ in range(3):
        _, state = update(X, state, 2.0)
    before = np.asarray(state.momentum)
    displacement, state = update(X, state, 2.0)
    after = np.asarray(state.momentum)
    np.testing.assert_array_equal(displacement, 0)
    np.testing.assert_allclose(np.linalg.norm(after), np.linalg.norm(before), rtol=1e-6)
    assert abs(after @ before) < 0.999 * (before @ before)
    assert int(state.num_bounces) == 1


def test_rosenbrock_in_float32():
    _, (_, values) = run(kinopt.bbi(2e-3), rosenbrock, jnp.array([-1.2, 1.0]), 20_000)
    assert values[-1] < 1e-6
