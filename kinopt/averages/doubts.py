"""When a number is not given: what a path shows of its own failure, in words.

A weighted mean always looks like a number. These are the ways in which it lies, and what shows it:

1. a step that is too long changes the density: each step is tested (`kinopt.averages.walk`), or
   the difference to half a step is given;
2. f_min lies above a minimum that was not known: the walk starts anew from the deeper one;
3. the energy lies below the barrier: known modes are not visited, or too few crossings are seen;
4. the energy lies below what a temperature needs: weight piles up next to the largest V;
5. few steps carry all the weight: an effective number is small.

What none of them can show is a mode that no start and no walk has met.
"""

import numpy as np

__all__ = ["FEWEST_CROSSINGS", "SMALLEST_NUMBER", "doubts"]

FEWEST_CROSSINGS = 20
"""From mode to mode, of a chain on average."""

SMALLEST_NUMBER = 50
"""Effective samples of the loss and of each mode's indicator."""

NEAR_THE_TOP = 0.9
"""Of the largest V: the weight above must be small."""

MOST_AT_THE_TOP = 1e-3
"""Share of the weight there: about what is missing beyond."""

MATTERS = 10.0
"""In units of T: how high above the lowest a minimum that is not visited may be to matter."""


def doubts(
    temperatures: np.ndarray,
    ess: np.ndarray,
    crossings: np.ndarray,
    visited: np.ndarray,
    heights: np.ndarray,
    top_share: np.ndarray,
) -> tuple[list[str], np.ndarray]:
    """The reasons, and which temperatures they leave nothing of, bool [temperatures].

    Args:
      temperatures: T, [temperatures].
      ess: smallest effective number, [temperatures].
      crossings: [chains].
      visited: whether a mode was, bool [modes].
      heights: of the modes' minima above the lowest, [modes].
      top_share: share of the weight next to the largest V, [temperatures].

    >>> one = np.ones(1)
    >>> reasons, refused = doubts(one, 9 * one, np.array([30, 40]), one > 0, 0 * one, 0 * one)
    >>> reasons, refused
    (['T = 1: worth 9 independent samples, fewer than 50: more num_steps, or another hot'],
     array([ True]))
    """
    reasons, refused = [], np.zeros(len(temperatures), bool)

    def refuse(which, reason):
        refused[:] |= which
        reasons.append(reason)

    if len(visited) > 1 and crossings.mean() < FEWEST_CROSSINGS:
        refuse(
            True,
            f"{crossings.mean():.1f} crossings between modes in a chain on average, fewer than "
            f"{FEWEST_CROSSINGS}: more num_steps, a higher hot, or fewer chains",
        )
    for k in np.flatnonzero(~visited):
        matters = heights[k] < MATTERS * temperatures
        if matters.any():
            refuse(
                matters,
                f"mode {k + 1}, {heights[k]:.3g} above the lowest, was not visited: a higher hot, "
                "or more num_steps",
            )
    for k, temperature in enumerate(temperatures):
        at = f"T = {temperature:g}"
        if not ess[k] >= SMALLEST_NUMBER:
            refuse(
                np.arange(len(temperatures)) == k,
                f"{at}: worth {ess[k]:.0f} independent samples, fewer than {SMALLEST_NUMBER}: "
                "more num_steps, or another hot",
            )
        if not top_share[k] <= MOST_AT_THE_TOP:
            refuse(
                np.arange(len(temperatures)) == k,
                f"{at}: {top_share[k]:.1%} of the weight lies next to the highest loss that the "
                "energy allows: give a higher energy",
            )
    return reasons, refused
