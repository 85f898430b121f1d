"""Which minima there are below a set of points: found, counted, and what may not have been seen."""

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kinopt._checks import check_count, check_function, check_key, check_number
from kinopt._keys import key_data, typed_key
from kinopt._lane_checks import check_outside, outside_meshes
from kinopt._programs import Programs, programs_of
from kinopt._typing import Key, PyTree
from kinopt.basins.curvature import minima
from kinopt.basins.points import Layout, rows_of
from kinopt.basins.quenching import quench
from kinopt.basins.unseen import unseen_mass

__all__ = ["Discovered", "discover", "forms_of", "loss_of"]

LOSS = "params -> scalar loss"


class Discovered(NamedTuple):
    """The minima below a set of points, the lowest first."""

    minimizers: PyTree  # like the points: [basins, ...]
    values: jax.Array  # float [basins]: loss there
    log_det: jax.Array  # float [basins]: log of the product of the Hessian's positive eigenvalues
    label: jax.Array  # int32 [points]: 1-based; 0: no minimum
    unseen_mass: jax.Array  # float []: Good and Turing's estimate of the mass not seen
    unseen_bound: jax.Array  # float []: what it is below, with a confidence of 95 %
    log_det_error: jax.Array  # float [basins]: its standard error; 0 where it is exact
    num_zero_modes: jax.Array  # int32 [basins]: flat directions; above 300 parameters an estimate
    hessians: jax.Array | None  # float [basins, n, n]; None above 300 parameters


def discover(
    loss_fn: Callable[[PyTree], Any],
    points: PyTree,
    *,
    symmetry: Callable[[PyTree], PyTree] | None = None,
    tolerance: SupportsFloat = 1e-3,
    key: Key = 0,
    num_steps: SupportsIndex = 1000,
) -> Discovered:
    """The minima that L-BFGS reaches from these points, and which point leads to which.

    Every point is brought to rest. Points a and b are of one basin where, of what `symmetry` makes
    of them, c,

    $$
    |V_a - V_b| <= tolerance (1 + |V_a|)
    max_i |c_i(a) - c_i(b)| <= tolerance (1 + max_i |c_i(a)|)
    $$

    each compared with the lowest of a basin. That lowest one is a minimum if no eigenvalue of its
    Hessian is negative, and if the stationary point is near,

    $$
    |H^(-1) grad V| <= tolerance (1 + max_i |theta_i|)
    $$

    Otherwise it is dropped with all that lie there: saddles, slopes without an end, and what has
    not come to rest. Eigenvalues of a size up to eps^(2/3) of the largest, 4e-11 of it in float64
    and 2e-5 in float32, are zero modes (translations, rotations, neurons without effect): they are
    counted, and left out of `log_det`.

    What was not seen is estimated from how many basins were seen once (`unseen_mass`), for points
    that are independent draws.

    The results fit what counts: `statistics(found.label, len(found.values))` for points that are
    seeds; `occupancy` for points along a trajectory; `quadratic_basins(found.minimizers,
    found.hessians)`; and `theory.basin_volume(found.values[k] - f_min, found.hessians[k], energy)`.

    Programs are compiled once for a given `loss_fn` and `symmetry`: pass the same function objects
    again, not equal ones, with points of the same shapes, and the second call starts at once. All
    goes when the functions go, as in `kinopt.ensemble.run`.

    L-BFGS takes long steps, the first of them up to length 1. Next to a boundary it may end in
    another basin than the path of steepest descent, which `assign` follows; that it is a minimum
    is certain.

    Args:
      loss_fn: params -> scalar loss, twice differentiable.
      points: pytree of floating arrays with a leading axis of points. Computed in float64 where
        `jax_enable_x64` is on, in float32 elsewhere.
      symmetry: params -> pytree of arrays that is equal for all parameters of the same meaning:
        `sign_flips(...)`, `permuted_neurons(...)`, `rigid_motions(...)`, or your own. None: every
        parameter has a meaning of its own.
      tolerance: how far, in loss and in distance, what is counted as one may be apart; > 0.
      key: int, typed key or raw key, of the stochastic determinants above 300 parameters.
      num_steps: most steps of L-BFGS from a point.

    Returns:
      `Discovered`. A point whose loss is not finite has label 0.

    Raises:
      TypeError: if an argument is of the wrong kind, or under `jax.jit` and the like.
      ValueError: if a number is out of range, or there is no point.

    Sources: Good, "The population frequencies of species and the estimation of population
    parameters", Biometrika 40 (1953); quenches as Stillinger, Weber, "Hidden structure in
    liquids", Physical Review A 25 (1982); `kinopt.basins.curvature` for the determinants.

    >>> points = jnp.array([[-3.0], [-2.0], [0.3], [2.0], [jnp.nan]])
    >>> found = discover(lambda x: jnp.sum((x**2 - 1) ** 2 + 0.1 * x), points)
    >>> found.label, len(found.values)
    (Array([1, 1, 2, 2, 0], dtype=int32), 2)
    >>> discover(lambda x: jnp.sum((x**2 - 1) ** 2), points, symmetry=jnp.abs).label
    Array([1, 1, 1, 1, 0], dtype=int32)
    """
    check_function("loss_fn", loss_fn, LOSS)
    if symmetry is not None:
        check_function("symmetry", symmetry, "params -> pytree of arrays, or None")
    check_number("tolerance", tolerance, above=0)
    check_key("key", key)
    most = check_count("num_steps", num_steps, optional=False)
    check_outside(points, key)
    layout, flat = rows_of(points, "points")
    loss = loss_of(loss_fn, layout)
    with outside_meshes():
        data = key_data(key)
        programs = programs_of((loss_fn, symmetry), ("discover", layout, most))
        rest = jax.tree.map(np.asarray, quench(loss, flat, most, programs))
        forms = forms_of(symmetry, layout, rest.points, programs)
        values = np.asarray(rest.values, np.float64)
        group, leaders = _merged(values, forms, float(tolerance))
        given = rest.points[leaders], rest.gradients[leaders], tolerance, typed_key(data, key)
        kept, bend = minima(loss, *given, programs)
    number = np.where(kept, np.cumsum(kept), 0)
    label = np.where(group >= 0, np.append(number, 0)[group], 0)
    counts = np.bincount(label, minlength=1 + int(kept.sum()))[1:]
    estimate, bound = unseen_mass(counts, len(label))
    found = {
        "minimizers": layout.tree(bend.x),
        "values": rest.values[leaders[kept]],
        "log_det": bend.log_det,
        "log_det_error": bend.log_det_error,
        "num_zero_modes": np.asarray(bend.num_zero_modes, np.int32),
        "hessians": bend.hessian,
        "label": np.asarray(label, np.int32),
        "unseen_mass": estimate,
        "unseen_bound": bound,
    }
    return Discovered(**jax.device_put(found))


def loss_of(loss_fn: Callable[[PyTree], Any], layout: Layout) -> Callable[[jax.Array], jax.Array]:
    """The loss of a row x [n], in the type of x."""

    def loss(x):
        value = loss_fn(layout.tree(x))
        if jnp.shape(value) != ():
            raise TypeError(
                f"loss_fn must be a function, {LOSS}; it returned the shape {jnp.shape(value)}."
            )
        return jnp.asarray(value, x.dtype)

    return loss


def forms_of(
    symmetry: Callable[[PyTree], PyTree] | None,
    layout: Layout,
    points: np.ndarray,
    programs: Programs,
) -> np.ndarray:
    """What a symmetry makes of points [points, n], in float64; the points without one."""
    if symmetry is None:
        return np.asarray(points, np.float64)
    return np.asarray(programs.call(_forms, (symmetry, layout), points), np.float64)


def _forms(symmetry, layout: Layout, points: jax.Array) -> jax.Array:
    return jax.vmap(lambda x: ravel_pytree(symmetry(layout.tree(x)))[0])(points)


def _merged(values: np.ndarray, forms: np.ndarray, tolerance: float) -> tuple[Any, np.ndarray]:
    """The basin of each point, -1 where nothing is finite, and the lowest point of each."""
    group = np.full(len(values), -1)
    leaders: list[int] = []
    good = np.isfinite(values) & np.isfinite(forms).all(axis=1)
    order = np.argsort(values, kind="stable")
    lowest = np.empty(len(values))  # of each basin, in order
    for k in order[good[order]]:
        # Losses are sorted, so that only the last basins can be as low.
        known = len(leaders)
        near = tolerance * (1 + np.abs(lowest[:known]))
        first = int(np.argmax(values[k] - lowest[:known] <= near)) if known else 0
        candidates = np.asarray(leaders[first:], int)
        away = np.abs(forms[candidates] - forms[k]).max(axis=1, initial=0)
        size = 1 + np.abs(forms[candidates]).max(axis=1, initial=0)
        close = (away <= tolerance * size) & (values[k] - lowest[first:known] <= near[first:])
        if close.any():
            group[k] = first + int(np.argmin(np.where(close, away / size, np.inf)))
        else:
            lowest[known] = values[k]
            group[k] = known
            leaders.append(int(k))
    return group, np.asarray(leaders, int)
