"""Ensembles: every seed gets what it would get alone, whatever lanes, chunk, mesh and company."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import kinopt
from kinopt import _engine, _training, _workers, ensemble
from kinopt._build import Build
from kinopt._training import Problem, as_task

BASINS = kinopt.landscapes.two_basins()
STOP = kinopt.basins.quadratic_basins(
    BASINS.minimizers, jax.vmap(jax.hessian(BASINS.fn))(jnp.asarray(BASINS.minimizers, jnp.float32))
)
START = jnp.array([10.0, -10.0])


def two_basin_bbi(key):
    """The authors' protocol for section 4.3 of the BBI paper."""
    return kinopt.bbi(
        1e-2, f_min=1e-3, fixed_bounce_every=20, num_fixed_bounces=1, patience=750, key=key
    )


def keys(number):
    return jax.random.split(jax.random.key(7), number)


def run(number, num_steps=4000, **options):
    return ensemble.run(
        BASINS.fn, two_basin_bbi, START, keys(number), num_steps=num_steps, stop=STOP, **options
    )


def alone(key, num_steps, optimizer=two_basin_bbi, loss=BASINS.fn, stop=STOP, start=START):
    """One seed in a plain Python loop over a plain training step."""
    tx = optax.with_extra_args_support(optimizer(key))
    look = jax.jit(jax.value_and_grad(loss))
    update = jax.jit(lambda g, s, p, v: tx.update(g, s, p, value=v))
    params, state, values = start, tx.init(start), []
    for count in range(num_steps + 1):
        value, grad = look(params)
        values.append(float(value))
        outcome = int(stop(params, value)) if count else 0
        if outcome or count == num_steps:
            return params, values, outcome, count, state
        updates, state = update(grad, state, params, value)
        params = optax.apply_updates(params, updates)
    raise AssertionError


def assert_same(one, other):
    """Bit for bit, in the order of the keys."""
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_a_seed_is_what_a_plain_loop_makes_of_it():
    result = run(3, num_steps=600)
    for n in (0, 2):
        params, values, outcome, count, state = alone(keys(3)[n], 600)
        assert int(result.outcome[n]) == outcome
        assert int(result.num_steps[n]) == count
        np.testing.assert_allclose(result.params[n], params, rtol=1e-4)
        np.testing.assert_allclose(result.value[n], values[-1], rtol=1e-3)
        np.testing.assert_allclose(result.best_value[n], min(values), rtol=1e-3)
        assert int(result.opt_state.count[n]) == int(state.count)
        assert int(result.opt_state.num_bounces[n]) == int(state.num_bounces)


@pytest.fixture(scope="module")
def reference():
    return run(50, lanes=16, chunk=32)


@pytest.mark.parametrize(
    ("lanes", "chunk"),
    [pytest.param(1, 500, marks=pytest.mark.slow), (7, 13)],
    ids=str,
)
def test_outcomes_do_not_depend_on_lanes_or_chunk(reference, lanes, chunk):
    result = run(50, lanes=lanes, chunk=chunk)
    assert_same(result, reference)
    assert set(reference.outcome.tolist()) >= {1, 2}
    assert int(reference.num_steps.max()) > 3 * int(reference.num_steps.min())


@pytest.mark.slow
def test_outcomes_do_not_depend_on_company(reference):
    """With lanes and chunk left to the library."""
    assert_same(run(11), jax.tree.map(lambda x: x[:11], reference))


@pytest.mark.slow
def test_a_mesh_shares_the_seeds(reference, monkeypatch):
    mesh = jax.make_mesh((1, 2), ("host", "chip"), axis_types=(AxisType.Auto,) * 2)
    made = []
    real = _engine.make_workers
    monkeypatch.setattr(_engine, "make_workers", lambda *a: made.extend(real(*a)) or made)
    assert_same(run(50, mesh=mesh, lanes=5), reference)
    where = [next(iter(worker.source.length.devices())) for worker in made]
    assert where == list(mesh.devices.flat)
    assert [int(worker.source.length) for worker in made] == [25, 25]


@pytest.mark.slow
def test_many_operations_or_one_function_are_the_same_steps(monkeypatch):
    """How a CPU's compiler cuts the program changes the last digits only."""
    one_function = run(8, num_steps=30)
    monkeypatch.setattr(_workers, "_fits_one_function", lambda *_: False)
    many = run(8, num_steps=30)
    for x, y in zip(jax.tree.leaves(many), jax.tree.leaves(one_function), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-3)


def test_what_a_library_computes_is_left_to_it():
    """A sort in the loss cannot be part of one function; the ensemble runs all the same."""

    def loss(x):
        return jnp.sum(jnp.sort(x) ** 2)

    result = ensemble.run(loss, optax.sgd(0.1), jnp.array([3.0, 1.0]), keys(2), num_steps=50)
    assert (result.value < 1e-6).all()


@pytest.mark.slow
def test_any_optimizer_and_any_tree():
    def loss(params):
        return jnp.sum((params["w"] - 1) ** 2) + params["b"] ** 2

    start = {"w": jnp.zeros((2, 3)), "b": jnp.array(2.0)}
    for optimizer in (
        lambda key: optax.chain(optax.add_noise(0.1, 0.55, key), optax.adam(0.1)),
        optax.lbfgs(),
    ):
        result = ensemble.run(loss, optimizer, start, keys(4), num_steps=100)
        assert (result.value < 0.05).all()
        assert result.params["w"].shape == (4, 2, 3)
        assert (result.num_steps == 100).all()
        assert (result.outcome == 0).all()


def test_stacked_starts_belong_to_their_seeds():
    starts = {"x": jnp.arange(10.0)}
    result = ensemble.run(
        lambda p: p["x"] ** 2,
        optax.sgd(0.25),
        starts,
        keys(10),
        num_steps=1,
        stacked=True,
        lanes=3,
    )
    np.testing.assert_allclose(result.params["x"], starts["x"] / 2)
    np.testing.assert_allclose(result.best_value, starts["x"] ** 2 / 4)


@pytest.mark.parametrize("raw", [False, True])
def test_keys_of_any_kind_reach_the_optimizer(raw):
    def optimizer(key):
        push = jax.random.normal(key)
        return optax.GradientTransformation(
            lambda params: (), lambda g, state, params=None: (jnp.ones_like(g) * push, state)
        )

    given = jax.random.key_data(keys(6)) if raw else keys(6)
    result = ensemble.run(lambda x: x**2, optimizer, jnp.zeros(()), given, num_steps=1, lanes=4)
    np.testing.assert_allclose(result.params, jax.vmap(jax.random.normal)(keys(6)), rtol=1e-6)


def test_a_seed_that_fails_harms_no_other():
    """Gradient ascent diverges from 1, and stays at 0."""
    starts = jnp.array([0.0, 1.0, 0.0, jnp.nan])
    result = ensemble.run(
        lambda x: jnp.exp(x**2) - 1,
        optax.sgd(-1.0),
        starts,
        keys(4),
        num_steps=100,
        stacked=True,
        lanes=2,
    )
    assert result.outcome.tolist() == [0, -1, 0, -1]
    assert result.num_steps[3] == 0
    assert not np.isfinite(result.value[1])
    assert np.isfinite(result.best_value[1])
    assert result.best_value[0] == 0


def test_stop_sees_the_loss_after_an_update_and_not_the_start():
    asked = ensemble.run(
        lambda x: x**2,
        optax.sgd(0.25),
        jnp.array(1.0),
        keys(1),
        num_steps=10,
        stop=lambda x, value: jnp.where(value == x**2, 3, 0),
    )
    assert asked.outcome.tolist() == [3]
    assert asked.num_steps.tolist() == [1]
    assert asked.value.tolist() == [0.25]
    never = ensemble.run(lambda x: x**2, optax.sgd(0.1), jnp.array(1.0), keys(2), num_steps=0)
    assert never.num_steps.tolist() == [0, 0]
    assert never.value.tolist() == [1.0, 1.0]


def test_randomness_is_drawn_only_when_some_lane_bounces():
    """The generator sits in a branch that is not a `select`, whatever the number of `vmap`s."""

    def step(params, state):
        tx = two_basin_bbi(0)
        value, grad = jax.value_and_grad(BASINS.fn)(params)
        return tx.update(grad, state, params, value=value)

    states = jax.vmap(jax.vmap(lambda key: two_basin_bbi(key).init(START)))(keys(6).reshape(2, 3))
    params = jnp.broadcast_to(START, (2, 3, 2))
    jaxpr = jax.make_jaxpr(jax.vmap(jax.vmap(step)))(params, states)

    def inlined(jaxpr):
        for eqn in jaxpr.eqns:
            yield from inlined(eqn.params["jaxpr"]) if eqn.primitive.name == "jit" else [eqn]

    outside = {eqn.primitive.name: eqn for eqn in inlined(jaxpr)}
    assert "cond" in outside
    assert not {"erf_inv", "random_bits", "threefry2x32"} & set(outside)
    branches = outside["cond"].params["branches"]
    assert "erf_inv" in str(branches)


@pytest.mark.slow
def test_float64():
    with jax.enable_x64(True):
        result = ensemble.run(
            kinopt.landscapes.zakharov(3).fn,
            lambda key: kinopt.bbi(1e-2, fixed_bounce_every=None, patience=None, key=key),
            -jnp.ones(3, jnp.float64),
            keys(2),
            num_steps=3000,
        )
        assert result.value.dtype == jnp.float64
        assert (result.best_value < 1e-12).all()


def test_trajectories_are_those_of_the_run(reference):
    path = ensemble.trajectories(
        BASINS.fn, two_basin_bbi, START, keys(50)[5:8], num_steps=4000, every=200, stop=STOP
    )
    assert path.value.shape == (3, 21)
    assert path.params.shape == (3, 21, 2)
    np.testing.assert_array_equal(path.params[:, 0], jnp.broadcast_to(START, (3, 2)))
    np.testing.assert_array_equal(path.num_steps[:, -1], reference.num_steps[5:8])
    np.testing.assert_array_equal(path.params[:, -1], reference.params[5:8])
    values = jax.vmap(jax.vmap(BASINS.fn))(path.params)
    np.testing.assert_allclose(path.value, values, rtol=1e-5)
    assert (jnp.diff(path.num_steps, axis=1) >= 0).all()


@pytest.mark.slow
def test_more_records_than_a_call_makes(monkeypatch):
    def path(every):
        return ensemble.trajectories(
            BASINS.fn, two_basin_bbi, START, keys(3), num_steps=75, every=every, stop=STOP
        )

    whole = path(1)
    monkeypatch.setattr(_training, "RECORDS", 20)
    for every in (1, 4):
        parts = jax.tree.map(lambda x, every=every: x[:, ::every], whole)
        jax.tree.map(np.testing.assert_array_equal, path(every), parts)


@pytest.mark.slow
def test_more_seeds_than_a_function_of_a_cpu_takes():
    """XLA splits operations on so many lanes among cores, which it cannot inside one function."""
    number, num_steps = 600, 30
    ended = run(number, num_steps, lanes=number)
    path = ensemble.trajectories(
        BASINS.fn, two_basin_bbi, START, keys(number), num_steps=num_steps, every=num_steps
    )
    assert path.params.shape == (number, 2, 2)
    np.testing.assert_array_equal(path.params[:, -1], ended.params)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [Build(), Build(is_small=True, is_branchless=True, piece=32)], ids=["plain", "gpu"]
)
def test_seeds_end_alike_however_a_round_is_compiled(build, monkeypatch):
    """But for rounding, of which chaos makes another seed in the long run."""
    expected = run(50, num_steps=1000)
    monkeypatch.setattr(_workers, "_measured", lambda *a: (100, build))
    result = ensemble.run(
        BASINS.fn, lambda key: two_basin_bbi(key), START, keys(50), num_steps=1000, stop=STOP
    )
    assert 5 < int((expected.outcome > 0).sum()) < 50
    np.testing.assert_array_equal(result.outcome, expected.outcome)
    np.testing.assert_array_equal(result.num_steps, expected.num_steps)
    np.testing.assert_allclose(result.params, expected.params, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_ctrl_c_returns_what_is_finished(monkeypatch):
    """The signal comes while the programs run: they stop after the call they are in."""
    real = _engine.concurrent.futures.wait
    waits = []

    def wait(futures, timeout=None):
        waits.append(timeout)
        if len(waits) == 2:
            raise KeyboardInterrupt
        return real(futures, timeout=timeout)

    monkeypatch.setattr(_engine.concurrent.futures, "wait", wait)
    with pytest.warns(UserWarning, match="Interrupted: .* of 400000 seeds"):
        result = run(400_000, lanes=8, chunk=16)
    number = result.seed.shape[0]
    assert number < 400_000
    assert (jnp.diff(result.seed) > 0).all()
    assert result.outcome.shape == (number,)
    monkeypatch.undo()
    if number:
        first = int(result.seed[0])
        again = ensemble.run(
            BASINS.fn,
            two_basin_bbi,
            START,
            keys(400_000)[first : first + 1],
            num_steps=4000,
            stop=STOP,
        )
        assert int(again.outcome[0]) == int(result.outcome[0])


@pytest.mark.slow
def test_progress_shows_seeds_and_outcomes(capsys):
    run(20, progress=True)
    shown = capsys.readouterr().err
    assert "20/20" in shown
    assert "outcome 1" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": -1}, "num_steps"),
        ({"lanes": 0}, "lanes must be a whole number of at least 1"),
        ({"chunk": 0}, "chunk must be a whole number of at least 1"),
        ({"keys": jax.random.key(0)}, "one key for each seed"),
        ({"keys": keys(0)}, "at least one seed"),
        ({"stacked": True, "params": jnp.zeros((2, 2))}, "leading axis of 3 seeds"),
    ],
    ids=lambda x: None if isinstance(x, str) else str(x)[:20],
)
def test_bad_arguments_say_what_is_wrong(change, message):
    arguments = {"params": jnp.zeros(2), "keys": keys(3), "num_steps": 5, **change}
    with pytest.raises(ValueError, match=message):
        ensemble.run(lambda x: jnp.sum(x**2), optax.sgd(0.1), **arguments)


def test_losses_and_stop_rules_must_be_scalars():
    with pytest.raises(TypeError, match="floating scalar"):
        ensemble.run(lambda x: x, optax.sgd(0.1), jnp.zeros(2), keys(1), num_steps=1)
    with pytest.raises(TypeError, match="integer of shape"):
        ensemble.run(
            lambda x: jnp.sum(x),
            optax.sgd(0.1),
            jnp.zeros(2),
            keys(1),
            num_steps=1,
            stop=lambda x, value: value,
        )
    with pytest.raises(ValueError, match="every must be a whole number of at least 1"):
        ensemble.trajectories(BASINS.fn, optax.sgd(0.1), START, keys(1), num_steps=1, every=0)


def test_a_large_model_gets_fewer_lanes_than_a_small_one():
    def lanes(size, device):
        functions = (lambda x: jnp.sum(x), optax.adam(1e-3), None, None, None)
        problem = Problem(*functions, 1, False, None, False, frozenset())
        keys = jnp.zeros((4, 2), jnp.uint32)
        source = _workers.Source(keys, jnp.zeros(size), None, jnp.array(4))
        lane_bytes, _ = _workers._measured(as_task(problem), source, device)
        return _workers._default_lanes(lane_bytes, 10**6, device)

    cpu, gpu = jax.devices()[0], types.SimpleNamespace(platform="gpu")
    assert lanes(2, cpu) == _workers.CPU_LANES[1]
    assert lanes(10**6, cpu) == _workers.CPU_LANES[0]
    assert lanes(2, gpu) == _workers.ACCELERATOR_LANES
    assert lanes(10**4, gpu) == pytest.approx(_workers.ACCELERATOR_BYTES / (4 * 10**4 * 4), rel=0.4)
    assert lanes(10**8, gpu) == 1
