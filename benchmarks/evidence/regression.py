"""What of losses that are no classification? Regression, an autoencoder, three log ratios.

The methods and the schedule of `evidence.learning`, searched and judged as in
`evidence.architectures`; small dense networks.

    regression     Friedman's function of five of ten inputs, 500 noisy samples
    autoencoder    the handwritten digits through eight units
    six, mixture,  the log ratios of `evidence.ratios`, by a classifier; chosen by what a user can
    shift          see, its cross-entropy

Reproduces: nothing.
Needs: nothing.
Takes: smoke 30 s; laptop 25 min on 2 cores; paper 3 h (estimated).
Scale: two or three hidden layers of at most 64 units.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import make_friedman1

from benchmarks.evidence import architectures, learning, ratios
from benchmarks.evidence._search import Task, searched
from benchmarks.evidence.architectures import BASE, differences
from benchmarks.evidence.learning import Method
from benchmarks.evidence.when import load
from benchmarks.models import MLP
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row
from benchmarks.statistics import mean_and_error

__all__ = ["METHODS", "PRESETS", "TASKS", "Settings", "headline", "plot", "run", "table"]

HIDDEN = (64, 64)
BATCH = 64
SAMPLES, JUDGED, NOISE = 500, 2_000, 1.0
CODE = (64, 8, 64)
LANES = 15

WIDER = {
    BASE: {"decay": (1e-4, 10.0)},
    "isokinetic": {"rate": (1e-3, 1.0), "eta": (0.5, 300.0)},
}
"""Where the ranges of `evidence.learning` end too soon, whatever stands after the method's name."""


def _method(name: str) -> Method:
    method = learning.METHODS[name]
    wider = WIDER.get(name.partition(",")[0], {})
    return Method(lambda h, key, n, params: method.build(h, key, n), method.ranges | wider)


METHODS = {name: _method(name) for name in learning.METHODS}


def _squares(model: MLP, inputs: list[np.ndarray], targets: list[np.ndarray]) -> Task:
    """Mean squares; of training, choice and judgement. Judged by the logarithm to base 10."""
    x, y = [[jnp.asarray(part, jnp.float32) for part in both] for both in (inputs, targets)]

    def loss(params, x, y):
        return jnp.mean((jnp.asarray(model.apply({"params": params}, x)) - y) ** 2)

    return Task(
        lambda key: model.init(key, x[0][:1])["params"],
        lambda key: jax.random.randint(key, (BATCH,), 0, len(x[0])),
        lambda params, index: loss(params, x[0][index], y[0][index]),
        lambda params: jnp.log10(jnp.stack([loss(params, x[n], y[n]) for n in (1, 2)])),
        worst=1.0,
        lanes=LANES,
    )


def _regression() -> Task:
    """Friedman's first function, in units of its deviation; judged without noise."""
    sizes, noises = (SAMPLES, SAMPLES, JUDGED), (NOISE, NOISE, 0.0)
    drawn = [
        make_friedman1(size, 10, noise=s, random_state=n)
        for n, (size, s) in enumerate(zip(sizes, noises, strict=True))
    ]
    mean, scale = drawn[0][1].mean(), drawn[0][1].std()
    inputs = [2 * x - 1 for x, _ in drawn]
    return _squares(MLP(HIDDEN, 1), inputs, [(y[:, None] - mean) / scale for _, y in drawn])


def _autoencoder() -> Task:
    """Handwritten digits, each pixel in units of the deviation of all."""
    split = load("digits")
    images = [
        np.asarray(part).reshape(len(part), -1)
        for part in (split.train, split.validation, split.test)
    ]
    images = [(part - images[0].mean(axis=0)) / images[0].std() for part in images]
    return _squares(MLP(CODE, images[0].shape[1]), images, images)


def _log_ratio(name: str) -> Task:
    problem = ratios.PROBLEMS[name]
    task = ratios.task_of(problem)
    truth = problem.log_ratio(ratios.judged(problem))

    def judge(params):
        found = task.judge(params)
        return jnp.stack([found[0], jnp.log10(jnp.abs(found[1:] - truth).mean())])

    return task._replace(judge=judge, worst=1.0, lanes=LANES)


TASKS: dict[str, Callable[[], Task]] = {
    "regression": _regression,
    "autoencoder": _autoencoder,
    **{name: functools.partial(_log_ratio, name) for name in ("six", "mixture", "shift")},
}


@dataclass(frozen=True)
class Settings:
    """The tasks, the steps of a training, the budget of the search, and the fresh seeds."""

    tasks: tuple[str, ...] = tuple(TASKS)
    methods: tuple[str, ...] = tuple(METHODS)
    num_steps: int = 1500
    num_trials: int = 60
    trial_seeds: int = 2
    num_seeds: int = 30
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        ("regression",),
        (BASE, "isokinetic, cool"),
        num_steps=3,
        num_trials=2,
        trial_seeds=1,
        num_seeds=2,
    ),
    "laptop": Settings(),
    "paper": Settings(num_steps=6000, num_seeds=120),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """For each task and method a row: the search, and the test of what it chose."""
    cases = done.left({"task": t, "method": m} for t in settings.tasks for m in settings.methods)
    made = functools.cache(lambda name: TASKS[name]())
    for case, _ in counted(cases, "methods"):
        task, method = made(case["task"]), case["method"]
        row, found = searched(task, METHODS, method, settings.num_steps, settings)
        yield case | row | {"figure": found[:, 0].round(5)}


_READING = """\
The logarithm (base 10) of AdamW's error, and what the others have more, with one standard error
over {seeds} fresh seeds, which are paired; negative is better, -0.1 is a fifth less. Regression and
autoencoder: of the mean square; the others: of the mean |log ratio - its truth|. Bold: p below 0.05
after Holm's correction for all {number} comparisons. Every method had {trials} trials of
{trial_seeds} seeds, chosen by what a user sees, so that a difference has the luck of two searches
in it."""


def table(rows: list[Row]) -> str:
    """Every method on every task."""
    return architectures.table(rows, _READING)


def headline(rows: list[Row]) -> str:
    """What the member at unit speed has more than AdamW."""
    said = [
        f"{task} {mean_and_error(values, '+')}"
        for (task, method), values in differences(rows).items()
        if method == "isokinetic, cool"
    ]
    return f"isokinetic, less tuned {BASE}, in powers of ten of the error: " + ", ".join(said)


def plot(rows: list[Row]) -> Figure:
    """Every difference from AdamW, with two standard errors."""
    return architectures.plot(rows)
