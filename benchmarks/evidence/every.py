"""What is left of a collision that happens only at every k-th update?

A collision can be left out at most updates (`every=k`), for 1 / k of its cost. The mean over steps
of what it changes is then that of the coefficient c / k at every update; whether neurons part as
well is another matter, because the base optimizer divides by the size of its gradients and its
momentum spreads each collision over the updates after it. On the network of `ko.condensation`, with
Adam at its highest rate, three roads that start from the same collision:

    every k-th       coefficient c at every k-th update
    c / k at each    coefficient c / k at every update
    k c, every k-th  coefficient k c (at most 1) at every k-th update, which makes up for those left
                     out

and the time of k updates with `every=k`, in those with `every=1`, alone on one large layer.

Reproduces: nothing; the papers collide at every update.
Needs: nothing.
Takes: smoke 15 s; laptop 2 min on 2 cores.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks.ko import condensation
from benchmarks.ko.condensation import HIDDEN_LAYER, significant
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row
from benchmarks.statistics import mean_and_error
from benchmarks.timing import MedianRatio, interleaved, median_ratio
from kinopt.plots import PALETTE

__all__ = ["PRESETS", "ROADS", "Settings", "headline", "plot", "run", "table"]

ROADS: dict[str, Callable[[float, int], tuple[float, int]]] = {
    "every k-th": lambda c, k: (c, k),
    "c / k at each": lambda c, k: (c / k, 1),
    "k c, every k-th": lambda c, k: (min(k * c, 1.0), k),
}
"""The coefficient and `every`, of c and k."""

LAWS = {"soft": kinopt.soft_collision, "hard, rms": summed_collision}
STARTS = {"soft": 0.1, "hard, rms": 0.1}
"""At every update these lower the |cos| of most activations (`ko.condensation`)."""


@dataclass(frozen=True)
class Settings:
    """The network's training, the spacings, and the layer that is timed."""

    num_seeds: int = 20
    num_steps: int = 600
    shown_step: int = 100
    rate: float = 1e-3
    activations: tuple[str, ...] = ("tanh", "relu", "softplus")
    spacings: tuple[int, ...] = (1, 2, 5, 10, 20)
    shape: tuple[int, int] = (2048, 1000)  # features, neurons
    num_turns: int = 9
    seed: int = 0


PRESETS = {
    "smoke": Settings(2, 20, 10, activations=("tanh",), spacings=(1, 5), shape=(8, 4), num_turns=2),
    "laptop": Settings(),
    "paper": Settings(num_seeds=100, num_turns=51),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each activation, law, road and spacing, then one for each law and spacing."""
    cases = [
        {"stage": "effect", "activation": activation, "law": law, "road": road, "spacing": k}
        for activation, law, road, k in itertools.product(
            settings.activations, LAWS, ROADS, settings.spacings
        )
        if k > 1 or road == "every k-th"
    ]
    keys = jax.random.split(jax.random.key(settings.seed), settings.num_seeds)
    schedule = condensation.Settings(
        num_steps=settings.num_steps, num_snapshots=settings.num_steps // settings.shown_step
    )
    for case, _ in counted(done.left(cases), "networks"):
        law, k = case["law"], case["spacing"]
        coll_coef, every = ROADS[case["road"]](STARTS[law], k)
        measured = condensation.train(
            keys, coll_coef, settings.rate, case["activation"], _law(law, every), schedule
        )
        found = {name: np.asarray(leaf, np.float64) for name, leaf in measured.items()}
        yield case | {
            "coll_coef": coll_coef,
            "mean_abs_cosine": significant(found["mean_abs_cosine"][:, 1]),
            "max_abs_cosine": significant(found["max_abs_cosine"][:, 1]),
            "loss": significant(found["loss"][:, -1]),
        }
    for law in LAWS:
        if not done(stage="cost", law=law):
            yield from _costs(law, settings)


@functools.cache
def _law(law: str, every: int) -> condensation.Law:
    """One object for each, so that coefficients share a compiled program."""
    if law == "soft":
        return lambda c, key: kinopt.soft_collision(c, mask=HIDDEN_LAYER, every=every)
    return lambda c, key: summed_collision(c, key=key, mask=HIDDEN_LAYER, every=every)


def _costs(law: str, settings: Settings) -> Iterator[Row]:
    """Updates of one layer, as many for each spacing: the least that holds whole periods of all."""
    params, gradients = (
        jax.random.normal(key, settings.shape) for key in jax.random.split(jax.random.key(0))
    )
    num_updates = int(np.lcm.reduce(settings.spacings))

    def updates(tx: optax.GradientTransformation) -> Callable[[], jax.Array]:
        update = jax.jit(tx.update)

        def go():
            state, after = tx.init(params), gradients
            for _ in range(num_updates):
                after, state = update(gradients, state, params)
            return after

        return go

    candidates = {str(k): updates(LAWS[law](STARTS[law], every=k)) for k in settings.spacings}
    seconds = interleaved(candidates, settings.num_turns, f"{law}: updates")
    for name, times in seconds.items():
        yield {
            "stage": "cost",
            "law": law,
            "spacing": int(name),
            "milliseconds": float(1e3 * np.median(times) / num_updates),
            "ratio": list(median_ratio(times, seconds[str(settings.spacings[0])])),
        }


# Reading the rows

_READING = """\
Means and standard errors over paired seeds: mean abs. cosine of the hidden neurons at step {shown},
and the loss at step {last}. Times are medians over turns with their 95 % intervals, in those of
`every=1`."""


def _effects(rows: list[Row]) -> dict[tuple[str, str], dict[tuple[str, int], Row]]:
    """Rows of the last run by activation and law, then by road and spacing; k = 1 is on all."""
    found: dict[tuple[str, str], dict[tuple[str, int], Row]] = {}
    for row in rows:
        if row["stage"] == "effect":
            part = found.setdefault((row["activation"], row["law"]), {})
            for road in ROADS if row["spacing"] == 1 else (row["road"],):
                part[road, row["spacing"]] = row
    return found


def table(rows: list[Row]) -> str:
    """A line for each activation, law and spacing, with the three roads side by side; the times."""
    lines = []
    for (activation, law), part in _effects(rows).items():
        for k in sorted({spacing for _, spacing in part}):
            pairs = [
                f"{mean_and_error(np.array(part[road, k]['mean_abs_cosine']))} "
                f"({np.mean(part[road, k]['loss']):.2f})"
                for road in ROADS
            ]
            lines.append([activation, law, str(k), *(pairs if k > 1 else [pairs[0], "", ""])])
    costs = [row for row in rows if row["stage"] == "cost"]
    settings = rows[-1]["settings"]
    features, neurons = settings["shape"]
    return "\n\n".join(
        [
            "Mean abs. cosine (loss):",
            table_of(["activation", "law", "k", *ROADS], lines),
            f"Time of an update, {neurons} neurons of {features} features:",
            table_of(
                ["law", "k", "ms", "ratio"],
                [
                    [
                        row["law"],
                        str(row["spacing"]),
                        f"{row['milliseconds']:.2f}",
                        str(MedianRatio.from_row(row["ratio"])),
                    ]
                    for row in costs
                ],
            ),
            _READING.format(shown=settings["shown_step"], last=settings["num_steps"]),
        ]
    )


def headline(rows: list[Row]) -> str:
    """What the largest spacing costs and keeps."""
    settings = rows[-1]["settings"]
    k = max(settings["spacings"])
    parts = []
    for law in LAWS:
        ratio = next(
            row["ratio"][0]
            for row in rows
            if row["stage"] == "cost" and (row["law"], row["spacing"]) == (law, k)
        )
        groups = [part for (_, name), part in _effects(rows).items() if name == law]
        means = [
            np.mean([np.mean(part[key]["mean_abs_cosine"]) for part in groups])
            for key in (("every k-th", 1), *((road, k) for road in ROADS))
        ]
        parts.append(
            f"{law} at k = {k}: {ratio:.2f} of the time; mean abs. cosine {means[0]:.2f} at every "
            f"update, {means[1]:.2f} at every k-th, {means[2]:.2f} with c / k, {means[3]:.2f} with "
            "k c at every k-th"
        )
    return "; ".join(parts)


def plot(rows: list[Row]) -> Figure:
    """Cosine and loss over the spacing, a column for each activation and law."""
    groups = _effects(rows)
    figure = Figure(figsize=(2.4 * len(groups), 4.6), layout="constrained")
    grid = figure.subplots(2, len(groups), squeeze=False, sharex=True)
    for (upper, lower), ((activation, law), part) in zip(grid.T, groups.items(), strict=True):
        for color, road in zip(PALETTE, ROADS, strict=False):
            spacings = sorted(k for name, k in part if name == road)
            for axes, name in ((upper, "mean_abs_cosine"), (lower, "loss")):
                values = np.array([part[road, k][name] for k in spacings])
                error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
                axes.errorbar(
                    spacings, values.mean(axis=1), error, color=color, label=road, marker=".", lw=1
                )
        upper.set_title(f"{activation}\n{law}, c = {STARTS[law]:g}", fontsize=9)
        upper.set_ylim(0, 1.05)
        lower.set_xscale("log")
        lower.set_xlabel("spacing k", fontsize=9)
        for axes in (upper, lower):
            axes.tick_params(labelsize=7)
    grid[0, 0].set_ylabel("mean |cos|", fontsize=9)
    grid[1, 0].set_ylabel("loss at the end", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="outside lower center", fontsize=8, frameon=False)
    return figure
