"""Whether shares of time in basins can be believed: a verdict in words, with its reasons."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from kinopt._checks import check_numbers
from kinopt.basins.chains import crossings, effective_number, split_rhat, start_dependence

__all__ = ["Mixing", "mixing"]

LARGEST_RHAT = 1.05
"""Of V and of each basin's indicator, for chains that agree."""

ALIKE_RHAT = 1.01
"""Of V, for chains that stay apart and yet see the same of it."""

SMALLEST_NUMBER = 100
"""Effective samples of V and of each indicator."""

FEWEST_CROSSINGS = 10
"""Of the chain that has fewest: shares of fewer stays are not resolved."""

SIGNIFICANT = 0.05
"""p value of dependence on the start; four chains from each of two basins can reach 0.03."""

APART = 1.2
"""R-hat of an indicator from which chains have plainly not shared their basins."""

MANY_AT_THE_TOP = 0.5
"""Share of the time in the upper tenth of V from which it is said."""

MIXED = "mixed as far as these chains show"
TRAPPED = "trapped"
SYMMETRY_BOUND = "symmetry-bound"
FIRST_ENTRIES = "first entries only"
UNDECIDED = "undecided"


class Mixing(NamedTuple):
    """Whether chains have mixed between basins, and why that is said."""

    verdict: str  # one of the five that `mixing` lists
    reasons: tuple[str, ...]  # what was seen, a sentence each
    rhat: np.ndarray  # float [1 + basins]: split R-hat of V, then of each basin's indicator
    ess: np.ndarray  # float [1 + basins]: effective numbers of the same
    crossings: np.ndarray  # int [chains]: from one basin to another
    start_p: float  # p value of "chains that began elsewhere ended alike"
    top_share: float  # share of the time in the upper tenth of V's range


def mixing(values: ArrayLike, labels: ArrayLike) -> Mixing:
    """What several chains show of their mixing between basins, and no more than that.

    The verdicts, in the order in which they are tried:

        first entries only     no chain left the basin that it entered, and most began in none:
                               shares of chains are probabilities of being hit first
        symmetry-bound         chains stay in their basins, and V is the same in all of them (split
                               R-hat at most 1.01, effective number at least 100), as for images
                               under a symmetry: averages of V may be used, shares may not. Other
                               basins with the same values of V look alike
        trapped                chains stay in their basins: shares are those of the starts
        mixed as far as        split R-hat at most 1.05 and effective numbers of at least 100, of V
        these chains show      and of each basin's indicator; at least 10 crossings in every chain;
                               no dependence on the start with p < 0.05
        undecided              something in between; the reasons say what is missing

    Chains stay where none crosses; or where the indicators' R-hat is above 1.2 and half the chains
    cross less than twice. "Mixed" is about the basins that were seen: of one that no chain has
    found, chains say nothing.

    Args:
      values: V or the loss, [chains, times]. A chain with a number that is not finite is left out.
      labels: whole numbers [chains, times]: 1, 2, ... for basins, 0 for none, as in
        `Discovered.label`.

    Returns:
      `Mixing`.

    Raises:
      TypeError: if they are not real numbers, or `labels` not whole ones.
      ValueError: if the shapes differ, or there are fewer than 2 chains or 4 times.

    >>> rng = np.random.default_rng(1)
    >>> labels = 1 + (rng.random((8, 1000)) < 0.3)
    >>> mixing(rng.random((8, 1000)), labels).verdict
    'mixed as far as these chains show'
    >>> stuck = np.repeat([1, 2], 4)[:, None] * np.ones(1000, int)
    >>> mixing(stuck + rng.random((8, 1000)), stuck).verdict
    'trapped'
    """
    check_numbers("values", values, shape=("chains", "times"), finite=False)
    check_numbers("labels", labels, shape=("chains", "times"), least=0)
    x, where = np.asarray(values, np.float64), np.asarray(labels)
    if not np.issubdtype(where.dtype, np.integer):
        raise TypeError(f"labels must be whole numbers [chains, times]; got {where.dtype}.")
    if x.shape != where.shape or x.shape[0] < 2 or x.shape[1] < 4:
        raise ValueError(
            f"values and labels must have one shape [chains, times], at least 2 chains of 4 times; "
            f"got {list(x.shape)} and {list(where.shape)}."
        )
    basins = np.arange(1, 1 + where.max(initial=0))
    all_crossings = crossings(where)
    good = np.isfinite(x).all(axis=1)
    reasons = [] if good.all() else [f"{np.sum(~good)} chains are not finite and left out"]
    if good.sum() < 2:
        nothing = np.full(1 + len(basins), np.nan)
        reasons.append("fewer than two chains are left")
        return Mixing(UNDECIDED, tuple(reasons), nothing, nothing, all_crossings, 1.0, float("nan"))
    x, where = x[good], where[good]
    series = [x, *(np.where(where == k, 1.0, 0.0) for k in basins)]
    rhat = np.array([split_rhat(part) for part in series])
    ess = np.array([effective_number(part) for part in series])
    late = where[:, x.shape[1] // 2 :]
    shares = np.stack([np.mean(late == k, axis=1) for k in basins], axis=1) if len(basins) else late
    start_p = start_dependence(shares, where[:, 0]) if len(basins) else 1.0
    top = x >= x.min() + 0.9 * (x.max() - x.min()) if np.ptp(x) else np.zeros_like(x)
    verdict, why = _judged(where, rhat, ess, all_crossings[good], start_p)
    reasons += why
    if top.mean() > MANY_AT_THE_TOP:
        reasons.append(
            f"{top.mean():.0%} of the time V is in the upper tenth of its range: labels there say "
            f"where a quench leads, not that the chain stays there"
        )
    return Mixing(
        verdict, tuple(reasons), rhat, ess, all_crossings, float(start_p), float(top.mean())
    )


def _judged(where, rhat, ess, crossed, start_p) -> tuple[str, list[str]]:
    """The verdict and what it rests on."""
    seen = np.unique(where[where > 0])
    if not len(seen):
        return UNDECIDED, ["no chain was in a basin"]
    if not crossed.any():
        why = ["no chain crossed from one basin to another"]
        if np.mean(where[:, 0] == 0) > 0.5:
            why.append("most chains began in none: their shares are probabilities of a first entry")
            return FIRST_ENTRIES, why
        if len(seen) == 1:
            return UNDECIDED, [*why, f"only basin {seen[0]} was seen: others may not be reached"]
    why = [f"crossings in a chain: {crossed.min()} to {crossed.max()}"]
    indicators = rhat[seen]
    why.append(f"largest split R-hat: V {rhat[0]:.3f}, basins {indicators.max():.3f}")
    number = np.nanmin([ess[0], *ess[seen]]) if np.isfinite(ess[[0, *seen]]).any() else 0
    why.append(f"smallest effective number: {number:.0f}")
    if start_p < SIGNIFICANT:
        why.append(f"where a chain ends depends on where it began, p = {start_p:.3f}")
    stays = not crossed.any() or (indicators.max() > APART and np.median(crossed) < 2)
    if stays:
        if rhat[0] <= ALIKE_RHAT and ess[0] >= SMALLEST_NUMBER:
            return SYMMETRY_BOUND, [*why, "V is distributed alike in the basins"]
        return TRAPPED, why
    lacking = {
        f"R-hat is above {LARGEST_RHAT}": max(rhat[0], indicators.max()) > LARGEST_RHAT,
        f"an effective number is below {SMALLEST_NUMBER}": not number >= SMALLEST_NUMBER,
        f"a chain has fewer than {FEWEST_CROSSINGS} crossings": crossed.min() < FEWEST_CROSSINGS,
        "the end depends on the start": start_p < SIGNIFICANT,
    }
    missing = [reason for reason, fails in lacking.items() if fails]
    return (UNDECIDED, [*why, *missing]) if missing else (MIXED, why)
