"""Layers spread over eight simulated devices: the unsharded result, in a fraction of the memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import kinopt

SOFT, HARD = kinopt.soft_collision, kinopt.hard_collision
COLLISIONS = {
    "soft": functools.partial(SOFT, 0.1),
    "soft, normalized": functools.partial(SOFT, 0.5, normalize=True, self_term=False),
    "soft, cells": functools.partial(SOFT, 0.3, cell_size=5),
    "soft, hashed cells": functools.partial(SOFT, 0.3, cell_size=4, cells="hash"),
    "hard": functools.partial(HARD, 0.7),
    "hard, blocks": functools.partial(HARD, 0.7, block_size=1, approaching_only=True),
    "hard, metropolis": functools.partial(HARD, 0.7, combine="metropolis"),
    "hard, drift": functools.partial(HARD, 0.7, restitution=0.0),
    "hard, gaussian": functools.partial(HARD, 0.7, scatter="gaussian"),
    "hard, matching": functools.partial(HARD, 0.8, combine="matching"),
    "hard, cells": functools.partial(HARD, 0.7, cell_size=6, every=2),
}
LAYOUTS = {
    "neurons": P(None, "x"),
    "features": P("x", None),
    "both": P("y", "x"),
    "neurons over two axes": P(None, ("x", "y")),
}
KINDS = ["soft", "soft, cells", "hard", "hard, matching"]  # all that ask differently who meets whom


def laid_out(*layouts, laws=KINDS):
    """These laws in each of these layouts."""
    cut = [(law, name) for name in layouts for law in laws]
    params = [pytest.param(COLLISIONS[law], LAYOUTS[name], id=f"{name}-{law}") for law, name in cut]
    return pytest.mark.parametrize(("make", "spec"), params)


def gas(neurons=16, features=8, batch=()):
    keys = jax.random.split(jax.random.key(0))
    shape = (*batch, features, neurons)
    return 0.3 * jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)


def mesh_of(kind, shape=(4, 2)):
    return jax.make_mesh(shape, ("x", "y"), axis_types=(kind, kind))


def assert_near(result, expected, rounding=1e-5):
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rounding, atol=rounding)


def tolerance(make):
    return 1e-3 if make.keywords.get("scatter") == "gaussian" else 1e-5  # a singular Laplacian


@functools.cache
def unsharded(make):
    w, g = gas()
    return jax.jit(make().update)(g, make().init(w), w)


@laid_out("neurons", "features", "neurons over two axes")
@pytest.mark.slow
def test_explicit_axes_give_the_unsharded_result(make, spec):
    """The battery cuts both axes, for every law."""
    (w, g), tx = gas(), make()
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        w, g = jax.device_put((w, g), NamedSharding(mesh, spec))
        result = jax.jit(tx.update)(g, jax.jit(tx.init)(w), w)
        assert result[0].sharding == g.sharding
    assert_near(result, unsharded(make), tolerance(make))


@pytest.mark.parametrize("make", [COLLISIONS[law] for law in KINDS], ids=KINDS)
@pytest.mark.slow
def test_explicit_axes_need_no_jit(make):
    (w, g), tx = gas(), make()
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        w, g = jax.device_put((w, g), NamedSharding(mesh, LAYOUTS["both"]))
        result = tx.update(g, tx.init(w), w)
    assert_near(result, unsharded(make), tolerance(make))


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        pytest.param(COLLISIONS[law], LAYOUTS[name], id=f"{name}-{law}")
        # One that cuts both, for the law that takes longest.
        for name, law in (("both", "soft"), ("neurons over two axes", "soft"), ("both", "hard"))
    ],
)
def test_auto_axes_with_sharding_give_the_unsharded_result(make, spec):
    w, g = gas()
    mesh = mesh_of(AxisType.Auto)
    sharding = NamedSharding(mesh, spec)
    tx = make(sharding=sharding)
    w, g = jax.device_put((w, g), sharding)
    result = jax.jit(tx.update, out_shardings=(sharding, None))(g, tx.init(w), w)
    assert_near(result, unsharded(make))


@laid_out("both", laws=[*KINDS, "hard, blocks", "hard, gaussian"])
@pytest.mark.slow
def test_inside_shard_map(make, spec):
    w, g = gas()
    mesh = mesh_of(AxisType.Explicit)
    tx = make(sharding=spec)
    with jax.set_mesh(mesh):
        w, g = jax.device_put((w, g), NamedSharding(mesh, spec))
        state = jax.jit(make().init)(w)
        everywhere = jax.tree.map(lambda _: P(), state)

        @functools.partial(jax.shard_map, out_specs=(spec, everywhere), check_vma=False)
        def update(g, w, state):
            assert w.shape != (8, 16)
            assert [x.shape for x in jax.tree.leaves(tx.init(w))] == [
                x.shape for x in jax.tree.leaves(state)
            ]
            return tx.update(g, state, w)

        result = jax.jit(update)(g, w, state)
    assert_near(result, unsharded(make), tolerance(make))


@laid_out("neurons", laws=[*KINDS, "soft, hashed cells", "hard, cells", "hard, metropolis"])
@pytest.mark.slow
def test_inside_a_shard_map_that_keeps_account_of_what_varies(make, spec):
    w, g = gas()
    tx = make(sharding=spec)
    mesh = mesh_of(AxisType.Auto)

    def update(g, w):
        return tx.update(g, tx.init(w), w)[0]

    update = jax.shard_map(update, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    assert_near(jax.jit(update)(g, w), unsharded(make)[0], tolerance(make))


STACKED, KERNEL = kinopt.NeuronAxes(2, 1), kinopt.NeuronAxes(2, (0, 1))
COMPOSITE = kinopt.NeuronAxes((1, 2))


@pytest.mark.parametrize(
    ("law", "axes", "spec"),
    [
        ("soft, cells", STACKED, P("y", "x", None)),
        ("soft, cells", STACKED, P("x", None, "y")),
        ("soft, cells", KERNEL, P("y", "x", None)),
        ("soft, cells", COMPOSITE, P(None, "y", "x")),
        ("hard", KERNEL, P("x", None, "y")),
        ("hard", COMPOSITE, P("x", None, "y")),
    ],
    ids=str,
)
@pytest.mark.slow
def test_batch_axes_and_composite_neurons(law, axes, spec):
    """Two stacked layers, and a convolution's kernel with cut reduction axes."""
    w, g = gas(neurons=8, features=4, batch=(4,))
    tx = COLLISIONS[law](neuron_axes=axes)
    expected = jax.jit(tx.update)(g, tx.init(w), w)
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        parts = jax.device_put((w, g), NamedSharding(mesh, spec))
        result = jax.jit(tx.update)(parts[1], jax.jit(tx.init)(parts[0]), parts[0])
    assert_near(result, expected)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.slow
def test_norms_of_cut_rows_stay_in_range(scale):
    w, g = gas()
    w, g = (x.at[3:].multiply(scale) for x in (w, g))  # all but one device's features
    mesh = mesh_of(AxisType.Explicit, (8, 1))
    for make in (COLLISIONS["soft"], COLLISIONS["hard"]):
        tx = make()
        expected = jax.jit(tx.update)(g, tx.init(w), w)
        with jax.set_mesh(mesh):
            parts = jax.device_put((w, g), NamedSharding(mesh, P("x", None)))
            after, state = jax.jit(tx.update)(parts[1], jax.jit(tx.init)(parts[0]), parts[0])
        size = jnp.max(jnp.abs(expected[0]))
        assert_near(after / size, expected[0] / size)
        assert_near(state.stats, expected[1].stats)


def test_a_sharding_without_its_mesh_is_refused():
    w, g = gas()
    tx = SOFT(sharding=P(None, "x"))
    with pytest.raises(ValueError, match="no mesh is set"):
        tx.update(g, tx.init(w), w)
    tx = SOFT(sharding=P(None, None, "x"))
    with pytest.raises(ValueError, match="2 axes"):
        tx.update(g, tx.init(w), w)


MEMORY = {
    "soft": (SOFT(), 0.2, 0.3),
    # One device alone holds two leaves here, one of eight two thirds of one: its cells, and what it
    # fetches for them.
    "soft, cells": (SOFT(cell_size=64), 0.35, 0.3),
    "hard": (HARD(), 0.2, 0.3),
    # Features: 10 MB of 39 without fusion emitters on jax 0.10, and of 47 with them.
    "hard, cells": (HARD(cell_size=64), 0.2, 0.27),
    # One device alone holds three leaves here, one of eight about one: what its pairs need.
    "hard, matching": (HARD(combine="matching"), 0.37, 0.6),
}


@pytest.mark.parametrize("name", MEMORY)
@pytest.mark.parametrize("axis", ["neurons", "features"])
@pytest.mark.slow
def test_memory_of_a_device_falls_with_their_number(name, axis):
    """Temporary bytes of one device of eight against those of one alone, and no whole leaf."""
    tx, *shares = MEMORY[name]
    used, shape = [], (512, 2048)
    for devices in (1, 8):
        mesh = jax.make_mesh((devices,), ("x",), axis_types=(AxisType.Explicit,))
        with jax.set_mesh(mesh):
            layout = NamedSharding(mesh, LAYOUTS[axis])
            leaf = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=layout)
            state = jax.jit(tx.init)(jnp.zeros(shape))
            compiled = jax.jit(tx.update).lower(leaf, state, leaf).compile()
        used.append(compiled.memory_analysis().temp_size_in_bytes)
    gathered = [line for line in compiled.as_text().splitlines() if "all-gather" in line]
    assert not any("512,2048" in line or "2048,512" in line for line in gathered)
    assert used[1] < shares[axis == "features"] * used[0]
