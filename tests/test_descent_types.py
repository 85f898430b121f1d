"""Infinities of narrow types, strict settings of JAX, meshes, and vmap over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import kinopt
from tests.registry import CASES, loss, parameters, step

DRAWING = [c for c in CASES if c.name in ("bbi-bouncing", "ecdsep", "isokinetic-turning")]


def assert_untouched(state, before):
    assert int(state.num_skipped) == int(before.num_skipped) + 1
    state = state._replace(num_skipped=before.num_skipped)
    jax.tree.map(np.testing.assert_array_equal, state, before)


@pytest.mark.parametrize("integrator", ["paper", "leapfrog"])
@pytest.mark.slow
def test_a_displacement_beyond_float16_is_passed_over(integrator):
    """Steps of 1e3 times a momentum of 1e3: finite in float32, infinite in the parameter's type."""
    x = jnp.array([1.0, -2.0], jnp.float16)
    tx = kinopt.bbi(1e3, extra_energy=1.0, integrator=integrator, fixed_bounce_every=None)
    before = tx.init(x)
    update, state = tx.update(1e3 * x, before, value=jnp.float32(1.0))
    np.testing.assert_array_equal(update, 0)
    assert_untouched(state, before)
    assert np.isfinite(
        np.asarray(
            kinopt.bbi(1e3, extra_energy=1.0).update(
                1e3 * x.astype(jnp.float32), kinopt.bbi(1.0).init(x.astype(jnp.float32)), value=1.0
            )[0]
        )
    ).all()  # which float32 holds


@pytest.mark.parametrize("mu_dtype", ["float16", "float32"])
def test_a_kick_beyond_the_type_of_the_momentum_is_passed_over(mu_dtype):
    large = 1e6 if mu_dtype == "float16" else 1e18
    x = jnp.array([1.0, -2.0])
    tx = kinopt.bbi(100.0, extra_energy=1.0, mu_dtype=mu_dtype)
    before = tx.init(x)
    _, before = tx.update(x, before, value=1.0)
    update, state = tx.update(large * x, before, value=1.0)
    np.testing.assert_array_equal(update, 0)
    assert_untouched(state, before)
    assert int(state.num_halted) == 0  # V is nowhere near zero


def test_a_gradient_whose_square_overflows_is_passed_over():
    """As the docstring of `ecd` says: beyond 1.8e19 in float32."""
    x = jnp.array([1.0, 0.0])
    tx = kinopt.bbi(1e-10, extra_energy=1.0)
    update, state = tx.update(2e19 * x, tx.init(x), value=1.0)
    assert_untouched(state, tx.init(x))
    update, state = tx.update(1e19 * x, tx.init(x), value=1.0)
    assert (int(state.num_skipped), bool(update[0] < 0)) == (0, True)


def test_numbers_of_numpy_are_not_promoted_to():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        for settings in ({"s": np.float64(0.5)}, {"eta": np.float32(2)}, {"f_min": np.int64(-1)}):
            tx = kinopt.ecdsep(np.float64(0.1), extra_energy=np.float32(1), **settings)
            x = jnp.ones(2, jnp.float32)
            update, state = tx.update(x, tx.init(x), value=jnp.float32(1))
            assert update.dtype == state.energy.dtype == jnp.float32


def _lanes(tx, seeds):
    """Three steps of each seed from a start of its own."""

    def lane(seed):
        def one(carry, _):
            params, state = carry
            updates, state = step(tx, params, state)
            return (optax.apply_updates(params, updates), state), None

        params = jax.tree.map(lambda x: x * (1 + seed), parameters())
        (params, state), _ = jax.lax.scan(one, (params, tx.init(params)), length=3)
        return params, kinopt.ecd_stats(state)

    return jax.jit(jax.vmap(lane))(seeds), lane


@pytest.mark.parametrize("case", DRAWING, ids=lambda case: case.name)
@pytest.mark.slow
def test_lanes_spread_over_devices_by_spmd_axis_name(case):
    """What draws in its steps; the battery has the others."""
    tx, seeds = case.make(), jnp.arange(8.0) / 8
    expected, lane = _lanes(tx, seeds)
    mesh = jax.make_mesh((4, 2), ("lanes", "rest"), axis_types=(AxisType.Auto,) * 2)
    spread = jax.device_put(seeds, NamedSharding(mesh, P("lanes")))
    with jax.set_mesh(mesh):
        got = jax.jit(jax.vmap(lane, spmd_axis_name="lanes"))(spread)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=["explicit", "auto"])
def test_a_mesh_of_three_axes(kind):
    tx = kinopt.bbi(0.05, fixed_bounce_every=1, extra_energy=1.0, integrator="leapfrog")
    params = parameters()
    expected = tx.init(params)
    for _ in range(2):
        want, expected = step(tx, params, expected)
    mesh = jax.make_mesh((2, 2, 2), ("x", "y", "z"), axis_types=(kind,) * 3)
    specs = {"kernel": P(("x", "y"), "z"), "bias": P("z")}
    specs = {"body": specs, "frozen": None, "stack": P("x", "z", "y")}
    value, grads = jax.value_and_grad(loss)(params)
    with jax.set_mesh(mesh):
        layout = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        params, grads = jax.device_put((params, grads), (layout, layout))
        state = jax.jit(tx.init)(params)
        update = jax.jit(lambda g, s: tx.update(g, s, value=value))
        for _ in range(2):
            got, state = update(grads, state)
    assert int(state.num_bounces) == 1
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_step_of_the_paper_exceeds_the_speed_limit_by_its_kick():
    """|step| <= dt sqrt(V) + dt^2 |grad V|, and more than 1.5 dt sqrt(V) where steps are long."""
    curvature = jnp.array([1.0, 40.0])
    bowl = lambda x: jnp.sum(curvature * x**2) / 2  # noqa: E731
    dt = 0.2
    tx, x = kinopt.bbi(dt), jnp.array([2.0, 1.0])
    state, ratios, bounds = tx.init(x), [], []
    update = jax.jit(lambda g, s, v: tx.update(g, s, value=v))
    for _ in range(60):
        value, gradient = jax.value_and_grad(bowl)(x)
        moved, state = update(gradient, state, value)
        length, limit = float(jnp.linalg.norm(moved)), dt * float(jnp.sqrt(value))
        ratios.append(length / limit)
        bounds.append(length / (limit + dt**2 * float(jnp.linalg.norm(gradient))))
        x = x + moved
    assert max(bounds) <= 1 + 1e-5
    assert 1.5 < max(ratios) < 2.2
