"""Which minimum the path of steepest descent from a point ends in.

The basin of a minimum is the set of points from which the gradient flow

$$
dx/dt = -grad loss(x)
$$

leads to it. A quench by L-BFGS jumps, and the nearest minimum may lie behind a ridge: both are
other divisions of space, and `assign` says on how many points they differ from this one.

The flow is followed by the embedded Runge-Kutta pair of Dormand and Prince, of orders 5 and 4,
whose difference sets the step. It is an explicit method: where curvatures differ, by a factor kappa
from the stiffest to the softest, it takes about kappa steps.

References: Dormand, Prince, "A family of embedded Runge-Kutta formulae", J. Computational and
Applied Mathematics 6 (1980) 19; why quenches are not the flow: Asenjo, Paillusson, Frenkel,
"Numerical calculation of granular entropy", Physical Review Letters 112 (2014) 098002.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kinopt._checks import check_count, check_function, check_number, check_numbers, shown
from kinopt._lane_checks import check_outside, outside_meshes
from kinopt._programs import Programs, programs_of
from kinopt._typing import PyTree
from kinopt.basins.discovery import LOSS, Discovered, forms_of, loss_of
from kinopt.basins.points import Layout, rows_of
from kinopt.basins.quenching import from_each

__all__ = ["Assigned", "assign"]

STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""Dormand and Prince's coefficients; the last stage is the step of order 5."""

DIFFERENCE = (
    71 / 57600,
    0.0,
    -71 / 16695,
    71 / 1920,
    -17253 / 339200,
    22 / 525,
    -1 / 40,
)
"""Between the steps of order 5 and 4."""

FIRST_MOVE = 1e-2
"""Of the first step that is tried, in units of 1 + max |x_i|."""

CAUTION = 0.9
SMALLEST_FACTOR, LARGEST_FACTOR = 0.2, 5.0
"""From one step to the next."""

ROUNDING = 4
"""In units of eps (1 + max |x_i|): what moves no farther is at rest."""


class Assigned(NamedTuple):
    """Where points belong, by the gradient flow and in other ways."""

    label: Any  # int32 [points]: 1-based, where the flow ends; -1: at no minimum given
    nearest: Any  # int32 [points]: 1-based, the nearest minimum; -1: there is none
    num_lost: Any  # int32 []: points with label -1
    differs_nearest: Any  # float []: of the others, the share whose nearest is another
    differs_labels: Any  # float []: of them, the share with another of the `labels` given


class _Flow(NamedTuple):
    x: jax.Array  # float [n]
    gradient: jax.Array  # float [n]: there
    length: jax.Array  # float []: of the next step, in t


class _Known(NamedTuple):
    """Arrays of NumPy, or of JAX in a program."""

    forms: Any  # float [minima, m]; NaN beyond those there are
    largest_value: Any  # float [minima]: of a point that is at this minimum
    distance: Any  # float [minima]: largest, of max_i |c_i - c_i(k)|
    accuracy: Any  # float []


def assign(
    loss_fn: Callable[[PyTree], Any],
    points: PyTree,
    found: Discovered,
    *,
    labels: ArrayLike | None = None,
    symmetry: Callable[[PyTree], PyTree] | None = None,
    tolerance: SupportsFloat = 1e-3,
    accuracy: SupportsFloat = 1e-6,
    num_steps: SupportsIndex = 10_000,
) -> Assigned:
    """The minima in which the paths of steepest descent from these points end.

    A path has arrived at minimum k where, with c what `symmetry` makes of a point,

    $$
    V - V_k <= tolerance (1 + |V_k|),    max_i |c_i - c_i(k)| <= tolerance (1 + max_i |c_i(k)|)
    $$

    as `discover` tells minima apart. What comes to rest elsewhere, at a saddle or at a minimum that
    is not in `found`, what has not arrived after `num_steps`, and what is not finite is lost: its
    label is -1, and it is in no share. Steps are as long as an error of `accuracy` allows, so that
    points so near to a ridge, and what passes a saddle so closely, may end on the wrong side.

    The nearest minimum is that of least distance |c - c(k)|.

    Args:
      loss_fn: as in `discover`.
      points: as in `discover`.
      found: what `discover` returned, for the same loss.
      labels: whole numbers [points] that were made in another way, to be compared: `found.label`,
        of quenches, for the points that `discover` was given.
      symmetry: as in `discover`.
      tolerance: as in `discover`; > 0.
      accuracy: error of a step, in units of 1 + max |x_i|; > 0.
      num_steps: most steps from a point, of six gradients each.

    Returns:
      `Assigned`. Shares of no point are NaN.

    Raises:
      TypeError: if an argument is of the wrong kind, or under `jax.jit` and the like.
      ValueError: if a number is out of range, or shapes do not fit.

    Source: the equation, and basins as those of steepest descent: Mezey, "Potential energy
    hypersurfaces" (1987); the steps, `kinopt.basins.flow`.

    >>> from kinopt.basins import discover
    >>> def loss(x):  # a well at 0 and a wider one at 3, with a ridge at 1
    ...     left, right = x**2 - 2 * x**3 / 3, (x - 1)**3 / 3 - (x - 1)**2 + 1 / 3
    ...     return jnp.sum(jnp.where(x < 1, left, right))
    >>> points = jnp.array([[-0.5], [0.9], [1.2], [5.0]])
    >>> assigned = assign(loss, points, discover(loss, jnp.array([[0.1], [2.9]])))
    >>> assigned.label, assigned.nearest  # the wide one is the lower
    (Array([2, 2, 1, 1], dtype=int32), Array([2, 2, 2, 1], dtype=int32))
    >>> float(assigned.differs_nearest), int(assigned.num_lost)
    (0.25, 0)
    """
    check_function("loss_fn", loss_fn, LOSS)
    if not isinstance(found, Discovered):
        raise TypeError(f"found must be what kinopt.basins.discover returned; got {shown(found)}.")
    if symmetry is not None:
        check_function("symmetry", symmetry, "params -> pytree of arrays, or None")
    check_number("tolerance", tolerance, above=0)
    check_number("accuracy", accuracy, above=0)
    most = check_count("num_steps", num_steps, optional=False)
    check_outside(points, found)
    layout, flat = rows_of(points, "points")
    minimizers = minimizers_of(found, layout)
    others = _labels(labels, len(flat))
    with outside_meshes():
        programs = programs_of((loss_fn, symmetry), ("flow", layout, most))
        known, forms = (
            forms_of(symmetry, layout, np.asarray(x), programs) for x in (minimizers, flat)
        )
        shared = _known(np.asarray(found.values), known, tolerance, accuracy)
        label = _followed(loss_of(loss_fn, layout), symmetry, layout, flat, most, programs, shared)
    nearest = _nearest(forms, known)
    arrived = label > 0
    result = {
        "label": label,
        "nearest": nearest,
        "num_lost": np.sum(~arrived, dtype=np.int32),
        "differs_nearest": _share(nearest != label, arrived),
        "differs_labels": np.array(np.nan) if others is None else _share(others != label, arrived),
    }
    return Assigned(**jax.device_put(result))


def minimizers_of(found: Discovered, layout: Layout) -> np.ndarray:
    """The minima [basins, n], for points of this layout."""
    theirs = Layout.of(jax.tree.map(lambda x: np.empty(x.shape[1:]), found.minimizers))
    if theirs != layout:
        raise ValueError(
            f"points must be like found.minimizers, but for their number; one of the points has "
            f"the shapes {list(layout.shapes)}, a minimizer {list(theirs.shapes)}."
        )
    leaves = [np.asarray(x) for x in jax.tree.leaves(found.minimizers)]
    return np.concatenate([x.reshape(len(x), math.prod(x.shape[1:])) for x in leaves], axis=1)


def _labels(labels: ArrayLike | None, number: int) -> np.ndarray | None:
    if labels is None:
        return None
    check_numbers("labels", labels, shape=("points",))
    others = np.asarray(labels)
    if len(others) != number or not np.issubdtype(others.dtype, np.integer):
        raise ValueError(f"labels must be whole numbers, one for each of {number} points; got "
                         f"{shown(labels)}.")  # fmt: skip
    return others


def _share(differs: np.ndarray, arrived: np.ndarray) -> np.ndarray:
    return np.asarray(np.mean(differs[arrived]) if arrived.any() else np.nan)


def _known(values: np.ndarray, forms: np.ndarray, tolerance: Any, accuracy: Any) -> _Known:
    """With minima that nothing is near to, up to a number that seldom changes."""
    missing = max(8, 1 << len(values).bit_length()) - len(values)

    def filled(x):
        return np.concatenate([x, np.full((missing, *x.shape[1:]), np.nan)]).astype(values.dtype)

    return _Known(
        filled(forms),
        filled(values + float(tolerance) * (1 + np.abs(values))),
        filled(float(tolerance) * (1 + np.abs(forms).max(axis=1, initial=0))),
        np.asarray(float(accuracy), values.dtype),
    )


def _nearest(forms: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The nearest minimum of each point, int32 [points]; -1 where there is none."""
    nearest = np.full(len(forms), -1, np.int32)
    if len(known):
        for k in np.flatnonzero(np.isfinite(forms).all(axis=1)):
            nearest[k] = 1 + np.argmin(np.sum((known - forms[k]) ** 2, axis=1))
    return nearest


def _followed(
    loss: Callable,
    symmetry: Callable | None,
    layout: Layout,
    points: jax.Array,
    num_steps: int,
    programs: Programs,
    known: _Known,
) -> np.ndarray:
    """The label of each point, int32 [points]."""
    value_and_gradient, gradient_of = jax.value_and_grad(loss), jax.grad(loss)
    rounding = ROUNDING * jnp.finfo(points.dtype).eps

    def init(x):
        gradient = gradient_of(x)
        size = jnp.maximum(jnp.max(jnp.abs(gradient)), jnp.finfo(x.dtype).tiny)
        return _Flow(x, gradient, FIRST_MOVE * _size(x) / size)

    def step(flow: _Flow, known: _Known):
        x, h = flow.x, flow.length
        slopes = [-flow.gradient]
        for row in STAGES[:-1]:
            slopes.append(-gradient_of(x + h * _combined(row, slopes)))
        new = x + h * _combined(STAGES[-1], slopes)
        value, gradient = value_and_gradient(new)
        difference = h * jnp.max(jnp.abs(_combined(DIFFERENCE, [*slopes, -gradient])))
        error = difference / (known.accuracy * _size(x))
        finite = jnp.isfinite(error) & jnp.isfinite(value)
        good = finite & (error <= 1)
        factor = CAUTION * jnp.maximum(error, 1e-10) ** -0.2
        factor = jnp.where(finite, jnp.clip(factor, SMALLEST_FACTOR, LARGEST_FACTOR), 0.2)
        flow = _Flow(jnp.where(good, new, x), jnp.where(good, gradient, flow.gradient), h * factor)
        there = good & _arrived(layout.row(symmetry(layout.tree(new))) if symmetry else new,
                                value, known)  # fmt: skip
        stuck = ~(flow.length * jnp.max(jnp.abs(flow.gradient)) > rounding * _size(flow.x))
        # The lowest minimum of those it is at, by a plain reduction (an argmax is none).
        number = len(there)
        first = jnp.min(jnp.where(there, jnp.arange(number), number))
        outcome = jnp.where(first < number, 1 + first, jnp.where(stuck, -1, 0))
        return flow, outcome.astype(jnp.int32)

    outcome = np.asarray(from_each(init, step, points, num_steps, programs, known)[1])
    return np.where(outcome > 0, outcome, -1).astype(np.int32)


def _size(x: jax.Array) -> jax.Array:
    return 1 + jnp.max(jnp.abs(x))


def _combined(row: tuple[float, ...], slopes: list[jax.Array]) -> jax.Array:
    return sum((a * k for a, k in zip(row, slopes, strict=True) if a), jnp.zeros_like(slopes[0]))


def _arrived(form: jax.Array, value: jax.Array, known: _Known) -> jax.Array:
    """Which minima the point is at, bool [minima]."""
    away = jnp.max(jnp.abs(form - known.forms), axis=1)
    return (away <= known.distance) & (value <= known.largest_value)
