"""Times that compare: candidates take turns, and ratios are taken within a turn.

A machine's speed drifts with its other work. Two functions timed one right after the other see
nearly the same machine, so the median of their ratios is far steadier than the ratio of medians.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from benchmarks.progress import progress_bar

__all__ = ["MedianRatio", "interleaved", "median_ratio"]


class MedianRatio(NamedTuple):
    """A median with its 95 % interval, nan where there were too few values for one."""

    median: float
    low: float
    high: float

    @classmethod
    def from_row(cls, values: Sequence[float | None]) -> "MedianRatio":
        """From a row of results, which has null for nan."""
        return cls(*(np.nan if value is None else value for value in values))

    def __str__(self) -> str:
        """For a table: median, and interval if there is one."""
        if np.isnan(self.low):
            return f"{self.median:.3f}"
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def interleaved(
    functions: Mapping[str, Callable[[], Any]], num_turns: int, title: str = "timing"
) -> dict[str, np.ndarray]:
    """Seconds that each function took in each turn, without its first call (compilation).

    Args:
        functions: What to time; each returns JAX arrays, which are waited for.
        num_turns: How often each is timed; every other turn goes through them backwards.
        title: What the progress bar says, which moves between the calls only.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    with progress_bar((1 + num_turns) * len(order), title) as bar:
        for function in functions.values():
            jax.block_until_ready(function())
            bar.update()
        for _ in range(num_turns):
            for name in order:
                began = time.perf_counter()
                jax.block_until_ready(functions[name]())
                seconds[name].append(time.perf_counter() - began)
                bar.update()
            order.reverse()
    return {name: np.array(values) for name, values in seconds.items()}


def median_ratio(seconds: np.ndarray, reference: np.ndarray) -> MedianRatio:
    """The median over turns of how much longer one function took than another.

    The interval is that of the sign test: it assumes nothing about how times are distributed.
    """
    ratios = np.asarray(seconds) / np.asarray(reference)
    if not ratios.size:
        return MedianRatio(np.nan, np.nan, np.nan)
    low, high = stats.quantile_test(ratios, q=1, p=0.5).confidence_interval()
    return MedianRatio(float(np.median(ratios)), float(low), float(high))
