"""Cells against a loop over cells, their invariants, and collisions every few steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kinopt
import tests.oracle as oracle
from kinopt.collisions.cells import cell_order, in_cells
from kinopt.collisions.draws import CELL, fold
from kinopt.collisions.hard import hard_law
from kinopt.collisions.scattering import pair_directions
from kinopt.collisions.soft import soft_law

HARD = functools.partial(kinopt.hard_collision, scatter="pairs")  # "auto" compiles twice as much
KINDS = pytest.mark.parametrize("cells", ["random", "hash"])

QUICK = {"xla_backend_optimization_level": 0}  # these programs run for a millisecond


def collide(law, w, g, key, cell_size, cells, **options):
    def of(w, g, key):
        return in_cells(law, w, g, key, cell_size, cells, **options)

    return jax.jit(of, compiler_options=QUICK)(w, g, key)


def layer(neurons, features, seed=0):
    rng = np.random.default_rng(seed)
    return 0.4 * rng.normal(size=(neurons, features)), rng.normal(size=(neurons, features))


def cells_of(w, key, cells, cell_size):
    """The lists of neurons, and the keys, of the cells that the library makes with this key."""
    num_cells = -(-len(w) // cell_size)
    order = np.asarray(cell_order(jnp.asarray(w), key, cells, num_cells))
    keys = [fold(key, n, CELL) for n in range(num_cells)]
    return np.array_split(order, num_cells), keys


@KINDS
@pytest.mark.parametrize("cell_size", [2, 3, 5, 11])
def test_cells_are_a_partition_into_nearly_equal_parts(cells, cell_size):
    w, _ = layer(11, 4)
    parts, _ = cells_of(w, jax.random.key(0), cells, cell_size)
    assert sorted(np.concatenate(parts)) == list(range(11))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= cell_size
    assert max(sizes) - min(sizes) <= 1


OTHER = {"self_term": False, "normalize": True}


@pytest.mark.parametrize(
    ("cells", "neurons", "scheme"),
    [("random", 9, {}), ("random", 11, OTHER), ("hash", 9, OTHER), ("hash", 11, {})],
    ids=str,
)
def test_soft_agrees_with_a_loop_over_cells(cells, neurons, scheme):
    with jax.enable_x64(True):
        w, g = layer(neurons, 4)
        key = jax.random.key(3)

        def law(w, g, key, crowd):
            return soft_law(w, g, 0.3, crowd=crowd, **scheme)

        after, stats = collide(law, w, g, key, 3, cells)
        expected, cosines, gains = np.zeros_like(g), [], []
        for part in cells_of(w, key, cells, 3)[0]:
            expected[part] = oracle.soft(w[part], g[part], 0.3, **scheme)
            cosines += [abs(oracle.cosine(w[i], w[j])) for i in part for j in part if i < j]
            products = oracle.similarity_products(w[part], g[part])
            gains.append(0.3 * np.abs(products).sum(axis=1).max())
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-12)
        assert stats.mean_abs_cosine == pytest.approx(np.mean(cosines), rel=1e-12)
        assert stats.max_abs_cosine == pytest.approx(np.max(cosines), rel=1e-12)
        assert stats.gain > 0
        assert stats.gain == pytest.approx(0.3 if scheme else max(gains), rel=1e-12)


@pytest.mark.parametrize(
    ("cells", "neurons", "combine"),
    [
        *(("random", 12, "sum"), ("random", 13, "metropolis")),
        *(("hash", 12, "metropolis"), ("hash", 13, "sum")),
    ],
)
@pytest.mark.slow
def test_hard_agrees_with_a_loop_over_cells(cells, combine, neurons):
    """Max g_r, degrees and directions are those of each cell."""
    with jax.enable_x64(True):
        w, g = layer(neurons, 4)
        key = jax.random.key(3)

        def law(w, g, key, crowd):
            return hard_law(w, g, key, 0.5, combine=combine, crowd=crowd)

        after, stats = collide(law, w, g, key, 4, cells)
        expected, number, pairs = g.copy(), 0, 0
        for part, cell_key in zip(*cells_of(w, key, cells, 4), strict=True):

            def direction(i, j, cell_key=cell_key, part=part):
                pair = jnp.array([[i], [j]])
                return np.asarray(pair_directions(cell_key, *pair, jnp.asarray(g[part])))[0]

            expected[part], accepted = oracle.hard(
                w[part], g[part], 0.5, direction, distance="rms", combine=combine
            )
            number, pairs = number + len(accepted), pairs + len(part) * (len(part) - 1) / 2
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-12)
        assert 0 < number < pairs
        assert stats.accepted_fraction == pytest.approx(number / pairs)


@pytest.mark.parametrize(("cells", "neurons"), [("random", 15), ("hash", 12)])
@pytest.mark.slow
def test_momentum_and_energy_are_conserved_in_each_cell(cells, neurons):
    with jax.enable_x64(True):
        w, g = layer(neurons, 4)
        key = jax.random.key(3)

        def law(w, g, key, crowd):
            return hard_law(w, g, key, 0.9, combine="matching", crowd=crowd)

        after, _ = collide(law, w, g, key, 4, cells, candidates=lambda n: n // 2)
        assert not np.array_equal(after, g)
        for part in cells_of(w, key, cells, 4)[0]:
            np.testing.assert_allclose(after[part].sum(0), g[part].sum(0), atol=1e-13)
            np.testing.assert_allclose((after[part] ** 2).sum(), (g[part] ** 2).sum())


@pytest.mark.slow
def test_cells_of_two_scatter_in_directions_of_their_own():
    """Both keep the velocity of their centre of mass, and leave along n of the cell's key."""
    with jax.enable_x64(True):
        g = layer(8, 5)[1]
        key = jax.random.key(3)

        def law(w, g, key, crowd):
            return hard_law(w, g, key, 1.0, combine="matching", crowd=crowd)

        after, _ = collide(law, 0 * g, g, key, 2, "random", candidates=lambda n: n // 2)
        parts, keys = cells_of(0 * g, key, "random", 2)
        zero, two = jnp.zeros(1, int), jnp.asarray(g[:2])
        draw = jax.jit(jax.vmap(lambda key: pair_directions(key, zero, zero + 1, two)[0]))
        after, directions = np.asarray(after), np.asarray(draw(jnp.stack(keys)))
    for (i, j), n in zip(parts, directions, strict=True):
        scattered = np.linalg.norm(g[i] - g[j]) * n / 2
        np.testing.assert_allclose(after[i], (g[i] + g[j]) / 2 + scattered, atol=1e-13)
        np.testing.assert_allclose(after[j], (g[i] + g[j]) / 2 - scattered, atol=1e-13)
    assert np.linalg.matrix_rank(directions) == 4


def test_one_cell_is_the_layer():
    """A cell as large as the layer changes nothing, not the directions either."""
    w, g = (jnp.asarray(x.T, jnp.float32) for x in layer(7, 4))
    for collision in (kinopt.soft_collision, HARD):
        whole, cell = (collision(0.8, cell_size=size) for size in (None, 7))
        np.testing.assert_array_equal(
            cell.update(g, cell.init(w), w)[0], whole.update(g, whole.init(w), w)[0]
        )


@pytest.mark.slow
def test_a_hash_puts_copies_together():
    rng = np.random.default_rng(0)
    w = np.repeat(rng.normal(size=(8, 16)), 4, axis=0)[rng.permutation(32)]
    together = {"random": 0.0, "hash": 0.0}
    for cells in together:
        for seed in range(10):
            for part in cells_of(np.float32(w), jax.random.key(seed), cells, 4)[0]:
                same = np.all(w[part][:, None] == w[part], axis=2)
                together[cells] += (same.sum() - 4) / (8 * 12) / 10
    assert together["hash"] > 0.6
    assert together["random"] < 0.3


def test_copies_fill_hashed_cells_in_random_order():
    """All have one code: any two of eight copies meet in a cell of two as often, 1 time in 7."""
    w, keys = jnp.ones((8, 3)), jax.random.split(jax.random.key(0), 2000)
    order = jax.vmap(lambda key: cell_order(w, key, "hash", 4))
    orders = np.asarray(jax.jit(order, compiler_options=QUICK)(keys))
    cell = np.argsort(orders, axis=1) // 2
    together = np.mean(cell[:, :, None] == cell[:, None], axis=0)[np.triu_indices(8, 1)]
    assert np.all(np.abs(together - 1 / 7) < 5 * np.sqrt(1 / 7 * 6 / 7 / len(keys)))


@KINDS
@pytest.mark.slow
def test_cells_change_from_step_to_step_and_memory_is_linear(cells):
    w, g = (jnp.asarray(x.T, jnp.float32) for x in layer(40, 6))
    tx = kinopt.soft_collision(0.1, cell_size=4, cells=cells)
    state = tx.init(w)
    first, state = tx.update(g, state, w)
    second, state = tx.update(g, state, w)
    assert not np.array_equal(first, second)
    again, _ = tx.update(g, tx.init(w), w)
    np.testing.assert_array_equal(again, first)
    assert kinopt.collision_stats(state)[""].gain is not None

    def memory(neurons):
        leaf = jax.ShapeDtypeStruct((64, neurons), jnp.float32)
        tx = kinopt.soft_collision(0.1, cell_size=64)
        lowered = jax.jit(tx.update).lower(leaf, jax.eval_shape(tx.init, leaf), leaf)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert memory(4096) < 5 * memory(1024)


@pytest.mark.slow
def test_random_cells_reach_every_pair_in_the_mean():
    """The mean over keys of the off-diagonal force is (s - 1) / (N - 1) of the exact one."""
    with jax.enable_x64(True):
        w, g = map(jnp.asarray, layer(8, 4))

        def law(w, g, key, crowd):
            return soft_law(w, g, 0.3, self_term=False, crowd=crowd)

        keys = jax.random.split(jax.random.key(0), 4000)
        force = jax.vmap(lambda key: in_cells(law, w, g, key, 4, "random")[0])(keys) - g
        exact = soft_law(w, g, 0.3, self_term=False)[0] - g
        error = force.std(axis=0) / np.sqrt(len(keys))
        assert np.all(np.abs(force.mean(axis=0) - 3 / 7 * exact) < 5 * error)


@pytest.mark.parametrize("collision", [kinopt.soft_collision, HARD], ids=["soft", "hard"])
def test_every_k_steps(collision):
    w, g = (jnp.asarray(x.T, jnp.float32) for x in layer(7, 4))
    tx, each = collision(0.8, every=3), collision(0.8)
    state, each_state = tx.init(w), each.init(w)
    step = jax.jit(tx.update)
    for n in range(7):
        expected, each_state = each.update(g, each_state, w)
        after, state = step(g, state, w)
        np.testing.assert_allclose(after, g if n % 3 else expected, atol=1e-6)
        if n % 3 == 0:
            seen = state.stats
        np.testing.assert_array_equal(state.stats[""], seen[""])
    assert int(state.count) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell_size": 1}, "cell_size must be a whole number of at least 2"),
        ({"every": 0}, "every must be a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    for collision in (kinopt.soft_collision, kinopt.hard_collision):
        with pytest.raises(ValueError, match=message):
            collision(**options)
