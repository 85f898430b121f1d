"""The experiments of BBI's sections 4.1 and 4.2: the search, and what they report."""

import jax
import numpy as np
import pytest

from benchmarks import record
from benchmarks.bbi import _protocol, zakharov
from kinopt import landscapes


def test_the_search_finds_a_step_that_descends():
    method = _protocol.gdm("gdm", _protocol.Range(1e-4, 1.0))
    start = np.array([4.0, -3.0])
    found = _protocol.search(method, landscapes.booth(), start, num_steps=60, num_trials=30, seed=0)
    assert set(found.hyperparameters) == {"learning_rate", "momentum"}
    assert found.lowest_loss < 1e-3 * landscapes.booth()(start)
    # What was found is what was measured.
    points, losses = _protocol.descent(method, landscapes.booth(), 60)(
        found.hyperparameters, jax.numpy.asarray(start, float), jax.random.key(0)
    )
    assert points.shape == (61, 2)
    np.testing.assert_array_equal(points[0], start)
    np.testing.assert_allclose(np.min(losses), found.lowest_loss, rtol=1e-6)


def test_a_method_without_ranges_has_one_trial():
    method = _protocol.bbi("bbi", 0.01)
    found = _protocol.search(
        method, landscapes.booth(), np.zeros(2), num_steps=100, num_trials=500, seed=0
    )
    assert found.hyperparameters == {}
    assert found.lowest_loss < landscapes.booth()(np.zeros(2))


def test_a_diverging_trial_counts_by_its_lowest_loss():
    method = _protocol.gdm("gdm", _protocol.Range(1e3, 2e3))
    start = np.array([4.0, -3.0])
    found = _protocol.search(method, landscapes.booth(), start, num_steps=99, num_trials=2, seed=0)
    assert found.lowest_loss == pytest.approx(float(landscapes.booth()(start)))


def test_wilson():
    np.testing.assert_allclose(_protocol.wilson(90, 100), [0.8256, 0.9448], atol=1e-4)


@pytest.mark.slow
def test_the_published_step_descends_zakharov_as_the_paper_says(monkeypatch):
    published = [method for method in zakharov.METHODS if method.name == "bbi, published step"]
    monkeypatch.setattr(zakharov, "METHODS", published)
    settings = zakharov.PRESETS["smoke"]
    (row,) = zakharov.run(settings)
    assert not jax.config.jax_enable_x64
    assert row["lowest"] <= 1e-22  # the paper's Fig. 4
    assert row["arrival"] < 10_000
    assert max(row["random_lowest"]) < 1e-20
    assert list(zakharov.run(settings, record.Done([row]))) == []
