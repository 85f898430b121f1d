"""What does a step of one seed cost, when there are many?

The two-basin protocol of the BBI paper's section 4.3 (`bbi.basins`): runs of 100 to 25,000 steps,
each on its own way. A useful step is one of a run that has not ended yet; the time of a whole call
of `kinopt.ensemble.run`, after compilation, is divided by all useful steps in it. Beside it the
same protocol in plain NumPy: all runs as rows of arrays, in float32, those that have ended taken
out after every step. The two take turns; ratios are medians of the ratios within a turn, with 95 %
intervals. What data (`batches=`) and `best_params` (`keep=`) add to a step is measured so, too, of
networks on digits and of the same protocol. The authors' code, one run after the other in PyTorch,
takes 515,000 ns for a step (by its published times).

Reproduces: BBI, section 4.3, whose 2,000 runs took the authors 2,184 s.
Needs: nothing.
Takes: smoke 30 s; laptop 4 min; paper 20 min on 2 cores.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from tqdm import tqdm

import kinopt
from benchmarks import data
from benchmarks.bbi.basins import LANDSCAPE, PROTOCOLS, basin, entering, hessians
from benchmarks.markdown import table_of
from benchmarks.progress import progress_bar
from benchmarks.record import Row
from benchmarks.timing import MedianRatio, interleaved, median_ratio

__all__ = ["PRESETS", "Settings", "headline", "numpy_runs", "plot", "run", "table"]

PROTOCOL = PROTOCOLS["authors' protocol"]
MAX_STEPS = 25_000
PLAIN = "neither"
NETWORK_STEPS = 300
F_MIN, RATE, FIRST_BOUNCE, PATIENCE = 1e-3, 1e-2, 20, 750


@dataclass(frozen=True)
class Settings:
    """Numbers of seeds, and how often each is timed."""

    seeds: tuple[int, ...] = (100, 1000, 2000, 10_000, 100_000, 1_000_000)
    turns: tuple[int, ...] = (7, 7, 7, 3, 2, 1)
    numpy_up_to: int = 10_000  # seeds; NumPy takes minutes for more
    networks: int = 200  # of which the options are timed
    protocols: int = 2000
    option_turns: int = 7
    seed: int = 0


PRESETS = {
    "smoke": Settings((50,), (6,), 50, 8, 50, 2),
    "laptop": Settings(),
    "paper": Settings(turns=(21, 21, 21, 7, 5, 3)),
    "gpu": Settings((1000, 100_000, 1_000_000, 10_000_000), (5, 5, 5, 2), 0, 10_000),
}


def loss_and_gradient(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 17 at x [runs, 2]: values [runs] and gradients."""
    one, two = np.float32(0.4), np.float32(0.8)
    a, b = x + 2, x - 2
    d1, d2 = (a * a).sum(axis=1), (b * b).sum(axis=1)
    first, second = np.exp(-one * d1), np.float32(1 - 2.75e-6) * np.exp(-two * d2)
    value = 1 - first - second + np.float32(1e-3) * d1 * d2
    to_one = 2 * (one * first + np.float32(1e-3) * d2)
    to_two = 2 * (two * second + np.float32(1e-3) * d1)
    return value, to_one[:, None] * a + to_two[:, None] * b


def numpy_runs(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The protocol by Algorithm 1, all runs abreast: outcomes [runs] and steps [runs]."""
    rng = np.random.default_rng(seed)
    h = hessians().astype(np.float32)
    centers = LANDSCAPE.minimizers.astype(np.float32)
    outcome, steps = np.zeros(number, int), np.full(number, MAX_STEPS)
    run = np.arange(number)
    x = np.tile(np.array([10, -10], np.float32), (number, 1))
    momentum = np.zeros_like(x)
    value, gradient = loss_and_gradient(x)
    energy = value - np.float32(F_MIN)
    lowest = np.full(number, np.inf, np.float32)
    clock, waited = np.zeros(number, int), np.zeros(number, int)
    for step in range(1, MAX_STEPS + 1):
        v = value - np.float32(F_MIN)
        q = (energy - v) * (energy + v) / v
        p_sq = (momentum * momentum).sum(axis=1)
        bounces = (clock == FIRST_BOUNCE) | (waited == PATIENCE)
        off = (np.abs(p_sq - q) >= 1e-10) & (q >= 0) & (p_sq > 0)
        scale = np.where(off, np.sqrt(np.maximum(q, 0) / np.where(off, p_sq, 1)), 1)
        kick = np.float32(RATE / 2) * (v / energy + energy / v)
        kicked = scale[:, None] * momentum - kick[:, None] * gradient
        moved = np.float32(RATE) * (v / energy)[:, None] * kicked
        if bounces.any():
            direction = rng.standard_normal((bounces.sum(), 2), dtype=np.float32)
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
            kicked[bounces] = np.sqrt(p_sq[bounces])[:, None] * direction
            moved[bounces] = 0
        momentum, x = kicked, x + moved
        progress = value < lowest
        lowest = np.where(progress & ~bounces, value, lowest)
        clock += ~bounces | (clock == FIRST_BOUNCE)
        waited = np.where(bounces | progress, 0, waited + 1)
        value, gradient = loss_and_gradient(x)
        ended = np.zeros(len(x), bool)
        for k in (0, 1):
            away = x - centers[k]
            inside = np.einsum("ri,ij,rj->r", away, h[k], away) < 1
            outcome[run[inside]], ended = k + 1, ended | inside
        if ended.any():
            steps[run[ended]] = step
            keep = ~ended
            run, x, momentum, value = run[keep], x[keep], momentum[keep], value[keep]
            gradient, energy, lowest = gradient[keep], energy[keep], lowest[keep]
            clock, waited = clock[keep], waited[keep]
            if not len(run):
                break
    return outcome, steps


def kinopt_runs(
    number: int, seed: int, keep: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The protocol through `kinopt.ensemble.run`: outcomes [runs] and steps [runs]."""
    result = kinopt.ensemble.run(
        LANDSCAPE.fn,
        entering(PROTOCOL),
        jnp.array(PROTOCOL.start),
        jax.random.split(jax.random.key(seed), number),
        num_steps=MAX_STEPS,
        stop=basin(),
        keep=keep,
    )
    return np.asarray(result.outcome), np.asarray(result.num_steps)


def run(settings: Settings) -> Iterator[Row]:
    """One row for each number of seeds and each way to run them."""
    rounds = zip(settings.seeds, settings.turns, strict=True)
    with progress_bar(sum(settings.turns), "ensembles") as bar:
        for number, turns in rounds:
            yield from _compared(settings, number, turns, bar)
    yield from _options(settings)


def network_runs(settings: Settings) -> dict[str, Callable[[], Any]]:
    """Networks of one hidden layer on digits: on one batch for ever, on minibatches, and so on."""
    split = data.load("digits")
    rows, labels = split.train_images.reshape(-1, 64), jnp.asarray(split.train_labels)
    rows, fixed = jnp.asarray(rows), kinopt.ensemble.minibatches((rows, labels), 64)
    batch = jax.tree.map(jnp.asarray, fixed(jax.random.key(0), 0))
    keys = jax.random.split(jax.random.key(settings.seed), settings.networks)
    shapes = {"one": (64, 32), "two": (32, 10)}
    starts = {
        name: 0.2 * jax.random.normal(jax.random.key(n), (settings.networks, *shape))
        for n, (name, shape) in enumerate(shapes.items())
    }

    def loss(params, batch):
        logits = jax.nn.relu(batch[0] @ params["one"]) @ params["two"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    def same(key, step):
        return batch

    adam = optax.adam(1e-3)
    run = functools.partial(
        kinopt.ensemble.run, loss, adam, starts, keys, num_steps=NETWORK_STEPS, stacked=True
    )
    return {
        PLAIN: lambda: run(batches=same, keep=("params",)),
        "batches=": lambda: run(batches=fixed, keep=("params",)),
        "keep= best_params": lambda: run(batches=same, keep=("params", "best_params")),
    }


def protocol_runs(settings: Settings) -> dict[str, Callable[[], Any]]:
    """The two-basin protocol; a state that comes back brings what it only shows, too."""
    run = functools.partial(kinopt_runs, settings.protocols, settings.seed)
    return {
        PLAIN: lambda: run(keep=("params",)),
        "keep= best_params": lambda: run(keep=("params", "best_params")),
        "keep= opt_state": lambda: run(keep=("params", "opt_state")),
    }


def _options(settings: Settings) -> Iterator[Row]:
    """A row for each problem and each option, in times of the same without it."""
    for problem, runs in {
        f"{settings.networks:,} networks on digits": network_runs(settings),
        f"{settings.protocols:,} runs of the protocol": protocol_runs(settings),
    }.items():
        seconds = interleaved(runs, settings.option_turns, "options")
        for option, took in seconds.items():
            yield {
                "problem": problem,
                "option": option,
                "seconds": float(np.median(took)),
                "ratio": list(median_ratio(took, seconds[PLAIN])),
            }


def _compared(settings: Settings, number: int, turns: int, bar: tqdm) -> Iterator[Row]:
    """Turns of every way to run so many seeds, and a row for each way."""
    candidates: dict[str, Callable] = {"kinopt.ensemble": kinopt_runs}
    if number <= settings.numpy_up_to:
        candidates["NumPy"] = numpy_runs
    kinopt_runs(number, settings.seed)  # compiles
    nanoseconds = {name: [] for name in candidates}
    seconds = {name: [] for name in candidates}
    found = {}
    for turn in range(turns):
        for name, runs in candidates.items():
            began = time.perf_counter()
            outcome, steps = runs(number, settings.seed + turn)
            took = time.perf_counter() - began
            seconds[name].append(took)
            nanoseconds[name].append(1e9 * took / steps.sum())
            found[name] = outcome, steps
        bar.update()
    yardstick = np.array(nanoseconds["kinopt.ensemble"])
    for name, cost in nanoseconds.items():
        outcome, steps = found[name]
        yield {
            "seeds": number,
            "method": name,
            "nanoseconds": np.quantile(cost, [0.25, 0.5, 0.75]).tolist(),
            "seconds": float(np.median(seconds[name])),
            "ratio": list(median_ratio(np.array(cost), yardstick)),
            "steps_per_seed": float(steps.mean()),
            "counts": [int((outcome == k).sum()) for k in (0, 1, 2)],
        }


def table(rows: list[Row]) -> str:
    """Nanoseconds for a useful step, and seeds for a second; and what options cost."""
    options = [row for row in rows if "option" in row]
    costs = table_of(
        ["what", "option", "seconds", "ratio"],
        [
            [
                row["problem"],
                row["option"],
                f"{row['seconds']:.3f}",
                str(MedianRatio.from_row(row["ratio"])),
            ]
            for row in options
        ],
    )
    rows = [row for row in rows if "option" not in row]
    steps = table_of(
        ["seeds", "method", "ns a useful step (quartiles)", "seconds", "seeds a second", "ratio"],
        [
            [
                f"{row['seeds']:,}",
                row["method"],
                "{1:.1f} ({0:.1f} to {2:.1f})".format(*row["nanoseconds"]),
                f"{row['seconds']:.3f}",
                f"{row['seeds'] / row['seconds']:,.0f}",
                str(MedianRatio(*(math.nan if x is None else x for x in row["ratio"]))),
            ]
            for row in rows
        ],
    )
    return f"{steps}\n\n{costs}" if options else steps


def headline(rows: list[Row]) -> str:
    """The cost at the largest number of seeds, and of NumPy at its largest."""
    rows = [row for row in rows if "option" not in row]
    ours = [row for row in rows if row["method"] == "kinopt.ensemble"][-1]
    numpy = [row for row in rows if row["method"] == "NumPy"]
    words = f"{ours['nanoseconds'][1]:.0f} ns a useful step at {ours['seeds']:,} seeds"
    if numpy:
        words += f"; NumPy {numpy[-1]['nanoseconds'][1]:.0f} at {numpy[-1]['seeds']:,}"
    return words


def plot(rows: list[Row]) -> Figure:
    """Cost of a useful step against the number of seeds."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for method in ("kinopt.ensemble", "NumPy"):
        part = [row for row in rows if row.get("method") == method]
        if part:
            low, middle, high = np.array([row["nanoseconds"] for row in part]).T
            seeds = [row["seeds"] for row in part]
            axes.errorbar(seeds, middle, [middle - low, high - middle], fmt="o-", label=method)
    axes.set(xscale="log", yscale="log", xlabel="seeds", ylabel="ns for a useful step")
    axes.set_title("Two-basin protocol")
    axes.legend(frameon=False)
    return figure
