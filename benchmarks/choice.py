"""The best of what was tried: which setting a baseline gets, and the rows that say why."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.record import Done, Row

__all__ = ["choose"]


def choose(
    identity: Row, name: str, tried: Callable[[], Iterable[tuple[Any, Any]]], done: Done
) -> tuple[Any, list[Row]]:
    """The setting with the highest mean score, and a row for each that was tried.

    Args:
        identity: What tells these rows from all others.
        name: What the setting is called in a row.
        tried: Tries all of them: pairs of a setting and its validation accuracy, a number or
            several. It is not called where the choice is on record.
        done: What is on record.

    Returns:
        The setting, and the rows that are not on record yet.

    >>> best, rows = choose({"stage": "tuning"}, "rate", lambda: [(0.1, 0.8), (0.2, 0.9)], Done())
    >>> best, [row["chosen"] for row in rows]
    (0.2, [False, True])
    >>> choose({"stage": "tuning"}, "rate", lambda: [], Done(rows))
    (0.2, [])
    """
    for row in done.rows:
        if identity.items() <= row.items() and row["chosen"]:
            return row[name], []
    pairs = list(tried())
    best = int(np.argmax([np.mean(score) for _, score in pairs]))
    rows = [
        {**identity, name: setting, "validation_accuracy": score, "chosen": number == best}
        for number, (setting, score) in enumerate(pairs)
    ]
    return pairs[best][0], rows
