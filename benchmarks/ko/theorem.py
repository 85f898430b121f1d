"""Theorem 3.3 of the KO paper, measured: where does a collision lower weight correlation?

The theorem says that with a small learning rate both collisions lower the mean |cos| of a layer.
Its proof compares a step with and without the collision to first order in the learning rate, and
assumes that w_i . g_i < 0 (soft), or that the colliding neurons approach (hard), which the laws do
not ask for. Here that first order is computed exactly, on drawn layers and along real trainings:

    effect = |w| / |g|  d/d eta  mean_{i != j} |cos(w_i - eta (g'_i - g_i), ...)|   at eta = 0

(a derivative along -(g' - g), with no step size in it): the change of mean |cos| for a step as long
as the weights themselves. Negative: the collision lowers correlation. The laws:

    soft                 Algorithm 2, divided by its coefficient, in which it is linear
    hard                 Algorithm 1 with all pairs accepted (c = 1), averaged over the scattering
                         directions, which have no mean effect (restitution 0)
    hard, approaching    the same for pairs with (w_i - w_j) . (g_i - g_j) > 0: the proof's case
    hard, c = 0.2        as it is used (rms distances, scattering); one draw

Drawn layers: 20 neurons of 30 features, w = direction + spread * noise, and g a mixture of w and
noise with w_i . g_i = alignment |w_i| |g_i| on average. Trainings: the network of `ko.condensation`
with Adam, and a network with one hidden layer on scikit-learn's digits with SGD; w and g are those
of the step, for the hidden layer and for the head.

Reproduces: KO, Theorem 3.3, which the paper proves and does not measure.
Needs: nothing.
Takes: smoke 20 s; laptop 1 min; paper 5 min on 2 cores.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from benchmarks import data
from benchmarks.ko import condensation
from benchmarks.markdown import table_of
from benchmarks.models import MLP
from benchmarks.progress import progress_bar
from benchmarks.record import NOTHING, Done, Row
from benchmarks.train import batch_order
from kinopt._typing import Neurons, PyTree, Scalar
from kinopt.collisions.hard import hard_law
from kinopt.collisions.soft import soft_law
from kinopt.metrics import weight_correlation
from kinopt.plots import PALETTE

__all__ = ["LAWS", "PRESETS", "Settings", "effect", "headline", "plot", "run", "table"]

NEURONS, FEATURES = 20, 30
ALIGNMENTS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
SPREADS = (0.1, 0.3, 0.6, 1.0, 2.0, 5.0)
DIGITS = {"hidden": "Dense_0", "head": "head"}
DIGITS_RATE, DIGITS_BATCH, DIGITS_HIDDEN = 0.1, 64, 32
CONDENSATION_RATE = 1e-3

Law = Callable[[Neurons, Neurons, jax.Array], Neurons]


def _soft(w: Neurons, g: Neurons, key: jax.Array) -> Neurons:
    return soft_law(w, g, jnp.float32(1))[0]


def _hard(w: Neurons, g: Neurons, key: jax.Array, approaching_only: bool = False) -> Neurons:
    c = jnp.float32(1)
    return hard_law(
        w, g, key, c, distance="l2", approaching_only=approaching_only, restitution=0.0
    )[0]


def _hard_as_used(w: Neurons, g: Neurons, key: jax.Array) -> Neurons:
    return hard_law(w, g, key, jnp.float32(0.2), distance="rms")[0]


LAWS: dict[str, Law] = {
    "soft": _soft,
    "hard": _hard,
    "hard, approaching": functools.partial(_hard, approaching_only=True),
    "hard, c = 0.2": _hard_as_used,
}


@dataclass(frozen=True)
class Settings:
    """How many layers are drawn for a point, how many networks are trained, and how long."""

    draws: int = 200
    num_seeds: int = 20
    num_steps: int = 600
    num_snapshots: int = 30
    tasks: tuple[str, ...] = ("tanh", "relu", "softplus", "digits")
    laws: tuple[str, ...] = tuple(LAWS)
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        draws=4,
        num_seeds=2,
        num_steps=20,
        num_snapshots=4,
        tasks=("tanh",),
        laws=("soft", "hard"),
    ),
    "laptop": Settings(),
    "paper": Settings(draws=2000, num_seeds=100, num_steps=2000, num_snapshots=50),
}


def effect(law: Law, w: Neurons, g: Neurons, key: jax.Array) -> Scalar:
    """What the collision does to mean |cos| at first order (module docstring)."""
    _, slope = jax.jvp(weight_correlation, (w,), (g - law(w, g, key),))
    length = jnp.linalg.norm(g)
    return slope * jnp.linalg.norm(w) / jnp.where(length > 0, length, 1)


def draw(key: jax.Array, spread: float, alignment: float) -> tuple[Neurons, Neurons]:
    """A layer around one direction, and gradients that point along it as far as asked."""
    direction_key, noise_key, gradient_key = jax.random.split(key, 3)
    direction = jax.random.normal(direction_key, (1, FEATURES))
    w = direction + spread * jax.random.normal(noise_key, (NEURONS, FEATURES))
    unit = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    noise = jax.random.normal(gradient_key, w.shape) / np.sqrt(FEATURES)
    return w, alignment * unit + jnp.sqrt(1 - jnp.square(alignment)) * noise


@functools.partial(jax.jit, static_argnames="law")
def effects_of_drawn(law: str, spread, alignment, keys) -> tuple[jax.Array, jax.Array]:
    """The effect, and mean |cos|, of every layer drawn."""

    def one(key):
        layer_key, law_key = jax.random.split(key)
        w, g = draw(layer_key, spread, alignment)
        return effect(LAWS[law], w, g, law_key), weight_correlation(w)

    return jax.lax.map(one, keys, batch_size=100)


def neurons(params: PyTree, names: dict[str, str]) -> dict[str, Neurons]:
    """The chosen layers, one row for each neuron."""
    kernels = {layer: params[name] for layer, name in names.items()}
    return {layer: (k["kernel"] if isinstance(k, dict) else k).T for layer, k in kernels.items()}


def states_along(
    loss_of: Callable, params: PyTree, optimizer, batches, names: dict[str, str]
) -> dict[str, tuple[Neurons, Neurons]]:
    """(w, g) of the chosen layers before each of the snapshots, [snapshots, N, D].

    Args:
        loss_of: (params, batch) -> loss.
        params: The start.
        optimizer: It takes the steps.
        batches: [snapshots, steps between them, ...].
        names: Layer -> its name in the parameters.
    """

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss_of)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    def snapshot(carry, batches):
        grads = jax.grad(loss_of)(carry[0], jax.tree.map(lambda leaf: leaf[0], batches))
        w, g = neurons(carry[0], names), neurons(grads, names)
        carry, _ = jax.lax.scan(step, carry, batches)
        return carry, {layer: (w[layer], g[layer]) for layer in names}

    return jax.lax.scan(snapshot, (params, optimizer.init(params)), batches)[1]


def condensing(activation: str, seed: int, settings: Settings):
    """(w, g) along the training of the network of Fig. 2."""
    data_key, start_key = jax.random.split(jax.random.key(seed))
    x, y = condensation.samples(data_key)

    def loss_of(params, _):
        hidden = condensation.ACTIVATIONS[activation](x @ params["hidden"])
        return jnp.mean(jnp.square(hidden @ params["output"] - y))

    batches = jnp.zeros((settings.num_snapshots, settings.num_steps // settings.num_snapshots))
    optimizer = optax.adam(CONDENSATION_RATE)
    return states_along(
        loss_of, condensation.start(start_key), optimizer, batches, {"hidden": "hidden"}
    )


def reading_digits(seed: int, order: np.ndarray, images, labels, settings: Settings):
    """(w, g) along a training on digits."""
    model = MLP((DIGITS_HIDDEN,))
    params = model.init(jax.random.key(seed), images[:1])["params"]

    def loss_of(params, index):
        logits = jnp.asarray(model.apply({"params": params}, images[index]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[index]).mean()

    batches = jnp.asarray(order).reshape(settings.num_snapshots, -1, DIGITS_BATCH)
    return states_along(loss_of, params, optax.sgd(DIGITS_RATE, 0.9), batches, DIGITS)


def trainings(task: str, settings: Settings) -> dict[str, tuple[Neurons, Neurons]]:
    """(w, g) of each layer of all seeds, [seeds, snapshots, N, D]."""
    seeds = jnp.arange(settings.num_seeds) + 1000 * settings.seed
    if task != "digits":
        return jax.jit(jax.vmap(lambda seed: condensing(task, seed, settings)))(seeds)
    split = data.load("digits")
    images, labels = jnp.asarray(split.train_images), jnp.asarray(split.train_labels)
    orders = np.stack(
        [batch_order(len(labels), settings.num_steps, DIGITS_BATCH, int(seed)) for seed in seeds]
    )
    read = functools.partial(reading_digits, images=images, labels=labels, settings=settings)
    return jax.jit(jax.vmap(read))(seeds, jnp.asarray(orders))


@functools.partial(jax.jit, static_argnames="law")
def effects_along(law: str, w, g, key):
    """Of every state: the effect, and the two assumptions of the proof."""

    def one(w, g, key):
        closing = jnp.sum((w[:, None] - w) * (g[:, None] - g), axis=-1)
        pairs = ~jnp.eye(len(w), dtype=bool)
        return {
            "effect": effect(LAWS[law], w, g, key),
            "mean_abs_cosine": weight_correlation(w),
            "outward": jnp.mean(jnp.sum(w * g, axis=1) < 0),  # w . g < 0
            "approaching": jnp.sum((closing > 0) & pairs) / jnp.sum(pairs),
        }

    flat_w, flat_g = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in (w, g))
    found = jax.lax.map(
        lambda state: one(*state), (flat_w, flat_g, jax.random.split(key, len(flat_w)))
    )
    return {name: leaf.reshape(w.shape[:2]) for name, leaf in found.items()}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """A row for each law on drawn layers, then for each task, layer and law.

    `lowered` and `raised` are shares of layers (or of seeds); an effect may also be zero.
    """
    key = jax.random.key(settings.seed)
    keys = jax.random.split(key, settings.draws)
    with progress_bar(len(settings.laws) * (1 + len(settings.tasks)), "laws") as bar:
        for law in settings.laws:
            if not done(task="drawn", law=law):
                yield _drawn(law, keys)
            bar.update()
        for task in settings.tasks:
            states = None
            for law in settings.laws:
                states = states or trainings(task, settings)
                for layer, (w, g) in states.items():
                    if not done(task=task, law=law, layer=layer):
                        yield _along(task, law, layer, w, g, key, settings)
                bar.update()


def _drawn(law: str, keys: jax.Array) -> Row:
    found = [
        [effects_of_drawn(law, spread, alignment, keys) for alignment in ALIGNMENTS]
        for spread in SPREADS
    ]
    effects, cosines = np.moveaxis(np.array(found, np.float64), 2, 0)
    return {
        "task": "drawn",
        "law": law,
        "layer": "",
        "alignments": ALIGNMENTS,
        "mean_abs_cosine": cosines.mean(axis=(1, 2)).round(4),
        "effect": effects.mean(axis=-1).round(5),
        "effect_error": (effects.std(axis=-1, ddof=1) / np.sqrt(len(keys))).round(5),
        "lowered": (effects < 0).mean(axis=-1).round(4),
        "raised": (effects > 0).mean(axis=-1).round(4),
    }


def _along(task: str, law: str, layer: str, w, g, key, settings: Settings) -> Row:
    measured = effects_along(law, w, g, key)
    found = {name: np.asarray(leaf, np.float64) for name, leaf in measured.items()}
    effects = found["effect"]
    return {
        "task": task,
        "law": law,
        "layer": layer,
        "steps": np.arange(settings.num_snapshots) * (settings.num_steps // settings.num_snapshots),
        "effect": effects.mean(axis=0).round(6),
        "effect_error": (effects.std(axis=0, ddof=1) / np.sqrt(len(effects))).round(6),
        "lowered": (effects < 0).mean(axis=0).round(4),
        "raised": (effects > 0).mean(axis=0).round(4),
        **{
            name: found[name].mean(axis=0).round(4)
            for name in ("mean_abs_cosine", "outward", "approaching")
        },
    }


READING = """\
The effect is the change of mean |cos| for a step as long as the weights, at first order, due to the
collision; down, up, "lowers" and "raises" are the shares of layers in which it is negative and
positive (no pair collides in the others). Early and late are the first and last third of a
training. "w.g < 0" and "approaching" are how often the proof's assumptions hold, over neurons and
over pairs. The proof also assumes cos > 0: where neurons are at obtuse angles as often as at acute
ones (digits), turning approaching ones back raises |cos|."""


def table(rows: list[Row]) -> str:
    """Drawn layers at the corners, and the trainings early and late."""
    drawn = [row for row in rows if row["task"] == "drawn"]
    corners = []
    for row in drawn:
        cosines = row["mean_abs_cosine"]
        for spread in (0, len(cosines) // 2, -1):
            cells = [
                f"{row['effect'][spread][n]:+.4f} ({row['lowered'][spread][n]:.0%} down, "
                f"{row['raised'][spread][n]:.0%} up)"
                for n in (1, len(ALIGNMENTS) // 2, -2)
            ]
            corners.append([row["law"], f"{cosines[spread]:.2f}", *cells])
    names = [f"w.g = {ALIGNMENTS[n]:+g}" for n in (1, len(ALIGNMENTS) // 2, -2)]
    parts = [table_of(["law, drawn layers", "mean abs. cosine", *names], corners)] if drawn else []
    lines = []
    for row in rows:
        if row["task"] != "drawn":
            third = max(len(row["steps"]) // 3, 1)
            for name, part in (("early", slice(third)), ("late", slice(-third, None))):
                mean = {
                    key: float(np.mean(row[key][part]))
                    for key in (
                        "mean_abs_cosine",
                        "outward",
                        "approaching",
                        "effect",
                        "lowered",
                        "raised",
                    )
                }
                lines.append(
                    [
                        f"{row['task']}, {row['layer']}",
                        row["law"],
                        name,
                        f"{mean['mean_abs_cosine']:.2f}",
                        f"{mean['outward']:.0%}",
                        f"{mean['approaching']:.0%}",
                        f"{mean['effect']:+.4f}",
                        f"{mean['lowered']:.0%}",
                        f"{mean['raised']:.0%}",
                    ]
                )
    header = ["training", "law", "when", "mean abs. cosine", "w.g < 0", "approaching", "effect"]
    parts.append(table_of([*header, "lowers", "raises"], lines))
    return "\n\n".join(parts)


def headline(rows: list[Row]) -> str:
    """In what share of the states of real trainings each law lowers the correlation."""
    rows = [row for row in rows if row["task"] != "drawn"]
    shares = {
        law: np.mean([np.mean(row["lowered"]) for row in rows if row["law"] == law])
        for law in ("soft", "hard", "hard, approaching")
    }
    text = ", ".join(f"{law} {share:.0%}" for law, share in shares.items())
    return f"conditional; lowers mean abs. cosine in these shares of training states: {text}"


def plot(rows: list[Row]) -> Figure:
    """How often correlation rises: above, in drawn layers; below, along the trainings."""
    drawn = [row for row in rows if row["task"] == "drawn"]
    along = [row for row in rows if row["task"] != "drawn"]
    places = list(dict.fromkeys((row["task"], row["layer"]) for row in along))
    width = max(len(drawn), len(places))
    figure = Figure(figsize=(2.9 * width, 6.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
    upper.suptitle("Layers drawn at random: blue, the collision lowers mean |cos|", fontsize=11)
    grid = upper.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    image = None
    for axes, row in zip(grid, drawn, strict=True):
        image = axes.imshow(
            np.array(row["raised"]) - np.array(row["lowered"]),
            cmap="RdBu_r",
            vmin=-1,
            vmax=1,
            aspect="auto",
        )
        axes.set_title(row["law"], fontsize=10)
        axes.set_xticks(range(0, len(ALIGNMENTS), 2), [f"{a:+g}" for a in ALIGNMENTS[::2]])
        axes.set_yticks(range(len(SPREADS)), [f"{c:.2f}" for c in row["mean_abs_cosine"]])
        axes.set_xlabel("cosine of w and g", fontsize=9)
        axes.tick_params(labelsize=8)
    grid[0].set_ylabel("mean |cos| of the layer", fontsize=9)
    scale = upper.colorbar(image, ax=grid, ticks=[-1, 0, 1], shrink=0.8)
    scale.ax.set_yticklabels(["always lowers", "either, or none", "always raises"], fontsize=8)
    lower.suptitle(
        "Along real trainings: share of seeds in which it raises, less lowers", fontsize=11
    )
    axes = None
    for n, (task, layer) in enumerate(places):
        axes = lower.add_subplot(1, len(places), n + 1, sharey=axes)
        for color, law in zip(PALETTE, LAWS, strict=False):
            for row in along:
                if (row["task"], row["layer"], row["law"]) == (task, layer, law):
                    net = np.array(row["raised"]) - np.array(row["lowered"])
                    axes.plot(row["steps"], net, color=color, label=law, lw=1.5)
        axes.axhspan(-1, 0, color="C0", alpha=0.06, lw=0)
        axes.axhline(0, color="black", lw=0.8)
        axes.set(ylim=(-1.05, 1.05), xlabel="step")
        axes.set_title(f"{task}, {layer}", fontsize=10)
        axes.tick_params(labelsize=7)
    handles, labels = lower.axes[0].get_legend_handles_labels()
    lower.legend(
        handles, labels, ncols=len(labels), loc="outside lower center", frameon=False, fontsize=9
    )
    return figure
