"""The reading of `evidence.rates`, on rows made by hand."""

import numpy as np
import pytest

from benchmarks.evidence import rates
from benchmarks.experiments import UsageError

SETTINGS = {"methods": ["adamw", "sgd"], "factors": [0.1, 1.0, 10.0], "num_seeds": 2}


def row(data: str, method: str, accuracy: list[list[float]]):
    place = {"data": data, "few": False, "noise": 0.0, "method": method}
    return place | {"test_accuracy": accuracy, "settings": SETTINGS}


ROWS = [
    row("digits", "adamw", [[0.8, 0.8], [0.9, 0.9], [0.7, 0.7]]),
    row("digits", "sgd", [[0.6, 0.8], [0.9, 0.9], [0.6, 0.6]]),
    row("mnist", "adamw", [[0.7, 0.7], [0.8, 0.8], [0.6, 0.6]]),
    row("mnist", "sgd", [[0.6, 0.6], [0.8, 0.9], [0.5, 0.5]]),
]


def test_all_is_compared_with_adamw_at_its_own_choice():
    found = rates.differences(ROWS)
    np.testing.assert_allclose(found["adamw"], [[-10, 0, -20], [-10, 0, -20]], atol=1e-9)
    np.testing.assert_allclose(found["sgd"], [[-20, 0, -30], [-20, 5, -30]], atol=1e-9)
    table = rates.table(ROWS)
    assert "| -20.00 | +2.50 | -30.00 | -15.83 ± 0.83" in table
    assert rates.headline(ROWS).endswith("adamw -10.00, sgd -15.83")
    assert len(rates.plot(ROWS).axes) == 1
    assert "sgd" not in rates.headline(ROWS[:3])  # a run that was interrupted


def test_without_the_search_there_is_nothing_to_vary(monkeypatch, tmp_path):
    monkeypatch.setattr(rates, "ROWS", tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match=r"run evidence\.learning first"):
        next(rates.run(rates.PRESETS["smoke"]))
