"""Table 2 of the KO paper: do collisions of the classifier help on ImageNet?

The paper trains ResNet-50 with LAMB and ConvNeXt-Tiny and Small with AdamW, with RandAugment, mixup
and cutmix, and reports 0.2 to 0.5 points for soft and 0.0 to 0.3 for hard collisions. Optimizers
are Optax's, augmentations Keras's; random crops are made while an image is read. Preset `paper`
follows the recipes that the paper names, as far as these libraries have them: ResNet-50 as in
Wightman et al. 2021 (A2: LAMB, batch 2048, rate 5e-3, decay 0.02, 300 epochs, binary
cross-entropy), ConvNeXt as in Liu et al. 2022 (AdamW, batch 4096, rate 4e-3, decay 0.05, 300
epochs). Left out: stochastic depth, random erasing, repeated augmentation, averaged weights.

The other presets train on 20 images and test on the same: they show that everything works, and
nothing about accuracy.

Reproduces: KO, Table 2.
Needs: smoke and laptop: pip install foolbox keras; paper: --data-dir with ImageNet, a folder for
  each class in imagenet/train/ and imagenet/val/.
Takes: smoke 2 min; laptop 30 min on 2 cores (estimated); paper weeks on one GPU.
Scale: ImageNet may not be redistributed, and a training takes a week on a GPU.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks import data, vision
from benchmarks.experiments import UsageError
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row
from benchmarks.train import Build, batch_order

__all__ = ["METHODS", "PRESETS", "Settings", "headline", "plot", "run", "table"]

HEAD = kinopt.layer_mask("head")
NUM_CLASSES = 1000
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet's pixels, in [0, 1]
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
MIXUP, CUTMIX = 0.2, 1.0  # parameters of their Beta distributions
RANDAUGMENT = {"num_ops": 2, "factor": 0.7}  # magnitude 7 of 10
PATTERNS = ("*.JPEG", "*.jpg", "*.png")

METHODS: dict[str, Callable[[jax.Array], list[optax.GradientTransformation]]] = {
    "plain": lambda key: [],
    "soft 0.1": lambda key: [kinopt.soft_collision(0.1, mask=HEAD)],
    "hard 0.2, paper": lambda key: [summed_collision(0.2, key=key, mask=HEAD, distance="l2")],
}

PAPER = {
    "resnet-50": "79.70 / 94.53, soft 80.23 / 94.79, hard 79.98 / 94.61",
    "convnext-tiny": "82.10 / 96.03, soft 82.34 / 96.07, hard 82.17 / 96.03",
    "convnext-small": "82.83 / 96.29, soft 83.12 / 96.33, hard 82.91 / 96.29",
}


class Recipe(NamedTuple):
    """How a network is trained."""

    optimizer: Callable[..., optax.GradientTransformation]
    rate: float
    decay: float
    batch_size: int
    binary: bool  # binary cross-entropy of every class, not softmax


RECIPES = {
    "resnet-50": Recipe(optax.lamb, 5e-3, 0.02, 2048, binary=True),
    "convnext-tiny": Recipe(optax.adamw, 4e-3, 0.05, 4096, binary=False),
    "convnext-small": Recipe(optax.adamw, 4e-3, 0.05, 4096, binary=False),
}


@dataclass(frozen=True)
class Settings:
    """Networks and protocol; `images` is "foolbox" (20 images) or "imagenet" (the data folder)."""

    images: str = "foolbox"
    models: tuple[str, ...] = ("resnet-50", "convnext-tiny")
    methods: tuple[str, ...] = tuple(METHODS)
    side: int = 64
    epochs: int = 8
    warmup: float = 0.02  # share of the training
    batch_size: int | None = 20  # None: the recipe's
    num_seeds: int = 1
    seed: int = 0


PRESETS = {
    "smoke": Settings(models=("resnet-50",), methods=("soft 0.1",), side=32, epochs=1),
    "laptop": Settings(),
    "paper": Settings(
        images="imagenet",
        models=tuple(RECIPES),
        side=224,
        epochs=300,
        batch_size=None,
    ),
}


class Files(NamedTuple):
    """Where images lie, and their classes."""

    paths: list[Path]
    labels: np.ndarray  # int32 [count]


def find(images: str) -> tuple[Files, Files]:
    """Files to train with and to test with (for foolbox, the same).

    Raises:
        FileNotFoundError: ImageNet is not where it should be.
        ModuleNotFoundError: foolbox is not installed.
    """
    if images == "foolbox":
        what = "Twenty images of ImageNet"
        folder = data.package_folder("foolbox", what, "pip install foolbox") / "data"
        paths = sorted(folder.glob("imagenet_*_*.jpg"))
        labels = np.array([int(path.stem.rpartition("_")[2]) for path in paths], np.int32)
        return Files(paths, labels), Files(paths, labels)
    return _folder("train"), _folder("val")


def _folder(part: str) -> Files:
    folder = data.data_folder() / "imagenet" / part
    classes = sorted(path for path in folder.glob("*") if path.is_dir())
    if len(classes) != NUM_CLASSES:
        raise FileNotFoundError(
            f"{folder} should hold {NUM_CLASSES} folders of images, and holds {len(classes)}. Get "
            "ILSVRC 2012 from image-net.org (an account is needed), and unpack both parts into a "
            f"folder for each class. Name the data folder with --data-dir or {data.DATA_VARIABLE}."
        )
    paths, labels = [], []
    for label, path in enumerate(classes):
        found = [file for pattern in PATTERNS for file in sorted(path.glob(pattern))]
        paths += found
        labels += [label] * len(found)
    return Files(paths, np.array(labels, np.int32))


def read(path: Path, side: int, random: np.random.Generator | None = None) -> np.ndarray:
    """uint8 [side, side, 3]: the middle, or a random part (8 to 100 % of the area), maybe mirrored.

    Raises:
        UsageError: The file is no image.
    """
    from PIL import Image, ImageOps

    try:
        image = Image.open(path).convert("RGB")
    except OSError as error:
        raise UsageError(f"{path.name} is not an image ({error}): get it again.") from None
    if random is None:
        return np.asarray(ImageOps.fit(image, (side, side)))
    area = image.width * image.height * random.uniform(0.08, 1)
    aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(round(np.sqrt(area * aspect)), image.width)
    height = min(round(np.sqrt(area / aspect)), image.height)
    left = random.integers(image.width - width + 1)
    top = random.integers(image.height - height + 1)
    part = image.resize((side, side), box=(left, top, left + width, top + height))
    return np.asarray(ImageOps.mirror(part) if random.random() < 0.5 else part)


def augmentations(seed: int) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(images, labels) -> images and shares of classes: RandAugment, then mixup or cutmix.

    Raises:
        ModuleNotFoundError: Keras is not installed.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        from keras import layers
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "RandAugment, mixup and cutmix come from Keras, which is not installed: "
            "pip install keras"
        ) from None
    augment = layers.RandAugment(value_range=(0, 255), seed=seed, **RANDAUGMENT)
    mixes = [layers.MixUp(alpha=MIXUP, seed=seed), layers.CutMix(factor=CUTMIX, seed=seed)]
    random = np.random.default_rng(seed)

    def apply(images, labels):
        images = augment(images.astype(np.float32), training=True)
        shares = np.eye(NUM_CLASSES, dtype=np.float32)[labels]
        mixed = mixes[random.integers(2)]({"images": images, "labels": shares}, training=True)
        return np.asarray(mixed["images"]), np.asarray(mixed["labels"])

    return apply


def build(method: str, recipe: Recipe) -> Build:
    """Collision, then the recipe's optimizer."""
    return lambda rate, key: optax.chain(
        *METHODS[method](key), recipe.optimizer(rate, weight_decay=recipe.decay)
    )


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each network, method and seed."""
    cases = done.left(
        {"model": model, "method": method, "network": n}
        for n in range(settings.num_seeds)
        for model in settings.models
        for method in settings.methods
    )
    if not cases:
        return
    train, test = find(settings.images)
    for case, after_epoch in counted(cases, "epochs", settings.epochs):
        yield case | _train(case, train, test, settings, after_epoch)


def _train(case: Row, train: Files, test: Files, settings: Settings, after_epoch) -> Row:
    model, method, n = case.values()
    recipe = RECIPES[model]
    batch_size = settings.batch_size or recipe.batch_size
    small = {} if model.startswith("convnext") else {"small_images": settings.side <= 64}
    network_of = vision.MODELS[model](num_classes=NUM_CLASSES, **small)
    seed = 1000 * settings.seed + n
    key = jax.random.key(seed)
    variables = jax.jit(network_of.init)(key, jnp.zeros((1, settings.side, settings.side, 3)))
    params = variables["params"]
    state = build(method, recipe)(0.0, key).init(params)
    network = vision.Network(params, variables.get("batch_stats", {}), state)

    def normalize(images):
        return (images.astype(jnp.float32) / 255 - MEAN) / DEVIATION

    step = vision.training_step(
        network_of,
        build(method, recipe),
        lambda key, images, shares: (normalize(images), shares),
        optax.sigmoid_binary_cross_entropy if recipe.binary else optax.softmax_cross_entropy,
    )
    predict = jax.jit(lambda variables, images: network_of.apply(variables, normalize(images)))
    augment = augmentations(seed)
    steps_per_epoch = max(len(train.labels) // batch_size, 1)
    num_steps = settings.epochs * steps_per_epoch
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.rate, round(settings.warmup * num_steps), num_steps
    )
    losses = []
    with ThreadPoolExecutor() as pool:
        for epoch in range(settings.epochs):
            order = batch_order(len(train.labels), steps_per_epoch, batch_size, [seed, epoch])
            total = 0.0
            for number, index in enumerate(order, start=epoch * steps_per_epoch):
                read_one = functools.partial(_read_one, train, settings.side, [seed, number])
                images = np.stack(list(pool.map(read_one, index)))
                batch = augment(images, train.labels[index])
                network, loss, _ = step(network, np.float32(np.asarray(rate(number))), key, *batch)
                total += float(loss)
            losses.append(round(total / steps_per_epoch, 5))
            after_epoch()
        top = _test(predict, network, test, batch_size, settings.side, pool)
    return {"train_loss": losses, "top_1": top[0], "top_5": top[1]}


def _read_one(files: Files, side: int, seed: Sequence[int], index: int) -> np.ndarray:
    return read(files.paths[index], side, np.random.default_rng([*seed, int(index)]))


def _test(predict, network, test: Files, batch_size: int, side: int, pool) -> tuple[float, float]:
    """Top-1 and top-5 accuracy on the middles of the images."""
    variables = {"params": network.params, "batch_stats": network.batch_stats}
    ranks = []
    for start in range(0, len(test.labels), batch_size):
        index = np.arange(start, start + batch_size) % len(test.labels)
        images = np.stack(list(pool.map(lambda n: read(test.paths[n], side), index)))
        logits = np.asarray(predict(variables, images))
        own = np.take_along_axis(logits, test.labels[index][:, None], axis=1)
        ranks.append((logits > own).sum(axis=1)[: len(test.labels) - start])
    rank = np.concatenate(ranks)
    return float((rank == 0).mean()), float((rank < 5).mean())


def table(rows: list[Row]) -> str:
    """Accuracies of the last run beside the paper's."""
    lines = [
        [
            row["model"],
            row["method"],
            f"{100 * row['top_1']:.2f} / {100 * row['top_5']:.2f}",
            f"{row['train_loss'][0]:.3f} to {row['train_loss'][-1]:.3f}",
            PAPER[row["model"]],
        ]
        for row in rows
    ]
    header = ["model", "method", "top-1 / top-5 (%)", "training loss", "the paper (%)"]
    note = "Tested on the 20 images of the training: no evidence about accuracy."
    shown = "" if rows[0]["settings"]["images"] == "imagenet" else f"\n\n{note}"
    return table_of(header, lines) + shown


def headline(rows: list[Row]) -> str:
    """Accuracies, or that there was nothing to be accurate about."""
    if rows[0]["settings"]["images"] != "imagenet":
        return "trained and tested on the same 20 images: no evidence about accuracy"
    return "; ".join(f"{row['model']}, {row['method']}: {row['top_1']:.2%}" for row in rows)


def plot(rows: list[Row]) -> Figure:
    """The training loss of every network, epoch by epoch."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(4.2 * len(models), 3.2), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        for row in rows:
            if row["model"] == model:
                epochs = range(1, len(row["train_loss"]) + 1)
                axes.plot(epochs, row["train_loss"], ".-", label=row["method"])
        axes.set(title=model, xlabel="epoch", ylabel="training loss", yscale="log")
        axes.legend(fontsize=8)
    return figure
