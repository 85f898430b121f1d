"""A descent under a diagonal metric: that of other coordinates, and what scales are learnt."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kinopt

SCALES = {"w": jnp.array([[0.5, 2.0, 1.0], [3.0, 0.25, 1.5]]), "b": jnp.array([0.1, 4.0, 1.0])}
START = {"w": jnp.array([[1.0, -2.0, 0.5], [0.3, 1.1, -0.7]]), "b": jnp.array([0.2, -0.4, 0.9])}


def loss(theta):
    return jnp.sum(jnp.cosh(theta["w"] + theta["b"])) + jnp.sum(jnp.square(theta["w"]))


def path(tx, loss, theta, num_steps=40):
    """Theta after each step."""

    def step(carry, _):
        theta, state = carry
        value, gradient = jax.value_and_grad(loss)(theta)
        update, state = tx.update(gradient, state, theta, value=value)
        theta = optax.apply_updates(theta, update)
        return (theta, state), theta

    return jax.lax.scan(step, (theta, tx.init(theta)), None, num_steps)


def over(theta, scales):
    return jax.tree.map(jnp.divide, theta, scales)


@pytest.mark.parametrize(
    "factory",
    [
        functools.partial(kinopt.isokinetic, optax.linear_schedule(0.1, 0.02, 40)),
        functools.partial(kinopt.isokinetic, 0.1, weight_decay=0.02, nu=0.1),
        functools.partial(kinopt.bbi, 0.02, extra_energy=1.0, fixed_bounce_every=7),
        functools.partial(kinopt.ecdsep, 0.02, eta=2.0, weight_decay=0.01),
    ],
    ids=["isokinetic", "decay and turns", "bbi", "ecdsep"],
)
def test_given_scales_are_other_coordinates(factory):
    """D x(t), where x descends F(D x) from Theta / D."""
    _, found = path(kinopt.in_metric(factory(), SCALES), loss, START)

    def inside(x):
        return loss(jax.tree.map(jnp.multiply, SCALES, x))

    _, expected = path(factory(), inside, over(START, SCALES))
    for name, scale in SCALES.items():
        np.testing.assert_allclose(found[name], scale * expected[name], rtol=2e-3, atol=2e-4)


def test_speed_is_one_in_the_metric():
    tx = kinopt.in_metric(kinopt.isokinetic(optax.linear_schedule(0.1, 0.02, 40)), SCALES)
    _, found = path(tx, loss, START)
    steps = jax.tree.map(lambda x, x0: np.diff(x, axis=0, prepend=x0[None]), found, START)
    lengths = np.sqrt(
        sum(np.sum(np.square(steps[n] / SCALES[n]), (1, -1)[: steps[n].ndim - 1]) for n in steps)
    )
    np.testing.assert_allclose(lengths, 0.1 - 0.002 * np.arange(40), rtol=1e-4)


def scales_of(gradients, decay, eps):
    """Entry by entry, from the module's equations, in float64."""
    rows, columns = {}, {}
    for gradient in gradients:
        for name, g in gradient.items():
            sq = np.square(np.asarray(g, float))
            axes = tuple(range(sq.ndim - 1))
            row = sq.mean(axis=-1, keepdims=True) if sq.ndim else sq
            rows[name] = decay * rows.get(name, 0) + (1 - decay) * row
            columns[name] = decay * columns.get(name, 0) + (1 - decay) * sq.mean(
                axes, keepdims=True
            )
    size = sum(np.size(g) for g in gradient.values())
    m = sum(np.size(g) * columns[name].mean() for name, g in gradient.items()) / size
    raw = {
        name: (rows[name] / rows[name].mean() + eps) ** -0.25 * (columns[name] / m + eps) ** -0.25
        for name in rows
    }
    square = sum(np.sum(np.broadcast_to(raw[n], np.shape(g)) ** 2) for n, g in gradient.items())
    return {name: scale * np.sqrt(size / square) for name, scale in raw.items()}


def learnt(gradients, **options):
    """D, seen through a descent that says +1 for each entry."""
    seen = optax.stateless(lambda updates, params: jax.tree.map(jnp.ones_like, updates))
    tx = kinopt.in_metric(seen, **options)
    state = tx.init(gradients[0])
    for gradient in gradients:
        scales, state = tx.update(gradient, state)
    return scales


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), decay=st.sampled_from([0.0, 0.5, 0.99]), size=st.floats(-8, 8))
def test_learnt_scales_are_those_of_the_equations(seed, decay, size):
    random = np.random.default_rng(seed)
    shapes = {"matrix": (3, 4), "kernel": (2, 3, 5), "bias": (4,), "number": ()}
    gradients = [
        {
            n: jnp.asarray(
                10**size * random.normal(size=s) * random.uniform(0.1, 3, s), jnp.float32
            )
            for n, s in shapes.items()
        }
        for _ in range(3)
    ]
    found, expected = learnt(gradients, decay=decay), scales_of(gradients, decay, 1e-8)
    for name, scale in expected.items():
        np.testing.assert_allclose(found[name], np.broadcast_to(scale, shapes[name]), rtol=1e-4)
    total = sum(x.size for x in found.values())
    mean_square = sum(float(jnp.sum(x**2)) for x in found.values()) / total
    np.testing.assert_allclose(mean_square, 1, rtol=1e-5)


def test_a_first_step_goes_adam_s_way_where_rows_and_columns_tell_all():
    """Of gradients a_i b_j up to their signs, which are a rank of one, all entries go alike."""
    a, b = jnp.array([[1e-3], [1.0], [30.0]]), jnp.array([[0.1, 1.0, 7.0, 0.02]])
    signs = jnp.array([[1, -1, 1, 1], [-1, -1, 1, -1], [1, 1, -1, 1.0]])
    tx = kinopt.in_metric(kinopt.isokinetic(0.1), eps=1e-16)
    update, _ = tx.update(signs * a * b, tx.init(a * b), value=jnp.ones(()))
    np.testing.assert_allclose(update / update[0, 0], signs, rtol=1e-4)


def test_what_is_not_finite_changes_no_scale():
    tx = kinopt.in_metric(kinopt.isokinetic(0.1))
    state = tx.init(START)
    bad = jax.tree.map(lambda x: x.at[0].set(jnp.nan), START)
    update, state = tx.update(bad, state, value=jnp.ones(()))
    assert all(not x.any() for x in jax.tree.leaves(update))
    assert kinopt.ecd_stats(state).num_skipped == 1
    once, skipping = tx.update(START, state, value=jnp.ones(()))
    fresh, _ = tx.update(START, tx.init(START), value=jnp.ones(()))
    jax.tree.map(np.testing.assert_array_equal, once, fresh)
    large = jax.tree.map(lambda x: 1e30 * x, START)  # its square is infinite in float32
    update, after = tx.update(large, skipping, value=jnp.ones(()))
    jax.tree.map(np.testing.assert_array_equal, after.rows, skipping.rows)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(update))


def test_no_gradient_has_no_scale():
    tx = kinopt.in_metric(kinopt.isokinetic(0.1))
    zero = jax.tree.map(jnp.zeros_like, START)
    update, state = tx.update(zero, tx.init(START), value=jnp.ones(()))
    assert all(not x.any() for x in jax.tree.leaves((update, state.rows, state.columns)))
    one_leaf = START | {"b": zero["b"]}
    update, _ = tx.update(one_leaf, state, value=jnp.ones(()))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(update))
    assert update["w"].all()


def test_the_state_is_a_number_for_each_row_and_column():
    params = {"kernel": jnp.ones((3, 3, 16, 32)), "bias": jnp.ones(32)}
    state = kinopt.in_metric(kinopt.isokinetic(0.1)).init(params)
    assert sum(x.size for x in state.rows) == 3 * 3 * 16 + 1
    assert sum(x.size for x in state.columns) == 32 + 32
    given_ones = kinopt.in_metric(kinopt.isokinetic(0.1), 2.0).init(params)
    assert (given_ones.rows, given_ones.columns) == ((), ())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scales": {"w": jnp.zeros((2, 3)), "b": 1.0}}, ValueError, "must be positive"),
        ({"scales": {"w": 1.0, "b": jnp.ones(2)}}, ValueError, "parameters"),
        ({"scales": {"w": 1.0, "c": 1.0}}, ValueError, "scales must be a tree"),
        ({"decay": 1.5}, ValueError, "decay"),
        ({"eps": 0.0}, ValueError, "eps"),
    ],
)
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        kinopt.in_metric(kinopt.isokinetic(0.1), **options).init(START)


def test_errors_of_an_update_and_of_no_descent():
    with pytest.raises(TypeError, match="takes a descent"):
        kinopt.in_metric(kinopt.isokinetic)
    tx = kinopt.in_metric(kinopt.isokinetic(0.1))
    with pytest.raises(ValueError, match="another structure"):
        tx.update({"w": START["w"]}, tx.init(START), value=1.0)
    with pytest.raises(ValueError, match="needs the loss"):
        tx.update(START, tx.init(START))
