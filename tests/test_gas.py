"""The hard law with disjoint pairs is a gas: it relaxes to Maxwell as kinetic theory says.

The experiment itself is `benchmarks/evidence/gas.py`; here its smoke preset must come out right.
"""

import dataclasses
import itertools

import numpy as np
import pytest

from benchmarks.evidence import _maxwell, gas

SETTINGS = gas.PRESETS["smoke"]
STATISTICS = ["excess_h", "ks_components", "ks_speeds", "kurtosis", "stress"]
each_run = pytest.mark.parametrize(
    ("start", "acceptance"), list(itertools.product(SETTINGS.starts, SETTINGS.acceptances))
)


@pytest.fixture(scope="module")
def rows():
    return gas.run(SETTINGS)


def select(rows, start, acceptance):
    return [row for row in rows if (row["start"], row["acceptance"]) == (start, acceptance)]


@pytest.mark.slow
def test_momentum_and_energy_are_conserved_to_rounding(rows):
    for row in rows:
        assert row["momentum_change"] < 1e-7
        assert abs(row["energy_change"]) < 1e-6


@each_run
def test_starts_far_from_maxwell_and_ends_there(rows, start, acceptance):
    first, *_, last = select(rows, start, acceptance)
    for name in STATISTICS:
        error = np.hypot(last[f"{name}_error"], last[f"{name}_equilibrium_error"])
        assert abs(last[name] - last[f"{name}_equilibrium"]) < 5 * error, name
    for name in ("excess_h", "ks_components", "ks_speeds", "kurtosis"):
        distance = abs(first[name] - first[f"{name}_equilibrium"])
        assert distance > 20 * first[f"{name}_equilibrium_error"], name


@each_run
def test_h_theorem(rows, start, acceptance):
    """Theorem 3.7: H falls at every sweep, within its error, to the Gaussian's value."""
    part = select(rows, start, acceptance)
    for before, after in itertools.pairwise(part):
        noise = np.hypot(before["excess_h_error"], after["excess_h_error"])
        noise = np.hypot(noise, after["excess_h_equilibrium_error"])
        assert after["excess_h"] < before["excess_h"] + 4 * noise
        assert after["h"] > _maxwell.H_MAXWELL - 4 * noise
    assert part[0]["h"] - part[-1]["h"] > 0.3


def test_relaxes_at_the_exact_rates(rows):
    """At c = 1 a sweep halves the stress, and takes the kurtosis of an isotropic gas to 2/3."""
    for start, name, rate in [("beams", "stress", 1 / 2), ("equal speeds", "kurtosis", 2 / 3)]:
        part = select(rows, start, "threshold")
        for before, after in itertools.pairwise(part[:3]):
            noise = np.hypot(after[f"{name}_error"], rate * before[f"{name}_error"])
            noise = np.hypot(noise, after[f"{name}_equilibrium_error"])
            assert abs(after[name] - rate * before[name]) < 4 * noise
            assert abs(after[name] - before[name]) > 4 * noise


@pytest.mark.slow
def test_the_literal_sum_is_no_gas():
    """Eq. 8 lets a particle meet all others at once: momentum stays, energy explodes."""
    settings = dataclasses.replace(
        SETTINGS, combine="sum", boxes=2, particles=40, sweeps=1, equilibria=2
    )
    settings = dataclasses.replace(settings, starts=("beams",), acceptances=("threshold",))
    for row in gas.run(settings):
        if row["sweep"] == 1:
            assert row["energy_change"] > 100
            assert row["momentum_change"] < 1e-4


def test_the_estimators_know_maxwell():
    """H - H_Maxwell and KS are zero for Maxwell; a known mixture has its relative entropy."""
    rng = np.random.default_rng(0)
    maxwell = gas.normalized(rng.normal(size=(20_000, 3)))
    measured = _maxwell.measure(maxwell, cells=4)
    assert abs(measured["excess_h"]) < 4 * np.sqrt(2 * 63) / (2 * 20_000)  # chi^2 of 63 freedoms
    assert measured["ks_components"] < 1.95 / np.sqrt(60_000)  # 99.9 % of Kolmogorov's law
    assert measured["ks_speeds"] < 1.95 / np.sqrt(20_000)
    one_octant = np.abs(maxwell)  # f is 8 times Maxwell on one octant: log 8
    assert _maxwell.excess_h(one_octant, cells=4) == pytest.approx(np.log(8), abs=0.01)


def test_the_table_shows_a_run_in_a_few_lines(rows):
    origin = {"settings": dataclasses.asdict(SETTINGS), "date": "late"}
    text = gas.table([{**row, **origin} for row in rows])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 * 3  # two starts, two acceptances, three statistics
    assert "after 5 sweeps   | after 10 sweeps  | after 12 sweeps" in lines[0]
    first = next(row for row in rows if row["start"] == "beams")
    assert f"{first['stress']:.4f} ± {first['stress_error']:.4f}" in text
    assert f"over {SETTINGS.boxes} boxes" in text


def test_a_picture_is_drawn(rows):
    assert gas.plot(rows).axes
