"""Does BBI run down a nearly flat valley faster than tuned momentum?

BBI paper, section 4.2: Zakharov's function in ten dimensions, Fig. 4. From (-1, ..., -1), 500
trials of 2,500 steps search the hyperparameters; then 10,000 steps show how deep the descent gets.
BBI has Delta V = 1e-22, so it stops there; no bounces and delta E = 0, all of the paper.

    bbi, published step   Delta t = 0.0026, the result of the authors' search
    bbi                   Delta t in [1e-6, 1e-2]
    gdm, step to 0.5      gradient descent with momentum in [0, 1], the step in [1e-10, 0.5], in
                          logarithm: uniform samples hold no step that does not diverge
    gdm, step to 1e-5     the same with the step in [1e-10, 1e-5], the paper's second search
    adam                  learning rate in [1e-6, 0.5]; not in the paper

The same hyperparameters are then used from random starts, drawn from [-1, 1]^10: the paper says
that BBI stays ahead there, and gives no numbers. All in float64.

Reproduces: BBI, section 4.2, Fig. 4.
Needs: nothing.
Takes: smoke 40 s; laptop 4 min; paper 12 min on 2 cores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.bbi._protocol import Method, Range, Search, adam, bbi, descent, gdm, search
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row
from kinopt import ensemble
from kinopt.landscapes import Landscape, zakharov

__all__ = ["PRESETS", "Settings", "plot", "run", "table"]

DIMENSIONS = 10
TARGET = 1e-22

NO_BOUNCES = {"f_min": TARGET, "fixed_bounce_every": None, "patience": None}

METHODS = (
    bbi("bbi, published step", 0.0026, **NO_BOUNCES),
    bbi("bbi", Range(1e-6, 1e-2), **NO_BOUNCES),
    gdm("gdm, step to 0.5", Range(1e-10, 0.5, logarithmic=True)),
    gdm("gdm, step to 1e-5", Range(1e-10, 1e-5)),
    adam("adam", Range(1e-6, 0.5)),
)

PUBLISHED = {
    # Lowest loss within 10,000 steps: in the paper (BBI to Delta V), and with the authors' code.
    "bbi, published step": ("1e-22", "1e-22"),
    "gdm, step to 1e-5": ("", "4.4e-12"),
}


@dataclass(frozen=True)
class Settings:
    """The protocol's numbers. A seed is a search: other trials, and other random starts later."""

    num_seeds: int = 3
    num_trials: int = 500
    trial_steps: int = 2500
    num_steps: int = 10_000
    num_starts: int = 100
    seed: int = 0


PRESETS = {
    "smoke": Settings(num_seeds=1, num_trials=12, trial_steps=500, num_starts=4),
    "laptop": Settings(),
    "paper": Settings(num_seeds=10),
}

CURVE_POINTS = 100


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each search and method."""
    landscape = zakharov(DIMENSIONS)
    fixed_start = -np.ones(DIMENSIONS)
    methods = {method.name: method for method in METHODS}
    cases = [
        {"search": number, "method": name}
        for number in range(settings.num_seeds)
        for name in methods
    ]
    for case, _ in counted(done.left(cases), "searches and descents"):
        method = methods[case["method"]]
        seed = 1000 * settings.seed + case["search"]
        starts = np.random.default_rng(seed).uniform(-1, 1, (settings.num_starts, DIMENSIONS))
        # Rows go out with the caller's precision: a generator keeps its context.
        with jax.enable_x64(True):
            found = search(
                method,
                landscape,
                fixed_start,
                num_steps=settings.trial_steps,
                num_trials=settings.num_trials,
                seed=seed,
            )
            row = {**case, **found._asdict()}
            row |= _long_run(method, found, landscape, fixed_start, settings.num_steps)
            row |= _from_random_starts(method, found, landscape, starts, settings.num_steps)
        yield row


def _long_run(
    method: Method, found: Search, landscape: Landscape, start: np.ndarray, num_steps: int
) -> Row:
    """The loss along the way, its lowest value, and when it came to the target."""
    descend = descent(method, landscape, num_steps)
    _, values = descend(found.hyperparameters, jnp.asarray(start), jax.random.key(0))
    values = np.asarray(values)
    arrived = np.flatnonzero(values <= TARGET)
    every = num_steps // CURVE_POINTS
    return {
        "lowest": float(np.nanmin(values)),
        "arrival": int(arrived[0]) if arrived.size else None,
        "curve_every": every,
        "curve": [float(f"{value:.3g}") for value in values[::every]],
    }


def _from_random_starts(
    method: Method, found: Search, landscape: Landscape, starts: np.ndarray, num_steps: int
) -> Row:
    """The lowest loss from each start."""
    result = ensemble.run(
        landscape,
        method.optimizer(found.hyperparameters),
        jnp.asarray(starts),
        jax.random.split(jax.random.key(0), len(starts)),
        num_steps=num_steps,
        stacked=True,
    )
    return {"random_lowest": [float(f"{value:.3g}") for value in result.best_value]}


def table(rows: list[Row]) -> str:
    """How deep each method came in the last run, beside the published numbers."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["method"], []).append(row)
    best = _middle(groups["gdm, step to 1e-5"])
    lines = []
    for name, part in groups.items():
        middle = _middle(part)
        lower = np.less(middle["random_lowest"], best["random_lowest"])
        quartiles = np.quantile(middle["random_lowest"], [0.25, 0.5, 0.75])
        lines.append(
            [
                name,
                *PUBLISHED.get(name, ("", "")),
                _with_range([row["lowest"] for row in part], middle["lowest"]),
                "" if middle["arrival"] is None else f"{middle['arrival']:,}",
                f"{middle['hyperparameters'].get('learning_rate', 0.0026):.2g}",
                f"{middle['hyperparameters'].get('momentum', np.nan):.4f}".replace("nan", ""),
                "{1:.0e} ({0:.0e} to {2:.0e})".format(*quartiles),
                f"{lower.sum()} of {lower.size}",
            ]
        )
    header = ["lowest loss", "paper", "authors' code", "here", "steps to 1e-22", "step", "momentum"]
    header += ["from random starts", "below gdm, step to 1e-5"]
    settings = rows[0]["settings"]
    return f"""{table_of(header, lines)}

"Here" is the middle of {settings["num_seeds"]} searches of {settings["num_trials"]} trials, in
brackets the least and the most; what stands right of it belongs to the middle one. BBI stops at
Delta V = 1e-22, the others go on. Random starts: medians and quartiles over
{settings["num_starts"]}, and from how many of them the method comes lower than gradient descent."""


def headline(rows: list[Row]) -> str:
    """Steps to the paper's depth, and where the others were after the last step."""
    groups = {row["method"]: row for row in rows}
    for name in groups:
        groups[name] = _middle([row for row in rows if row["method"] == name])
    return (
        f"1e-22 after {groups['bbi, published step']['arrival']:,} steps; in 10,000 steps momentum "
        f"comes to {groups['gdm, step to 1e-5']['lowest']:.0e}, Adam to "
        f"{groups['adam']['lowest']:.0e}"
    )


def _middle(part: list[Row]) -> Row:
    return sorted(part, key=lambda row: row["lowest"])[len(part) // 2]


def _with_range(values: list[float], middle: float) -> str:
    if len(set(values)) == 1:
        return f"{middle:.1e}"
    return f"{middle:.1e} ({min(values):.0e} to {max(values):.0e})"


def plot(rows: list[Row]) -> Figure:
    """The loss along the long run (Fig. 4): medians and quartiles over the searches."""
    from kinopt.plots import loss_curves

    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    ax = figure.add_subplot()
    curves: dict[str, list] = {}
    for row in rows:
        curves.setdefault(row["method"], []).append(row["curve"])
    every, points = rows[0]["curve_every"], len(rows[0]["curve"])
    loss_curves(every * np.arange(points), {name: np.array(c) for name, c in curves.items()}, ax)
    ax.axhline(TARGET, color="black", linestyle=":", linewidth=1)
    ax.legend().remove()  # it would lie on the curves
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
    ax.set_title("Zakharov in ten dimensions, from (-1, ..., -1)")
    return figure
