"""How neurons of a layer that is cut meet: eight simulated devices against NumPy on the whole."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from kinopt.collisions.crowd import Crowd

NUMBERS = np.array([3, 0, 5, 7, 1, 2, 6, 4])  # of the neurons, as they lie on the devices
X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)  # in the order of the numbers
PARTS = {"neurons": P("x", None), "features": P(None, "y"), "both": P("x", "y")}


def on_devices(spec, f, block_size=None):
    """What f(crowd, x) is on each of 4 x 2 devices, stacked along two axes in front."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    names = [() if name is None else (name,) for name in spec]

    def part(x, rows, columns):
        crowd = Crowd(*names, rows if names[0] else None, columns if names[1] else None, block_size)
        return jax.tree.map(lambda y: jnp.asarray(y)[None, None], f(crowd, x))

    cut = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(spec, P(spec[0]), P(spec[1])),
        out_specs=P("x", "y"),
        check_vma=False,
    )
    numbers = NUMBERS if names[0] else np.arange(8)
    return jax.jit(cut)(X[numbers], numbers, np.arange(6))


class Neuron(NamedTuple):
    value: jax.Array
    number: jax.Array


class Seen(NamedTuple):
    far: jax.Array
    max_far: jax.Array


def by_number(spec, found):
    """One row for each neuron, in order, of what each device says of its own."""
    if spec[0] is None:
        return np.asarray(found[0, 0])
    result = np.zeros((8, *found.shape[3:]), found.dtype)
    result[NUMBERS] = np.asarray(found[:, 0]).reshape(result.shape)
    return result


@pytest.mark.parametrize("spec", PARTS.values(), ids=PARTS.keys())
def test_sums_maxima_and_sizes_are_those_of_the_whole(spec):
    def look(crowd, x):
        assert crowd.sizes(x) == (8, 6)
        lengths = crowd.over_features(jnp.sum(x * x, axis=1))
        return crowd.total(lengths), crowd.largest(lengths), crowd.dot(x, x), crowd.all_rows(x)

    total, largest, products, rows = on_devices(spec, look)
    lengths = np.sum(X.astype(np.float64) ** 2, axis=1)
    np.testing.assert_allclose(total, np.full((4, 2), lengths.sum()), rtol=1e-5)
    np.testing.assert_allclose(largest, np.full((4, 2), lengths.max()), rtol=1e-5)
    diagonal = by_number(spec, jnp.diagonal(products, axis1=2, axis2=3))
    np.testing.assert_allclose(diagonal, lengths, rtol=1e-5)
    for n in range(4):  # every device has all rows, in order, of the features that are there
        whole = rows[n, 0] if spec[1] is None else np.concatenate(rows[n], axis=1)
        np.testing.assert_array_equal(whole, X)


@pytest.mark.parametrize("block_size", [None, 1])
@pytest.mark.parametrize("spec", [PARTS["neurons"], PARTS["features"]], ids=["neurons", "features"])
def test_all_meet_all(spec, block_size):
    """Fields called max_ are joined by their maximum, others by their sum."""

    def look(crowd, x):
        me = Neuron(crowd.over_features(x[:, 0]), crowd.numbers(x))

        def how(mine, other):
            far = jnp.abs(mine.value[:, None] - other.value[None])
            return Seen(jnp.sum(far, axis=1), jnp.max(far, axis=1))

        def then(mine, seen):
            return seen.far - 8 * mine.value

        return *crowd.meet(how, me), crowd.meet(how, me, then)

    far, max_far, made = (by_number(spec, y) for y in on_devices(spec, look, block_size))
    value = X[:, 0] if spec[1] is None else X[:, 0] + X[:, 3]  # the first feature of each device
    expected = np.abs(value[:, None] - value)
    np.testing.assert_allclose(far, expected.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(max_far, expected.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(made, expected.sum(axis=1) - 8 * value, rtol=1e-4)


@pytest.mark.parametrize("block_size", [None, 1])
def test_pairs_change_both_of_their_rows(block_size):
    """i gets what j gives, a number of the pair times x_j - x_i."""

    def look(crowd, x):
        me = Neuron(x[:, 0], crowd.numbers(x))

        def add(change, everyone, rows, fresh, mine, other, first):
            i, j = mine.number[:, None], other.number[None]
            once = ((i < j) == ((i + j) % 2 == 0)) & (i != j) & fresh[:, None]
            given = jnp.where(once, (1 + i * j) * (other.value[None] - mine.value[:, None]), 0)
            change = change.at[rows].add(jnp.sum(given, axis=1))
            return change.at[first + jnp.arange(len(other.value))].add(-jnp.sum(given, axis=0))

        return crowd.add_pairs(jnp.zeros(len(x)), add, me)

    found = by_number(PARTS["neurons"], on_devices(PARTS["neurons"], look, block_size))
    numbers, value = np.arange(8), X[:, 0].astype(np.float64)
    given = (1 + numbers[:, None] * numbers) * (value - value[:, None])
    np.testing.assert_allclose(found, given.sum(axis=1), atol=1e-4)


@pytest.mark.parametrize("items", [8, 6, 5])
def test_items_are_shared_out_once_and_found_again(items):
    def look(crowd, x):
        mine, unique = crowd.share(items)
        wanted = jnp.arange(items - 1, -1, -1)
        return mine, unique, crowd.fetch_shared(10 * mine, wanted), crowd.fetch(x, wanted)

    mine, unique, found, rows = on_devices(PARTS["neurons"], look)
    assert mine.shape == (4, 2, math.ceil(items / 4))
    for y in range(2):
        assert sorted(mine[:, y][unique[:, y]].tolist()) == list(range(items))
    np.testing.assert_array_equal(found, np.broadcast_to(10 * np.arange(items)[::-1], found.shape))
    np.testing.assert_array_equal(rows, np.broadcast_to(X[:items][::-1], rows.shape))


@pytest.mark.parametrize("by_rows", [False, True])
def test_how_a_layer_lies_changes_no_number(by_rows):
    crowd, rng = Crowd(by_rows=by_rows), np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for _ in range(2))
    of_row, of_column = x[:, :1], y[:1]

    def function(x, y, of_row, of_column):
        return x * y + of_row - of_column

    found = crowd.entrywise(function, x, y, of_row, of_column)
    np.testing.assert_allclose(found, function(x, y, of_row, of_column), rtol=1e-6)
    found = crowd.per_neuron(jnp.sum, jnp.multiply, x, of_column)
    np.testing.assert_allclose(found, np.sum(x * of_column, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(crowd.laid)(x), x)
