"""How many seeds entered each basin first, with intervals, and what was predicted of it."""

from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kinopt._checks import check_count, check_numbers, is_concrete, shown

__all__ = ["BasinStatistics", "statistics", "wilson_interval", "z_score"]


Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def student_quantile(freedom: int) -> float:
    """The t that Student's variable stays below in size with 95 %, for `freedom` degrees.

    From the finite sums for the probability A(t) with theta = atan(t / sqrt(freedom)), (Abramowitz,
    Stegun, 26.7.3 and 26.7.4), by bisection; for many degrees from the expansion about the normal
    quantile (26.7.5).

    >>> [round(student_quantile(n), 3) for n in (1, 2, 7, 30)]
    [12.706, 4.303, 2.365, 2.042]
    """
    if freedom > 100:
        z, n = Z95, freedom
        return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)

    def inside(t):
        theta = np.arctan(t / np.sqrt(freedom))
        odd = freedom % 2
        term = np.cos(theta) if odd else 1.0
        total = term if freedom > 1 else 0.0
        for k in range(2 + odd, freedom - 1, 2):
            term *= (k - 1) / k * np.cos(theta) ** 2
            total += term
        total *= np.sin(theta)
        return 2 / np.pi * (theta + total) if odd else total

    low, high = 1.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < 0.95 else (low, middle)
    return float(high)


def wilson_interval(successes, trials) -> jax.Array:
    """Wilson's 95 % interval of a probability, shape [..., 2]; [0, 1] for no trials.

    Args:
      successes: shape [...], 0 <= successes <= trials.
      trials: shape [...].

    Returns:
      Lower and upper end, float, shape [..., 2], in [0, 1].

    Raises:
      TypeError: if they are not real numbers.
      ValueError: if there are fewer trials than successes.

    >>> print(np.round(np.float64(wilson_interval(50, 100)), 3))
    [0.404 0.596]
    """
    check_numbers("successes", successes, least=0)
    check_numbers("trials", trials, least=0)
    if is_concrete(successes, trials) and (np.asarray(successes) > np.asarray(trials)).any():
        raise ValueError(
            f"successes must be at most trials; got {shown(successes)} of {shown(trials)}."
        )
    dtype = jnp.result_type(float)
    k, n = jnp.broadcast_arrays(jnp.asarray(successes, dtype), jnp.asarray(trials, dtype))
    known = n > 0
    n = jnp.where(known, n, 1)
    p = k / n
    center = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * jnp.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    interval = jnp.clip(jnp.stack([center - half, center + half], axis=-1), 0, 1)
    low, high = jnp.moveaxis(interval, -1, 0)
    return jnp.stack([jnp.where(known, low, 0), jnp.where(known, high, 1)], axis=-1)


class BasinStatistics(NamedTuple):
    """How often each basin was found first."""

    counts: jax.Array  # int32 [basins]: seeds that ended in each
    fractions: jax.Array  # float [basins]: share of the decided seeds; NaN when none is
    intervals: jax.Array  # float [basins, 2]: Wilson's 95 % interval of the fractions
    ratio: jax.Array  # float []: basin 1 to basin 2; inf or NaN when basin 2 is empty
    ratio_interval: jax.Array  # float [2]: its 95 % interval
    running_ratio: jax.Array  # float [seeds]: the ratio after each seed, in order (Fig. 6)
    num_undecided: jax.Array  # int32 []: outcome 0
    num_failed: jax.Array  # int32 []: outcome below 0


def statistics(outcome: ArrayLike, num_basins: SupportsIndex) -> BasinStatistics:
    """Counts, fractions, intervals and the ratio of the first two basins (BBI paper, section 4.3).

    Args:
      outcome: int [seeds], as in `kinopt.ensemble.EnsembleResult`: 1, ..., num_basins for the
        basins, 0 undecided, below 0 failed.
      num_basins: number of basins, >= 1.

    Returns:
      `BasinStatistics`.

    Raises:
      TypeError: if an argument is not whole numbers.
      ValueError: if there is an outcome above `num_basins` (when it can be known: not under jit),
        or the shape is not [seeds].

    >>> found = statistics(jnp.array([1, 2, 1, 0, 1, -1, 2]), num_basins=2)
    >>> found.counts.tolist(), float(found.ratio), int(found.num_undecided), int(found.num_failed)
    ([3, 2], 1.5, 1, 1)
    >>> print(np.round(found.ratio_interval, 1), found.running_ratio)
    [0.3 7.5] [inf 1. 2. 2. 3. 3. 1.5]
    """
    number = check_count("num_basins", num_basins, optional=False)
    if hasattr(outcome, "outcome"):
        raise TypeError(
            f"outcome must be integers of shape [seeds]; got the whole {type(outcome).__name__}: "
            f"pass result.outcome."
        )
    check_numbers("outcome", outcome, shape=("seeds",))
    outcome = jnp.asarray(outcome)
    if not jnp.issubdtype(outcome.dtype, jnp.integer):
        raise TypeError(f"outcome must be integers of shape [seeds]; got {outcome.dtype}.")
    if is_concrete(outcome) and (outcome > number).any():
        raise ValueError(
            f"outcome {int(outcome.max())} occurs, but num_basins is {number}: some seeds would be "
            f"counted nowhere"
        )
    found = outcome[:, None] == 1 + jnp.arange(number, dtype=outcome.dtype)[None]
    counts = jnp.sum(found, axis=0, dtype=jnp.int32)
    decided = jnp.sum(counts)
    running = jnp.cumsum(found[:, :2], axis=0).astype(jnp.result_type(float))
    pair = counts[:2] if number > 1 else jnp.array([counts[0], 0])
    low, high = wilson_interval(pair[0], pair[0] + pair[1])
    second = running[:, 1] if number > 1 else jnp.zeros_like(running[:, 0])
    return BasinStatistics(
        counts=counts,
        fractions=counts / decided,
        intervals=wilson_interval(counts, decided),
        ratio=pair[0] / pair[1],
        ratio_interval=jnp.stack([low / (1 - low), high / (1 - high)]),
        running_ratio=running[:, 0] / second,
        num_undecided=jnp.sum(outcome == 0, dtype=jnp.int32),
        num_failed=jnp.sum(outcome < 0, dtype=jnp.int32),
    )


def z_score(counts: ArrayLike, prediction: ArrayLike) -> jax.Array:
    """How many standard errors the counts are from a prediction, for each basin.

    $$
    z_k = (c_k - n p_k) / sqrt(n p_k (1 - p_k)),    n = sum_k c_k
    $$

    Args:
      counts: int [basins], `statistics(...).counts`.
      prediction: the volumes of the basins up to a factor, or their probabilities: > 0, [basins].
        For a predicted ratio r of two basins, `[r, 1]`.

    Returns:
      z, shape [basins]; NaN when nothing was counted. With two basins z_2 = -z_1.

    Raises:
      TypeError: if they are not real numbers.
      ValueError: if the shapes differ, or a number is out of range.

    >>> print(np.round(z_score(jnp.array([1265, 734]), jnp.array([1.9259, 1.0])), 1))  # Fig. 6
    [-2.4  2.4]
    """
    check_numbers("counts", counts, shape=("basins",), least=0)
    check_numbers("prediction", prediction, above=0)
    counts = jnp.asarray(counts, jnp.result_type(float))
    prediction = jnp.asarray(prediction, counts.dtype)
    if prediction.shape != counts.shape:
        raise ValueError(
            f"prediction needs one number for each basin; got shapes {prediction.shape} and "
            f"{counts.shape}"
        )
    p = prediction / jnp.sum(prediction)
    n = jnp.sum(counts)
    return (counts - n * p) / jnp.sqrt(n * p * (1 - p))
