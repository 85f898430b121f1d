"""What the demo shows beside its digits: where collisions pay, and ten thousand seeds at once.

Two pictures. `committee.png`: the cosines between the units of a student while it learns, plain and
with soft collisions that look at gradients alone, each at the rate that `evidence.alike` found for
it. `basins.png`: where 10,000 energy-conserving runs of one program end, and the ratio as they
accumulate, between the predictions by volume and by flux.
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import kinopt
from benchmarks import record
from benchmarks.evidence._committee import Looks, Size, train
from benchmarks.evidence.alike import LOOKS, SCHEDULES, log_error
from benchmarks.record import Row
from benchmarks.statistics import mean_and_error
from kinopt import basins, ensemble, plots, theory

__all__ = ["committee", "show", "two_basins"]

RESULTS = Path(__file__).parent / "results" / "evidence.alike.jsonl"
TASK = {"base": "adam", "schedule": "decayed", "steps": 500, "units": 5}
TASK |= {"activation": "erf", "cosine": 0.5}
METHODS = ("plain", "soft, gradients")
SHOWN = (0, 2, 4, 6, 9)  # of the looks
NUM_SEEDS = 16
NUM_RUNS = 10_000
RESOLUTION = 110


def show(folder: Path, num_seeds: int = NUM_SEEDS, num_runs: int = NUM_RUNS) -> None:
    """Draws both pictures into the folder and says what they show."""
    for name, draw, number in (
        ("committee", committee, num_seeds),
        ("basins", two_basins, num_runs),
    ):
        words, figure = draw(number)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=RESOLUTION)
        print(f"{words}\nPicture: {path}\n")


def _trained(row: Row, num_seeds: int) -> Looks:
    """The task with what the search chose, on other seeds than the rows'."""
    size = Size(row["units"], row["settings"]["inputs"], row["settings"]["batch"], LOOKS)
    place = row["activation"], row["cosine"], row["steps"], SCHEDULES[row["schedule"]]
    rate, strength = (np.full(num_seeds, row["chosen"][name]) for name in ("rate", "strength"))
    seeds = 500_000 + np.arange(num_seeds)
    return train((row["base"], row["method"]), size, *place, rate, strength, seeds)


def committee(num_seeds: int) -> tuple[str, Figure]:
    """The units of a student while it learns from units that are alike."""
    rows = record.where(record.current(record.read(RESULTS))[0], **TASK)
    looks = {name: _trained(record.where(rows, method=name)[0], num_seeds) for name in METHODS}
    every = TASK["steps"] // LOOKS
    figure = Figure(figsize=(1.9 * len(SHOWN) + 1, 4.6), layout="constrained")
    plots.similarity_heatmaps(
        {
            name: {f"step {every * (n + 1)}": found.units[0, n] for n in SHOWN}
            for name, found in looks.items()
        },
        figure,
        sort=False,
    )
    figure.suptitle("cosines between a student's units; the teacher's are at 0.5")
    errors = {name: log_error(found) for name, found in looks.items()}
    said = ", ".join(f"{name} {mean_and_error(error)}" for name, error in errors.items())
    return (
        f"A student of {TASK['units']} units whose teacher's have the cosine {TASK['cosine']:g}, "
        f"{num_seeds} seeds, log10 of the test error, each at its own tuned rate: {said}.",
        figure,
    )


def two_basins(num_runs: int) -> tuple[str, Figure]:
    """Where bouncing runs from one point end: the authors' protocol (BBI paper, Figs. 5 and 6)."""
    landscape = kinopt.landscapes.two_basins()
    minima = jnp.asarray(landscape.minimizers, jnp.float32)
    hessians = np.asarray(jax.vmap(jax.hessian(landscape.fn))(minima))
    stop = basins.quadratic_basins(landscape.minimizers, hessians)
    start, f_min = jnp.array([10.0, -10.0]), 1e-3

    def protocol(key):
        return kinopt.bbi(
            0.01, f_min=f_min, fixed_bounce_every=20, num_fixed_bounces=1, patience=750, key=key
        )

    def timed(seed):
        keys = jax.random.split(jax.random.key(seed), num_runs)
        began = time.perf_counter()
        result = ensemble.run(landscape.fn, protocol, start, keys, num_steps=25_000, stop=stop)
        return jax.block_until_ready(result), time.perf_counter() - began

    _, first = timed(1)
    result, seconds = timed(0)
    entry = basins.statistics(result.outcome, 2)
    energy = float(landscape(start)) - f_min
    predicted = {
        "volume": float(theory.basin_ratio(*hessians)),
        "flux": float(
            theory.entry_flux_ratio(landscape.fn, landscape.minimizers, hessians, energy, f_min)
        ),
    }
    keys = jax.random.split(jax.random.key(0), 10)
    paths = ensemble.trajectories(
        landscape.fn, protocol, start, keys, num_steps=8000, every=10, stop=stop
    )
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plots.trajectories(
        landscape, paths.params, left, minimizers=landscape.minimizers, hessians=hessians
    )
    left.set_title("ten runs")
    plots.running_ratio(
        entry.running_ratio, right, interval=entry.ratio_interval, predictions=predicted
    )
    right.set_title("first entries as runs accumulate")
    low, high = entry.ratio_interval
    return (
        f"{num_runs:,} seeds between two basins, {int(result.num_steps.sum()):,} steps in "
        f"{seconds:.1f} s, after {first - seconds:.1f} s to compile: ratio of first entries "
        f"{entry.ratio:.3f} ({low:.3f} to {high:.3f}).",
        figure,
    )
