"""Whether chains have mixed: R-hat and effective numbers against oracles, verdicts that hold."""

import dataclasses
import inspect
import itertools

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evidence import mixing as experiment
from kinopt import basins
from kinopt.basins import chains, verdicts
from kinopt.basins.entries import student_quantile


def _two_states(rng, starts, leave, num_times):
    """Chains of two states that are left with these probabilities; labels 1 and 2."""
    state = np.asarray(starts)
    path = []
    for _ in range(num_times):
        path.append(state)
        flip = rng.random(state.shape) < np.where(state == 1, *leave)
        state = np.where(flip, 3 - state, state)
    return np.stack(path, axis=-1)


def test_split_rhat_is_the_definition():
    x = np.random.default_rng(0).normal(size=(3, 10)) + np.arange(3)[:, None]
    halves = x.reshape(6, 5)
    within = np.mean([np.var(half, ddof=1) for half in halves])
    between = 5 * np.var([half.mean() for half in halves], ddof=1)
    exact = np.sqrt((4 / 5 * within + between / 5) / within)
    np.testing.assert_allclose(chains.split_rhat(x), exact, rtol=1e-12)
    assert chains.split_rhat(np.ones((2, 4))) == 1


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.97])
def test_effective_numbers_of_an_autoregression(rho):
    """Of x_t = rho x_(t-1) + noise it is N (1 - rho)/(1 + rho)."""
    rng = np.random.default_rng(1)
    x = np.empty((8, 20_000))
    x[:, 0] = rng.normal(size=8)
    for t in range(1, x.shape[1]):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=8)
    exact = x.size * (1 - rho) / (1 + rho)
    np.testing.assert_allclose(chains.effective_number(x), exact, rtol=0.1)


def test_effective_number_knows_of_chains_that_differ():
    x = np.random.default_rng(2).normal(size=(8, 1000)) * 0.01 + np.repeat([0, 1], 4)[:, None]
    assert chains.effective_number(x) < 16
    assert np.isnan(chains.effective_number(np.ones((2, 10))))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_crossings_count_changes_of_basin(labels):
    kept = [k for k in labels if k]
    exact = sum(a != b for a, b in itertools.pairwise(kept))
    assert chains.crossings(np.array([labels])).tolist() == [exact]


def test_start_dependence_is_uniform_where_there_is_none():
    rng = np.random.default_rng(3)
    starts = np.repeat([1, 2], 10)
    found = [chains.start_dependence(rng.normal(size=(20, 1)), starts) for _ in range(200)]
    assert scipy.stats.kstest(found, "uniform").pvalue > 1e-3
    assert chains.start_dependence(np.ones((4, 1)), np.ones(4)) == 1


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 20, 99, 100, 101, 500])
def test_student_quantiles_are_scipys(freedom):
    exact = scipy.stats.t.ppf(0.975, freedom)
    np.testing.assert_allclose(student_quantile(freedom), exact, rtol=2e-6)


def test_each_verdict():
    rng = np.random.default_rng(4)
    starts = np.repeat([1, 2], 4)
    quick = _two_states(rng, starts, (0.05, 0.05), 4000)
    noise = rng.normal(size=quick.shape)
    fair = basins.mixing(noise, quick)
    assert fair.verdict == verdicts.MIXED
    assert fair.rhat.shape == fair.ess.shape == (3,)
    assert fair.crossings.shape == (8,)
    stuck = np.repeat(starts[:, None], 4000, axis=1)
    assert basins.mixing(noise, stuck).verdict == verdicts.SYMMETRY_BOUND
    assert basins.mixing(noise + stuck, stuck).verdict == verdicts.TRAPPED
    entered = np.where(np.arange(4000) < 100, 0, stuck)
    assert basins.mixing(noise, entered).verdict == verdicts.FIRST_ENTRIES
    some = _two_states(rng, starts, (0.001, 0.001), 4000)
    assert basins.mixing(noise, some).verdict == verdicts.UNDECIDED
    assert basins.mixing(noise, 0 * stuck).verdict == verdicts.UNDECIDED
    one = basins.mixing(noise, 0 * stuck + 1)
    assert one.verdict == verdicts.UNDECIDED
    assert "only basin 1 was seen" in " ".join(one.reasons)
    top = basins.mixing(np.where(noise > -1, 1.0, 0.0), quick)
    assert "upper tenth" in " ".join(top.reasons)


def test_chains_that_are_not_finite_are_left_out_and_counted():
    rng = np.random.default_rng(5)
    labels = _two_states(rng, np.repeat([1, 2], 4), (0.05, 0.05), 4000)
    values = rng.normal(size=labels.shape)
    values[0, 17] = np.nan
    fair = basins.mixing(values, labels)
    assert fair.reasons[0].startswith("1 chains are not finite")
    assert np.isfinite(fair.rhat).all()
    values[1:] = np.inf
    assert basins.mixing(values, labels).verdict == verdicts.UNDECIDED


def test_a_drift_that_has_not_ended_is_not_mixed():
    """All chains move alike from basin 1 to basin 2: R-hat of whole chains would not see it."""
    rng = np.random.default_rng(6)
    early = _two_states(rng, np.ones(8, int), (0.1, 0.3), 1000)
    late = _two_states(rng, np.ones(8, int), (0.3, 0.1), 1000)
    labels = np.concatenate([early, late], axis=1)
    assert basins.mixing(rng.normal(size=labels.shape), labels).verdict != verdicts.MIXED


def test_what_cannot_be_judged_is_refused():
    judge = inspect.unwrap(basins.mixing)
    x, labels = np.zeros((2, 8)), np.ones((2, 8), int)
    with pytest.raises(TypeError, match="whole numbers"):
        judge(x, x)
    with pytest.raises(ValueError, match="one shape"):
        judge(x, labels[:, :4])
    with pytest.raises(ValueError, match="at least 2 chains"):
        judge(x[:1], labels[:1])
    with pytest.raises(ValueError, match="at least 0"):
        judge(x, -labels)
    with pytest.raises(ValueError, match="of shape"):
        judge(x[0], labels[0])


@pytest.mark.slow
def test_intervals_of_occupancy_cover():
    """95 % of 4000: 93 and 97 % are six standard errors away."""
    settings = experiment.PRESETS["laptop"]
    for pieces in (3, 8):
        assert 0.93 < experiment._coverage(0.5, pieces, settings) / 4000 < 0.97


@pytest.mark.slow
def test_the_experiment_tells_wells_apart():
    settings = dataclasses.replace(
        experiment.PRESETS["smoke"], energies=(), pieces=(), num_times=4000, num_judged=10
    )
    rows = list(experiment.run(settings))
    assert [row["barrier"] for row in rows] == [1, 18, 1, 18]
    for row in rows:
        mixed = row["verdicts"].get(verdicts.MIXED, 0)
        assert mixed == 0 if row["tau"] > 4000 else mixed >= 5
        assert (row["tau"] > 4000) == (row["barrier"] == 18)


def test_the_true_share_is_that_of_the_boltzmann_weight():
    assert experiment.true_share(3.0, 0.0, 1) == pytest.approx(0.5, abs=1e-9)
    assert experiment.true_share(3.0, 0.0, 2) == pytest.approx(2 / 3, abs=1e-9)
    assert np.isfinite(jax.grad(experiment.potential)(np.array([1.0, 0.5]), 3.0, 0.1)).all()
