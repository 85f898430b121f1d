"""The experiments of BBI's sections 4.1 and 4.2: the search, and what they report."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import record
from benchmarks.bbi import _protocol, ackley, zakharov
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
@pytest.mark.parametrize("experiment", [ackley, zakharov])
def test_the_smoke_preset_makes_a_table_and_a_picture(experiment):
    settings = experiment.PRESETS["smoke"]
    origin = {"settings": dataclasses.asdict(settings), "date": "today"}
    rows = [{**row, **origin} for row in experiment.run(settings)]
    assert not jax.config.jax_enable_x64
    lines = [line for line in experiment.table(rows).splitlines() if line.startswith("| bbi")]
    assert lines
    assert experiment.headline(rows)
    assert list(experiment.run(settings, record.Done(rows))) == []
    assert experiment.plot(rows).axes
    if experiment is zakharov:
        published = next(row for row in rows if row["method"] == "bbi, published step")
        assert published["lowest"] <= 1e-22  # the paper's Fig. 4
        assert published["arrival"] < 10_000
        assert max(published["random_lowest"]) < 1e-20
    else:
        for row in rows:
            assert 0 <= row["stayed"] <= row["successes"] <= row["starts"]
            assert row["interval"][0] <= row["successes"] / row["starts"] <= row["interval"][1]
