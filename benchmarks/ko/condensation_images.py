"""Fig. 4 of the KO paper: do collisions slow the condensation of a ResNet's dense layers?

The classifier of a ResNet-18 becomes dense layers of 1024, 1024 and 10 neurons with tanh or
xtanh = x tanh(x), trained on CIFAR-10 by Adam at 3e-8 (tanh) and 5e-6 (xtanh), after Zhou et al.
2022. The figure shows the cosines of the first dense layer's neurons without, with soft and with
hard collisions, and says that both slow condensation. Weights begin small there, which the KO paper
does not restate; here the dense layers begin with standard deviation 1 / D^`gamma` for D inputs.

Reproduces: KO, Fig. 4 (appendix B.1).
Needs: laptop: --data-dir with cifar10/ (JPEG); paper: CIFAR-10, binary.
Takes: smoke 1 min; laptop 15 min on 2 cores; paper hours on a GPU.
Scale: ResNet-18 on all of CIFAR-10 was not run: it needs hours of a GPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks import vision
from benchmarks.ko import condensation
from benchmarks.ko.images import load
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row
from benchmarks.train import batch_order
from kinopt import metrics

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

DENSE = kinopt.layer_mask("dense_")
SHOWN_NEURONS = 60

LAWS: dict[str, Callable[[jax.Array], optax.GradientTransformation]] = {
    "none": lambda key: optax.identity(),
    "soft 0.002": lambda key: kinopt.soft_collision(0.002, mask=DENSE),
    "soft 0.02": lambda key: kinopt.soft_collision(0.02, mask=DENSE),
    "hard 0.1, matching": lambda key: kinopt.hard_collision(
        0.1, key=key, mask=DENSE, combine="matching"
    ),
    "hard 0.1, paper": lambda key: summed_collision(0.1, key=key, mask=DENSE, distance="l2"),
}


@dataclass(frozen=True)
class Settings:
    """The network, Adam's learning rates, and when neurons are looked at."""

    model: str = "resnet-8"
    data: str = "cifar10-small"
    hidden: tuple[int, ...] = (1024, 1024)
    rates: tuple[tuple[str, float], ...] = (("tanh", 1e-4), ("xtanh", 1e-4))
    laws: tuple[str, ...] = ("none", "soft 0.002", "soft 0.02", "hard 0.1, matching")
    gamma: float = 1.0
    num_steps: int = 100
    num_snapshots: int = 10
    batch_size: int = 64
    most: int | None = 2000
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        data="mnist",
        hidden=(32, 32),
        rates=(("tanh", 1e-3),),
        laws=("none", "soft 0.02"),
        num_steps=4,
        num_snapshots=2,
        most=128,
    ),
    "laptop": Settings(),
    "paper": Settings(
        model="resnet-18",
        data="cifar10",
        rates=(("tanh", 3e-8), ("xtanh", 5e-6)),
        laws=tuple(LAWS),
        num_steps=40_000,
        num_snapshots=40,
        batch_size=128,
        most=None,
    ),
}


def small_start(params, gamma: float):
    """The same weights, with the dense layers brought to standard deviation D^-gamma."""

    def scaled(name: str, layer):
        if not name.startswith("dense_"):
            return layer
        kernel = layer["kernel"]
        return {**layer, "kernel": kernel / jnp.std(kernel) * kernel.shape[0] ** -gamma}

    return {name: scaled(name, layer) for name, layer in params.items()}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each activation and law, all from the same start and batches."""
    cases = done.left(
        {"activation": activation, "law": law, "rate": rate}
        for activation, rate in settings.rates
        for law in settings.laws
    )
    if not cases:
        return
    split = load(settings.data, settings.most)
    for case, after_snapshot in counted(cases, "networks", settings.num_snapshots):
        yield case | _measured(**case, split=split, settings=settings, after=after_snapshot)


def _measured(activation, law, rate, split, settings: Settings, after) -> Row:
    model = vision.MODELS[settings.model](
        hidden=settings.hidden, activation=condensation.ACTIVATIONS[activation]
    )
    normalize = vision.normalizer(split.train_images)

    def prepare(key, images, labels):
        return normalize(images), labels

    def build(rate, key):
        return optax.chain(LAWS[law](key), optax.adam(rate))

    losses = optax.softmax_cross_entropy_with_integer_labels
    step = vision.training_step(model, build, prepare, losses)
    key = jax.random.key(settings.seed)
    variables = jax.jit(model.init)(key, jnp.zeros((1, *split.train_images.shape[1:])))
    params = small_start(variables["params"], settings.gamma)
    network = vision.Network(params, variables["batch_stats"], build(rate, key).init(params))
    chunk = settings.num_steps // settings.num_snapshots
    order = batch_order(
        len(split.train_labels), settings.num_steps, settings.batch_size, settings.seed
    )
    found = {name: [] for name in ("mean_abs_cosine", "max_abs_cosine", "effective_rank", "loss")}
    steps, accepted = [], []
    for number, index in enumerate(order, start=1):
        batch = split.train_images[index], split.train_labels[index]
        network, loss, fraction = step(network, rate, key, *batch)
        accepted.append(fraction)
        if number % chunk == 0 or number == 1:
            neurons = network.params["dense_0"]["kernel"].T
            steps.append(number)
            for name, value in measure(neurons).items():
                found[name].append(round(float(value), 5))
            found["loss"].append(round(float(loss), 5))
            if number > 1:
                after()
    neurons = np.asarray(network.params["dense_0"]["kernel"].T[:SHOWN_NEURONS])
    cosines = np.asarray(metrics.cosine_similarity(jnp.asarray(neurons)), np.float64)
    return {
        "steps": steps,
        **found,
        "accepted_fraction": float(np.mean(accepted)),
        "cosines": cosines.round(2),
    }


@jax.jit
def measure(neurons: jax.Array) -> dict[str, jax.Array]:
    """How condensed a layer is."""
    return {
        "mean_abs_cosine": metrics.weight_correlation(neurons),
        "max_abs_cosine": metrics.neuron_similarity(neurons),
        "effective_rank": metrics.effective_rank(neurons),
    }


def table(rows: list[Row]) -> str:
    """The first dense layer at the last step of the last run."""
    lines = [
        [
            row["activation"],
            row["law"],
            f"{row['rate']:g}",
            *(f"{row[name][-1]:.3f}" for name in ("mean_abs_cosine", "max_abs_cosine")),
            f"{row['effective_rank'][-1]:.1f}",
            f"{row['loss'][-1]:.3f}",
            "" if row["accepted_fraction"] is None else f"{row['accepted_fraction']:.2%}",
        ]
        for row in rows
    ]
    header = ["activation", "law", "rate", "mean abs. cosine", "max", "effective rank", "loss"]
    settings = rows[-1]["settings"]
    return (
        f"{settings['model']} with dense layers of {settings['hidden']} neurons on "
        f"{settings['data']}, step {settings['num_steps']}, one seed:\n\n"
        f"{table_of([*header, 'pairs accepted'], lines)}"
    )


def headline(rows: list[Row]) -> str:
    """Mean |cos| of each law at the end."""
    parts: dict[str, list[str]] = {}
    for row in rows:
        text = f"{row['law']} {row['mean_abs_cosine'][-1]:.2f}"
        parts.setdefault(row["activation"], []).append(text)
    found = "; ".join(f"{name}: {', '.join(texts)}" for name, texts in parts.items())
    return f"mean abs. cosine of the first dense layer, one seed; {found}"


def plot(rows: list[Row]) -> Figure:
    """Heat maps of the first neurons, one row for each activation, and mean |cos| by step."""
    activations = list(dict.fromkeys(row["activation"] for row in rows))
    laws = list(dict.fromkeys(row["law"] for row in rows))
    figure = Figure(figsize=(2.4 * len(laws) + 4, 2.6 * len(activations)), layout="constrained")
    grid = figure.subplots(
        len(activations), len(laws) + 1, squeeze=False, width_ratios=[1] * len(laws) + [1.4]
    )
    for line, activation in zip(grid, activations, strict=True):
        part = {row["law"]: row for row in rows if row["activation"] == activation}
        for axes, law in zip(line, laws, strict=False):
            cosines = np.array(part[law]["cosines"])
            _, vectors = np.linalg.eigh(cosines)
            order = np.argsort(vectors[:, -1])
            axes.imshow(cosines[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{law}\nmean |cos| {part[law]['mean_abs_cosine'][-1]:.2f}", fontsize=9)
            line[-1].plot(part[law]["steps"], part[law]["mean_abs_cosine"], label=law)
        line[0].set_ylabel(activation)
        line[-1].set(xlabel="step", ylabel="mean |cos|", ylim=(0, 1.02))
        line[-1].legend(fontsize=7, frameon=False)
    figure.colorbar(
        grid[0, 0].images[0], ax=grid[:, :-1], shrink=0.7, label=f"cosine, first {SHOWN_NEURONS}"
    )
    return figure
