"""What a collision does with doubtful input: contained, counted, refused with a reason, or said."""

import functools
import inspect
import warnings

import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import kinopt

HARD = functools.partial(kinopt.hard_collision, scatter="pairs")  # "auto" compiles twice as much
BOTH = {"soft": kinopt.soft_collision, "hard": HARD}
both = pytest.mark.parametrize("collision", BOTH.values(), ids=BOTH.keys())


def gas(neurons=6, features=5, seed=0):
    keys = jax.random.split(jax.random.key(seed))
    shape = features, neurons
    return 0.3 * jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)


def collide(tx, w, g):
    after, state = jax.jit(tx.update)(g, tx.init(w), w)
    return after, next(iter(kinopt.collision_stats(state).values()))


@functools.cache
def _hard(**options):
    def update(g, state, w, coll_coef):
        return kinopt.hard_collision(coll_coef, **options).update(g, state, w)

    return jax.jit(update)


def collided(coll_coef, w, g, **options):
    """By a hard collision of any strength, compiled once."""
    state = kinopt.hard_collision(coll_coef, **options).init(w)
    after, state = _hard(**options)(g, state, w, coll_coef)
    return after, next(iter(kinopt.collision_stats(state).values()))


class TestDefaults:
    """The safe ones, and how the paper's laws are asked for."""

    @pytest.mark.parametrize("alike", ["both", "gradients"])
    def test_soft_divides_by_the_neurons_that_meet(self, alike):
        w, g = gas()
        default, stats = collide(kinopt.soft_collision(alike=alike), w, g)
        explicit, _ = collide(kinopt.soft_collision(1 / 6, alike=alike), w, g)
        np.testing.assert_array_equal(default, explicit)
        assert stats.gain <= 1
        assert jnp.sum(default * g) > 0

    def test_soft_in_cells_divides_by_the_neurons_of_a_cell(self):
        w, g = gas(neurons=8)
        default, _ = collide(kinopt.soft_collision(cell_size=4), w, g)
        explicit, _ = collide(kinopt.soft_collision(1 / 4, cell_size=4), w, g)
        np.testing.assert_allclose(default, explicit, rtol=1e-6)

    @pytest.mark.parametrize("seed", range(3))
    def test_soft_descends_also_where_all_neurons_are_one(self, seed):
        w, g = (x[:, :1] + 1e-3 * x for x in gas(40, 3, seed))
        after, stats = collide(kinopt.soft_collision(), w, g)
        assert jnp.sum(after * g) >= 0
        assert stats.energy_ratio <= 1 + 1e-5

    def test_hard_is_metropolis_at_bounded_cost(self):
        parameters = inspect.signature(kinopt.hard_collision).parameters
        defaults = {name: p.default for name, p in parameters.items()}
        assert (defaults["coll_coef"], defaults["distance"]) == (0.01, "rms")
        assert (defaults["combine"], defaults["scatter"]) == ("metropolis", "auto")

    @pytest.mark.slow
    @pytest.mark.parametrize(("neurons", "features"), [(64, 256), (256, 400)])
    def test_hard_does_not_raise_the_energy_of_a_fresh_layer(self, neurons, features):
        keys = jax.random.split(jax.random.key(0))
        w = 0.05 * jax.random.normal(keys[0], (features, neurons))
        g = jax.random.normal(keys[1], (features, neurons))
        after, stats = collide(kinopt.hard_collision(0.2), w, g)
        assert stats.accepted_fraction > 0.5
        assert stats.energy_ratio < 1
        np.testing.assert_allclose(after.sum(axis=1), g.sum(axis=1), atol=1e-3)
        untouched, stats = collide(kinopt.hard_collision(), w, g)
        assert stats.accepted_fraction == 0
        np.testing.assert_array_equal(untouched, g)

    def test_hard_scatters_copies_that_move_apart(self):
        w = jnp.array([[1.0, 1.001, -2.0], [0.5, 0.5, 1.0]])
        g = jnp.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.1]])
        after, stats = collide(kinopt.hard_collision(), w, g)
        np.testing.assert_allclose(stats.accepted_fraction, 1 / 3)
        np.testing.assert_allclose(jnp.linalg.norm(after[:, :2], axis=0), 1, rtol=1e-5)
        np.testing.assert_array_equal(after[:, 2], g[:, 2])
        assert not np.allclose(after, g)

    @pytest.mark.slow
    @pytest.mark.parametrize("coll_coef", [0.02, 0.3, 0.99])
    def test_auto_is_one_of_the_two(self, coll_coef):
        """Which one follows the number of accepted pairs, and not the block size."""
        w, g = gas(neurons=24, features=6)
        auto, stats = collided(coll_coef, w, g)
        many = stats.accepted_fraction * 24 * 23 / 2 > 2 * 24 + 24 * 23 // 200
        scatter = "gaussian" if many else "pairs"
        expected, _ = collided(coll_coef, w, g, scatter=scatter)
        np.testing.assert_allclose(auto, expected, atol=1e-6)
        blocks, _ = collided(coll_coef, w, g, block_size=5)
        np.testing.assert_allclose(auto, blocks, atol=1e-5)

    @pytest.mark.slow
    def test_auto_meets_both_kinds(self):
        w, g = gas(neurons=24, features=6)
        fractions = [float(collided(c, w, g)[1].accepted_fraction) for c in (0.3, 0.99)]
        limit = (2 * 24 + 24 * 23 // 200) / (24 * 23 / 2)
        assert fractions[0] < limit < fractions[1]


class TestStatistics:
    """What people look at tells the self term from an effect, and says when to worry."""

    def test_orthogonal_neurons_show_no_effect(self):
        w = g = jnp.eye(6)
        _, stats = collide(kinopt.soft_collision(0.1), w, g)
        np.testing.assert_allclose(stats.energy_ratio, 0.81, rtol=1e-5)
        assert stats.pair_effect == 0
        np.testing.assert_allclose(stats.common_mode, 1 / 6, rtol=1e-5)

    @both
    def test_pair_effect_is_what_pairs_change(self, collision):
        w, g = gas()
        options = {"self_term": False} if collision is kinopt.soft_collision else {}
        after, _ = collide(collision(0.9, **options), w, g)
        _, stats = collide(collision(0.9), w, g)
        expected = jnp.sum((after - g) ** 2) / jnp.sum(g**2)
        np.testing.assert_allclose(stats.pair_effect, expected, rtol=1e-4)

    def test_common_mode(self):
        w, g = gas()
        _, stats = collide(kinopt.soft_collision(), w, g)
        expected = 6 * jnp.sum(g.mean(axis=1) ** 2) / jnp.sum(g**2)
        np.testing.assert_allclose(stats.common_mode, expected, rtol=1e-5)

    @both
    def test_mean_cosine_of_gradients(self, collision):
        """With its sign; a neuron without gradient has no direction."""
        w, g = gas()
        g = g.at[:, 2].set(0).at[:, 0].multiply(1e-25)
        _, stats = collide(collision(), w, g)
        units = np.delete(np.asarray(g, np.float64).T, 2, axis=0)
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        expected = np.mean((units @ units.T)[~np.eye(len(units), dtype=bool)])
        np.testing.assert_allclose(stats.mean_gradient_cosine, expected, rtol=1e-5)

    def test_a_gain_above_one_is_counted_and_said(self):
        w, g = gas()
        tx = kinopt.soft_collision(lambda count: jnp.where(count < 3, 5.0, 0.01))
        state = tx.init(w)
        for _ in range(5):
            _, state = tx.update(g, state, w)
        (stats,) = kinopt.collision_stats(state).values()
        assert stats.gain < 1
        assert stats.num_uphill == 3
        assert "In 3 updates the gain was above 1" in repr(stats)
        assert "Lower coll_coef" in repr(stats)
        _, calm = collide(kinopt.soft_collision(), w, g)
        assert "updates" not in repr(calm)

    def test_they_print_under_jit_too(self):
        w, g = gas()

        @jax.jit
        def printed():
            tx = kinopt.hard_collision()
            stats = kinopt.collision_stats(tx.update(g, tx.init(w), w)[1])
            assert "accepted_fraction: float32[]" in repr(stats[""])
            return stats

        assert 0 <= printed()[""].accepted_fraction <= 1


class TestTypes:
    """float16, and complex parameters."""

    @pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
    @both
    def test_what_does_not_fit_the_type_is_kept_and_counted(self, collision, dtype):
        """Two batch slices, one of which overflows where the result is cast back."""
        options = {"combine": "sum"} if collision is HARD else {}
        coefficient = 1.0 if options else 3.0
        tx = collision(coefficient, neuron_axes=kinopt.NeuronAxes(2, 1), **options)
        large = float(jnp.finfo(dtype).max) / 1.5
        g = np.random.default_rng(0).uniform(0.5, 1, size=(2, 8, 16))
        g = jnp.asarray(g * np.array([1.0, large])[:, None, None], dtype)
        w = jnp.ones_like(g)
        after, state = jax.jit(tx.update)(g, tx.init(w), w)
        assert jnp.all(jnp.isfinite(after))
        np.testing.assert_array_equal(after[1], g[1])
        assert not np.array_equal(after[0], g[0])
        assert kinopt.collision_stats(state)[""].num_skipped == 1

    @both
    def test_a_finite_gradient_whose_square_overflows_collides(self, collision):
        w, g = gas()
        usual, _ = collide(collision(0.9), w, g)
        after, stats = collide(collision(0.9), w, g * 1e30)
        assert stats.num_skipped == 0
        np.testing.assert_allclose(after / 1e30, usual, atol=1e-5)

    @both
    @pytest.mark.slow
    def test_complex_leaves_are_refused_with_a_way_out(self, collision):
        w, g = gas()
        params = {"spectral": w + 1j * g, "bias": jnp.ones(3, jnp.complex64)}
        with pytest.raises(ValueError, match=r"'spectral' is complex.*split_real_and_imaginary"):
            collision().init(params)
        kept = collision(mask={"spectral": False, "bias": True})
        with pytest.warns(UserWarning, match="does nothing"):
            kept.init(params)
        split = optax.contrib.split_real_and_imaginary(collision(0.9))
        updates, _ = split.update(params, split.init(params), params)
        assert not np.array_equal(updates["spectral"], params["spectral"])


class TestMasks:
    """Patterns, trees that can be called, and what is neither."""

    def test_strings_are_patterns(self):
        w, _ = gas()
        params = {"body": w, "head": w}
        for mask in ("head", ["head"], ("head", "nobody"), kinopt.layer_mask("head")):
            state = kinopt.soft_collision(mask=mask).init(params)
            assert list(kinopt.collision_stats(state)) == ["head"]
        with pytest.raises(ValueError, match=r"matches no parameter.*body, head"):
            kinopt.soft_collision(mask="no such layer").init(params)

    @pytest.mark.parametrize(
        ("mask", "error", "message"),
        [
            (kinopt.layer_mask, TypeError, "not called yet"),
            ("[", ValueError, "no regular expression"),
            ({"body": "no", "head": True}, TypeError, "'body' must be True or False"),
            ({"body": 1, "head": True}, TypeError, "must be True or False"),
            (3, TypeError, "must be True or False"),
        ],
    )
    def test_other_masks_are_refused(self, mask, error, message):
        w, _ = gas()
        with pytest.raises(error, match=message):
            kinopt.soft_collision(mask=mask).init({"body": w, "head": w})

    @pytest.mark.parametrize(
        "axes", [0, "last", {"body": 1, "head": 2}, jnp.ones(2)], ids=["0", "str", "dict", "array"]
    )
    def test_other_axes_are_refused(self, axes):
        w, _ = gas()
        with pytest.raises(TypeError, match=r"must be a kinopt\.NeuronAxes"):
            kinopt.soft_collision(neuron_axes=axes).init({"body": w, "head": w})

    @pytest.mark.parametrize("axis", ["x", 1.5, None, True, [0.5]])
    def test_axes_are_whole_numbers(self, axis):
        given = optax.contrib.MuonDimensionNumbers(output_axis=axis, reduction_axis=None)
        with pytest.raises(TypeError, match="output_axis must be the number of an axis"):
            kinopt.soft_collision(neuron_axes=given).init(jnp.ones((3, 3)))
        assert kinopt.NeuronAxes(np.int64(1)).output_axis == 1

    @pytest.mark.slow
    def test_a_module_that_can_be_called_is_a_tree(self):
        model = eqx.nn.MLP(5, 3, 8, 2, key=jax.random.key(0))
        params = eqx.filter(model, eqx.is_inexact_array)
        mask = eqx.tree_at(
            lambda m: m.layers[-1].weight, jax.tree.map(lambda _: False, params), True
        )
        axes = jax.tree.map(lambda _: kinopt.NeuronAxes(0), params)
        for neuron_axes in (kinopt.NeuronAxes(0), axes):
            tx = kinopt.soft_collision(mask=mask, neuron_axes=neuron_axes)
            _, state = tx.update(params, tx.init(params), params)
            assert list(kinopt.collision_stats(state)) == ["layers/2/weight"]
        report = kinopt.metrics.report(params, mask=mask, neuron_axes=kinopt.NeuronAxes(0))
        assert list(report) == ["layers/2/weight"]
        whole = kinopt.metrics.report(model, neuron_axes=kinopt.NeuronAxes(0))
        assert list(whole) == [f"layers/{n}/weight" for n in range(3)]


class TestChains:
    """Orders and keys that are no good are said by the statistics."""

    @both
    def test_an_optimizer_before_a_collision(self, collision):
        w, _ = gas()
        wrong = optax.chain(optax.adam(1e-3), collision(), optax.scale(0.1))
        with pytest.warns(UserWarning, match="ScaleByAdamState before a collision"):
            kinopt.collision_stats(wrong.init({"w": w}))
        right = optax.chain(optax.clip(1.0), collision(), optax.adam(1e-3))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kinopt.collision_stats(right.init({"w": w}))
            kinopt.collision_stats(optax.chain(collision(), kinopt.bbi(0.1)).init({"w": w}))

    def test_equal_keys(self):
        w, _ = gas()
        tx = optax.chain(kinopt.hard_collision(), kinopt.hard_collision(0.5))
        with pytest.warns(UserWarning, match="have the same key"):
            kinopt.collision_stats(tx.init({"w": w}))
        fine = [
            optax.chain(kinopt.hard_collision(), kinopt.hard_collision(0.5, key=1)),
            optax.chain(kinopt.hard_collision(), kinopt.soft_collision(cell_size=2)),
            optax.chain(kinopt.hard_collision(mask="a"), kinopt.hard_collision(mask="b")),
        ]
        for tx in fine:
            kinopt.collision_stats(tx.init({"a": w, "b": w}))


class TestStates:
    """Checkpoints, and updates outside of jit."""

    def test_a_checkpoint_of_another_mask_says_what_differs(self):
        w, _ = gas()
        params = {"body": w, "head": w}
        written = kinopt.soft_collision(mask="head").init(params)
        target = kinopt.soft_collision(mask="body").init(params)
        with pytest.raises(ValueError, match="body"):
            flax.serialization.from_bytes(target, flax.serialization.to_bytes(written))
        with pytest.raises(ValueError, match="'body' collides, but the state was made for 'head'"):
            kinopt.soft_collision(mask="body").update(params, written, params)

    def test_every_k_compiles_once_outside_of_jit(self):
        w, g = gas()
        compiled = []

        def listen(name, duration, **_):
            if name == "/jax/core/compile/backend_compile_duration":
                compiled.append(duration)

        tx = kinopt.soft_collision(every=2)
        state = tx.init(w)
        for _ in range(3):
            _, state = tx.update(g, state, w)
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            for _ in range(4):
                _, state = tx.update(g, state, w)
        finally:
            jax.monitoring.clear_event_listeners()
        assert not compiled

    def test_gradients_of_other_shapes_are_refused(self):
        w, g = gas()
        tx = kinopt.soft_collision()
        with pytest.raises(ValueError, match="a gradient of shape"):
            tx.update(g[:, :3], tx.init(w), w)

    def test_uneven_parts_say_what_would_work(self):
        w, g = gas(neurons=6)
        mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
        tx = kinopt.soft_collision(sharding=P(None, "x"))
        with jax.set_mesh(mesh), pytest.raises(ValueError, match="parts must be equal"):
            tx.update(g, tx.init(w), w)
        tx = kinopt.soft_collision(sharding=P(None, "z"))
        with jax.set_mesh(mesh), pytest.raises(ValueError, match="names the mesh axes"):
            tx.update(g, tx.init(w), w)


# Without the type checks of the tests, which users do not have.
soft, hard = map(inspect.unwrap, (kinopt.soft_collision, kinopt.hard_collision))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft("0.1"), "coll_coef must be a number"),
        (lambda: soft([0.1]), "coll_coef must be a number"),
        (lambda: hard(None), "coll_coef must be a number"),
        (lambda: soft(float), "got the class float"),
        (lambda: soft(self_term="no"), "self_term must be True or False"),
        (lambda: soft(normalize=1), "normalize must be True or False"),
        (lambda: soft(block_size=2.5), "block_size must be a whole number"),
        (lambda: soft(cell_size="8"), "cell_size must be a whole number"),
        (lambda: soft(every=None), "every must be a whole number"),
        (lambda: soft(every=True), "every must be a whole number"),
        (lambda: hard(approaching_only="yes"), "approaching_only must be"),
        (lambda: hard(restitution="1"), "restitution must be a number"),
        (lambda: hard(key="a"), "key"),
        (lambda: hard(key=None), "key"),
        (lambda: hard(key=1.0), "key"),
        (lambda: hard(key=True), "key"),
    ],
)
def test_wrong_types_are_refused_where_they_are_given(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft(alike="weights"), "alike must be one of"),
        (lambda: soft(cells="hashed"), "cells must be one of"),
        (lambda: hard(distance="L2"), "distance must be one of"),
        (lambda: hard(combine=None), "combine must be one of"),
        (lambda: hard(scatter="all"), "scatter must be one of"),
        (lambda: hard(np.float32(-0.1)), "at least 0 and at most 1"),
        (lambda: hard(np.nan), "coll_coef"),
        (lambda: soft(every=np.int64(0)), "every must be a whole number"),
    ],
)
def test_wrong_values_are_refused_where_they_are_given(call, message):
    with pytest.raises(ValueError, match=message):
        call()
