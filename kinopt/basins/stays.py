"""What share of the time a run spends in each basin: counted along the way, then with errors."""

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from kinopt._checks import check_count, check_function, check_numbers
from kinopt._typing import PyTree
from kinopt.basins.entries import student_quantile

__all__ = ["DwellState", "Occupancy", "dwell", "occupancy"]


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
    intervals: jax.Array  # float [labels, 2]: 95 % interval of the fractions, within [0, 1]
    ratio_interval: jax.Array  # float [2]: of the ratio, from 0 up


def occupancy(num_steps: ArrayLike) -> Occupancy:
    """Shares of time spent at each label, from what `dwell` counted.

    Steps of a trajectory are correlated, so they cannot be counted as independent. Here the piece
    is the unit: the trajectory of a seed, or a block of it, long against the correlation time. For
    T_pk steps of piece p at label k, the share and its error are those of a ratio of means,

    $$
    f_k = sum_p T_pk / sum_pj T_pj,    error^2 = P/(P - 1) sum_p (T_pk - f_k T_p)^2 / T^2
    $$

    with T_p = sum_k T_pk, T = sum_p T_p and P pieces; likewise for T_1/T_2. The intervals are those
    of Student's distribution with P - 1 degrees of freedom: of few pieces, the error is not well
    known itself. They take the pieces as independent, and each as long enough to be near normal;
    whether a run moves between the basins at all is for `mixing` to judge.

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
    half = student_quantile(number - 1) * jnp.append(errors, ratio_error)
    middle = jnp.append(fractions, ratio)
    most = jnp.ones_like(middle).at[-1].set(jnp.inf)
    ends = jnp.stack([jnp.maximum(middle - half, 0), jnp.minimum(middle + half, most)], axis=-1)
    return Occupancy(fractions, errors, ratio, ratio_error, number, ends[:-1], ends[-1])
