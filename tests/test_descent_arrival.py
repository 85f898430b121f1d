"""A run that has arrived stays; a run that cannot start says so."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kinopt
from kinopt import hamiltonians
from tests.descents import rosenbrock, run


def bowl(curvature, floor=0.0, centre=1.0):
    """A quadratic with its minimum `floor` at alternating signs of `centre`."""

    def loss(x):
        c = jnp.asarray(curvature, x.dtype)
        target = centre * jnp.asarray((-1.0) ** np.arange(c.size), x.dtype)
        return floor + jnp.sum(c * (x - target) ** 2)

    return loss


# Curvatures, start, step, floor, centre; without curvatures it is Rosenbrock's function.
BOWLS = {
    "parabola": ([1, 1, 1], [-1, 10, 1], 0.01, 0.0, 1.0),
    "parabola, longer steps": ([1, 1, 1], [-1, 10, 1], 0.1, 0.0, 1.0),
    "ill-conditioned": ([1, 30, 900], [2, 2, 2], 0.003, 0.0, 1.0),
    "five": ([1, 3, 10, 30, 100], [2, 2, 2, 2, 2], 0.03, 0.0, 1.0),
    "at 5": ([1, 1, 1], [-1, 10, 1], 0.01, 5.0, 1.0),
    "at -3": ([1, 1, 4], [-1, 10, 1], 0.01, -3.0, 1.0),
    "at 1000": ([1, 1, 4], [-1, 10, 1], 0.01, 1000.0, 1.0),
    "far away": ([1, 1, 4], [101, -99.5, 101], 0.01, 0.0, 100.0),
    "rosenbrock": (None, [0, 0], 0.01, 0.0, 1.0),
    "rosenbrock, from the left": (None, [-0.5, 0.5], 0.01, 0.0, 1.0),
}


@functools.partial(jax.jit, static_argnames="steps")
def descended(start, dt, f_min, curvature, centre, steps):
    """Losses on the way and statistics at the end, with default settings; compiled once a shape."""
    loss = rosenbrock if curvature is None else bowl(curvature, f_min, centre)
    (_, state), (_, values) = run(kinopt.bbi(dt, f_min=f_min), loss, start, steps)
    return values, kinopt.ecd_stats(state)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BOWLS)
def test_what_has_arrived_stays(name, dtype):
    """20,000 steps with default settings: bounces come up at steps 1000, 4000, 7000, ..."""
    curvature, start, dt, f_min, centre = BOWLS[name]
    with jax.enable_x64(dtype == "float64"):
        curvature = None if curvature is None else jnp.array(curvature, dtype)
        start, numbers = jnp.array(start, dtype), np.array([dt, f_min, centre], dtype)
        dt, floor, centre = numbers
        values, stats = descended(start, dt, floor, curvature, centre, steps=20_000)
    gaps = np.asarray(values, np.float64) - f_min
    near = max(1.2e-7 * gaps[0], 8 * np.finfo(dtype).eps * abs(f_min))
    arrived = int(np.argmax(gaps <= near))
    assert 0 < arrived < 18_000
    assert gaps[-1] <= near
    assert gaps[arrived:].max() < 1e-3 * gaps[0]  # as it swings in; a bounce throws it to the top
    assert int(stats.num_stayed) + int(stats.num_halted) > 0


def test_the_paper_bounces_from_there_too():
    """`stay=False` is Algorithm 1, which the other test would catch."""
    loss, start = bowl([1, 1, 1]), BOWLS["parabola"][1]
    tx = kinopt.bbi(0.03, fixed_bounce_every=600, num_fixed_bounces=5, patience=None, stay=False)
    with jax.enable_x64(True):
        (_, state), (_, values) = run(tx, loss, jnp.array(start, float), 7000)
    values = np.asarray(values)
    arrived = int(np.argmax(values <= 1.2e-7 * values[0]))
    assert 0 < arrived < 600
    assert values[arrived:].max() > 1000 * values[arrived]  # sent up, where it should stay
    assert (int(state.num_stayed), int(state.num_bounces)) == (0, 5)


def test_a_run_with_energy_to_climb_bounces_anywhere():
    """With extra energy, `stay` changes nothing: not a bit, wherever the bounces fall."""
    loss = bowl([1, 2])
    settings = {"fixed_bounce_every": 3, "num_fixed_bounces": None, "extra_energy": 1e-3}
    x = jnp.array([1.0, -1.0]) + 1e-4  # at a V of 1e-8, below 1.2e-7 times that of the top
    tops = []
    for stay in (True, False):
        tx = kinopt.bbi(0.05, stay=stay, **settings)
        state = tx.init(x)
        state = tx.update(jax.grad(loss)(x + 3), state, value=loss(x + 3))[1]  # a high start
        value, gradient = jax.value_and_grad(loss)(x)
        for _ in range(30):
            _, state = tx.update(gradient, state, value=value)
        tops.append(state)
    assert int(tops[0].num_bounces) == 7
    jax.tree.map(np.testing.assert_array_equal, *tops)


def test_a_bounce_that_is_passed_over_counts_for_its_rule():
    """Clock and wait go on as if it had been made; the particle moves on."""
    loss = bowl([1, 2])
    x = jnp.array([1.0, -1.0]) + 1e-5
    tx = kinopt.bbi(0.05, fixed_bounce_every=2, num_fixed_bounces=2)
    state = tx.init(x)
    state = tx.update(jax.grad(loss)(x + 3), state, value=loss(x + 3))[1]
    counted = []
    for _ in range(6):
        value, gradient = jax.value_and_grad(loss)(x)
        update, state = tx.update(gradient, state, value=value)
        assert (update != 0).all()
        counted.append((int(state.num_stayed), int(state.counters[0].clock)))
    assert counted == [(0, 2), (1, 0), (1, 1), (1, 2), (2, 3), (2, 4)]
    assert int(state.num_bounces) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_arrival_is_coarser_in_coarser_types(dtype):
    eps = float(jnp.finfo(dtype).eps)
    tx = kinopt.bbi(0.05, fixed_bounce_every=1, num_fixed_bounces=None, patience=None)
    for gap, stays in ((0.9 * eps, 1), (1.1 * eps, 0)):
        x = jnp.ones(3, dtype)
        state = tx.init(x)
        for value in (1.0, gap):
            _, state = tx.update(x, state, value=jnp.float32(value))
        assert (int(state.num_stayed), int(state.num_bounces)) == (stays, 1 - stays)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 8 * 2.0**-23), ("float64", 0)])
def test_arrival_in_wide_types(dtype, rounding):
    """1.2e-7 of the way from the top, in float64 too; or within 8 roundings of a large f_min."""
    with jax.enable_x64(dtype == "float64"):
        tx = kinopt.bbi(0.05, f_min=1000.0, fixed_bounce_every=1, num_fixed_bounces=None)
        near = max(2.0**-23 * 64, rounding * 1000)
        for gap, stays in ((0.9 * near, 1), (1.2 * near, 0)):
            x = jnp.ones(3, dtype)
            state = tx.init(x)
            for value in (1064.0, 1000 + gap):
                _, state = tx.update(x, state, value=jnp.asarray(value, dtype))
            assert int(state.num_stayed) == stays


# The problems of optax/_src/alias_test.py and optax/contrib/_common_test.py, with their settings:
# 10,000 and 30,000 steps, and parameters within 3e-2 of the minimum at the end.
OPTAX = {
    "parabola": ([-1.0, 10.0, 1.0], [1.0, -1.0, 1.0]),
    "rosenbrock": ([0.0, 0.0], [1.0, 1.0]),
    "matrix": ([[0.0, 0.0], [0.0, 0.0]], [[3.0, -2.0], [1.0, 4.0]]),
    "mixed": (([0.0] * 3, [[0.0] * 2] * 2), ([1.0, -1.0, 2.0], [[1.0, 0.0], [-1.0, 1.0]])),
}


@pytest.mark.parametrize("steps", [10_000, 30_000])
@pytest.mark.parametrize("name", OPTAX)
def test_the_convergence_tests_of_optax(name, steps):
    is_list = lambda x: isinstance(x, list)  # noqa: E731
    start, target = (jax.tree.map(jnp.array, tree, is_leaf=is_list) for tree in OPTAX[name])

    def squares(params):
        off = jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2), params, target)
        return sum(jax.tree.leaves(off))

    loss = rosenbrock if name == "rosenbrock" else squares
    tx = kinopt.bbi(1e-2)
    (params, _), _ = run(tx, loss, start, steps, lambda x, value, update, state: None)
    for got, expected in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True):
        np.testing.assert_allclose(got, expected, rtol=3e-2, atol=3e-2)


X = jnp.array([1.0, -2.0])


def test_a_start_below_f_min_is_said_once():
    tx = kinopt.bbi(0.1)
    state = tx.init(X)
    with pytest.warns(UserWarning, match=r"-2.5, is not above f_min = 0.*adapt_f_min") as caught:
        _, state = tx.update(X, state, value=-2.5)
    update, state = tx.update(X, state, value=-2.5)  # warnings are errors here
    assert len(caught) == 1
    np.testing.assert_array_equal(update, 0)
    stats = kinopt.ecd_stats(state)
    assert (int(stats.num_halted), float(stats.potential)) == (2, -2.5)
    assert "has not moved: V <= 0 at the first loss" in repr(stats)


@pytest.mark.parametrize(
    ("settings", "value"), [({"f_min": -3.0}, -2.5), ({"adapt_f_min": True}, -2.5), ({}, jnp.nan)]
)
def test_nothing_is_said_where_it_can_start(settings, value):
    tx = kinopt.bbi(0.1, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, state = tx.update(X, tx.init(X), value=value)
    assert "has not moved" not in repr(kinopt.ecd_stats(state))


def test_nothing_is_said_under_jit_or_vmap_or_later():
    tx = kinopt.bbi(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, state = jax.jit(lambda s: tx.update(X, s, value=-1.0 + s.energy))(tx.init(X))
        jax.vmap(lambda v: tx.update(X, tx.init(X), value=v))(-jnp.ones(3))
        tx.update(X, state, value=-1.0)  # not the first update
    assert "has not moved" in repr(kinopt.ecd_stats(state))


def test_a_start_below_f_min_under_inject_hyperparams_is_said_once():
    tx = optax.inject_hyperparams(kinopt.bbi, static_args=kinopt.static_args(kinopt.bbi))(0.1)
    state = tx.init(X)
    with pytest.warns(UserWarning, match="not above f_min"):
        _, state = tx.update(X, state, X, value=-1.0)
    for _ in range(3):
        _, state = tx.update(X, state, X, value=-1.0)


def test_every_hamiltonian_says_that_it_has_not_moved():
    for hamiltonian in (hamiltonians.massive(), hamiltonians.separable()):
        tx = kinopt.ecd(0.1, hamiltonian, extra_energy=1.0)
        state = jax.jit(lambda s, tx=tx: tx.update(X, s, value=-1.0))(tx.init(X))[1]
        assert "has not moved" in repr(kinopt.ecd_stats(state))
        state = jax.jit(lambda s, tx=tx: tx.update(X, s, value=1.0))(state)[1]
        assert "has not moved" not in repr(kinopt.ecd_stats(state))


def test_a_run_that_has_arrived_is_not_turned_either():
    """A partial bounce sends it away as a whole one does, only by less."""
    tx = kinopt.ecd(1e-3, f_min=1.0, bounces=kinopt.bounces.rotation(0.5), key=0)
    params, gradient = jnp.ones(8), jnp.linspace(1, 2, 8)
    _, state = tx.update(gradient, tx.init(params), params, value=2.0)

    def cosine_to_before(value):
        _, after = tx.update(1e-6 * gradient, state, params, value=value)
        unit = [x.momentum / jnp.linalg.norm(x.momentum) for x in (state, after)]
        return float(unit[0] @ unit[1])

    assert cosine_to_before(1.5) < 0.9
    assert cosine_to_before(1 + 5e-7) > 0.999999
