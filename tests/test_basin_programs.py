"""Programs of `basins.discover` and `canonical`: compiled once, and let go with their functions."""

import gc
import logging
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kinopt
from kinopt import _programs, basins


class Wells:
    """Minima at -+`at` in each coordinate. It can be watched, and says how often it is traced."""

    def __init__(self, at=1.0):
        self.at = np.full(2, at)
        self.number = 0

    def __call__(self, x):
        self.number += 1
        return jnp.sum((x**2 - self.at**2) ** 2 + 0.1 * x)


def magnitudes(x):
    return jnp.abs(x)


def discover(loss, seed=0, symmetry=None):
    points = jnp.asarray(np.random.default_rng(seed).uniform(-2, 2, (12, 2)))
    return basins.discover(loss, points, symmetry=symmetry)


def canonical(loss, seed=0, symmetry=None):
    starts = np.random.default_rng(seed).uniform(-2, 2, (3, 2))
    return kinopt.canonical(
        loss,
        starts,
        [0.3 + 0.1 * seed, 1.0],
        num_steps=400,
        chains=4,
        key=seed,
        observables=symmetry,
        refuse=False,
    )


CALLS = {"discover": discover, "canonical": canonical}


def compiled(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_second_call_compiles_nothing(call, caplog):
    """Though its points, temperatures, keys and numbers of minima are others."""
    loss = Wells()
    first = call(loss, 0, magnitudes)
    with jax.log_compiles(True), caplog.at_level(logging.DEBUG, "jax"):
        second = call(loss, 1, magnitudes)
        assert not compiled(caplog)
        call(Wells(), 1, magnitudes)
        assert compiled(caplog), "the log shows what is compiled"
    one, other = (jax.tree.leaves(result)[0] for result in (first, second))
    assert not np.array_equal(one, other)


@pytest.mark.slow
def test_a_discovery_traces_nothing_twice(caplog):
    """Also where other points lead to fewer minima, of which arrays have other shapes."""
    loss = Wells()
    assert len(basins.discover(loss, jnp.array([[1.0, 1], [-1, 1], [1, -1]])).values) == 3
    number = loss.number
    with jax.log_compiles(True), caplog.at_level(logging.DEBUG, "jax"):
        found = basins.discover(loss, jnp.array([[1.0, 1], [1, 1.1], [1, 0.9]]))
    assert len(found.values) == 1
    assert loss.number == number
    assert not compiled(caplog)


def is_let_go(make, use):
    """Programs are kept for what was made, and go with it."""
    gc.collect()
    before = len(_programs._kept)
    made = make()
    use(made)
    assert len(_programs._kept) > before
    alive = weakref.ref(made)
    del made
    gc.collect()
    assert alive() is None
    assert len(_programs._kept) == before


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.slow
def test_a_loss_and_its_data_are_let_go(call):
    is_let_go(Wells, call)


@pytest.mark.slow
def test_a_symmetry_is_let_go():
    loss = Wells()
    is_let_go(lambda: basins.sign_flips(each=True), lambda it: discover(loss, symmetry=it))


@pytest.mark.slow
def test_other_functions_are_other_problems():
    """The same code with other data, and the same loss under another tolerance and step limit."""
    loss, other = Wells(), Wells(2.0)
    points = jnp.array([[0.1, 3.0], [-0.1, 3.0]])
    found = basins.discover(loss, points)
    assert found.label.tolist() == [2, 1]
    assert np.abs(np.abs(found.minimizers) - 1).max() < 0.1
    assert np.abs(np.abs(basins.discover(other, points).minimizers) - 2).max() < 0.1
    assert basins.discover(loss, points, num_steps=1).label.tolist() == [0, 0]
    assert basins.discover(loss, points, tolerance=1.0).label.tolist() == [1, 1]


@pytest.mark.slow
def test_types_are_part_of_a_program():
    loss = Wells()
    points = np.array([[1.0, 1.0], [-1.0, 1.0]])
    assert basins.discover(loss, points).values.dtype == jnp.float32
    with jax.enable_x64(True):
        assert basins.discover(loss, points).values.dtype == jnp.float64
