"""What do collisions add to a whole training step?

KO's claim is 3.69 h for a ResNet-18 with collisions against 3.68 h without (0.3 %). Here is one
step, gradient and update, of a ResNet-18 for small images with a head of 10 and of 1,000 classes;
neurons of the head collide. All candidates take turns; ratios are medians of the ratios to the
plain step of the same turn, with 95 % intervals. A few hundredths cannot be seen so; the collision
alone, a program of its own, takes its turns too, and its time is given in percent of a step.

Reproduces: KO, section 4.2 (3.69 h against 3.68 h), on a ResNet-18 instead of a ResNet-50.
Needs: nothing; images of noise take as long as others.
Takes: smoke 20 s; laptop 4 min; paper an hour on 2 cores.
Scale: half of ResNet-18's channels at laptop: a step of all of them takes half a minute on 2 cores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.models import ResNet
from benchmarks.record import Row
from benchmarks.speed._ratios import ratios_picture
from benchmarks.timing import MedianRatio, interleaved, median_ratio

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

PLAIN = "adamw"
QUARTILES = [0.25, 0.5, 0.75]


@dataclass(frozen=True)
class Settings:
    """The network, the batch, and how often each candidate is timed."""

    width: int = 32  # channels of the first stage; ResNet-18 has 64
    num_stages: int = 4
    image_size: int = 32
    batch_size: int = 128
    heads: tuple[int, ...] = (10, 1000)
    cell_size: int = 128
    num_turns: int = 6
    seed: int = 0


PRESETS = {
    "smoke": Settings(8, 1, 8, 2, (10,)),
    "laptop": Settings(),
    "gpu": Settings(width=64, batch_size=1024, num_turns=100),
    "paper": Settings(width=64, num_turns=100),
}


def collisions(settings: Settings, num_classes: int) -> dict[str, optax.GradientTransformation]:
    """What goes before the base optimizer, by name."""
    head, c = kinopt.layer_mask("head"), 1 / num_classes
    soft, hard, size = kinopt.soft_collision, summed_collision, settings.cell_size
    chosen = {
        PLAIN: optax.identity(),
        "soft": soft(c, mask=head),
        "hard": hard(0.2, mask=head),
    }
    if num_classes > settings.cell_size:
        chosen[f"soft, cells of {size}"] = soft(c, mask=head, cell_size=size)
        chosen[f"hard, cells of {size}"] = hard(0.2, mask=head, cell_size=size)
    return chosen


def run(settings: Settings) -> Iterator[Row]:
    """One row for each head and candidate."""
    keys = jax.random.split(jax.random.key(settings.seed), 3)
    images = jax.random.uniform(keys[0], (settings.batch_size, *[settings.image_size] * 2, 3))
    for num_classes in settings.heads:
        model = ResNet(settings.width, num_classes, settings.num_stages)
        labels = jax.random.randint(keys[1], (settings.batch_size,), 0, num_classes)
        params = jax.jit(model.init)(keys[2], images)["params"]
        states, calls = {}, {}
        chosen = collisions(settings, num_classes)
        for name, collision in chosen.items():
            optimizer = optax.chain(collision, optax.adamw(1e-3))
            states[name] = params, optimizer.init(params)
            calls[name] = _stepper(model, images, labels, optimizer, states, name)
        alone = {f"{name}, alone": _alone(collision, params) for name, collision in chosen.items()}
        seconds = interleaved(calls | alone, settings.num_turns, "training steps")
        plain = seconds[PLAIN]
        for name in chosen:
            accepted = None
            if name.startswith("hard"):
                (stats,) = kinopt.collision_stats(states[name][1]).values()
                accepted = stats.accepted_fraction
            yield {
                "classes": num_classes,
                "candidate": name,
                "milliseconds": [1e3 * float(q) for q in np.quantile(seconds[name], QUARTILES)],
                "ratio": list(median_ratio(seconds[name], plain)),
                "alone": list(median_ratio(seconds[f"{name}, alone"], plain)),
                "accepted_fraction": accepted,
            }


def _stepper(model, images, labels, optimizer, states: dict, name: str):
    def loss_of(params):
        logits = jnp.asarray(model.apply({"params": params}, images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss_of)(params), state, params)
        return optax.apply_updates(params, updates), state

    def advance():
        states[name] = step(*states[name])
        return states[name]

    return advance


def _alone(collision: optax.GradientTransformation, params):
    """The collision as a program of its own, with weights for gradients."""
    update, state = jax.jit(collision.update), collision.init(params)
    return lambda: update(params, state, params)


def table(rows: list[Row]) -> str:
    """Times with quartiles, and ratios to the plain step, of the last run."""
    return table_of(
        [
            "classes",
            "candidate",
            "ms (quartiles)",
            "ratio to plain",
            "collision alone, %",
            "pairs accepted",
        ],
        [
            [
                str(row["classes"]),
                row["candidate"],
                "{1:.0f} ({0:.0f} to {2:.0f})".format(*row["milliseconds"]),
                str(MedianRatio.from_row(row["ratio"])),
                "{:.2f} ({:.2f} to {:.2f})".format(
                    *(100 * x for x in MedianRatio.from_row(row["alone"]))
                ),
                "" if row["accepted_fraction"] is None else f"{row['accepted_fraction']:.3f}",
            ]
            for row in rows
        ],
    )


def headline(rows: list[Row]) -> str:
    """What collisions of the smallest and the largest head take."""
    few, many = (pick(row["classes"] for row in rows) for pick in (min, max))
    listed = [
        f"head of {row['classes']}, {row['candidate']}: {100 * row['alone'][0]:.2g} %"
        for row in rows
        if (row["classes"] == few and row["candidate"] in ("soft", "hard"))
        or (row["classes"] == many and row["candidate"].startswith("soft, cells"))
    ]
    return "of a training step, collisions take: " + "; ".join(listed)


def plot(rows: list[Row]) -> Figure:
    """The ratios with their intervals."""
    ratios = {
        f"{row['candidate']}, {row['classes']} classes": row["ratio"]
        for row in rows
        if row["candidate"] != PLAIN
    }
    return ratios_picture(ratios, "a training step, in steps without collisions")
