"""The public function: its arguments, checked, and what is done with them."""

from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kinopt._checks import (
    check_count,
    check_flag,
    check_function,
    check_key,
    check_number,
    check_numbers,
    shown,
)
from kinopt._keys import key_data, typed_key
from kinopt._lane_checks import check_outside, outside_meshes
from kinopt._programs import programs_of
from kinopt._typing import Key, PyTree
from kinopt.averages.chains import Task, flattened
from kinopt.averages.readings import Canonical, read
from kinopt.averages.runs import NUM_STRETCHES, Run
from kinopt.basins.discovery import loss_of
from kinopt.basins.points import Layout, check_floating

__all__ = ["canonical"]


def canonical(
    loss_fn: Callable[[PyTree], Any],
    starts: PyTree,
    temperatures: ArrayLike | Sequence[float],
    *,
    num_steps: SupportsIndex,
    chains: SupportsIndex = 8,
    observables: Callable[[PyTree], PyTree] | None = None,
    dt: SupportsFloat | None = None,
    f_min: SupportsFloat | None = None,
    hot: SupportsFloat | None = None,
    key: Key = 0,
    energy: SupportsFloat | None = None,
    bounce_every: SupportsIndex | None = None,
    modes: Callable[[PyTree], Any] | None = None,
    stacked: bool | None = None,
    adjust: bool = True,
    refuse: bool = True,
) -> Canonical:
    """Averages at one or several temperatures from one run on a Born-Infeld energy shell.

    $$
    <f>_T = int f exp(-loss/T) / int exp(-loss/T) = sum w f / sum w,    w = exp(-loss/T) / rho(V)
    $$

    along a walk of which the density rho is known (`kinopt.theory.phase_space_density`), and so the
    weights of modes, their free-energy differences, and log int exp(-loss/T), the evidence, for
    every T from the same steps. It is made for few parameters, up to about 16: as n grows, an ever
    smaller part of the walk carries the weight, and the effective numbers say so.

    The starts are brought to rest, and the chains begin at the minima found, in turn. The first
    tenth of the steps is not counted. After it, and at the end, the lowest points are brought to
    rest too: where a deeper minimum is found, all begins anew from there. Each step is tested and
    made, or the walk turns round (`kinopt.averages`), so that the step has no bias.

    Programs are compiled once for given functions: pass the same objects again, with as many steps,
    chains and starts of the same shapes, and the second call starts at once, whatever its
    temperatures and settings. All goes when the functions go.

    **What makes it lie**, and what is done about it: a step that is too long (tested; or measured,
    with `adjust=False`); f_min above a deeper mode (a new start); an energy below the barrier, or
    below what a temperature needs, and few steps that carry all the weight (NaN, and `reasons`
    says why); V near E, where a weight has no bound (never entered). A mode that no start leads
    to and no walk meets cannot be seen.

    Args:
      loss_fn: params -> scalar loss, twice differentiable: an energy, or -log of a density.
      starts: a vector [n], or vectors [starts, n]; or a pytree of floating arrays (see `stacked`).
      temperatures: T, one or several, > 0.
      num_steps: steps of each chain, a gradient each, the burn-in included; rounded up to tens.
      chains: number of chains, at least 2; errors are differences between them, so 8 or more.
      observables: params -> pytree of arrays; None: the loss.
      dt: time step; None: min(sqrt(2/lambda_max), sqrt(10/tr H)) from the Hessian H at the lowest
        minimum, halved while more than a fifth of the steps are refused.
      f_min: loss at V = 0; None: n T_min/4 below the lowest minimum.
      hot: temperature at which barriers are crossed; None: T_min min(6, 1 + 25/n), or
        T_max.
      key: int, typed key or raw key.
      energy: E; None: what `hot` and the temperatures need.
      bounce_every: steps from one bounce to the next; None: half a turn.
      modes: params -> 1-based integer, which mode they are in, 0 on the way. None: the minimum
        whose quadratic model of the loss is the lowest there; with flat directions, as those of a
        cluster, there is no such model, and all counts as one mode.
      stacked: whether the starts have a leading axis. None: where they are one array of two axes.
      adjust: whether steps are tested. False: `step_bias` is measured by a second run with dt/2.
      refuse: whether numbers that are doubted are replaced by NaN.

    Returns:
      `Canonical`, in float64 whether `jax_enable_x64` is on or not.

    Raises:
      TypeError: if an argument is of the wrong kind, or under `jax.jit` and the like.
      ValueError: if a number is out of range, no start leads to a minimum, `f_min` is not below
        the lowest one, or `energy` allows none.

    Sources: the density, BBI paper, Eq. 40; the weights, umbrella sampling (Torrie, Valleau 1977);
    `kinopt.averages.walk` for the test of a step.

    >>> import kinopt
    >>> found = kinopt.canonical(lambda x: jnp.sum(x**2) / 2, jnp.ones(2), [1.0, 2.0],
    ...                          num_steps=2000)
    >>> found.mean.shape, found.reasons  # n T / 2 = 1, 2
    ((2,), ())
    >>> bool((abs(found.mean - np.array([1, 2])) < 5 * found.standard_error).all())
    True
    """
    check_function("loss_fn", loss_fn, "params -> scalar loss")
    for name, function, gives in (
        ("observables", observables, "a pytree of arrays"),
        ("modes", modes, "1-based integer of shape []"),
    ):
        if function is not None:
            check_function(name, function, f"params -> {gives}, or None")
    check_numbers("temperatures", temperatures, above=0)
    steps = check_count("num_steps", num_steps, least=NUM_STRETCHES, optional=False)
    number = check_count("chains", chains, least=2, optional=False)
    given = {"dt": dt, "f_min": f_min, "hot": hot, "energy": energy}
    for name, value in given.items():
        check_number(name, value, above=None if name == "f_min" else 0, optional=True)
    given["bounce_every"] = check_count("bounce_every", bounce_every)
    check_key("key", key)
    for name, flag in (("adjust", adjust), ("refuse", refuse)):
        check_flag(name, flag)
    check_outside(starts, temperatures, key)
    ts = np.atleast_1d(np.asarray(temperatures, np.float64))
    if ts.ndim != 1 or not ts.size:
        raise ValueError(
            f"temperatures must be a number, or numbers [temperatures]; got the shape {ts.shape}."
        )
    with jax.enable_x64(True), outside_meshes():
        layout, points = _rows(starts, stacked)
        loss = loss_of(loss_fn, layout)
        programs = programs_of((loss_fn, observables, modes), ("canonical", layout))
        mode_of = None if modes is None else lambda x: modes(layout.tree(x))
        seen, back = flattened(observables, loss, layout, jnp.asarray(points[0]))
        run = Run(
            Task(loss, seen, mode_of),
            programs,
            ts,
            number,
            -(-steps // NUM_STRETCHES),
            given,
            bool(adjust),
        )
        collected = run.collect(points, typed_key(key_data(key), key))
        return read(collected, loss, back, layout, refuse, programs)


def _rows(starts: PyTree, stacked: bool | None) -> tuple[Layout, np.ndarray]:
    """The way back from one of the starts, and all of them in float64, [starts, n]."""
    wanted = "starts must be a vector [n], vectors [starts, n], or a pytree of floating arrays"
    leaves, structure = jax.tree.flatten(starts)
    check_floating(leaves, wanted)
    if not leaves:
        raise ValueError(f"{wanted}; got {shown(starts)}.")
    if stacked is None:
        stacked = leaves[0] is starts and starts.ndim == 2
    check_flag("stacked", stacked)
    leaves = [np.asarray(leaf, np.float64) for leaf in leaves]
    if not stacked:
        leaves = [leaf[None] for leaf in leaves]
    if any(leaf.ndim < 1 or not leaf.size or len(leaf) != len(leaves[0]) for leaf in leaves):
        raise ValueError(
            f"{wanted}, as many starts in each leaf and at least one; got the shapes "
            f"{[leaf.shape for leaf in leaves]}."
        )
    layout = Layout(structure, tuple(leaf.shape[1:] for leaf in leaves))
    return layout, np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
