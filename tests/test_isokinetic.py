"""Isokinetic descent against its equations: speed, orbit, reversal, invariances, accidents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import kinopt
from kinopt import spheres
from kinopt.isokinetic import IsokineticState, kicked
from tests import trajectory

CURVATURES = np.array([1.0, 3.0, 10.0])
START = (1.0, -2.0, 0.5)


def loss(x):
    return jnp.sum(jnp.asarray(CURVATURES) * x**2) / 2 + 0.1


def descend(tx, steps, loss=loss):
    return trajectory.descend(tx, steps, loss, START)


def by_hand(rates, eta, f_min, decay, cool, start):
    """The note's update, literally, one loop over numbers."""
    theta, u, points = np.array(start), None, [np.array(start)]
    d = len(theta)
    for rate in rates:
        value, g = float(np.sum(CURVATURES * theta**2) / 2 + 0.1), CURVATURES * theta
        e = -g / np.linalg.norm(g)
        if u is None:
            u = e
        else:
            kappa = (rates[0] if cool else rate) * eta / 2 * d / (d - 1)
            delta = min(kappa * np.linalg.norm(g) / (value - f_min), 30)
            u = u + e * (np.sinh(delta) + (e @ u) * (np.cosh(delta) - 1))
            u = u / np.linalg.norm(u)
        theta = (1 - decay * rate / rates[0]) * theta + rate * u
        points.append(theta)
    return np.array(points)


@pytest.mark.parametrize("cool", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_it_is_the_update_written_out(cool, decay):
    schedule = optax.cosine_decay_schedule(0.07, 40)
    tx = kinopt.isokinetic(schedule, eta=5.0, f_min=-0.5, weight_decay=decay, cool=cool)
    points, _ = descend(tx, 30)
    with jax.enable_x64(True):
        rates = [float(schedule(jnp.asarray(n))) for n in range(30)]
    expected = by_hand(rates, 5.0, -0.5, decay, cool, START)
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-7)  # schedules are float32


@given(
    delta=st.floats(0, 40),
    angle=st.floats(0, 3.1),
    scale=st.floats(-15, 15),
)
def test_the_kick_turns_towards_the_force_in_their_plane(delta, angle, scale):
    """tan(angle / 2) falls by exp(-delta), whatever the size of the gradient."""
    with jax.enable_x64(True):
        u = jnp.array([np.cos(angle), np.sin(angle), 0.0])
        g = jnp.array([-(10.0**scale), 0.0, 0.0])
        state = kinopt.isokinetic(0.1).init(u)._replace(momentum=u, momentum_sq=jnp.sum(u * u))
        kappa = jnp.asarray(delta * 10.0**-scale) * 2 / 3  # the rest of kappa is d/(d - 1)
        after, seen, known = kicked(
            spheres.whole(u), state, g, [jnp.sum(g**2)], kappa, jnp.ones(())
        )
    assert np.isclose(float(known), 1, rtol=1e-12) or (known == jnp.inf)
    delta = min(delta, 30)
    np.testing.assert_allclose(seen, delta, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(np.linalg.norm(after), 1, rtol=1e-9)
    found = np.arctan2(after[1], after[0])
    np.testing.assert_allclose(
        np.tan(found / 2), np.tan(angle / 2) * np.exp(-delta), rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize(("mu_dtype", "roundoff"), [(None, 1e-6), (jnp.bfloat16, 2**-8)])
def test_every_step_has_the_length_of_the_schedule(mu_dtype, roundoff):
    tx = kinopt.isokinetic(optax.linear_schedule(0.1, 0.02, 20), mu_dtype=mu_dtype)
    x = jnp.array([1.0, -2.0, 0.5])
    state = tx.init(x)
    for n in range(15):
        value, gradient = jax.value_and_grad(loss)(x)
        update, state = tx.update(gradient, state, x, value=value)
        np.testing.assert_allclose(jnp.linalg.norm(update), 0.1 - 0.004 * n, rtol=roundoff)
        np.testing.assert_allclose(state.momentum_sq, 1, rtol=1e-2 if mu_dtype else 1e-5)
        x = optax.apply_updates(x, update)


@pytest.mark.parametrize(
    ("mu_dtype", "per_neuron"),
    [
        (None, False),
        pytest.param(None, True, marks=pytest.mark.slow),
        pytest.param(jnp.bfloat16, False, marks=pytest.mark.slow),
        pytest.param(jnp.bfloat16, True, marks=pytest.mark.slow),
    ],
)
def test_the_length_of_a_large_direction_is_known_between_two_measurements(mu_dtype, per_neuron):
    """Every sixteenth step reads it off; the others work it out of the kick's own sums.

    In bfloat16, where what is stored is another length, every step does.
    """
    side, rtol = 256, 3e-6
    curvature = jnp.linspace(1, 100, side**2).reshape(side, side)
    x = jax.random.normal(jax.random.key(0), (side, side))

    def descend(eta, state=None, num_steps=20):
        given = {"eta": eta, "mu_dtype": mu_dtype, "per_neuron": per_neuron}
        tx, theta = kinopt.isokinetic(3.0, **given), x
        state = tx.init(x) if state is None else state

        @jax.jit
        def step(x, state):
            value, gradient = jax.value_and_grad(lambda x: jnp.sum(curvature * x**2) / side**2)(x)
            update, state = tx.update(gradient, state, x, value=value)
            squares = [jnp.sum(jnp.asarray(y, jnp.float32) ** 2) for y in (update, state.momentum)]
            return optax.apply_updates(x, update), state, squares

        for _ in range(num_steps):
            theta, state, (length_sq, square) = step(theta, state)
            yield state, length_sq / 9, square

    states = []
    for state, length_sq, square in descend(30.0):
        np.testing.assert_allclose([state.momentum_sq, length_sq], square, rtol=rtol)
        states.append(state)
    assert 0.05 < states[-1].kick < 1
    # Almost no kicks: what is wrong stays wrong until it is measured.
    false = states[0]._replace(momentum_sq=jnp.asarray(1.5))
    *_, (state, _, square) = descend(1e-3, false, 17)
    np.testing.assert_allclose(state.momentum_sq, square, rtol=rtol)


def separable_orbit(start, u, eta, length, num_steps):
    """dTheta/ds = u, du/ds = (eta / 2) (e - (e.u) u) |grad F| / F, by Runge and Kutta.

    Hamilton's equations of H = eta log F + log |Pi|^2, per length of the path.
    """

    def rate(y):
        x, u = y
        g = CURVATURES * x
        force = -eta / 2 * g / (np.sum(CURVATURES * x**2) / 2 + 0.1)
        return np.array([u, force - (force @ u) * u])

    y, h = np.array([start, u]), length / num_steps
    for _ in range(num_steps):
        k1 = rate(y)
        k2 = rate(y + h / 2 * k1)
        k3 = rate(y + h / 2 * k2)
        k4 = rate(y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y[0]


def test_the_orbit_is_that_of_the_separable_hamiltonian():
    """To second order in the step; with eta less the factor d/(d-1)."""
    start, eta = np.array([1.0, -2.0, 0.5]), 3.0
    g = CURVATURES * start
    exact = separable_orbit(start, -g / np.linalg.norm(g), eta, 2.0, 4000)
    distances = []
    for num_steps in (400, 800):
        tx = kinopt.isokinetic(2.0 / num_steps, eta=eta * 2 / 3, f_min=0.0)
        points, _ = descend(tx, num_steps)
        distances.append(np.linalg.norm(points[-1] - exact))
    assert distances[1] < 1e-4
    np.testing.assert_allclose(distances[0] / distances[1], 4, rtol=0.05)


def test_time_runs_backwards():
    """With -u: theta <- theta - rho u, and then the kick turns -u back."""
    tx = kinopt.isokinetic(0.05, eta=4.0, f_min=0.0)
    points, states = descend(tx, 12)
    with jax.enable_x64(True):
        x, u = jnp.asarray(points[-1]), -states[-1].momentum
        for n in range(12, 1, -1):
            x = x + 0.05 * u
            np.testing.assert_allclose(x, points[n - 1], atol=1e-9)
            value, g = jax.value_and_grad(loss)(x)
            state = states[0]._replace(momentum=u, momentum_sq=jnp.sum(u * u))
            kappa = jnp.asarray(0.05 * 4.0 / 2)
            u, *_ = kicked(spheres.whole(x), state, g, [jnp.sum(g**2)], kappa, value)
            np.testing.assert_allclose(u, -states[n - 1].momentum, atol=1e-9)


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (50.0, 7.0)])
def test_only_eta_over_the_gap_matters(scale, shift):
    """(F - F_0) times anything; and F + shift with F_0 + shift."""
    reference, _ = descend(kinopt.isokinetic(0.05, eta=6.0, f_min=-1.0), 25)
    tx = kinopt.isokinetic(0.05, eta=6.0, f_min=-1.0 * scale + shift)
    other, _ = descend(tx, 25, loss=lambda x: scale * loss(x) + shift)
    np.testing.assert_allclose(other, reference, atol=1e-9)
    # A gap a hundred times as large at the same slope asks for an eta a hundred times as large.
    far, _ = descend(kinopt.isokinetic(0.05, eta=6e6, f_min=-1e6), 25)
    near, _ = descend(kinopt.isokinetic(0.05, eta=6e8, f_min=-1e8), 25)
    np.testing.assert_allclose(far, near, atol=1e-3)


def test_no_eta_overflows():
    x = jnp.array([1.0, -2.0, 0.5])
    tx = kinopt.isokinetic(0.01, eta=1e30)
    update, state = tx.update(x, tx.init(x), x, value=loss(x))
    for force in (x[::-1], -x[::-1]):  # from the side, and from ahead, where no plane is given
        update, state = tx.update(-force, state, x, value=loss(x))
        np.testing.assert_allclose(update, 0.01 * force / jnp.linalg.norm(x), rtol=1e-5)
    assert state.kick == 30
    assert state.num_skipped == 0


@pytest.mark.slow
def test_where_it_spends_its_time():
    """The density is (F - F_0)^(-eta d / 2) per length of the path: why kappa has d/(d - 1)."""
    d, eta = 3, 3.0

    def height(x):
        return jnp.sum(x * x) / 2 + 0.5

    def last_radius(seed):
        x = jax.random.normal(jax.random.key(seed), (d,))
        tx = kinopt.isokinetic(0.05, eta=eta, f_min=0.0, nu=0.15, key=seed)

        def step(carry, _):
            x, state = carry
            value, gradient = jax.value_and_grad(height)(x)
            update, state = tx.update(gradient, state, x, value=value)
            return (optax.apply_updates(x, update), state), None

        (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), length=1200)
        return jnp.linalg.norm(x)

    found = np.asarray(jax.jit(jax.vmap(last_radius))(jnp.arange(1000, dtype=jnp.uint32)))
    r = np.linspace(0, 200, 2_000_001)
    density = np.cumsum(r ** (d - 1) * (r**2 / 2 + 0.5) ** (-eta * d / 2))
    assert stats.kstest(found, lambda x: np.interp(x, r, density / density[-1])).pvalue > 1e-3
    other = np.cumsum(r ** (d - 1) * (r**2 / 2 + 0.5) ** (-eta * (d - 1) / 2))
    assert stats.kstest(found, lambda x: np.interp(x, r, other / other[-1])).pvalue < 1e-6


def test_it_falls_and_never_stops():
    points, states = descend(kinopt.isokinetic(0.02, eta=8.0, f_min=0.0, nu=0.05), 1500)
    values = np.array([float(s.potential) for s in states[300:]])
    assert values.mean() < 1.0
    assert values.min() > 0.1  # it never stops
    assert np.all(np.abs(np.linalg.norm(np.diff(points, axis=0), axis=1) - 0.02) < 1e-9)


@pytest.mark.parametrize(
    ("value", "gradient"), [(np.nan, [1.0, 1.0]), (1.0, [np.inf, 1.0]), (1.0, [np.nan, 0.0])]
)
def test_an_accident_is_contained_and_counted(value, gradient):
    x = jnp.array([1.0, 2.0])
    tx = kinopt.isokinetic(0.1, nu=0.1, weight_decay=0.1)
    _, state = tx.update(x, tx.init(x), x, value=1.0)
    update, after = tx.update(jnp.array(gradient), state, x, value=value)
    np.testing.assert_array_equal(update, 0)
    assert after.num_skipped == 1
    for old, new in zip(state._replace(num_skipped=after.num_skipped), after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_at_and_below_f_min_it_follows_the_gradient_and_says_so():
    x = jnp.array([3.0, 4.0])
    tx = kinopt.isokinetic(0.5, f_min=2.0)
    _, state = tx.update(-x, tx.init(x), x, value=3.0)
    assert state.num_clamped == 0
    update, state = tx.update(x, state, x, value=1.0)
    np.testing.assert_allclose(update, [-0.3, -0.4], rtol=1e-6)
    stats = kinopt.ecd_stats(state)
    assert stats.num_clamped == 1
    assert stats.potential == -1
    assert "kick=30" in repr(stats)
    assert isinstance(stats, kinopt.IsokineticStats)


def test_a_zero_gradient_leaves_the_direction():
    x = jnp.array([3.0, 4.0])
    tx = kinopt.isokinetic(0.5)
    still, state = tx.update(0 * x, tx.init(x), x, value=1.0)
    np.testing.assert_array_equal(still, 0)
    first, state = tx.update(x, state, x, value=1.0)
    second, _ = tx.update(0 * x, state, x, value=1.0)
    np.testing.assert_allclose(first, [-0.3, -0.4], rtol=1e-6)
    np.testing.assert_allclose(second, first, rtol=1e-6)


@pytest.mark.parametrize(("delta", "is_lost"), [(1e-3, True), (1e-2, False)])
def test_a_narrow_direction_loses_small_turns(delta, is_lost):
    """Documented: below 1/512 of an entry. Ten turns towards a force at right angles."""
    ahead, across = jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])

    def after_ten(mu_dtype):
        tx = kinopt.isokinetic(1.0, eta=1.0, f_min=0.0, mu_dtype=mu_dtype)  # kappa = 1
        state = tx.init(ahead)
        _, state = tx.update(-ahead, state, value=1.0)
        for _ in range(10):
            update, state = tx.update(-across, state, value=2**0.5 / delta)
        np.testing.assert_allclose(state.kick, delta, rtol=1e-5)
        return jnp.arctan2(update @ across, update @ ahead)

    wide, narrow = after_ten(None), after_ten(jnp.bfloat16)
    np.testing.assert_allclose(wide, np.pi / 2 - 2 * np.arctan(np.exp(-10 * delta)), rtol=1e-3)
    assert abs(narrow) < 1e-6 if is_lost else abs(narrow - wide) < 0.03


def test_decay_follows_the_mask_and_the_schedule():
    params = {"w": jnp.full((2, 2), 2.0), "b": jnp.full(2, 2.0), "n": 3}
    grads = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2), "n": jnp.zeros((), jax.dtypes.float0)}
    grads["n"] = np.zeros((), jax.dtypes.float0)
    tx = kinopt.isokinetic(
        optax.linear_schedule(0.1, 0.0, 4),
        weight_decay=0.1,
        mask={"w": True, "b": False, "n": True},
    )
    state = tx.init(params)
    for n in range(4):
        update, state = tx.update(grads, state, params, value=1.0)
        np.testing.assert_allclose(update["w"], -0.2 * (1 - n / 4), rtol=1e-6)
        np.testing.assert_array_equal(update["b"], 0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda tx: tx(0.1, eta=0.0), ValueError, "eta must be a number above 0"),
        (lambda tx: tx(0.1, cool=1), TypeError, "cool must be True or False"),
        (lambda tx: tx(0.1, weight_decay=-1.0), ValueError, "weight_decay"),
        (lambda tx: tx("fast"), TypeError, "learning_rate"),
        (lambda tx: tx(optax.linear_schedule(0.0, 1.0, 9)), ValueError, "starts at 0"),
        (lambda tx: tx(0.1).init(jnp.zeros(1)), ValueError, "two parameters"),
        (lambda tx: tx(0.1).init(jnp.zeros(2, complex)), TypeError, "complex"),
        (lambda tx: tx(0.1, mask="nobody").init({"w": jnp.zeros(2)}), ValueError, "nobody"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    factory = functools.partial(kinopt.isokinetic.__wrapped__)
    with pytest.raises(error, match=message):
        call(factory)


def test_decay_asks_for_the_parameters_and_order_is_checked():
    x = jnp.ones(2)
    tx = kinopt.isokinetic(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="weight decay needs the parameters"):
        tx.update(x, tx.init(x), value=1.0)
    chained = optax.chain(kinopt.isokinetic(0.1), optax.scale_by_adam())
    with pytest.raises(ValueError, match="Put the descent last"):
        kinopt.ecd_stats(chained.init(x))
    assert isinstance(tx.init(x), IsokineticState)


@pytest.mark.parametrize("params", [{}, {"steps": jnp.arange(3)}], ids=["empty", "no numbers"])
def test_without_a_floating_leaf_nothing_moves(params):
    tx = kinopt.isokinetic(0.1)
    gradient = jax.tree.map(jnp.zeros_like, params)
    update, state = tx.update(gradient, tx.init(params), params, value=jnp.ones(()))
    assert jax.tree.all(jax.tree.map(lambda x: (x == 0).all(), update))
    assert int(state.num_skipped) == 0
