"""How well must the rate be known? Trainings at a tenth to ten times the rate that was chosen.

The tasks, networks and schedules of `evidence.learning`, and for each method what it chose there;
the other hyperparameters stay. A method that loses little asks for fewer trials.

Reproduces: nothing.
Needs: what `evidence.learning` needs, and its rows.
Takes: smoke 10 s; laptop 10 min on 2 cores; paper 2 h (estimated).
Scale: one hidden layer, on vectors or coarse images; large networks are not measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from benchmarks import data, record
from benchmarks.evidence import learning
from benchmarks.evidence.learning import accuracy, task_name, with_steps
from benchmarks.evidence.when import load
from benchmarks.experiments import UsageError
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row
from benchmarks.statistics import holm, mean_and_error, paired_p

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

BASE = "adamw"
ROWS = record.FOLDER / "results" / "evidence.learning.jsonl"

METHODS = (
    BASE,
    "sgd",
    "normalized sgd",
    "bbi, cool",
    "ecdsep, cool",
    "isokinetic",
    "isokinetic, cool",
    "isokinetic, per neuron",
)


@dataclass(frozen=True)
class Settings:
    """The data, the factors of the rate, and the seeds, which are fresh."""

    data: tuple[str, ...] = learning.Settings.data
    methods: tuple[str, ...] = METHODS
    factors: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    num_seeds: int = 5
    num_steps: int = learning.Settings.num_steps
    num_few: int = learning.Settings.num_few
    seed: int = 1


PRESETS = {
    "smoke": Settings(("digits",), (BASE, "sgd"), num_seeds=2, num_steps=3),
    "laptop": Settings(),
    "paper": Settings(num_seeds=60),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """For each task and method a row: the accuracies at all rates."""
    data.require(settings.data)
    found = record.read(ROWS)
    if not found:
        raise UsageError(f"{ROWS} has no rows: run evidence.learning first, with --commit.")
    chosen = [
        row
        for row in record.current(found)[0]
        if row["data"] in settings.data and row["method"] in settings.methods
    ]
    tasks = {name: load(name) for name in settings.data}
    builds = {
        name: with_steps(learning.METHODS[name], settings.num_steps) for name in settings.methods
    }
    factors, number = np.array(settings.factors), settings.num_seeds
    seeds = [1000 * settings.seed + n for n in range(number)] * len(factors)
    places = ("data", "few", "noise", "method")
    cases = done.left({name: row[name] for name in places} for row in chosen)
    for case, _ in counted(cases, "methods"):
        (row,) = record.where(chosen, **case)
        h = row["chosen"] | {"rate": row["chosen"]["rate"] * np.repeat(factors, number)}
        place, build = (case["few"], case["noise"], "test"), builds[case["method"]]
        reached = accuracy(tasks[case["data"]], *place, build, h, seeds, settings)
        yield case | {
            "chosen": row["chosen"],
            "test_accuracy": reached.reshape(len(factors), number).round(5),
        }


# Reading the rows


_READING = """\
Points of test accuracy more than AdamW has at its own choice, in the mean over {tasks} tasks, where
the rate is so many times what `evidence.learning` chose for the method; {seeds} seeds. All rates:
the mean over them, and its error, that of the spread over tasks. Bold: p below 0.05 against AdamW's
mean over all rates, paired by task, after Holm's correction for {number} comparisons."""


def differences(rows: list[Row]) -> dict[str, np.ndarray]:
    """Method -> points more than AdamW at its own choice, [tasks, factors]."""
    mean = {
        (row["method"], task_name(row["data"], row["few"], row["noise"])): (
            100 * np.array(row["test_accuracy"]).mean(axis=1)
        )
        for row in rows
    }
    middle = rows[0]["settings"]["factors"].index(1.0)
    tasks = [task for method, task in mean if method == BASE]
    return {
        method: np.array([mean[method, task] - mean[BASE, task][middle] for task in tasks])
        for method in rows[0]["settings"]["methods"]
        if all((method, task) in mean for task in tasks)
    }


def table(rows: list[Row]) -> str:
    """For each method what it has at each rate, and on the mean of all."""
    found = differences(rows)
    others = [method for method in found if method != BASE]
    p_values = [paired_p((found[name] - found[BASE]).mean(axis=1)) for name in others]
    passed = dict(zip(others, holm(p_values), strict=True))
    lines = []
    for method, values in found.items():
        mark = "**" if passed.get(method) else ""
        every = f"{mark}{mean_and_error(values.mean(axis=1), '+')}{mark}"
        lines.append([method, *(f"{value:+.2f}" for value in values.mean(axis=0)), every])
    settings = rows[0]["settings"]
    head = ["method", *(f"x {factor:g}" for factor in settings["factors"]), "all rates"]
    number = len(next(iter(found.values())))
    reading = _READING.format(tasks=number, seeds=settings["num_seeds"], number=len(others))
    return "\n\n".join([table_of(head, lines), reading])


def headline(rows: list[Row]) -> str:
    """The mean over all rates."""
    said = [f"{name} {values.mean():+.2f}" for name, values in differences(rows).items()]
    return "points of accuracy, the mean over a hundredfold of rates: " + ", ".join(said)


def plot(rows: list[Row]) -> Figure:
    """The mean over tasks against the factor of the rate."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    factors = rows[0]["settings"]["factors"]
    for method, values in differences(rows).items():
        axes.plot(factors, values.mean(axis=0), "o-", ms=4, lw=1, label=method)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xscale("log")
    axes.set(xlabel="rate, times what was chosen", ylabel="points more than AdamW at its choice")
    axes.legend(fontsize=7, frameon=False)
    return figure
