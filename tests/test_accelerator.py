"""What an accelerator computes is what a CPU does; `python -m benchmarks gpu` begins with it.

Nothing here needs `conftest.py`. Without an accelerator all of it is skipped, unless a CPU is asked
to stand for one: KINOPT_ACCELERATOR=any.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import kinopt
from benchmarks.speed.ensemble import kinopt_runs
from tests.registry import CASES, Case, loss, parameters

ANY = os.environ.get("KINOPT_ACCELERATOR") == "any"
pytestmark = pytest.mark.skipif(
    jax.default_backend() == "cpu" and not ANY, reason="there is no accelerator"
)
CPU = jax.local_devices(backend="cpu")[0]
DEVICE = jax.local_devices()[0]
KINDS = [case for case in CASES if not case.is_variant]
if ANY:  # which shows that these tests run; what a CPU computes the battery knows
    KINDS = KINDS[::2]
every_case = pytest.mark.parametrize("case", KINDS if ANY else CASES, ids=lambda case: case.name)
every_kind = pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def exact_products():
    """Matrix products in float32, where an accelerator would take fewer digits."""
    with jax.default_matmul_precision("highest"):
        yield


def three_steps(case: Case, params):
    """Parameters, updates and state after three steps; the third asks nothing of the host."""
    tx = case.make()

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), updates, state

    state = tx.init(params)
    for _ in range(2):
        params, _, state = step(params, state)
    with jax.transfer_guard("disallow"):
        return step(params, state)


def assert_near(one, other, tolerance):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * max(1, np.abs(y).max()))


@every_case
def test_a_trajectory_is_that_of_a_cpu(case: Case):
    with jax.default_device(CPU):
        expected = three_steps(case, parameters())
    found = three_steps(case, jax.device_put(parameters(), DEVICE))
    assert_near(found[:2], expected[:2], 1e-4)
    # The state, too: what is counted, the keys, and the statistics.
    assert_near(found[2], expected[2], 1e-3)


@every_kind
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_half_precision_stays_what_it_is(case: Case, dtype):
    tx = case.make()
    params = parameters(dtype)
    state = tx.init(params)
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    updates, after = jax.jit(tx.update)(grads, state, params, value=value)
    for update, param in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        assert update.dtype == param.dtype
        assert bool(jnp.all(jnp.isfinite(update)))
    kinds = [[leaf.dtype for leaf in jax.tree.leaves(kept)] for kept in (state, after)]
    assert kinds[0] == kinds[1]


@every_kind
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_a_mesh_of_one_device_changes_nothing(case: Case, kind):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(kind,), devices=[DEVICE])
    params = parameters()
    expected = three_steps(case, jax.device_put(params, DEVICE))[0]
    with jax.set_mesh(mesh):
        everywhere = NamedSharding(mesh, P())
        found = three_steps(case, jax.device_put(params, everywhere))[0]
    assert_near(found, expected, 1e-5)


def test_lanes_count_as_on_a_cpu():
    def init(key):
        return jax.random.randint(key, (), 2, 1000)

    def collatz(n):
        n = jnp.where(n % 2 == 0, n // 2, 3 * n + 1)
        return n, n == 1

    keys = jax.random.split(jax.random.key(0), 1000)
    found = kinopt.lanes.run(collatz, init, keys, num_steps=1000)
    with jax.default_device(CPU):
        expected = kinopt.lanes.run(collatz, init, keys, num_steps=1000)
    np.testing.assert_array_equal(found.num_steps, expected.num_steps)
    np.testing.assert_array_equal(found.outcome, expected.outcome)


def test_an_ensemble_ends_as_on_a_cpu():
    def bowl(x):
        return jnp.sum((x - jnp.array([1.0, -2.0])) ** 2)

    def arrived(x, value):
        return jnp.where(value < 1e-3, 1, 0)

    keys = jax.random.split(jax.random.key(3), 500)
    starts = 3 * jax.random.normal(jax.random.key(4), (500, 2))
    adam = optax.adam(0.1)

    def run():
        return kinopt.ensemble.run(
            bowl, adam, starts, keys, num_steps=2000, stacked=True, stop=arrived
        )

    found = run()
    with jax.default_device(CPU):
        expected = run()
    assert set(np.asarray(found.outcome)) == {1}
    # A threshold is met a step earlier or later where the last digits differ.
    apart = np.abs(np.asarray(found.num_steps) - np.asarray(expected.num_steps))
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.95


def test_two_basins_are_entered_as_often_as_on_a_cpu():
    """First entries of the two-basin protocol; the difference within four standard errors."""
    seeds = 2000
    counts = []
    for device in (DEVICE, CPU):
        with jax.default_device(device):
            outcome, _ = kinopt_runs(seeds, seed=11)
        counts.append(np.bincount(outcome, minlength=3))
    shares = np.array(counts)[:, 1] / seeds
    pooled = shares.mean()
    assert abs(shares[0] - shares[1]) < 4 * np.sqrt(2 * pooled * (1 - pooled) / seeds)
