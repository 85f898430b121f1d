"""Ensembles that train on data: batches, random losses, aux and summaries."""

import gc
import inspect
import logging
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kinopt import ensemble
from kinopt._minibatches import permuted

run = inspect.unwrap(ensemble.run)  # as users call it, without the type checker of these tests
KEYS = jax.random.split(jax.random.key(5), 12)
X = jnp.linspace(-1, 1, 10)
DATA = {"x": X, "y": 2 * X + 0.1 * jnp.sin(9 * X)}
ROWS = ensemble.minibatches(DATA, 4, keyed=True)
SGD = optax.sgd(0.3)
STEPS = 7


def loss(w, batch):
    """A line through noisy points; aux has the rows it saw."""
    rows, key = batch
    noise = 0.1 * jax.random.normal(key)
    return jnp.mean((rows["y"] - w * rows["x"] + noise) ** 2), rows["x"]


def stop(w, value):
    return jnp.where(w > 1.7, 1, 0)


def double(w):
    return {"double": 2 * w}


def call(**change):
    given = {
        "loss_fn": loss,
        "optimizer": SGD,
        "params": jnp.array(0.0),
        "keys": KEYS,
        "num_steps": STEPS,
        "batches": ROWS,
        "has_aux": True,
        "stop": stop,
        "summary": double,
    }
    return run(**{**given, **change})


@pytest.fixture(scope="module")
def reference():
    return call(lanes=4, chunk=3)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_seed_is_what_a_plain_loop_makes_of_it(reference):
    look = jax.jit(jax.value_and_grad(loss, has_aux=True))
    rows = jax.jit(ROWS)
    assert set(reference.outcome.tolist()) == {0, 1}
    for n in range(4):
        w, values = jnp.array(0.0), []
        for step in range(STEPS + 1):
            (value, aux), grad = look(w, rows(KEYS[n], step))
            values.append(float(value))
            if step == STEPS or (step and int(stop(w, value))):
                break
            w = w - 0.3 * grad
        assert int(reference.num_steps[n]) == step
        np.testing.assert_allclose(reference.params[n], w, rtol=1e-5)
        np.testing.assert_allclose(reference.value[n], values[-1], rtol=1e-4)
        np.testing.assert_allclose(reference.best_value[n], min(values), rtol=1e-4)
        np.testing.assert_array_equal(reference.aux[n], aux)
        np.testing.assert_allclose(reference.summary["double"][n], 2 * w, rtol=1e-5)


@pytest.mark.parametrize(("lanes", "chunk"), [(2, 50)], ids=str)
@pytest.mark.slow
def test_nothing_depends_on_lanes_or_chunk(reference, lanes, chunk):
    assert_same(call(lanes=lanes, chunk=chunk), reference)


@pytest.mark.slow
def test_nothing_depends_on_order_company_or_mesh(reference):
    order = np.array([9, 2, 7, 4])
    result = call(keys=KEYS[order], mesh=jax.make_mesh((2,), ("seeds",)))
    some = jax.tree.map(lambda x: x[order], reference)
    assert_same(result._replace(seed=some.seed), some)


@pytest.mark.slow
def test_only_the_summary_comes_back(reference):
    result = call(keep=("summary",), lanes=4, chunk=3)
    assert (result.params, result.best_params, result.opt_state) == (None, None, None)
    assert_same(result.summary, reference.summary)
    assert_same(result.best_value, reference.best_value)


@pytest.mark.slow
def test_trajectories_see_the_same_batches(reference):
    path = ensemble.trajectories(
        loss, SGD, jnp.array(0.0), KEYS, num_steps=STEPS, stop=stop, batches=ROWS, has_aux=True
    )
    np.testing.assert_array_equal(path.params[:, -1], reference.params)
    np.testing.assert_allclose(path.value[:, -1], reference.value, rtol=1e-4)


def test_batches_of_any_kind_and_raw_keys():
    """A random loss without data is one whose batch is a key."""

    def noisy(w, key):
        return (w - jax.random.normal(key)) ** 2

    def batches(key, step):
        return jax.random.fold_in(key, step)

    raw = jax.random.key_data(KEYS[:3])
    result = run(noisy, SGD, jnp.zeros(()), raw, num_steps=1, batches=batches)
    expected = [0.6 * float(jax.random.normal(batches(key, 0))) for key in raw]
    np.testing.assert_allclose(result.params, expected, rtol=1e-5)
    with pytest.raises(TypeError, match="batches must be a function that JAX can trace"):
        run(noisy, SGD, jnp.zeros(()), raw, num_steps=1, batches=lambda key, step: int(step))


@pytest.mark.slow
def test_a_second_call_compiles_nothing_and_the_data_are_let_go(caplog):
    rows = ensemble.minibatches(X, 5)
    arguments = ((lambda w, x: jnp.mean((w - x) ** 2)), SGD, jnp.array(0.0))
    alive = weakref.ref(rows)
    first = run(*arguments, KEYS, num_steps=3, batches=rows)
    with jax.log_compiles(True), caplog.at_level(logging.DEBUG, "jax"):
        assert_same(run(*arguments, KEYS, num_steps=3, batches=rows), first)
        assert not [r for r in caplog.records if r.getMessage().startswith("Compiling")]
    del rows
    gc.collect()
    assert alive() is None


class TestMinibatches:
    """Every epoch is a permutation, and they are all alike."""

    @pytest.mark.parametrize(("number", "size"), [(6, 3), (7, 7), (5, 1), (1, 1)], ids=str)
    def test_every_row_once_an_epoch(self, number, size):
        rows = ensemble.minibatches(np.arange(number), size)
        steps = jnp.arange(2 * (number // size))
        seen = jax.jit(jax.vmap(lambda step: rows(KEYS[0], step)))(steps).reshape(2, number)
        assert np.sort(seen).tolist() == [list(range(number))] * 2
        if number > 1:
            assert (seen[0] != seen[1]).any()

    def test_other_rows_are_left_over(self):
        rows = ensemble.minibatches(np.arange(7), 3)
        seen = jax.jit(jax.vmap(lambda step: rows(KEYS[0], step)))(jnp.arange(40)).reshape(20, 6)
        assert all(len(set(epoch)) == 6 for epoch in seen.tolist())
        assert len({21 - sum(epoch) for epoch in seen.tolist()}) > 4

    def test_all_permutations_are_equally_likely(self):
        keys = jax.random.split(jax.random.key(0), 12_000)
        seen = jax.jit(jax.vmap(lambda key: permuted(key, jnp.arange(5), 5)))(keys)
        _, counts = np.unique(np.asarray(seen), axis=0, return_counts=True)
        assert len(counts) == math.factorial(5)
        assert np.sum((counts - 100) ** 2 / 100) < 119 + 4 * np.sqrt(2 * 119)

    def test_large_data(self):
        places = jax.jit(permuted, static_argnums=2)(KEYS[0], jnp.arange(200), 60_000)
        assert len(set(places.tolist())) == 200
        assert 0 <= int(places.min()) < 3000 < 57_000 < int(places.max()) < 60_000

    def test_keys_differ_by_seed_and_step(self):
        rows = jax.jit(ROWS)
        drawn = {
            tuple(jax.random.key_data(rows(key, step)[1]).tolist())
            for key in KEYS[:3]
            for step in range(3)
        }
        assert len(drawn) == 9

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (([1, 2], 1), TypeError, "data must be a pytree of arrays .*; got 1"),
            (((), 1), TypeError, r"such as \(images, labels\); got \(\)"),
            (((X, X[:3]), 1), ValueError, r"equally many rows; got leaves float32\[10\], float"),
            ((jnp.ones(()), 1), ValueError, "axis of equally many rows"),
            ((X, 11), ValueError, "at most the number of rows; got 11 for 10 rows"),
            ((X, 0), ValueError, "batch_size must be a whole number of at least 1"),
            ((X, 2, 1), TypeError, "keyed must be True or False"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, arguments, error, message):
        function = inspect.unwrap(ensemble.minibatches)
        with pytest.raises(error, match=message):
            function(*arguments[:2], **({"keyed": arguments[2]} if arguments[2:] else {}))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batches": (X, X)}, TypeError, "batches must be a function, key, step -> batch, such"),
        ({"summary": 3}, TypeError, "summary must be a function, params -> a pytree of arrays"),
        ({"has_aux": 1}, TypeError, "has_aux must be True or False; got 1"),
        ({"has_aux": False}, TypeError, "params, batch -> loss, a floating.*returned a tuple"),
        ({"loss_fn": lambda w, b: w}, TypeError, "batch -> loss, aux, a .*it returned float32"),
        ({"loss_fn": lambda w, b: (w, "x")}, TypeError, "aux, which loss_fn returns .*it has 'x'"),
        ({"loss_fn": lambda w, b: (w, b[1])}, TypeError, "aux, .*arrays of numbers; it has key"),
        ({"summary": lambda w: "x"}, TypeError, "what summary returns must be .*it has 'x'"),
        ({"summary": None, "keep": ["summary"]}, ValueError, "'summary', which needs summary="),
        ({"keep": ("values",)}, ValueError, "'opt_state', 'aux', 'summary'.*got 'values'"),
    ],
)
def test_what_makes_no_sense_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        call(**change)
