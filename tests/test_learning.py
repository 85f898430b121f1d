"""The reading of `evidence.learning`, on rows made by hand, and what its methods are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.data import Split
from benchmarks.evidence import learning
from benchmarks.models import MLP
from benchmarks.train import Training, averaging

ROW = {"data": "digits", "few": True, "noise": 0.2, "chosen": {}, "tried": {}}
ROW |= {"settings": {"num_seeds": 4, "num_trials": 1, "trial_seeds": 1}}


def rows(**accuracy):
    return [{**ROW, "method": name, "test_accuracy": values} for name, values in accuracy.items()]


def test_differences_are_paired_and_level_is_within_one_error():
    made = rows(
        adamw=[0.5, 0.7, 0.6, 0.8], sgd=[0.51, 0.73, 0.61, 0.83], bbi=[0.49, 0.69, 0.59, 0.8]
    )
    sgd, bbi = learning.comparisons(made)
    assert (sgd.task, round(sgd.base, 9)) == ("digits, few, noisy", 65)
    np.testing.assert_allclose(sgd.difference, [1, 3, 1, 3], atol=1e-9)
    np.testing.assert_allclose(sgd.error, np.std([1, 3, 1, 3], ddof=1) / 2)
    assert (sgd.is_level, bbi.is_level) == (True, False)
    table = learning.table(made)
    assert "+2.00 ± 0.58" in table
    assert "100%" in table
    assert learning.headline(made).endswith("bbi -0.75 points, level on 0 of 1")
    assert len(learning.plot(made).axes) == 1


@pytest.mark.parametrize("name", ["normalized sgd", "isokinetic, cool"])
def test_steps_of_given_length_have_the_length_of_the_schedule(name):
    h = {"rate": 0.3, "decay": 0.0, "eta": 10.0}
    tx = optax.with_extra_args_support(learning.METHODS[name].build(h, jax.random.key(0), 8))
    x = jnp.array([3.0, 4.0])
    state = tx.init(x)
    for n in range(4):
        update, state = tx.update(x, state, x, value=jnp.array(1.0))
        expected = 0.3 * (1 + np.cos(np.pi * n / 8)) / 2
        np.testing.assert_allclose(jnp.linalg.norm(update), expected, rtol=1e-5)


def test_the_running_mean_is_free_of_the_start_and_changes_no_step():
    tx = averaging(0.25)
    x, state = jnp.zeros(()), tx.init(jnp.zeros(()))
    for _ in range(3):
        update, state = tx.update(jnp.ones(()), state, x)
        x = optax.apply_updates(x, update)
    weights = 0.75 ** np.arange(3)[::-1]
    expected = np.sum(weights * [1, 2, 3]) / np.sum(weights)
    found = optax.tree.get(state, "averaged_params")
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert x == 3


def test_a_training_is_judged_by_the_running_mean():
    """With all weight on the newest parameters it is no other than without."""
    random = np.random.default_rng(0)
    images, labels = random.standard_normal((40, 4)).astype(np.float32), np.arange(40) % 3
    split = Split(images, labels.astype(np.int32), images, labels.astype(np.int32))

    def accuracy(memory):
        def build(rate, key):
            mean = optax.identity() if memory is None else averaging(memory)
            return optax.chain(optax.sgd(rate), mean)

        training = Training(MLP((5,), 3), split, build, 0.5, 60, 8, [0, 1])
        training.advance(60)
        return training.accuracy[-1]

    plain, newest, slow = map(accuracy, (None, 1.0, 0.01))
    np.testing.assert_array_equal(plain, newest)
    assert (plain != slow).any()


def test_trials_lie_in_their_ranges():
    for name, method in learning.METHODS.items():
        tried = learning.drawn(learning.METHODS, name, 7)
        assert tried.keys() == method.ranges.keys()
        for key, (low, high) in method.ranges.items():
            assert len(set(tried[key])) >= 6  # of seven: they are rounded to three digits
            assert low * 0.99 <= min(tried[key])
            assert max(tried[key]) <= high * 1.01
