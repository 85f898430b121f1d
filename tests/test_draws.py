"""Random numbers by counter: distributions, and no two draws alike where they must be independent.

Independence is asked of the transformations themselves: what a collision adds to the gradients is
taken apart into directions, and the directions of any two levels that count something are compared
with the distribution of cosines of independent ones.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import kinopt
from kinopt.collisions import draws
from kinopt.collisions.draws import fold, leaf_key, normals, random_order, words

IMPLS = pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
PURPOSES = [draws.DIRECTION, draws.ORDER, draws.CELL, draws.HASH, draws.POOL, draws.SIGN]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.slow
def test_normals_are_normal_and_uncorrelated(dtype):
    with jax.enable_x64(True):
        key = jax.random.key(0)

        def row(i, j):
            return normals(key, i, j, 101, jnp.dtype(dtype), draws.DIRECTION)

        i, j = (x.ravel() for x in np.mgrid[:50, :40])
        drawn = np.asarray(jax.vmap(row)(jnp.asarray(i), jnp.asarray(j)))
        assert drawn.dtype == dtype
        assert np.all(np.isfinite(drawn))
        assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
        flat = drawn.reshape(50, 40, 101)
        for axis in range(3):
            neighbours = np.moveaxis(flat, axis, 0)
            for function in (np.copy, np.square):
                a, b = (function(neighbours[part]).ravel() for part in (slice(1, None), slice(-1)))
                assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)


def test_all_digits_of_float64_are_random():
    """The digits beyond 2^-32 of the uniform number are uniform, and know nothing of the first."""
    with jax.enable_x64(True):
        drawn = normals(jax.random.key(1), 0, 1, 4000, jnp.dtype("float64"), draws.DIRECTION)
    uniform = stats.norm.cdf(np.asarray(drawn))
    later = np.modf(uniform * 2.0**32)[0]
    assert stats.kstest(later, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(uniform, later)[0, 1]) < 5 / np.sqrt(4000)


def test_a_word_does_not_depend_on_how_many_come_with_it():
    """Under `vmap` too, over any of its arguments."""
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    i = jnp.arange(3)

    def drawn(key, i, j):
        return words(key, i, j, 6, draws.DIRECTION)

    together = jax.vmap(lambda key, i: jax.vmap(lambda j: drawn(key, i, j))(i + jnp.arange(4)))
    for n, row in enumerate(together(keys, i)):
        for m, words_ in enumerate(row):
            np.testing.assert_array_equal(words_, drawn(keys[n], i[n], i[n] + m))


def test_every_order_is_as_likely():
    keys = jax.random.split(jax.random.key(0), 6000)
    orders = np.asarray(jax.vmap(lambda key: random_order(key, 3))(keys))
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", [7, 8])
@pytest.mark.slow
def test_some_places_hold_what_all_places_hold(dtype, number):
    with jax.enable_x64(True):
        key, dtype = jax.random.key(3), jnp.dtype(dtype)
        whole = normals(key, 2, 5, number, dtype, draws.POOL)
        places = jnp.array([6, 0, 3])
        assert (normals(key, 2, 5, number, dtype, draws.POOL, places) == whole[places]).all()


@IMPLS
@pytest.mark.slow
def test_no_word_is_read_twice(impl):
    """Over seeds, laws, leaves, steps, slices, cells, pairs, purposes and places, near zero."""
    few = range(3)
    keys = []
    for seed, law, path in itertools.product(few, ("a law", "another"), ("", "0", "head/kernel")):
        named = leaf_key(jax.random.key(seed, impl=impl), law, path)
        for step, number in itertools.product(few, few):
            of_slice = fold(named, step, number)
            keys += [of_slice, *(fold(of_slice, cell, draws.CELL) for cell in few)]
    keys = jax.random.wrap_key_data(jnp.stack([jax.random.key_data(key) for key in keys]))
    pairs = jnp.array(list(itertools.product(few, few)))

    def drawn(key, pair):
        return jnp.stack([words(key, pair[0], pair[1], 6, purpose) for purpose in PURPOSES])

    every = jax.vmap(jax.vmap(drawn, (None, 0)), (0, None))
    found = np.asarray(every(keys, pairs)).ravel()
    # The folds of cells are the counters (cell, CELL) of the slice's key: not drawn from as well.
    number = found.size
    repeated = number - len(np.unique(found))
    chance = number**2 / 2**33  # words that are equal by chance, a Poisson number
    assert repeated < chance + 5 * np.sqrt(chance) + 1


@pytest.mark.parametrize("words_that_differ", [(0,), (1,), (2,), (3,), (0, 1), (2, 3), (1, 3)])
def test_all_words_of_a_wide_key_count(words_that_differ):
    data = np.array([1, 2, 3, 4], np.uint32)
    other = data.copy()
    other[list(words_that_differ)] += 1
    keys = [jax.random.wrap_key_data(jnp.asarray(x), impl="rbg") for x in (data, other)]
    first, second = (jax.random.key_data(fold(key, 0, 0)) for key in keys)
    assert np.all(np.asarray(first) != np.asarray(second))


# Levels, seen through the transformations.

LAYERS, HEADS, NEURONS, FEATURES = 4, 3, 12, 48
HARD = {
    "pairs": {"scatter": "pairs", "combine": "sum"},
    "gaussian": {"scatter": "gaussian", "combine": "sum"},
    "auto": {},
    "matching": {"combine": "matching"},
    "cells": {"cell_size": 4, "scatter": "pairs", "combine": "sum"},
    "cells, gaussian": {"cell_size": 4, "scatter": "gaussian"},
    "hashed cells": {"cell_size": 4, "cells": "hash", "combine": "matching"},
}


def gradients(seed):
    shape = LAYERS, FEATURES, HEADS, NEURONS
    g = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return {"a": jnp.asarray(g), "b": jnp.asarray(g)}


@functools.cache
def collided(name, impl):
    """A step of the collision with this restitution and key; compiled once."""
    axes = kinopt.NeuronAxes(3, 1)

    def made(restitution, key):
        return kinopt.hard_collision(
            1.0, key=key, neuron_axes=axes, restitution=restitution, **HARD[name]
        )

    def update(restitution, g, state, w):
        return made(restitution, jax.random.key(0, impl=impl)).update(g, state, w)

    return made, jax.jit(update)


def noise(name, seed, impl, steps=3):
    """What scatters, over [steps, leaves, layers, heads, neurons, features], of unit length.

    Both leaves and all slices and steps have the same gradient, so that equal draws show.
    """
    g = gradients(0)
    g = jax.tree.map(lambda x: jnp.broadcast_to(x[:1, :, :1], x.shape), g)
    w = jax.tree.map(jnp.zeros_like, g)
    made, update = collided(name, impl)
    key = jax.random.key(seed, impl=impl)
    found = []
    restitutions = (1.0, 0.0)
    states = [made(e, key).init(w) for e in restitutions]
    for _ in range(steps):
        after, states = zip(
            *(update(e, g, state, w) for e, state in zip(restitutions, states, strict=True)),
            strict=True,
        )
        difference = jax.tree.map(jnp.subtract, *after)
        found.append(np.stack([np.asarray(difference[name]) for name in ("a", "b")]))
    drawn = np.moveaxis(np.stack(found), 3, -1)  # steps, leaves, layers, heads, neurons, features
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def assert_independent(drawn):
    """Cosines between any two of the vectors, but for those of one layer at one step.

    For independent directions a cosine has variance 1/D, and D cos^2 / (1 - cos^2) about F(1, D-1);
    those of one gas are correlated, because they share pairs.
    """
    gases = drawn.reshape(-1, *drawn.shape[-2:])
    number, neurons, features = gases.shape
    flat = gases.reshape(-1, features)
    cosines = (flat @ flat.T).reshape(number, neurons, number, neurons)
    first, second = np.triu_indices(number, 1)
    between = cosines[first, :, second, :]  # [pairs of gases, neurons, neurons]
    assert np.abs(between).max() < 0.85, "two directions come back"
    # Every shift of the neurons of one gas against those of the other has a mean of zero.
    for shift in range(neurons):
        i = np.arange(neurons)
        means = between[:, i, (i + shift) % neurons].mean(axis=1)
        spread = means.std(ddof=1)
        assert abs(means.mean()) < 5 * spread / np.sqrt(len(means))
        assert np.abs(means).max() < 6.5 * max(spread, 1 / np.sqrt(neurons * features))
    # Momentum makes the rows of a gas sum to zero: their cosines have a little more variance.
    variance = features * np.mean(between**2)
    assert 0.8 < variance < 1.25


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("cells", "threefry2x32"),
        *(
            pytest.param(name, "threefry2x32", marks=pytest.mark.slow)
            for name in HARD
            if name != "cells"
        ),
        *(pytest.param(name, "rbg", marks=pytest.mark.slow) for name in ("pairs", "cells")),
    ],
)
@pytest.mark.slow
def test_levels_scatter_independently(name, impl):
    """Leaves, steps, layers and heads of one collision."""
    assert_independent(noise(name, 0, impl))


@pytest.mark.parametrize("name", ["pairs", "gaussian", "matching", "cells"])
@pytest.mark.slow
def test_seeds_that_count_scatter_independently(name):
    """Two collisions in a chain have keys, and are seeds; so are members of a `vmap`."""
    drawn = [noise(name, seed, "threefry2x32", steps=1) for seed in (0, 1, 2, 3)]
    assert_independent(np.stack(drawn))


@pytest.mark.slow
def test_soft_and_hard_collisions_with_one_key_find_other_cells():
    """Cells of two neurons in sixty slices: who meets whom."""
    g = jnp.asarray(np.random.default_rng(0).normal(size=(60, 30, 8)), jnp.float32)
    axes = kinopt.NeuronAxes(2, 1)
    soft = kinopt.soft_collision(1.0, cell_size=2, self_term=False, neuron_axes=axes)
    hard = kinopt.hard_collision(1.0, cell_size=2, restitution=0.0, neuron_axes=axes)
    moved = [
        np.asarray(tx.update(g, tx.init(g), g)[0] - g).transpose(0, 2, 1) for tx in (soft, hard)
    ]
    rows = np.asarray(g).transpose(0, 2, 1)
    # A soft collision changes a gradient along the partner's, a hard one along the difference.
    differences = rows[:, None] - rows[:, :, None]
    along = [np.broadcast_to(rows[:, None], differences.shape), differences]
    partners = []
    for change, directions in zip(moved, along, strict=True):
        cosines = np.einsum("sif,sijf->sij", change, directions)
        cosines /= np.maximum(np.linalg.norm(directions, axis=-1), 1e-6)
        cosines = np.abs(cosines) / np.linalg.norm(change, axis=-1)[..., None]
        cosines[:, range(8), range(8)] = 0
        np.testing.assert_allclose(cosines.max(axis=-1), 1, atol=1e-3)
        partners.append(cosines.argmax(axis=-1))
    same = (partners[0] == partners[1]).mean(axis=-1)
    assert abs(same.mean() - 1 / 7) < 5 * same.std(ddof=1) / np.sqrt(len(same))


@pytest.mark.slow
def test_every_pair_meets_equally_often_in_cells_of_all_slices_and_steps():
    """Orders of cells, and matchings, of neighbouring slices and steps have nothing in common."""
    g = jnp.asarray(np.random.default_rng(0).normal(size=(40, 6, 8)), jnp.float32)
    for options in ({"cell_size": 2}, {"combine": "matching"}):
        tx = kinopt.hard_collision(
            1.0, neuron_axes=kinopt.NeuronAxes(2, 1), restitution=0.0, **options
        )
        state, partners = tx.init(g), []
        update = jax.jit(tx.update)
        for _ in range(6):
            after, state = update(g, state, jnp.zeros_like(g))
            rows = np.asarray(after).transpose(0, 2, 1)
            distances = np.linalg.norm(rows[:, :, None] - rows[:, None], axis=-1)
            distances[:, range(8), range(8)] = np.inf
            partners.append(distances.argmin(axis=-1))  # both end with one velocity
        partners = np.stack(partners)  # steps, slices, neurons
        np.testing.assert_array_equal(
            np.take_along_axis(partners, partners, axis=-1), np.broadcast_to(range(8), (6, 40, 8))
        )
        for a, b in (
            (partners[1:], partners[:-1]),
            (partners[:, 1:], partners[:, :-1]),
            (partners[1:, :-1], partners[:-1, 1:]),
        ):
            same = (a == b).mean(axis=-1)
            error = same.std(ddof=1) / np.sqrt(same.size)
            assert abs(same.mean() - 1 / 7) < 5 * error


@pytest.mark.slow
def test_two_collisions_in_a_chain_need_two_keys():
    """Documented: with one key they draw alike, with two they do not."""
    g = gradients(2)["a"][0, :, 0]
    w = jnp.zeros_like(g)

    def second_moves(key):
        first = kinopt.hard_collision(1.0, combine="sum", scatter="pairs", key=0)
        second = kinopt.hard_collision(1.0, combine="sum", scatter="pairs", key=key)
        tx = optax.chain(first, optax.scale(0.0), optax.add_decayed_weights(1.0), second)
        after, _ = tx.update(g, tx.init(g), g)  # the second one sees the weights g, as gradients
        return after

    alone = kinopt.hard_collision(1.0, combine="sum", scatter="pairs", key=0)
    expected, _ = alone.update(g, alone.init(g), g)
    np.testing.assert_allclose(second_moves(0), expected, atol=1e-5)
    assert np.abs(second_moves(1) - expected).max() > 0.1
    del w
