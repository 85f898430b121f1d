"""How much of the soft collision's force is left when neurons collide in cells only?

The force on neuron i from the others is F_i = -c sum_j M_ij g_j (KO paper, Algorithm 2, without the
term i = j, which every scheme keeps). In cells of s neurons only partners in the same cell count.
Random cells keep every pair with probability (s - 1) / (N - 1): in the mean over steps the force is
that share of the exact one, in the exact direction. Cells from a locality-sensitive hash keep the
pairs that are alike. For each kind and size of cells:

    cosine       between the force in cells and the exact one, all neurons together
    norm         of the force in cells over that of the exact one
    kept         <F_cells, F> / <F, F>: the share of the exact force that is in it
    mean cosine  of the force averaged over the draws of all keys, which is what an optimizer with
                 momentum sees

The layers: random weights and gradients; a layer condensed to a few directions; the same with both
signs of each direction, where exact forces cancel between a neuron and its mirror image; and two
layers of a network that has learned to read digits, with the gradient of a minibatch.

There is no such experiment in the paper.

Reproduces: KO, section 3.2 (cells), which the paper describes and does not measure.
Needs: nothing.
Takes: smoke 30 s; laptop 5 min on 2 cores.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from benchmarks import data
from benchmarks.markdown import table_of
from benchmarks.models import MLP
from benchmarks.progress import progress_bar
from benchmarks.record import Row
from kinopt.collisions.cells import Cells, in_cells
from kinopt.collisions.soft import soft_law

__all__ = ["PRESETS", "Settings", "plot", "run", "table"]

KINDS: tuple[Cells, ...] = ("random", "hash")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of layers and cells, and how many draws of the cells are averaged over."""

    num_neurons: int = 1024
    num_features: int = 256
    num_directions: int = 16  # of the condensed layers
    spread: float = 0.5  # of a condensed neuron about its direction, in each feature
    num_hidden: int = 512  # neurons of the trained layers
    num_steps: int = 300  # of their training
    cell_sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    num_draws: int = 16
    seed: int = 0


PRESETS = {
    "smoke": Settings(64, 16, 4, 0.5, 32, 20, (8, 16), 4),
    "laptop": Settings(),
    "paper": Settings(4096, 1024, 64, 0.5, 2048, 1000, (32, 64, 128, 256, 512, 1024), 32),
}


def layers(settings: Settings) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Weights and gradients [N, D] by the name of the layer."""
    keys = jax.random.split(jax.random.key(settings.seed), 6)
    shape = settings.num_neurons, settings.num_features
    w, g = (jax.random.normal(key, shape) for key in keys[:2])
    toward = [jax.random.normal(key, (settings.num_directions, shape[1])) for key in keys[2:4]]
    which = jax.random.randint(keys[4], shape[:1], 0, settings.num_directions)
    sign = jnp.where(jax.random.bernoulli(keys[5], shape=(shape[0], 1)), 1.0, -1.0)
    clustered = [center[which] for center in toward]
    noise = settings.spread * w, settings.spread * g
    return {
        "random": (w, g),
        "condensed": (clustered[0] + noise[0], clustered[1] + noise[1]),
        "condensed, both signs": (sign * clustered[0] + noise[0], sign * clustered[1] + noise[1]),
    } | _trained(settings)


def _trained(settings: Settings) -> dict[str, tuple[jax.Array, jax.Array]]:
    split = data.load("digits", settings.seed)
    images, labels = jnp.asarray(split.train_images), jnp.asarray(split.train_labels)
    model, optimizer = MLP((settings.num_hidden,) * 2), optax.adam(1e-3)
    params = model.init(jax.random.key(settings.seed), images[:1])["params"]

    def loss(params, batch):
        logits = jnp.asarray(model.apply({"params": params}, images[batch]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    draws = np.random.default_rng(settings.seed)
    batches = jnp.asarray(draws.integers(0, len(images), (settings.num_steps + 1, 64)))
    train = jax.jit(
        lambda params: jax.lax.scan(step, (params, optimizer.init(params)), batches[1:])
    )
    (params, _), _ = train(params)
    grads = jax.jit(jax.grad(loss))(params, batches[0])
    return {
        f"trained, layer {n + 1}": (params[name]["kernel"].T, grads[name]["kernel"].T)
        for n, name in enumerate(("Dense_0", "Dense_1"))
    }


def run(settings: Settings) -> Iterator[Row]:
    """One row for each layer, kind and size of cells."""
    keys = jax.random.split(jax.random.key(settings.seed), settings.num_draws)
    found = layers(settings)
    cases = list(itertools.product(found, KINDS, settings.cell_sizes))
    exact = {name: force(w, g) for name, (w, g) in found.items()}
    with progress_bar(len(cases), "cells") as bar:
        for name, cells, cell_size in cases:
            w, g = found[name]
            draw = jax.jit(functools.partial(force, w, g, cell_size=cell_size, cells=cells))
            forces = [draw(key) for key in keys]
            measured = [_compared(one, exact[name]) for one in forces]
            mean = {key: float(np.mean([m[key] for m in measured])) for key in measured[0]}
            error = np.std([m["cosine"] for m in measured], ddof=1) / len(keys) ** 0.5
            average = jnp.mean(jnp.stack(forces), axis=0)
            yield {
                "layer": name,
                "neurons": len(w),
                "cells": cells,
                "cell_size": cell_size,
                **mean,
                "cosine_error": float(error),
                "mean_cosine": _compared(average, exact[name])["cosine"],
            }
            bar.update()


def force(w, g, key=None, cell_size=None, cells: Cells = "random") -> jax.Array:
    """What the soft law changes at c = 1, without the term of each neuron with itself."""

    def law(w, g, key, crowd):
        return soft_law(w, g, 1.0, self_term=False, crowd=crowd)

    return in_cells(law, w, g, key, cell_size, cells)[0] - g


def _compared(force: jax.Array, exact: jax.Array) -> dict[str, float]:
    a, b = (np.asarray(x, np.float64) for x in (force, exact))
    product, length, norm = float(np.sum(a * b)), np.linalg.norm(a), float(np.linalg.norm(b))
    return {
        "cosine": float(product / (length * norm)),
        "norm": float(length / norm),
        "kept": product / norm**2,
    }


def table(rows: list[Row]) -> str:
    """All that was measured in the last run."""
    return table_of(
        ["layer", "cells", "cell size of N", "cosine", "norm", "kept", "mean cosine"],
        [
            [
                row["layer"],
                row["cells"],
                f"{row['cell_size']} of {row['neurons']}",
                f"{row['cosine']:.3f} ± {row['cosine_error']:.3f}",
                *(f"{row[name]:.3f}" for name in ("norm", "kept", "mean_cosine")),
            ]
            for row in rows
        ],
    )


def plot(rows: list[Row]) -> Figure:
    """Cosine and kept share against cell size, a column for each layer."""
    names = list(dict.fromkeys(row["layer"] for row in rows))
    figure = Figure(figsize=(2.6 * len(names), 5), layout="constrained")
    panels = figure.subplots(2, len(names), sharex=True, sharey="row")
    for (above, below), name in zip(panels.T, names, strict=True):
        size, neurons = rows[0]["settings"]["cell_sizes"], 1
        for color, cells in enumerate(KINDS):
            part = [row for row in rows if (row["layer"], row["cells"]) == (name, cells)]
            style = {"color": f"C{color}", "marker": "o", "markersize": 4}
            above.plot(size, [row["cosine"] for row in part], label=cells, **style)
            label, mean = f"{cells}, mean of draws", [row["mean_cosine"] for row in part]
            above.plot(size, mean, label=label, **style | {"ls": ":"})
            below.plot(size, [row["kept"] for row in part], label=cells, **style)
            neurons = part[0]["neurons"]
        share = [(s - 1) / (neurons - 1) for s in size]
        below.plot(size, share, color="black", lw=1, ls="--", label="(s - 1) / (N - 1)")
        above.set(title=name, ylim=(-0.1, 1.05))
        below.set(xlabel="neurons in a cell, s", xscale="log", yscale="log")
    panels[0, 0].set_ylabel("cosine with the exact force")
    panels[1, 0].set_ylabel("share of the exact force kept")
    panels[0, 0].legend(fontsize=7)
    panels[1, 0].legend(fontsize=7)
    return figure
