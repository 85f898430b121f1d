"""Residual networks and ConvNeXt in Flax, and their training on images.

The classifier is always called `head`. ResNet-18, 34 and 50 (He et al. 2016) have the usual first
layer for small images, 3 x 3 without pooling; ConvNeXt is that of Liu et al. 2022, without
stochastic depth. Training is plain: batches of uint8 images are cropped and flipped, normalized and
learned from, on whichever device JAX finds.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from benchmarks import checkpoint
from benchmarks.data import Split
from benchmarks.progress import counted
from benchmarks.record import Row
from benchmarks.train import Build, accepted_fraction, batch_order
from kinopt._typing import PyTree
from kinopt.metrics import neuron_similarity, weight_correlation

__all__ = [
    "MODELS",
    "ConvNeXt",
    "ConvNet",
    "History",
    "ResNet",
    "Trainer",
    "crop_and_flip",
    "normalizer",
    "training_step",
]


class Block(linen.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1 (bottleneck), and the input added."""

    width: int
    stride: int
    bottleneck: bool

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[batch, height, width, channels] -> the same, or half as high and wide."""
        norm = functools.partial(linen.BatchNorm, not train, momentum=0.9)
        conv = functools.partial(linen.Conv, use_bias=False, kernel_init=HE)
        out = self.width * (4 if self.bottleneck else 1)
        if self.bottleneck:
            y = linen.relu(norm()(conv(self.width, (1, 1))(x)))
            y = linen.relu(norm()(conv(self.width, (3, 3), self.stride)(y)))
            y = norm()(conv(out, (1, 1))(y))
        else:
            y = linen.relu(norm()(conv(self.width, (3, 3), self.stride)(x)))
            y = norm()(conv(out, (3, 3))(y))
        if x.shape != y.shape:
            x = norm()(conv(out, (1, 1), self.stride)(x))
        return linen.relu(x + y)


HE = linen.initializers.he_normal()


class ResNet(linen.Module):
    """A residual network; `hidden` puts dense layers between it and `head`."""

    stages: Sequence[int]
    width: int = 64
    bottleneck: bool = False
    small_images: bool = True
    hidden: Sequence[int] = ()
    activation: Callable[[jax.Array], jax.Array] = linen.relu
    num_classes: int = 10

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalized images [batch, height, width, channels] -> logits."""
        size, stride = ((3, 3), 1) if self.small_images else ((7, 7), 2)
        x = linen.Conv(self.width, size, stride, use_bias=False, kernel_init=HE)(x)
        x = linen.relu(linen.BatchNorm(not train, momentum=0.9)(x))
        if not self.small_images:
            x = linen.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, count in enumerate(self.stages):
            for n in range(count):
                stride = 2 if stage > 0 and n == 0 else 1
                x = Block(self.width * 2**stage, stride, self.bottleneck)(x, train)
        x = jnp.mean(x, axis=(1, 2))
        for n, width in enumerate(self.hidden):
            x = self.activation(linen.Dense(width, name=f"dense_{n}")(x))
        return linen.Dense(self.num_classes, name="head")(x)


class ConvNet(linen.Module):
    """Two 5 x 5 convolutions, each followed by max-pooling, and `head`."""

    widths: Sequence[int] = (16, 32)
    num_classes: int = 10

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalized images [batch, height, width, channels] -> logits."""
        del train
        for width in self.widths:
            x = linen.max_pool(linen.relu(linen.Conv(width, (5, 5))(x)), (2, 2), (2, 2))
        return linen.Dense(self.num_classes, name="head")(x.reshape(len(x), -1))


class ConvNeXt(linen.Module):
    """Depthwise 7 x 7 convolutions, each followed by two dense layers, in four stages."""

    depths: Sequence[int]
    widths: Sequence[int] = (96, 192, 384, 768)
    num_classes: int = 1000

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalized images [batch, height, width, channels] -> logits."""
        del train
        small = linen.initializers.truncated_normal(0.02)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage:
                x = linen.LayerNorm(1e-6)(x)
            size = 2 if stage else 4
            x = linen.Conv(width, (size, size), size, kernel_init=small)(x)
            if not stage:
                x = linen.LayerNorm(1e-6)(x)
            for n in range(depth):
                y = linen.Conv(width, (7, 7), feature_group_count=width, kernel_init=small)(x)
                y = linen.Dense(4 * width, kernel_init=small)(linen.LayerNorm(1e-6)(y))
                y = linen.Dense(width, kernel_init=small)(linen.gelu(y, approximate=False))
                scale = linen.initializers.constant(1e-6)
                name = f"scale_{stage}_{n}"
                x = x + self.param(name, scale, (width,)) * y
        x = linen.LayerNorm(1e-6)(jnp.mean(x, axis=(1, 2)))
        return linen.Dense(self.num_classes, kernel_init=small, name="head")(x)


MODELS: dict[str, Callable[..., linen.Module]] = {
    "cnn": ConvNet,
    "resnet-8": functools.partial(ResNet, (1, 1, 1), width=8),
    "resnet-18": functools.partial(ResNet, (2, 2, 2, 2)),
    "resnet-34": functools.partial(ResNet, (3, 4, 6, 3)),
    "resnet-50": functools.partial(ResNet, (3, 4, 6, 3), bottleneck=True),
    "convnext-tiny": functools.partial(ConvNeXt, (3, 3, 9, 3)),
    "convnext-small": functools.partial(ConvNeXt, (3, 3, 27, 3)),
}
"""resnet-8 is the small one, three stages of one block with 8, 16 and 32 channels."""


class Network(NamedTuple):
    """Everything that a step changes."""

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree


class History(NamedTuple):
    """What was measured after each epoch."""

    test_accuracy: list[float]
    train_loss: list[float]
    mean_abs_cosine: list[float]  # of the classifier's neurons
    max_abs_cosine: list[float]
    accepted_fraction: list[float]  # nan without hard collisions
    seconds: list[float]  # of the training in the epoch


def normalizer(images: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """uint8 or float32 images -> float32 with zero mean and unit variance in every channel."""
    axes = tuple(range(images.ndim - 1))
    mean = images.mean(axis=axes, dtype=np.float64).astype(np.float32)
    deviation = images.std(axis=axes, dtype=np.float64).astype(np.float32)
    return lambda batch: (batch.astype(jnp.float32) - mean) / deviation


def crop_and_flip(key: jax.Array, images: jax.Array, padding: int = 4, flip: bool = True):
    """Each image padded with zeros, cut at a random place to its size, and mirrored or not."""
    crop_key, flip_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(crop_key, (len(images), 2), 0, 2 * padding + 1)

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    cropped = jax.vmap(crop)(padded, corners)
    if not flip:
        return cropped
    mirrored = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, cropped[:, :, ::-1], cropped)


def training_step(model: linen.Module, build: Build, prepare: Callable, loss_from: Callable):
    """A jitted step: (network, rate, key, images, targets) -> (network, loss, accepted fraction).

    Args:
        model: The network; its batch statistics are kept beside the parameters.
        build: (learning rate, key) -> optimizer; its state holds the key, so that one program
            serves all seeds.
        prepare: (key, images, targets) -> normalized images and targets.
        loss_from: (logits, targets) -> losses of the batch.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def step(network: Network, rate, key, images, targets):
        images, targets = prepare(key, images, targets)
        optimizer = optax.with_extra_args_support(build(rate, key))

        def loss_of(params):
            variables = {"params": params, "batch_stats": network.batch_stats}
            logits, changed = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return loss_from(logits, targets).mean(), changed.get("batch_stats", {})

        (loss, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(network.params)
        updates, state = optimizer.update(grads, network.opt_state, network.params, value=loss)
        params = optax.apply_updates(network.params, updates)
        return Network(params, batch_stats, state), loss, accepted_fraction(state)

    return step


class Trainer:
    """Trains networks of one kind on images of one kind, with softmax cross-entropy.

    Programs are compiled once for each optimizer, and used for all seeds and learning rates;
    `steps` holds them (see `training_step`).

    Args:
        model: A network whose classifier is called `head`.
        images: What all images are normalized by, [count, height, width, channels].
        builds: Name -> (learning rate, key) -> optimizer.
        batch_size: Images in a step.
        padding: Pixels added at every edge before a crop; 0: no crop.
        flip: Whether half of the images are mirrored.
    """

    def __init__(
        self,
        model: linen.Module,
        images: np.ndarray,
        builds: dict[str, Build],
        batch_size: int,
        padding: int = 4,
        flip: bool = True,
    ):
        normalize = normalizer(images)

        def prepare(key, images, labels):
            images = normalize(images)
            return crop_and_flip(key, images, padding, flip) if padding else images, labels

        losses = optax.softmax_cross_entropy_with_integer_labels
        self._batch_size = batch_size
        self._builds = builds
        self.steps = {
            name: training_step(model, build, prepare, losses) for name, build in builds.items()
        }
        self._init = jax.jit(lambda key: model.init(key, jnp.zeros((1, *images.shape[1:]))))
        self._predict = jax.jit(lambda variables, x: model.apply(variables, normalize(x)))

    def initial(self, method: str, seed: int) -> Network:
        """A network as the seed says, whatever the method."""
        key = jax.random.key(seed)
        variables = self._init(key)
        state = self._builds[method](1.0, key).init(variables["params"])  # the same for any
        return Network(variables["params"], variables.get("batch_stats", {}), state)

    def fit(
        self,
        method: str,
        split: Split,
        schedule: Callable[[float], Any],
        epochs: int,
        seed: int,
        path: Path | None = None,
        after_epoch: Callable[[], Any] = lambda: None,
    ) -> tuple[Network, History]:
        """Trains one network; tests after every epoch.

        The seed fixes weights, order and augmentation, whatever the method.

        Args:
            method: Which of the optimizers.
            split: What to learn from, and what to be judged by.
            schedule: Share of the training done -> learning rate, or what `builds` take for it.
            epochs: Every one sees all images but an incomplete last batch.
            seed: Of weights, order and augmentation.
            path: Where the state is kept after every epoch; a training found there goes on.
            after_epoch: Called after every epoch (a progress bar).
        """
        key = jax.random.key(seed)
        network = self.initial(method, seed)
        num_images = len(split.train_labels)
        num_steps = num_images // self._batch_size
        history = History(*([] for _ in History._fields))
        saved = checkpoint.load(path, {"network": network, "history": history._asdict()})
        if saved is not None:
            network = jax.tree.map(jnp.asarray, saved["network"])
            history = History(**saved["history"])
        for epoch in range(len(history.test_accuracy), epochs):
            order = batch_order(num_images, num_steps, self._batch_size, [seed, epoch])
            began = time.perf_counter()
            sums = jnp.zeros(2)
            for number, index in enumerate(order, start=epoch * num_steps):
                network, loss, accepted = self.steps[method](
                    network,
                    schedule(number / (epochs * num_steps)),
                    jax.random.fold_in(key, number),
                    split.train_images[index],
                    split.train_labels[index],
                )
                sums = sums + jnp.stack([loss, accepted])
            loss, accepted = (np.asarray(sums, np.float64) / num_steps).round(6).tolist()
            history.seconds.append(round(time.perf_counter() - began, 3))
            history.train_loss.append(loss)
            history.accepted_fraction.append(accepted)
            accuracy = self.accuracy(network, split.test_images, split.test_labels)
            history.test_accuracy.append(accuracy)
            head = network.params["head"]["kernel"].T
            history.mean_abs_cosine.append(round(float(weight_correlation(head)), 5))
            history.max_abs_cosine.append(round(float(neuron_similarity(head)), 5))
            checkpoint.save(path, {"network": network, "history": history._asdict()})
            after_epoch()
        return network, history

    def fit_each(
        self,
        cases: list[Row],
        split: Split,
        schedule: Callable[[str], Callable[[float], Any]],
        epochs: int,
        seed: int,
        checkpoints: Path | None,
    ) -> Iterator[tuple[Row, History]]:
        """Trains a network for each case, from a checkpoint where a training was cut short.

        Args:
            cases: Each with `method` and `network`, the number of its seed.
            split: What to learn from, and what to be judged by.
            schedule: Method -> what `fit` takes.
            epochs: Of each.
            seed: Of the run; networks of the same number start alike, whatever the method.
            checkpoints: The folder of trainings that were cut short; None: they are not kept.

        Yields:
            Case and history. A checkpoint goes when the next is asked for: the row is kept then.
        """
        title = f"{cases[0]['model']} on {cases[0]['data']}" if cases else ""
        for case, after_epoch in counted(cases, title, epochs):
            method = case["method"]
            path = checkpoints and checkpoints / " ".join(map(str, case.values()))
            number = 1000 * seed + case["network"]
            rate = schedule(method)
            _, history = self.fit(method, split, rate, epochs, number, path, after_epoch)
            yield case, history
            checkpoint.remove(path)

    def accuracy(self, network: Network, images: np.ndarray, labels: np.ndarray) -> float:
        """The share of images that it tells right."""
        right, count = 0, len(labels)
        variables = {"params": network.params, "batch_stats": network.batch_stats}
        for start in range(0, count, self._batch_size):
            # The last batch is filled up from the beginning, so that there is one program.
            index = np.arange(start, start + self._batch_size) % count
            found = np.asarray(self._predict(variables, images[index])).argmax(-1)
            right += int((found == labels[index])[: count - start].sum())
        return round(right / count, 5)
