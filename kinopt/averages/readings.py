"""What a path on a shell says of every temperature: the numbers, or NaN and the reasons."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from kinopt._programs import Programs
from kinopt._typing import PyTree
from kinopt.averages.chains import Modes, Path
from kinopt.averages.doubts import NEAR_THE_TOP, doubts
from kinopt.averages.recipe import Recipe
from kinopt.averages.walk import WALL, Shell
from kinopt.averages.weights import effective, evidence, log_ratio, log_weights, ratio
from kinopt.basins.chains import crossings
from kinopt.basins.points import Layout

__all__ = ["Canonical", "Collected", "Sums", "read"]

NUM_DRAWS = 2000
"""Of the Gaussian, for the share of it that lies where the path can go."""

SMALLEST_SHARE = 0.1
"""Of the Gaussian: with less it is no reference."""

LARGEST_LOG_ERROR = 1.0
"""Of log Z: beyond it the evidence is not given."""


class Canonical(NamedTuple):
    """Averages at several temperatures from one run: NumPy arrays in float64, NaN where refused."""

    mean: PyTree  # of the observables, with a leading axis of temperatures
    standard_error: PyTree  # of the mean, from the differences between chains
    step_bias: PyTree  # |mean - mean at half the step|; 0 where each step is tested
    ess: np.ndarray  # float [temperatures]: independent samples, of the loss or the worst mode
    crossings: np.ndarray  # int [chains]: from mode to mode
    num_halted: np.ndarray  # int [chains]: steps refused because the loss was f_min or below
    num_skipped: np.ndarray  # int [chains]: steps refused because something was not finite
    reasons: tuple[str, ...]  # why numbers are not given
    minimizers: PyTree  # of the modes, the lowest first: [modes, ...]
    minima: np.ndarray  # float [modes]: loss there
    mode_weights: np.ndarray  # float [temperatures, modes]
    mode_weights_error: np.ndarray  # float [temperatures, modes]
    free_energy: np.ndarray  # float [temperatures, modes]: -T log(weight / weight of the first)
    free_energy_error: np.ndarray  # float [temperatures, modes]
    log_evidence: np.ndarray  # float [temperatures]: log of the integral of exp(-loss / T)
    log_evidence_error: np.ndarray  # float [temperatures]
    acceptance: float  # share of the steps that were made
    num_gradients: int  # all of it; a Hessian in a quench counts for n
    settings: Recipe  # what was used


class Sums:
    """sum w f over a path that comes in stretches, for each temperature and chain."""

    def __init__(self, temperatures: np.ndarray):
        self.temperatures, self.parts, self.finite = temperatures, [], True

    def add(self, path: Path) -> None:
        """Takes in a stretch, whose observables need not be kept after it."""
        values = np.asarray(path.observables)
        self.finite &= bool(np.isfinite(values).all())
        for k, temperature in enumerate(self.temperatures):
            logs = -np.asarray(path.loss) / temperature - np.asarray(path.log_density)
            top = logs.max()
            weights = np.exp(logs - top)
            self.parts.append((k, top, np.einsum("ct,ctp->cp", weights, values), weights.sum(1)))

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """The means and their errors, [temperatures, observables]."""
        found = []
        for k in range(len(self.temperatures)):
            parts = [part[1:] for part in self.parts if part[0] == k]
            top = max(part[0] for part in parts)
            above = np.sum([np.exp(part[0] - top) * part[1] for part in parts], axis=0)
            below = np.sum([np.exp(part[0] - top) * part[2] for part in parts], axis=0)
            found.append(ratio(above, below))
        return np.stack([mean for mean, _ in found]), np.stack([error for _, error in found])


class Collected(NamedTuple):
    """All that `read` needs of a run."""

    path: Path  # without the observables
    sums: Sums
    bias: np.ndarray  # float [temperatures, observables]
    shell: Shell
    modes: Modes
    log_det: float  # of the Hessian at the lowest minimum
    num_zero_modes: int  # there
    settings: Recipe
    num_refused: np.ndarray  # int [chains]
    num_halted: np.ndarray  # int [chains]
    num_skipped: np.ndarray  # int [chains]
    num_gradients: int
    reasons: list[str]  # any of which refuses all


def read(
    run: Collected,
    loss_fn: Callable,
    back: Layout,
    layout: Layout,
    refuses: bool,
    programs: Programs,
) -> Canonical:
    """The numbers, each temperature's from the same path.

    Args:
      run: what was collected.
      loss_fn: x [n] -> loss [].
      back: of the observables.
      layout: of the parameters.
      refuses: whether what is doubted becomes NaN.
      programs: those of the loss.
    """
    temperatures = run.sums.temperatures
    path = Path(*(None if part is None else np.asarray(part) for part in run.path))
    number = max(len(run.modes.values), int(path.mode.max()))
    indicators = [path.mode == k + 1 for k in range(number)]
    values = np.full(number, np.nan)
    values[: len(run.modes.values)] = run.modes.values[:number]
    mean, error = run.sums.means()
    by_temperature = [_at(run, path, indicators, t) for t in temperatures]
    ess, top_share, weights, weights_error, free, free_error, log_z, log_z_error = (
        np.array(part) for part in zip(*by_temperature, strict=True)
    )
    crossed = crossings(path.core)
    visited = np.array([flag.any() for flag in indicators])
    heights = np.where(np.isfinite(values), values - values[0], np.inf)
    reasons, refused = doubts(temperatures, ess, crossed, visited, heights, top_share)
    if not run.sums.finite:
        reasons.append("the observables are not finite everywhere")
    reasons, refused = [*run.reasons, *reasons], refused | bool(run.reasons)
    share = _reachable(run, loss_fn, temperatures, programs)
    lacking = share < SMALLEST_SHARE
    if run.num_zero_modes:
        reasons.append("no evidence: the lowest minimum has flat directions, so no Gaussian there")
    elif lacking.any():
        reasons.append("no evidence: the energy leaves too little of the Gaussian reference")
    bad = lacking | bool(run.num_zero_modes) | ~(log_z_error <= LARGEST_LOG_ERROR)
    log_z = np.where(bad, np.nan, log_z + np.log(np.where(lacking, 1, share)))
    log_z_error = np.where(bad, np.nan, log_z_error)
    gone = refused & refuses

    def kept(x):
        x = np.asarray(x, np.float64)
        return np.where(gone.reshape(-1, *[1] * (x.ndim - 1)), np.nan, x)

    def tree(x):
        return back.tree(kept(x))

    steps = path.loss.size
    return Canonical(
        mean=tree(mean),
        standard_error=tree(error),
        step_bias=tree(run.bias),
        ess=ess,
        crossings=crossed,
        num_halted=run.num_halted,
        num_skipped=run.num_skipped,
        reasons=tuple(reasons),
        minimizers=layout.tree(run.modes.minimizers),
        minima=run.modes.values,
        mode_weights=kept(weights),
        mode_weights_error=kept(weights_error),
        free_energy=kept(free),
        free_energy_error=kept(free_error),
        log_evidence=kept(log_z),
        log_evidence_error=kept(log_z_error),
        acceptance=float(1 - run.num_refused.sum() / steps),
        num_gradients=run.num_gradients,
        settings=run.settings,
    )


def _at(run: Collected, path: Path, indicators: list[np.ndarray], temperature: float) -> tuple:
    """All that is said of one temperature."""
    logs = log_weights(path.loss, path.log_density, temperature)
    top = float((-path.loss / temperature - path.log_density).max())
    weights = np.exp(logs)
    below = weights.sum(axis=1)
    shares = np.stack([(weights * flag).sum(axis=1) for flag in indicators], axis=1)
    weight, weight_error = ratio(shares, below)
    log_weight, log_weight_error = log_ratio(shares, shares[:, 0])
    known = [flag for flag in indicators if flag.any() and not flag.all()]
    numbers = [effective(np.asarray(x, float), weights) for x in (path.loss, *known)]
    v = path.loss - run.settings.f_min
    high = float((weights * (v > NEAR_THE_TOP * WALL * run.settings.energy)).sum() / below.sum())
    log_z = log_z_error = float("nan")
    if not run.num_zero_modes:
        n = run.modes.minimizers.shape[1]
        log_z, log_z_error = evidence(
            logs, top, path.log_density, path.distance_sq, run.log_det, n, temperature
        )
    free = -temperature * log_weight
    return (
        min(numbers), high, weight, weight_error, free, temperature * log_weight_error,
        log_z, log_z_error,
    )  # fmt: skip


def _reachable(
    run: Collected, loss_fn: Callable, temperatures: np.ndarray, programs: Programs
) -> np.ndarray:
    """The share of the Gaussian reference that lies in 0 < V < 0.9 E, [temperatures]."""
    if run.num_zero_modes:
        return np.ones(len(temperatures))
    sizes, vectors = np.linalg.eigh(run.modes.hessians[0])
    drawn = np.random.default_rng(0).normal(size=(NUM_DRAWS, len(sizes))) / np.sqrt(sizes)
    away = drawn @ vectors.T
    shares = []
    for temperature in temperatures:
        points = run.modes.minimizers[0] + np.sqrt(temperature) * away
        v = np.asarray(programs.call(_losses, (loss_fn,), points)) - run.settings.f_min
        shares.append(np.mean((v > 0) & (v < WALL * run.settings.energy)))
    return np.array(shares)


def _losses(loss_fn: Callable, points: jax.Array) -> jax.Array:
    return jax.lax.map(loss_fn, points, batch_size=len(points))
