"""The collision transformations in use: keys, masks, axes, statistics, accidents, Flax models."""

import functools
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import kinopt
from kinopt.collisions.blockwise import rows_per_block
from kinopt.collisions.stats import CollisionState
from tests.test_layers import LinenNet, NnxNet

HARD = functools.partial(kinopt.hard_collision, scatter="pairs")  # "auto" compiles twice as much
BOTH = {"soft": kinopt.soft_collision, "hard": HARD}
both = pytest.mark.parametrize("collision", BOTH.values(), ids=BOTH.keys())


def gas(neurons=6, features=5, seed=0, batch=()):
    keys = jax.random.split(jax.random.key(seed))
    shape = (*batch, features, neurons)
    return 0.3 * jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)


def collide(tx, w, g):
    updates, state = tx.update(g, tx.init(w), w)
    return updates, state


@both
def test_zero_coefficient_is_the_identity_bit_for_bit(collision):
    w, g = gas()
    w = w.at[:, 1].set(w[:, 0])  # a pair at distance zero
    g = g.at[0, 0].set(-0.0)
    after, _ = collide(collision(0.0), w, g)
    np.testing.assert_array_equal(np.asarray(after).view(np.uint32), np.asarray(g).view(np.uint32))


@both
def test_a_schedule_gives_the_coefficient_of_each_update(collision):
    w, g = gas()
    tx = collision(lambda count: jnp.where(count == 0, 0.0, 0.9))
    state = tx.init(w)
    first, state = tx.update(g, state, w)
    second, state = tx.update(g, state, w)
    np.testing.assert_array_equal(first, g)
    assert not np.array_equal(second, g)
    assert int(state.count) == 2


@both
@pytest.mark.slow
def test_batch_axes_equal_a_loop_and_specifications_agree(collision):
    """Soft, and hard without scattering, on [in, heads, dim] against each head alone."""
    options = {"restitution": 0.0} if collision is HARD else {}
    w, g = (jnp.moveaxis(x, 0, 1) for x in gas(batch=(3,)))
    axes = kinopt.NeuronAxes(output_axis=2, reduction_axis=0)
    together, state = collide(collision(0.8, neuron_axes=axes, **options), w, g)
    alone = [collide(collision(0.8, **options), w[:, h], g[:, h])[0] for h in range(3)]
    np.testing.assert_allclose(together, jnp.stack(alone, axis=1), atol=2e-6)
    (stats,) = kinopt.collision_stats(state).values()
    cosines = [kinopt.metrics.neuron_similarity(w[:, h].T) for h in range(3)]
    np.testing.assert_allclose(stats.max_abs_cosine, max(cosines), rtol=1e-4)

    turned, _ = collide(
        collision(0.8, neuron_axes=kinopt.NeuronAxes(0), **options), w[:, 0].T, g[:, 0].T
    )
    np.testing.assert_allclose(turned.T, alone[0], atol=1e-6)


@pytest.mark.slow
def test_keys_of_every_kind_give_one_result():
    w, g = gas()
    raw = jax.random.key_data(jax.random.key(3))
    kinds = [3, np.int64(3), jax.random.key(3), raw, np.asarray(raw)]
    results = [collide(HARD(0.9, key=key), w, g)[0] for key in kinds]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    assert not np.array_equal(collide(HARD(0.9, key=4), w, g)[0], results[0])

    def traced(key):
        return collide(HARD(0.9, key=key), w, g)[0]

    np.testing.assert_allclose(jax.jit(traced)(raw), results[0], atol=1e-6)
    seeds = jax.vmap(traced)(jax.random.split(jax.random.key(0), 4))
    assert len(np.unique(seeds[:, 0, 0])) == 4


def test_a_key_of_another_generator_is_remembered():
    w, g = gas()
    tx = HARD(0.9, key=jax.random.key(0, impl="rbg"))
    state = tx.init(w)
    assert state.key.shape == (4,)
    after, _ = tx.update(g, state, w)
    np.testing.assert_allclose(after.sum(axis=1), g.sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("key", ["seed", 1.5, jnp.zeros((2, 2), jnp.uint32)])
def test_a_bad_key_is_refused(key):
    with pytest.raises(TypeError):
        kinopt.hard_collision(key=key).init(jnp.zeros((2, 2)))


@pytest.mark.slow
def test_leaves_of_equal_shape_draw_different_directions_whatever_is_beside_them():
    w, g = gas()
    tx = HARD(0.9)
    params, grads = {"a": w, "b": w}, {"a": g, "b": g}
    updates, _ = collide(tx, params, grads)
    assert not np.array_equal(updates["a"], updates["b"])
    alone, _ = collide(tx, {"b": w}, {"b": g})
    np.testing.assert_array_equal(alone["b"], updates["b"])


def test_steps_draw_different_directions():
    w, g = gas()
    tx = HARD(0.9)
    first, state = tx.update(g, tx.init(w), w)
    second, _ = tx.update(g, state, w)
    assert not np.array_equal(first, second)


def test_slices_draw_different_directions():
    w, g = (jnp.stack([x] * 3) for x in gas())
    tx = kinopt.hard_collision(1.0, combine="matching", neuron_axes=kinopt.NeuronAxes(2, 1))
    after, _ = collide(tx, w, g)
    assert len(np.unique(after[:, 0, 0])) == 3


@both
def test_unselected_leaves_are_the_same_objects_bit_for_bit(collision):
    w, g = gas()
    params, grads = {"head": w, "body": w}, {"head": g, "body": g}
    updates, state = collide(collision(0.9, mask=kinopt.layer_mask("head")), params, grads)
    assert updates["body"] is grads["body"]
    assert not np.array_equal(updates["head"], g)
    assert list(kinopt.collision_stats(state)) == ["head"]


@both
@pytest.mark.parametrize("accident", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("where", ["weight", "gradient"])
def test_an_accident_stays_where_it_is_and_is_counted(collision, accident, where):
    """Three layers in one leaf; the accident in one leaves the two others to collide."""
    w, g = gas(batch=(3,))
    axes = kinopt.NeuronAxes(2, 1)
    tx = collision(0.9, neuron_axes=axes)
    good, _ = collide(tx, w, g)
    broken = (
        (w.at[1, 0, 0].set(accident), g) if where == "weight" else (w, g.at[1, 0, 0].set(accident))
    )
    state = tx.init(w)
    after, state = jax.jit(tx.update)(broken[1], state, broken[0])
    np.testing.assert_array_equal(after[1], broken[1][1])
    np.testing.assert_allclose(after[::2], good[::2], atol=1e-6)
    (stats,) = kinopt.collision_stats(state).values()
    assert stats.num_skipped == 1
    assert all(np.isfinite(x) for x in stats if x is not None)
    _, state = tx.update(g, state, w)
    assert kinopt.collision_stats(state)[""].num_skipped == 1
    _, state = tx.update(g.at[1:, 0, 0].set(accident), state, w)
    assert kinopt.collision_stats(state)[""].num_skipped == 3


@both
def test_zero_initialized_head_and_zero_gradients(collision):
    w, g = gas()
    for weights, gradients in [(jnp.zeros_like(w), g), (w, jnp.zeros_like(g))]:
        after, state = collide(collision(0.9), weights, gradients)
        assert jnp.all(jnp.isfinite(after))
        (stats,) = kinopt.collision_stats(state).values()
        assert stats.num_skipped == 0
    np.testing.assert_array_equal(after, 0)


@both
@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_tiny_and_huge_gradients(collision, size):
    w, g = gas()
    usual, _ = collide(collision(0.9), w, g)
    scaled, state = collide(collision(0.9), w, g * jnp.float32(size))
    np.testing.assert_allclose(scaled / jnp.float32(size), usual, rtol=1e-4, atol=1e-5)
    (stats,) = kinopt.collision_stats(state).values()
    assert jnp.isfinite(stats.energy_ratio)


def test_statistics_agree_with_the_metrics():
    w, g = gas(neurons=9)
    for tx in (kinopt.soft_collision(0.1), HARD(0.6)):
        after, state = collide(tx, w, g)
        (stats,) = kinopt.collision_stats(state).values()
        np.testing.assert_allclose(
            stats.mean_abs_cosine, kinopt.metrics.weight_correlation(w.T), rtol=1e-4
        )
        np.testing.assert_allclose(
            stats.max_abs_cosine, kinopt.metrics.neuron_similarity(w.T), rtol=1e-4
        )
        ratio = jnp.sum(after**2) / jnp.sum(g**2)
        np.testing.assert_allclose(stats.energy_ratio, ratio, rtol=1e-5)


def test_statistics_are_found_anywhere():
    w, _ = gas()
    params = {"head": w, "body": w}
    inner = optax.chain(
        optax.clip(1.0),
        optax.masked(kinopt.soft_collision(0.1), {"head": True, "body": False}),
        HARD(0.5),
        optax.adam(1e-3),
    )
    tx = optax.MultiSteps(optax.inject_hyperparams(lambda _: inner)(_=0.1), 2)
    stats = kinopt.collision_stats(tx.init(params))
    assert list(stats) == ["head", "body", "head#2"]
    assert stats["head"].gain is not None
    assert stats["head"].accepted_fraction is None
    assert stats["body"].gain is None
    assert stats["body"].accepted_fraction is not None
    with pytest.raises(ValueError, match="no collision"):
        kinopt.collision_stats(optax.adam(1e-3).init(params))


def test_uphill_updates_and_accidents_are_counted_and_said():
    """Four copies: M is all ones, and the gain 4 c. At a gain of 1 nothing goes uphill yet."""
    w = jnp.ones((4, 4))
    coefficients = jnp.array([0.25, 0.375, 0.5, 0.125, 0.125])
    tx = kinopt.soft_collision(lambda count: coefficients[count])
    state, uphill, skipped = tx.init(w), [], []
    for n in range(5):
        _, state = tx.update(w if n < 3 else w.at[0, 0].set(jnp.nan), state, w)
        (stats,) = kinopt.collision_stats(state).values()
        uphill.append(int(stats.num_uphill))
        skipped.append(int(stats.num_skipped))
        assert (f"In {uphill[-1]} updates the gain was above 1" in repr(stats)) == (n > 0)
        assert (f"{skipped[-1]} batch slices kept their gradient" in repr(stats)) == (n > 2)
    assert (uphill, skipped) == ([0, 1, 2, 2, 2], [0, 0, 0, 1, 2])


def test_statistics_of_slices_are_means_and_the_largest():
    """Two copies in one slice, two orthogonal neurons in the other."""
    w = jnp.stack([jnp.ones((2, 2)), jnp.eye(2)])
    tx = kinopt.soft_collision(0.5, neuron_axes=kinopt.NeuronAxes(-1, -2))
    (stats,) = kinopt.collision_stats(collide(tx, w, w)[1]).values()
    np.testing.assert_allclose(stats.gain, 1, rtol=1e-6)
    np.testing.assert_allclose(stats.max_abs_cosine, 1, rtol=1e-6)
    np.testing.assert_allclose(stats.mean_abs_cosine, 0.5, rtol=1e-6)
    np.testing.assert_allclose(stats.energy_ratio, (0 + 0.25) / 2, atol=1e-6)
    np.testing.assert_allclose(stats.common_mode, (1 + 0.5) / 2, rtol=1e-6)


def test_a_third_collision_of_a_leaf_is_the_third():
    tx = optax.chain(*(kinopt.soft_collision(c) for c in (0.1, 0.2, 0.3)))
    assert list(kinopt.collision_stats(tx.init({"w": gas()[0]}))) == ["w", "w#2", "w#3"]


def test_statistics_of_many_seeds():
    tx = HARD(0.5)
    w, _ = gas(batch=(4,))
    state = jax.vmap(tx.init)({"w": w, "bias": jnp.zeros((4, 3))})
    stats = kinopt.collision_stats(state)
    assert list(stats) == ["w"]
    assert stats["w"].energy_ratio.shape == (4,)


def test_a_large_layer_is_announced_once_with_its_cost():
    params = {"head": {"kernel": jax.ShapeDtypeStruct((4, 8193), jnp.float32)}}
    for tx in (kinopt.soft_collision(), kinopt.hard_collision()):
        with pytest.warns(
            UserWarning, match=r"'head/kernel' has 8,193 neurons.*operations"
        ) as all_:
            jax.eval_shape(tx.init, params)
        assert len(all_) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(kinopt.hard_collision(combine="matching").init, params)
        smaller = {"head": {"kernel": jax.ShapeDtypeStruct((4, 8192), jnp.float32)}}
        jax.eval_shape(kinopt.soft_collision().init, smaller)


def test_a_mask_that_selects_nothing_that_collides_is_announced():
    params = {"bias": jnp.zeros(3), "kernel": jnp.zeros((3, 2))}
    with pytest.warns(UserWarning, match="does nothing"):
        kinopt.soft_collision(mask=kinopt.layer_mask("bias")).init(params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kinopt.soft_collision(-0.1), "coll_coef must be a number at least 0"),
        (lambda: kinopt.soft_collision(float("nan")), "coll_coef"),
        (lambda: kinopt.soft_collision(1.5, normalize=True), "at most 1"),
        (lambda: kinopt.hard_collision(1.5), "at most 1"),
        (lambda: kinopt.hard_collision(restitution=2), "restitution"),
        (lambda: kinopt.hard_collision(block_size=0), "block_size"),
        (lambda: kinopt.hard_collision(scatter="gaussian", combine="matching"), "gaussian"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_mixed_precision_accumulates_in_float32():
    """bfloat16 gradients of float32 weights: the float32 result, rounded once."""
    w, g = gas(neurons=32, features=64)
    g = g.astype(jnp.bfloat16)
    for tx in (kinopt.soft_collision(0.1), kinopt.hard_collision(0.6, restitution=0.0)):
        low, _ = collide(tx, w, g)
        high, _ = collide(tx, w, g.astype(jnp.float32))
        assert low.dtype == jnp.bfloat16
        np.testing.assert_array_equal(low, high.astype(jnp.bfloat16))


HEAD = kinopt.layer_mask("head")


def data():
    x = jax.random.normal(jax.random.key(5), (32, 4))
    return x, jnp.argmax(x[:, :3], axis=1)


@both
def test_trains_a_linen_model(collision):
    x, y = data()
    net = LinenNet()
    tx = optax.chain(collision(0.05, mask=HEAD), optax.adamw(1e-2))
    params = net.init(jax.random.key(0), x)["params"]
    state = TrainState.create(apply_fn=net.apply, params=params, tx=tx)

    def loss(params):
        logits = net.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    before = loss(params)
    step = jax.jit(lambda state: state.apply_gradients(grads=jax.grad(loss)(state.params)))
    for _ in range(60):
        state = step(state)
    assert loss(state.params) < 0.7 * before
    assert list(kinopt.collision_stats(state.opt_state)) == ["head/kernel"]


@both
def test_trains_an_nnx_model(collision):
    x, y = data()
    net = NnxNet(nnx.Rngs(0))
    tx = optax.chain(collision(0.05, mask=HEAD), optax.adamw(1e-2))
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        def loss(net):
            return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

        value, grads = nnx.value_and_grad(loss)(net)
        optimizer.update(net, grads, value=value)
        return value

    losses = [float(step(net, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    stats = kinopt.collision_stats(optimizer.opt_state)
    assert list(stats) == ["head/kernel"]
    assert stats["head/kernel"].energy_ratio > 0


@pytest.mark.slow
def test_a_mask_tree_made_from_an_nnx_state():
    net = NnxNet(nnx.Rngs(0))
    mask = kinopt.layer_mask("head")(nnx.state(net, nnx.Param))
    optimizer = nnx.Optimizer(net, kinopt.soft_collision(0.1, mask=mask), wrt=nnx.Param)
    grads = nnx.grad(lambda net: jnp.sum(net(jnp.ones((2, 4))) ** 2))(net)
    before = jax.tree.map(jnp.copy, nnx.state(net, nnx.Param))
    optimizer.update(net, grads)
    expected = before["body"]["kernel"][...] + grads["body"]["kernel"][...]
    np.testing.assert_allclose(net.body.kernel[...], expected)
    assert list(kinopt.collision_stats(optimizer.opt_state)) == ["head/kernel"]


@pytest.mark.slow
def test_attention_and_scanned_layers():
    """The axes of the table in kinopt.layers, on the parameters that Flax really makes."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.MultiHeadDotProductAttention(num_heads=2)(x), None

    stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    x = jnp.ones((1, 4, 8))
    params = stack().init(jax.random.key(0), x, None)["params"]

    def axes(params):
        table = {"query": kinopt.NeuronAxes(3, 1), "out": kinopt.NeuronAxes(3, (1, 2))}
        return jax.tree_util.tree_map_with_path(
            lambda path, _: next((v for k, v in table.items() if k in str(path)), None), params
        )

    tx = HARD(0.9, mask=kinopt.layer_mask("(query|out)/kernel"), neuron_axes=axes)
    grads = jax.tree.map(jnp.sin, params)
    updates, state = tx.update(grads, tx.init(params), params)
    assert len(kinopt.collision_stats(state)) == 2
    query = params["MultiHeadDotProductAttention_0"]["query"]["kernel"]
    assert query.shape == (3, 8, 2, 4)
    moved = updates["MultiHeadDotProductAttention_0"]["query"]["kernel"]
    original = grads["MultiHeadDotProductAttention_0"]["query"]["kernel"]
    # Momentum is conserved within each layer and head.
    np.testing.assert_allclose(moved.sum(3), original.sum(3), atol=1e-5)
    assert not np.array_equal(moved, original)


def test_state_types():
    w, _ = gas()
    state = kinopt.hard_collision().init({"w": w, "b": w[0]})
    assert isinstance(state, CollisionState)
    assert list(state.stats) == ["w"]
    assert kinopt.soft_collision().init(w).key is None


@pytest.mark.slow
def test_temporary_memory_of_a_large_layer():
    """[1000, 2048]: a hundredth of the N x N x D array that the law is written with."""
    leaf = jax.ShapeDtypeStruct((2048, 1000), jnp.float32)
    for tx in (kinopt.soft_collision(), kinopt.hard_collision()):
        state = jax.eval_shape(tx.init, leaf)
        compiled = jax.jit(tx.update).lower(leaf, state, leaf).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 100e6


@pytest.mark.parametrize(
    ("shape", "limit"), [((256, 16_384), 200e6), ((1024, 50_000), 2e9)], ids=["16384", "50000"]
)
@pytest.mark.parametrize(
    "tx",
    [
        kinopt.soft_collision(),
        kinopt.hard_collision(),
        kinopt.hard_collision(combine="metropolis", approaching_only=True),
        kinopt.hard_collision(combine="matching"),
    ],
    ids=["soft", "hard", "metropolis", "matching"],
)
@pytest.mark.filterwarnings("ignore:.*neurons of:UserWarning")
def test_bounded_memory_of_a_vocabulary(shape, limit, tx):
    """A gigabyte or ten for each N x N matrix, if there were any."""
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    state = jax.eval_shape(tx.init, leaf)
    compiled = jax.jit(tx.update).lower(leaf, state, leaf).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < limit


@both
@pytest.mark.slow
def test_blocks_chosen_by_size_equal_the_dense_law(collision):
    dense = 2100
    w, g = gas(neurons=dense, features=3)
    assert rows_per_block(dense, None) < dense
    after, state = collide(collision(0.05), w, g)
    expected, expected_state = collide(collision(0.05, block_size=dense), w, g)
    np.testing.assert_allclose(after, expected, atol=2e-5)
    np.testing.assert_allclose(state.stats[""], expected_state.stats[""], rtol=1e-4)
