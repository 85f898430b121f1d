"""The experiment on images: the search, and both numbers of a method on their way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kinopt
from benchmarks.bbi import images
from benchmarks.data import Split


def test_the_grid_is_that_of_the_paper():
    tried = images.search(images.METHODS["bbi"], images.MNIST, 0, lambda numbers: sum(numbers))
    assert len(tried) == 30
    assert {first for (first, _), _ in tried} == {0.001, 0.01, 0.05, 0.1, 0.2, 0.3}
    assert max(tried, key=lambda trial: trial[1])[0] == (0.3, 2.0)


@pytest.mark.parametrize("name", images.METHODS)
def test_trials_learn_from_each_other_and_stay_in_range(name):
    method = images.METHODS[name]
    task = dataclasses.replace(images.CIFAR, num_trials=40)
    low, high = method.ranges[0]
    aim = low + 0.2 * (high - low)
    tried = images.search(method, task, 1, lambda numbers: -abs(numbers[0] - aim))
    assert len(tried) == 40
    assert all(low <= first <= high for (first, _), _ in tried)
    assert all(min(method.ranges[1]) <= x <= max(method.ranges[1]) for (_, x), _ in tried)
    assert max(score for _, score in tried) > -0.02 * (high - low)


@pytest.mark.slow
def test_the_trainer_hands_both_numbers_to_the_optimizer():
    rng = np.random.default_rng(0)
    given = rng.uniform(size=(50, 8, 8, 1)).astype(np.float32), np.arange(50) % 10
    task = dataclasses.replace(images.MNIST, batch_size=50)
    networks = images.trainer(task, Split(*given, *given), ("bbi",))
    before = networks.initial("bbi", 0)
    numbers = jnp.array([0.1, 2.0])
    key = jax.random.key(1)
    after, loss, _ = networks.steps["bbi"](networks.initial("bbi", 0), numbers, key, *given)
    stats = kinopt.ecd_stats(after.opt_state)
    assert float(stats.energy) == pytest.approx(float(loss) - task.f_min + 2.0, rel=1e-5)
    moved = jax.tree.map(lambda new, old: jnp.sum((new - old) ** 2), after.params, before.params)
    length = float(jnp.sqrt(sum(jax.tree.leaves(moved))))
    drift = stats.potential / stats.energy * jnp.sqrt(stats.momentum_sq)  # Eq. 12
    assert length == pytest.approx(0.1 * float(drift), rel=1e-3)
