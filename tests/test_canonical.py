"""The comparison of averages: its truths, its methods, and how its rows are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.evidence import _canonical_methods as methods
from benchmarks.evidence import canonical as experiment
from benchmarks.evidence._canonical_targets import _chain, _gaussians


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def test_the_transfer_matrix_agrees_with_a_sum_over_a_grid():
    what = _chain(3)
    x = np.linspace(-2.5, 2.5, 126)
    points = np.stack(np.meshgrid(x, x, x, indexing="ij"), axis=-1).reshape(-1, 3)
    losses = np.asarray(jax.jit(jax.vmap(what.loss))(jnp.asarray(points)))
    sides = np.asarray(jax.vmap(what.side)(jnp.asarray(points)))
    p = np.exp(-losses) / np.exp(-losses).sum()
    np.testing.assert_allclose(what.truth, [p @ sides, p @ losses], rtol=1e-4)


def test_the_mean_loss_of_two_gaussians_far_apart_is_that_of_each():
    what = _gaussians(5)
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(2, 100_000, 5)) * np.array([0.5, 1.0])[:, None, None]
    draws += what.starts[:, None]  # the narrow one is the first
    losses = jax.jit(jax.vmap(what.loss))(jnp.asarray(draws.reshape(-1, 5)))
    error = np.std(losses) / np.sqrt(len(losses))
    assert abs(np.mean(losses) - what.truth[1]) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("name", list(methods.METHODS))
def test_every_method_comes_near_the_truth(name):
    pytest.importorskip("blackjax")
    what = _gaussians(2)
    keys = jax.random.split(jax.random.key(0), 4)
    found = methods.METHODS[name](what, 40_000, keys)
    assert found.shape[0] == 4
    assert (found[:, 2] / 40_000 > 0.5).all()
    assert (found[:, 2] / 40_000 < 1.5).all()
    # The prototype's energy does not reach far enough in two dimensions, and tempering from a
    # broad Gaussian is coarse.
    most = {"prototype": 0.3, "tempered": 0.3}.get(name, 0.1)
    assert abs(found[:, 0].mean() - 0.5) < most


def made_up(method, errors, **more):
    estimates = np.asarray(errors)[:, None] + np.array([0.5, 2.0])
    return {
        "stage": "methods",
        "target": "two Gaussians, n = 2",
        "gradients": 1000,
        "method": method,
        "truth": [0.5, 2.0],
        "estimates": estimates.tolist(),
        "settings": {},
    } | more


def test_wins_and_losses_are_told_apart():
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=12) * 1e-3, rng.normal(size=12) + 2
    ours = made_up(experiment.OURS, small, said=np.full((12, 2), 1e-3).tolist(), refused=1)
    rows = [ours, made_up("ladder", large), made_up("MCLMC", small)]
    assert "ladder 2/0/0" in experiment.headline(rows)
    assert "MCLMC 0/2/0" in experiment.headline(rows)
    text = experiment.table(rows)
    assert "1 of 12" in text
    assert "[**" in text
    experiment.plot(rows)
