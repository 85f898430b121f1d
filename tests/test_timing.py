"""Interleaved timing: the turns, and the interval of a median ratio. No test asserts a time."""

import numpy as np

from benchmarks.timing import MedianRatio, interleaved, median_ratio


def test_candidates_take_turns_and_every_other_turn_goes_backwards():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = interleaved(functions, num_turns=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"  # the first two compile
    assert [len(seconds[name]) for name in "ab"] == [3, 3]


def test_a_drifting_machine_does_not_move_the_ratio():
    reference = np.geomspace(1, 10, 20)
    assert median_ratio(1.5 * reference, reference) == MedianRatio(1.5, 1.5, 1.5)


def test_the_interval_covers_the_median_as_often_as_it_says():
    random = np.random.default_rng(0)
    ratios = [median_ratio(random.lognormal(size=25), np.ones(25)) for _ in range(400)]
    covered = np.mean([ratio.low <= 1 <= ratio.high for ratio in ratios])
    assert 0.93 <= covered <= 1  # the sign test's interval covers at least 95 %


def test_too_few_turns_have_no_interval():
    assert np.isnan(median_ratio(np.ones(2), np.ones(2)).low)
    assert np.isnan(median_ratio(np.array([]), np.array([])).median)


def test_a_ratio_in_a_table_comes_from_a_row():
    assert str(MedianRatio.from_row([1.5, 1.25, 2.0])) == "1.500 (1.250 to 2.000)"
    assert str(MedianRatio.from_row([1.5, None, None])) == "1.500"
