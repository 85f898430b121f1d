"""Loops of uneven length that are no trainings: every seed gets what a plain loop makes of it."""

import gc
import inspect
import logging
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinopt import _engine, lanes

KEYS = jax.random.split(jax.random.key(3), 40)
MOST = 20
run = inspect.unwrap(lanes.run)  # as users call it, without the type checker of these tests


def begin(key):
    """A walk from zero, that carries its generator, a counter and what it has seen."""
    return {"x": jnp.zeros(()), "key": key, "n": jnp.array(0), "high": -jnp.inf}


def walk(carry):
    """A step of it; 1 and 2 are its ends."""
    key, now = jax.random.split(carry["key"])
    x = carry["x"] + jax.random.normal(now)
    high = jnp.maximum(carry["high"], x)
    outcome = jnp.where(x > 3, 1, jnp.where(x < -3, 2, 0))
    return {"x": x, "key": key, "n": carry["n"] + 1, "high": high}, outcome


def plain(key, most=MOST):
    carry, outcome, n = begin(key), 0, 0
    step = jax.jit(walk)
    while outcome == 0 and n < most:
        carry, outcome = step(carry)
        n += 1
    return carry, int(outcome), n


def data(tree):
    return jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
        tree,
    )


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, data(one), data(other))


@pytest.fixture(scope="module")
def reference():
    return run(walk, begin, KEYS, num_steps=MOST, lanes=8, chunk=16)


def test_a_seed_is_what_a_plain_loop_makes_of_it(reference):
    assert set(reference.outcome.tolist()) == {0, 1, 2}
    assert reference.carry["key"].dtype == KEYS.dtype
    for n in range(8):
        carry, outcome, count = plain(KEYS[n])
        assert int(reference.outcome[n]) == outcome
        assert int(reference.num_steps[n]) == count == int(reference.carry["n"][n])
        np.testing.assert_allclose(reference.carry["x"][n], carry["x"], rtol=1e-5)
        np.testing.assert_allclose(reference.carry["high"][n], carry["high"], rtol=1e-5)
        assert_same(reference.carry["key"][n], carry["key"])


@pytest.mark.parametrize(("number", "chunk"), [(1, 50), (7, 3), (64, 1), (None, None)], ids=str)
def test_nothing_depends_on_lanes_or_chunk(reference, number, chunk):
    assert_same(run(walk, begin, KEYS, num_steps=MOST, lanes=number, chunk=chunk), reference)


def test_roots_are_those_of_a_number_in_every_lane():
    """A compiler that estimates 1/sqrt(x) does so with other digits in the last lanes of a few."""

    def step(x):
        return x * 1.1 + 1 / jnp.sqrt(x + 0.1) + jax.lax.rsqrt(x), False

    def init(key):
        return jax.random.uniform(key, minval=0.1)

    keys = jax.random.split(jax.random.key(1), 64)
    few, many = (run(step, init, keys, num_steps=5, lanes=n) for n in (7, 64))
    np.testing.assert_array_equal(few.carry, many.carry)


def test_a_step_may_hold_a_large_reduction():
    """XLA gives it to a library, which cannot be called inside a round that is one function."""
    known = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32)

    def step(x):
        away = jnp.max(jnp.abs(x - known), axis=1)
        nearest = jnp.min(jnp.where(away < 0.5, jnp.arange(256), 256))
        return x * 0.9, jnp.where(nearest < 256, nearest + 1, 0)

    starts = 3 * jax.vmap(lambda key: jax.random.normal(key, (3,)))(KEYS)
    found = run(step, lambda key: 3 * jax.random.normal(key, (3,)), KEYS, num_steps=MOST, lanes=16)
    for n, x in enumerate(np.asarray(starts)):
        paths = x * 0.9 ** np.arange(MOST)[:, None]
        away = np.abs(paths[:, None] - known).max(axis=2)
        at = np.argwhere(away < 0.5)
        assert found.outcome[n] == (at[0, 1] + 1 if len(at) else 0)


def largest_pair(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2,), (1,), "VALID").sum()


APART = {
    "scatter": lambda x, n: x.at[n % 4].add(0.5),
    "slice": lambda x, n: jax.lax.dynamic_update_slice(x, x[:1] + 1, (n % 4,)),
    "window": lambda x, n: x - 0.1 * jax.grad(largest_pair)(x),
    "sort": lambda x, n: jnp.sort(x) * 0.9,
}
"""Operations that XLA makes no part of a single function."""


@pytest.mark.parametrize(
    ("name", "where"),
    [
        pytest.param(x, y, marks=[pytest.mark.slow] * ((x, y) != ("scatter", "step")))
        for x in APART
        for y in ("step", "init")
    ],
)
def test_what_is_no_part_of_one_function_runs_all_the_same(name, where):
    operation = APART[name]

    def init(key):
        x = jax.random.normal(key, (4,))
        n = jnp.asarray(jnp.abs(x[0]) * 9, jnp.int32)
        return (operation(x, n) if where == "init" else x), n

    def step(carry):
        x, n = carry
        return (operation(x, n) if where == "step" else x * 0.9, n + 1), n > 15

    found = run(step, init, KEYS, num_steps=MOST, lanes=8)
    for key, x, number in zip(KEYS, found.carry[0], found.num_steps, strict=True):
        carry = init(key)
        for _ in range(int(number)):
            carry, _ = step(carry)
        np.testing.assert_allclose(x, carry[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "init",
    [lambda key: 0.5, lambda key: (key[0] * 0).astype(jnp.float32) + 0.5],
    ids=["unread", "times zero"],
)
def test_a_key_may_be_ignored(init):
    keys = jax.random.key_data(KEYS)
    found = run(lambda x: (x + 1, x > 3), init, keys, num_steps=9)
    assert found.carry.tolist() == [4.5] * len(keys)


def test_nothing_depends_on_company_or_order(reference):
    order = np.array([7, 2, 30])
    result = run(walk, begin, KEYS[order], num_steps=MOST)
    some = jax.tree.map(lambda x: x[order], reference)
    assert_same(result, some._replace(seed=result.seed))
    raw = run(walk, begin, jax.random.key_data(KEYS[order]), num_steps=MOST)
    assert raw.carry["key"].dtype == jnp.uint32
    assert_same(raw, result)


def test_a_mesh_shares_the_seeds(reference):
    mesh = jax.make_mesh((2,), ("seeds",))
    with jax.set_mesh(mesh):
        assert_same(run(walk, begin, KEYS, num_steps=MOST, mesh=mesh), reference)


@pytest.mark.slow
def test_outcomes_may_be_whole_numbers_of_any_kind_and_truths():
    for end in (True, jnp.uint8(3)):
        result = run(lambda x, end=end: (x + 1, end), lambda key: 0.5, KEYS[:3], num_steps=9)
        assert result.outcome.tolist() == [int(end)] * 3
        assert result.num_steps.tolist() == [1] * 3
        assert result.carry.tolist() == [1.5] * 3
    never = run(lambda x: (x + 1, 0), lambda key: 0, KEYS[:3], num_steps=np.int64(9))
    assert never.outcome.tolist() == [0] * 3
    assert never.carry.tolist() == never.num_steps.tolist() == [9] * 3


def test_ctrl_c_returns_what_is_finished(monkeypatch):
    def cut(workers, progress):
        return [w.program(w.source, w.line, np.int32(1)) for w in workers], True

    monkeypatch.setattr(_engine, "drive", cut)
    with pytest.warns(UserWarning, match=r"Interrupted: \d+ of 40 seeds"):
        result = run(walk, begin, KEYS, num_steps=MOST, lanes=8, chunk=16)
    monkeypatch.undo()
    assert 0 < len(result.seed) < 40
    whole = run(walk, begin, KEYS, num_steps=MOST, lanes=8, chunk=16)
    assert_same(result, jax.tree.map(lambda x: x[result.seed], whole))


@pytest.mark.slow
def test_the_second_call_compiles_nothing_and_functions_are_let_go(caplog):
    class Rate:
        value = 2.0

    rate = Rate()
    step, init = (lambda x: (x * rate.value, x > 9)), (lambda key: jnp.ones(()))
    alive, other = weakref.ref(rate), KEYS[::-1]
    run(step, init, KEYS, num_steps=9)
    with jax.log_compiles(True), caplog.at_level(logging.DEBUG, "jax"):
        assert run(step, init, other, num_steps=9).carry.tolist() == [32.0] * 40
        assert not [r for r in caplog.records if r.getMessage().startswith("Compiling")]
    del step, rate
    gc.collect()
    assert alive() is None


def test_progress_shows_seeds_and_outcomes(capsys):
    run(walk, begin, KEYS, num_steps=MOST, lanes=8, chunk=16, progress=True)
    shown = capsys.readouterr().err
    assert "40/40" in shown
    assert "outcome 2" in shown


STEPS = {
    "number": (3.0, "step must be a function, carry -> carry, outcome"),
    "carry alone": (lambda x: x, r"returned float32\[2\]"),
    "no outcome": (lambda x: (x, 0.5), "returned float32.2. and a float"),
    "vector": (lambda x: (x, x > 1), r"and bool\[2\]"),
    "other structure": (lambda x: ((x, x), 0), r"a PyTreeDef\(\*\).*returned a PyTreeDef\(\(\*, "),
    "other shape": (lambda x: (x[0], 0), r"took float32\[2\] and returned float32\[\]"),
    "other type": (lambda x: (x > 0, 0), r"returned bool\[2\]\. Where only the type"),
    "if": (lambda x: (x, 1 if x[0] > 0 else 0), "asked for the value"),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_is_no_step_is_refused(name):
    step, message = STEPS[name]
    with pytest.raises(TypeError, match=f"step must .*{message}|{message}"):
        run(step, lambda key: jnp.ones(2), KEYS, num_steps=3)


def test_a_leaf_that_changes_is_named():
    def step(carry):
        return {**carry, "b": {"w": carry["a"]}}, 0

    with pytest.raises(TypeError, match=r"took int32\[\] and returned float32\[2\] at 'b/w'"):
        run(step, lambda key: {"a": jnp.ones(2), "b": {"w": 1}}, KEYS, num_steps=3)


def test_other_arguments_that_make_no_sense():
    def given(**change):
        arguments = {"step": walk, "init": begin, "keys": KEYS, "num_steps": 3, **change}
        return run(**arguments)

    for init, message in {
        3: "got 3",
        (lambda key: {}): "returned a dict",
        (lambda key: {"name": "x"}): "it has 'x' at 'name'",
    }.items():
        with pytest.raises(TypeError, match=f"init must be a function, key -> carry.*{message}"):
            given(init=init)
    for change, message in (
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1"),
        ({"num_steps": None}, "num_steps must be a whole number of at least 1"),
        ({"lanes": 0}, "lanes must be a whole number of at least 1"),
        ({"chunk": 1.5}, "chunk must be a whole number of at least 1"),
        ({"progress": 1}, "progress must be True or False"),
        ({"mesh": jax.devices()}, "mesh must be a jax.sharding.Mesh"),
        ({"keys": KEYS[0]}, "one key for each seed"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            given(**change)
    with pytest.raises(TypeError, match=r"cannot run under jax.jit"):
        jax.jit(lambda: given().carry["x"])()
