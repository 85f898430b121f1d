"""Basins: when a seed has found one, how often each was found, and how long a seed stays in each.

Near a minimum theta_I the loss is quadratic, and in the coordinates that make its Hessian one,

$$
eta = H^(1/2) (theta - theta_I),     V = V_I + |eta|^2 / 2      (BBI, Eqs. 44, 45)
$$

the basin is |eta| < 1 (sections 3.1 and A.3): `quadratic_basins` is the stop rule for it.

Two different things can be counted. How many seeds *enter* each basin first (`statistics`) is what
the paper's Fig. 6 shows. What share of the time a seed that goes on for ever *spends* in each
(`dwell`, `occupancy`) is what a mixing system's phase-space volume predicts (Eq. 10). They need not
agree: a flow through an entrance is not the volume behind it. `kinopt.theory` has both numbers.

Intervals cover 95 %. For k successes in n trials they are Wilson's,

$$
(p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n),    p = k/n,    z = 1.96
$$

which stay inside [0, 1] and do not collapse at k = 0. That of a ratio k_1 : k_2 is the image of
Wilson's for k_1 of k_1 + k_2 under p -> p/(1 - p).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from kinopt._checks import check_count, check_function, check_numbers, shown
from kinopt._typing import PyTree

__all__ = [
    "BasinStatistics",
    "DwellState",
    "Occupancy",
    "dwell",
    "occupancy",
    "quadratic_basins",
    "statistics",
    "wilson_interval",
    "z_score",
]


Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def quadratic_basins(minimizers, hessians) -> Callable[[PyTree, Any], jax.Array]:
    """A stop rule: outcome k inside |eta_k| < 1, the k-th basin (BBI paper, sections 3.1 and A.3).

    $$
    |eta_k|^2 = (theta - theta_k)^T H_k (theta - theta_k)
    $$

    Where basins overlap, the nearest minimum in this distance is taken.

    Args:
      minimizers: theta_k, shape [basins, n].
      hessians: H_k at them, shape [basins, n, n], symmetric and positive semidefinite.

    Returns:
      `(params, value) -> int32 []`: 0 outside all basins, k = 1, ..., basins inside one. `params`
      is an array of n entries, or a pytree that ravels to one.

    Raises:
      TypeError: if they are not real numbers.
      ValueError: if the shapes do not fit, or a Hessian is not symmetric positive semidefinite,
        each judged by its own largest entry.

    >>> stop = quadratic_basins([[-2.0, -2.0], [2.0, 2.0]], [0.864 * np.eye(2), 1.664 * np.eye(2)])
    >>> [int(stop(jnp.array(x), 0.0)) for x in ([-2.0, -1.0], [0.0, 0.0], [2.0, 2.5])]
    [1, 0, 2]
    """
    check_numbers("minimizers", minimizers)
    check_numbers("hessians", hessians)
    centers = np.asarray(minimizers, np.float64)
    curvatures = np.asarray(hessians, np.float64)
    if (
        centers.ndim != 2
        or not centers.size
        or curvatures.shape != centers.shape + centers.shape[1:]
    ):
        raise ValueError(
            f"minimizers must have shape [basins, n] and hessians [basins, n, n]; got "
            f"{centers.shape} and {curvatures.shape}"
        )
    # Each by its own scale: basins may differ in curvature by any factor.
    rounding = 1e-5 * np.abs(curvatures).max(axis=(1, 2))
    skew = np.abs(curvatures - np.swapaxes(curvatures, 1, 2)).max(axis=(1, 2))
    if (skew > rounding).any():
        number = int(np.argmax(skew > rounding))
        raise ValueError(
            f"hessians must be symmetric, as matrices of second derivatives are; hessians[{number}]"
            f" is not"
        )
    lowest = np.linalg.eigvalsh(curvatures).min(axis=1)
    if (lowest < -rounding).any():
        number = int(np.argmax(lowest < -rounding))
        raise ValueError(
            f"hessians must be positive semidefinite, as they are at a minimum; hessians[{number}] "
            f"has the eigenvalue {lowest[number]:.3g}"
        )
    n = centers.shape[1]

    def stop(params, value):
        del value
        theta, _ = ravel_pytree(params)
        if theta.shape != (n,):
            raise ValueError(f"the basins are in {n} dimensions, the parameters in {theta.size}")
        away = theta[None] - jnp.asarray(centers, theta.dtype)
        # Not a matrix product: products of a few numbers are quicker one by one, and exact.
        products = jnp.asarray(curvatures, theta.dtype) * away[:, :, None] * away[:, None, :]
        eta_sq = jnp.sum(products, axis=(1, 2))
        nearest = jnp.argmin(eta_sq)
        return jnp.where(eta_sq[nearest] < 1, 1 + nearest, 0).astype(jnp.int32)

    return stop


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
    plain = not any(isinstance(x, Tracer) for x in jax.tree.leaves((successes, trials)))
    if plain and (np.asarray(successes) > np.asarray(trials)).any():
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
    if not isinstance(outcome, Tracer) and (outcome > number).any():
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


class DwellState(NamedTuple):
    """What `dwell` has counted."""

    time: jax.Array  # int32 []: updates so far
    num_steps: jax.Array  # int32 [blocks, labels]: of them, after the burn-in, at each label


def dwell(
    label: Callable[[PyTree, Any], Any],
    num_labels: SupportsIndex,
    *,
    num_steps: SupportsIndex,
    burn_in: SupportsIndex = 0,
    num_blocks: SupportsIndex = 1,
) -> optax.GradientTransformationExtraArgs:
    """Counts how long a run stays where: a transformation that changes nothing and remembers.

    It goes into a chain, and its counts come out in the state, so that one trajectory or thousands
    of them (`kinopt.ensemble.run`) are counted without being stored:

        optax.chain(kinopt.basins.dwell(basin, 2, num_steps=10_000), kinopt.bbi(...))

    The labels may be basins, or bins of the loss: a histogram of V.

    Args:
      label: params, value -> integer of shape []: 1, ..., num_labels; anything else counts nowhere.
        For example a `quadratic_basins(...)`.
      num_labels: number of labels, >= 1.
      num_steps: updates of a run, the burn-in included; what comes after is not counted.
      burn_in: updates at the start that are not counted.
      num_blocks: the counted time is cut into so many blocks of equal length, as `occupancy` needs
        for the error of a single trajectory. Steps that are left over are not counted.

    Returns:
      A transformation that passes updates through; its state is a `DwellState`.

    Raises:
      TypeError: if an argument is no whole number, or `label` no function.
      ValueError: if a number is out of range, or an update is made without `params` and `value`.

    >>> tx = optax.chain(dwell(lambda x, value: 1 + (x > 0), 2, num_steps=4), optax.sgd(1.0))
    >>> x, state = jnp.array(-1.5), tx.init(jnp.array(-1.5))
    >>> for _ in range(4):
    ...     updates, state = tx.update(jnp.array(-1.0), state, x, value=0.0)
    ...     x = x + updates
    >>> state[0].num_steps  # at -1.5, -0.5; 0.5, 1.5
    Array([[2, 2]], dtype=int32)
    """
    check_function("label", label, "params, value -> integer of shape []")
    labels = check_count("num_labels", num_labels, optional=False)
    steps = check_count("num_steps", num_steps, optional=False)
    start = check_count("burn_in", burn_in, least=0, optional=False)
    blocks = check_count("num_blocks", num_blocks, optional=False)
    length = (steps - start) // blocks
    if length < 1:
        raise ValueError(
            f"num_steps must leave at least one step for each of {blocks} blocks after a burn_in "
            f"of {start}; got {steps}."
        )

    def init(params):
        del params
        return DwellState(
            time=jnp.zeros((), jnp.int32),
            num_steps=jnp.zeros((blocks, labels), jnp.int32),
        )

    def update(updates, state, params=None, *, value=None, **extra):
        del extra
        if params is None or value is None:
            raise ValueError(
                "dwell looks at where a run is: call update(grads, state, params, value=loss)"
            )
        # A single comparison for each cell, which vectorises; an indexed addition would not.
        block = jnp.where(state.time >= start, (state.time - start) // length, -1)
        here = jnp.asarray(label(params, value), jnp.int32) - 1
        hit = (block == jnp.arange(blocks)[:, None]) & (here == jnp.arange(labels)[None])
        time = jnp.asarray(optax.safe_increment(state.time))
        return updates, DwellState(time=time, num_steps=state.num_steps + hit.astype(jnp.int32))

    return optax.GradientTransformationExtraArgs(init, update)


class Occupancy(NamedTuple):
    """Shares of time, with errors that know about autocorrelation."""

    fractions: jax.Array  # float [labels]: share of the time spent at any label
    errors: jax.Array  # float [labels]: standard errors of the fractions
    ratio: jax.Array  # float []: label 1 to label 2
    ratio_error: jax.Array  # float []: its standard error
    num_samples: int  # independent pieces of trajectory that the errors come from


def occupancy(num_steps: ArrayLike) -> Occupancy:
    """Shares of time spent at each label, from what `dwell` counted.

    Steps of a trajectory are correlated, so they cannot be counted as independent. Here the piece
    is the unit: the trajectory of a seed, or a block of it, long against the correlation time. For
    T_pk steps of piece p at label k, the share and its error are those of a ratio of means,

    $$
    f_k = sum_p T_pk / sum_pj T_pj,    error^2 = P/(P - 1) sum_p (T_pk - f_k T_p)^2 / T^2
    $$

    with T_p = sum_k T_pk, T = sum_p T_p and P pieces; likewise for T_1/T_2.

    Args:
      num_steps: int [..., labels], the `num_steps` of a `DwellState`: leading axes of seeds and
        blocks are all pieces. At least two of them.

    Returns:
      An `Occupancy`.

    Raises:
      TypeError: if they are not real numbers.
      ValueError: if there are fewer than two pieces, or a negative time.

    >>> times = occupancy(jnp.array([[60, 40], [70, 30], [65, 35]]))
    >>> print(f"{times.ratio:.3f} +- {times.ratio_error:.3f} from {times.num_samples} pieces")
    1.857 +- 0.236 from 3 pieces
    """
    check_numbers("num_steps", num_steps, least=0)
    pieces = jnp.atleast_1d(jnp.asarray(num_steps))
    pieces = pieces.reshape(-1, pieces.shape[-1]).astype(jnp.result_type(float))
    number, num_labels = pieces.shape
    if number < 2:
        raise ValueError(
            "occupancy needs at least two seeds or blocks: a single count has no error. Give dwell "
            "num_blocks, each of them long against the time that a run needs to forget"
        )

    def ratio_of_means(above, below):
        ratio = jnp.sum(above) / jnp.sum(below)
        spread = jnp.sum((above - ratio * below) ** 2) * number / (number - 1)
        return ratio, jnp.sqrt(spread) / jnp.sum(below)

    total = jnp.sum(pieces, axis=1)
    fractions, errors = jax.vmap(ratio_of_means, (1, None))(pieces, total)
    ratio, ratio_error = ratio_of_means(pieces[:, 0], pieces[:, min(1, num_labels - 1)])
    return Occupancy(fractions, errors, ratio, ratio_error, number)
