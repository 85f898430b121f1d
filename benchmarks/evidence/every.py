"""What is left of a collision that happens at every k-th update only?

Where nothing else changes much in k updates, colliding at every k-th with k c is colliding at each
with c, at a k-th of the cost. A network whose hidden neurons begin as copies of a few, with noise,
learns scikit-learn's digits with SGD and the soft law on that layer: at every k-th update,
with c and with k c. From the same weights and with the same batches, seed by seed: how much lower
the mean |cos| between hidden neurons is at the end than without collisions.

Reproduces: nothing; KO collides at every update.
Needs: nothing.
Takes: smoke 10 s; laptop 1 min; paper 10 min on 2 cores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import kinopt
from benchmarks import data
from benchmarks.markdown import table_of
from benchmarks.models import MLP
from benchmarks.record import Row, latest
from kinopt.metrics import weight_correlation

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

LAYER = "Dense_0"


@dataclass(frozen=True)
class Settings:
    """The network, how it begins and learns, and how often its neurons collide."""

    num_hidden: int = 128
    num_directions: int = 16  # of which the neurons begin as copies
    spread: float = 0.5  # of the noise, where a copy's entries have standard deviation 1
    coll_coef: float = 0.02
    learning_rate: float = 0.1
    batch_size: int = 64
    num_steps: int = 1000
    periods: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    num_seeds: int = 8
    seed: int = 0


PRESETS = {
    "smoke": Settings(16, 4, num_steps=20, periods=(1, 2), num_seeds=2),
    "laptop": Settings(),
    "paper": Settings(num_seeds=64),
}


def run(settings: Settings) -> Iterator[Row]:
    """One row for each period and coefficient, after one without collisions."""
    split = data.load("digits", settings.seed)
    images, labels = jnp.asarray(split.train_images), jnp.asarray(split.train_labels)
    model = MLP((settings.num_hidden,))

    def loss(params, batch):
        logits = jnp.asarray(model.apply({"params": params}, images[batch]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def begin(key):
        keys = jax.random.split(key, 4)
        params = model.init(keys[0], images[:1])["params"]
        kernel = params[LAYER]["kernel"]
        toward = jax.random.normal(keys[1], (len(kernel), settings.num_directions))
        which = jax.random.randint(keys[2], (settings.num_hidden,), 0, settings.num_directions)
        noise = settings.spread * jax.random.normal(keys[3], kernel.shape)
        params[LAYER]["kernel"] = (toward[:, which] + noise) / len(kernel) ** 0.5
        return params

    @jax.jit
    def train(keys, c, every):
        optimizer = optax.chain(
            kinopt.soft_collision(c, mask=kinopt.layer_mask(LAYER), every=every),
            optax.sgd(settings.learning_rate),
        )

        def one(key):
            params_key, batches_key = jax.random.split(key)
            shape = settings.num_steps, settings.batch_size
            batches = jax.random.randint(batches_key, shape, 0, len(images))

            def step(carry, batch):
                params, state = carry
                value, grads = jax.value_and_grad(loss)(params, batch)
                updates, state = optimizer.update(grads, state, params)
                return (optax.apply_updates(params, updates), state), value

            params = begin(params_key)
            (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), batches)
            return weight_correlation(params[LAYER]["kernel"].T), jnp.mean(losses[-50:])

        return jax.lax.map(one, keys)

    keys = jax.random.split(jax.random.key(settings.seed), settings.num_seeds)
    plain, plain_loss = (np.asarray(x) for x in train(keys, 0.0, 1))
    for scaled in (False, True):
        for every in settings.periods:
            c = settings.coll_coef * (every if scaled else 1)
            cosine, last = (np.asarray(x) for x in train(keys, c, every))
            yield {
                "every": every,
                "coll_coef": c,
                "scaled": scaled,
                "mean_abs_cosine": cosine,
                "without": plain,
                "loss": last,
                "loss_without": plain_loss,
            }


def fallen(row: Row) -> tuple[float, float]:
    """How much lower |cos| is with collisions: mean over seeds, and its standard error."""
    difference = np.array(row["without"]) - np.array(row["mean_abs_cosine"])
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)


def table(rows: list[Row]) -> str:
    """What happened to |cos| and to the loss, in the last run."""
    return table_of(
        ["every", "c", "|cos|", "|cos| without", "lower by", "loss", "loss without"],
        [
            [
                str(row["every"]),
                f"{row['coll_coef']:.2f}",
                f"{np.mean(row['mean_abs_cosine']):.4f}",
                f"{np.mean(row['without']):.4f}",
                "{:.4f} ± {:.4f}".format(*fallen(row)),
                f"{np.mean(row['loss']):.4f}",
                f"{np.mean(row['loss_without']):.4f}",
            ]
            for row in latest(rows)
        ],
    )


def headline(rows: list[Row]) -> str:
    """What the longest period keeps of the effect."""
    rows = latest(rows)
    first, last = (
        rows[0],
        rows[len(rows) // 2 - 1],
    )
    return f"every {last['every']} updates: {fallen(last)[0] / fallen(first)[0]:.0%} of the effect"


def plot(rows: list[Row], folder: str | Path) -> Path:
    """By how much |cos| is lower, against the period."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for scaled, label in ((False, "c"), (True, "k c")):
        part = [row for row in latest(rows) if row["scaled"] == scaled]
        middle, error = np.array([fallen(row) for row in part]).T
        axes.errorbar([row["every"] for row in part], middle, error, fmt="o-", label=label)
    axes.axhline(0, color="black", lw=1)
    axes.set(xscale="log", xlabel="collisions at every k-th update")
    axes.set_ylabel("mean |cos|, lower by")
    axes.legend(frameon=False, title="coefficient")
    target = Path(folder) / "evidence.every.png"
    figure.savefig(target, dpi=120)
    return target
