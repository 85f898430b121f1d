"""Does BBI find the bottom of a rugged funnel where tuned momentum does not?

BBI paper, section 4.1: Ackley's function in the plane, Figs. 2 and 3. Hyperparameters are searched
by 500 trials of 200 steps from one start, each counted by its lowest loss. Then 100 starts drawn
from [-4, 4]^2 are descended for 30,000 steps, five times each with other bounces; a start succeeds
if some try comes below 5e-4.

    bbi, published step   Delta t = 0.00965, the result of the authors' search
    bbi, step to 0.01     Delta t searched up to 0.01. The paper does not give this range; the
                          published step, and the range given for section 4.2, point to it
    bbi, step to 0.5      Delta t searched in the range that gradient descent gets
    gdm                   gradient descent with momentum, step in [1e-4, 0.5], momentum in [0, 1]
    gdm, step to 0.01     the same with the small steps that keep it from leaving a hole at once
    adam                  learning rate in [1e-4, 0.5]; not in the paper

BBI has Delta V = 1e-4, delta E = 2, T0 = 20, Nb = 4, T1 = 100, all of the paper. Gradient descent
and Adam are deterministic: their five tries are one.

The paper prints Ackley's function with exp(-0.2 r) (Eq. 15), the authors' code has exp(-0.02 r): a
flatter funnel with deeper holes. Both are run. What a search finds depends on its start, so it is
repeated from several.

At its bottom the funnel is a cone, V ~ r: there Eq. 40 does not diverge (section A.3 asks for
V ~ r^2 or flatter), so BBI has no reason to stay; it ends where a step happens to land at
V <= Delta V. The table therefore tells arriving from being there at the end.

Reproduces: BBI, section 4.1, Figs. 2 and 3.
Needs: nothing.
Takes: smoke 30 s; laptop 8 min; paper 25 min on 2 cores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.bbi._protocol import (
    Method,
    Range,
    Search,
    adam,
    bbi,
    descent,
    gdm,
    search,
    wilson,
)
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row
from kinopt import ensemble
from kinopt.landscapes import Landscape, ackley

__all__ = ["PRESETS", "Settings", "plot", "run", "table"]

CORNER = 4.0  # starts are drawn from [-4, 4]^2
THRESHOLD = 5e-4
PAPER_DECAY, CODE_DECAY = 0.2, 0.02

CHAOS = {
    "f_min": 1e-4,
    "extra_energy": 2.0,
    "fixed_bounce_every": 20,
    "num_fixed_bounces": 4,
    "patience": 100,
}
"""Delta V, delta E, T0, Nb and T1 of section 4.1."""

METHODS = (
    bbi("bbi, published step", 0.00965, **CHAOS),
    bbi("bbi, step to 0.01", Range(1e-6, 1e-2), **CHAOS),
    bbi("bbi, step to 0.5", Range(1e-4, 0.5), **CHAOS),
    gdm("gdm", Range(1e-4, 0.5)),
    gdm("gdm, step to 0.01", Range(1e-4, 1e-2)),
    adam("adam", Range(1e-4, 0.5)),
)
DRAWN = ("bbi, published step", "bbi, step to 0.01", "gdm", "gdm, step to 0.01", "adam")
"""The methods in the picture."""

PUBLISHED = {
    # Successes of 100 starts in the paper, and with the code published beside it.
    "bbi, published step": (90, 83),
    "gdm": (2, 0),
}


@dataclass(frozen=True)
class Settings:
    """The protocol's numbers. A seed is a search from its own start, judged on its own starts."""

    methods: tuple[str, ...] = tuple(method.name for method in METHODS)
    decays: tuple[float, ...] = (PAPER_DECAY, CODE_DECAY)
    num_seeds: int = 3
    num_trials: int = 500
    trial_steps: int = 200
    num_starts: int = 100
    num_tries: int = 5
    num_steps: int = 30_000
    curve_steps: int = 30_000
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        methods=("bbi, published step", "gdm"),
        decays=(CODE_DECAY,),
        num_seeds=1,
        num_trials=12,
        num_starts=6,
        num_tries=2,
        num_steps=3000,
        curve_steps=1000,
    ),
    "laptop": Settings(),
    "paper": Settings(num_seeds=10),
}

CURVE_POINTS = 100
CURVE_SEEDS = 12
PATH_POINTS = 500


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each variant, search and method."""
    methods = {method.name: method for method in METHODS if method.name in settings.methods}
    cases = [
        {"decay": decay, "search": number, "method": name}
        for decay in settings.decays
        for number in range(settings.num_seeds)
        for name in methods
    ]
    for case, _ in counted(done.left(cases), "searches and descents"):
        decay, number, name = case.values()
        landscape, method = ackley(decay=decay), methods[name]
        seed = 1000 * settings.seed + number
        rng = np.random.default_rng(seed)
        start = rng.uniform(-CORNER, CORNER, 2)
        starts = rng.uniform(-CORNER, CORNER, (settings.num_starts, 2))
        found = search(
            method,
            landscape,
            start,
            num_steps=settings.trial_steps,
            num_trials=settings.num_trials,
            seed=seed,
        )
        row = {**case, "start": start, **found._asdict()}
        row |= _successes(method, found, landscape, starts, settings, seed)
        if number == 0 and name in DRAWN:
            row |= _curves(method, found, landscape, start, settings, seed)
        yield row


def _successes(
    method: Method,
    found: Search,
    landscape: Landscape,
    starts: np.ndarray,
    settings: Settings,
    seed: int,
) -> Row:
    """How many starts come below the threshold, and how many are there at the end."""
    tries = settings.num_tries if method.name.startswith("bbi") else 1
    result = ensemble.run(
        landscape,
        method.optimizer(found.hyperparameters),
        jnp.asarray(np.repeat(starts, tries, axis=0), dtype=float),
        jax.random.split(jax.random.key(seed + 1), len(starts) * tries),
        num_steps=settings.num_steps,
        stacked=True,
    )
    reached = (np.asarray(result.best_value) < THRESHOLD).reshape(-1, tries)
    stayed = (np.asarray(result.value) < THRESHOLD).reshape(-1, tries)
    successes = int(reached.any(axis=1).sum())
    return {
        "starts": len(starts),
        "tries": tries,
        "successes": successes,
        "interval": wilson(successes, len(starts)),
        "stayed": int(stayed.any(axis=1).sum()),  # starts of which a try ends below the threshold
        "successful_tries": int(reached.sum()),
    }


def _curves(
    method: Method,
    found: Search,
    landscape: Landscape,
    start: np.ndarray,
    settings: Settings,
    seed: int,
) -> Row:
    """Loss along a longer run from the search's start, and the way of the first that arrives."""
    every = settings.curve_steps // CURVE_POINTS
    keys = jax.random.split(jax.random.key(seed + 2), CURVE_SEEDS)
    descend = descent(method, landscape, settings.curve_steps)
    points, values = jax.vmap(descend, in_axes=(None, None, 0))(
        found.hyperparameters,
        jnp.asarray(start, dtype=float),
        keys if method.name.startswith("bbi") else keys[:1],
    )
    values = np.asarray(values)
    row: Row = {
        "curve_every": every,
        "curves": [[float(f"{value:.3g}") for value in curve[::every]] for curve in values],
    }
    if method is METHODS[0]:
        last = values.shape[1] - 1
        arrivals = np.where(values < THRESHOLD, np.arange(last + 1), last).min(axis=1)
        way = np.asarray(points, np.float64)[arrivals.argmin(), : arrivals.min() + 1]
        row["path"] = np.round(way[:: max(1, len(way) // PATH_POINTS)], 3)
    return row


def table(rows: list[Row]) -> str:
    """Successes of the last run beside the published ones, then what the searches found."""
    groups: dict[str, dict[float, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row["method"], {}).setdefault(row["decay"], []).append(row)
    successes = table_of(
        ["starts of 100 that succeed", "paper", "authors' code", "here, as coded", "here, Eq. 15"],
        [
            [
                name,
                *(_published(count) for count in PUBLISHED.get(name, (None, None))),
                *(_of_starts(parts.get(decay)) for decay in (CODE_DECAY, PAPER_DECAY)),
            ]
            for name, parts in groups.items()
        ],
    )
    found = table_of(
        ["method", "decay", "step", "momentum", "lowest in the search", "tries", "at the end"],
        [
            [
                name,
                f"{decay:g}",
                _range([row["hyperparameters"].get("learning_rate") for row in part]),
                _range([row["hyperparameters"].get("momentum") for row in part]),
                _range([row["lowest_loss"] for row in part]),
                f"{_percent(part, 'successful_tries', 'tries'):.0f} %",
                f"{_percent(part, 'stayed'):.0f} %",
            ]
            for name, parts in groups.items()
            for decay, part in parts.items()
        ],
    )
    settings = rows[0]["settings"]
    return f"""{successes}

Eq. 15 has decay 0.2, the code 0.02. In brackets 95 % Wilson intervals for published numbers and for
the published step; where a search chose the step, the least and the most of the searches:
{settings["num_seeds"]}, each from its own start with {settings["num_trials"]} trials, judged on
its own {settings["num_starts"]} starts.

{found}

Least and most over the searches. Tries: single descents that come below 5e-4. At the end: starts
of which a try is below 5e-4 after its last step, and not only in passing."""


def headline(rows: list[Row]) -> str:
    """BBI beside gradient descent, on each variant."""
    parts = []
    for decay in sorted({row["decay"] for row in rows}):
        bbi_part, gdm_part = (
            [row for row in rows if (row["method"], row["decay"]) == (name, decay)]
            for name in ("bbi, published step", "gdm")
        )
        parts.append(
            f"decay {decay:g}: {_of_starts(bbi_part)} of 100 starts reached, "
            f"{_percent(bbi_part, 'stayed'):.0f} held; tuned momentum {_of_starts(gdm_part)}, "
            f"{_percent(gdm_part, 'stayed'):.0f} held"
        )
    return "; ".join(parts) + " (published: 83 and 90, momentum 0 and 2)"


def _percent(part: list[Row], count: str, *more: str) -> float:
    """A count in percent of the starts, or of the product of starts and something."""
    trials = sum(int(np.prod([row[name] for name in ("starts", *more)])) for row in part)
    return 100 * sum(row[count] for row in part) / trials


def _published(count: int | None) -> str:
    if count is None:
        return ""
    low, high = wilson(count, 100)
    return f"{count} ({100 * low:.0f} to {100 * high:.0f})"


def _of_starts(part: list[Row] | None) -> str:
    if part is None:
        return ""
    if "learning_rate" in part[0]["hyperparameters"]:
        shares = [row["successes"] / row["starts"] for row in part]
        low, high = min(shares), max(shares)
    else:
        low, high = wilson(*(sum(row[name] for row in part) for name in ("successes", "starts")))
    return f"{_percent(part, 'successes'):.0f} ({100 * low:.0f} to {100 * high:.0f})"


def _range(values: list) -> str:
    if values[0] is None:
        return ""
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def plot(rows: list[Row]) -> Figure:
    """A way through the landscape (Fig. 2) and the losses from one start (Fig. 3)."""
    from kinopt.plots import loss_curves, trajectories

    shown = {(row["decay"], row["method"]): row for row in rows if row.get("curves")}
    decays = list(dict.fromkeys(decay for decay, _ in shown))
    handles, labels = [], []
    figure = Figure(figsize=(4.3 * (1 + len(decays)), 4.2), layout="constrained")
    way, *panels = figure.subplots(1, 1 + len(decays))
    path = np.array(shown[decays[-1], METHODS[0].name]["path"])
    trajectories(ackley(decay=decays[-1]), path, way)
    way.set_title(f"{METHODS[0].name}, decay {decays[-1]:g}")
    for ax, decay in zip(panels, decays, strict=True):
        curves = {name: row["curves"] for (of, name), row in shown.items() if of == decay}
        every = shown[decay, METHODS[0].name]["curve_every"]
        steps = every * np.arange(len(curves[METHODS[0].name][0]))
        loss_curves(steps, curves, ax)
        ax.axhline(THRESHOLD, color="black", linestyle=":", linewidth=1)
        ax.set(title=f"Ackley, decay {decay:g}", ylim=(5e-5, 30))
        handles, labels = ax.get_legend_handles_labels()
        ax.legend().remove()  # one for all panels is enough
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
