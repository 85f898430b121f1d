"""How much longer does a training take with collisions? The KO paper: 3.69 h against 3.68 h.

The paper trains ResNet-50 for 200 epochs and compares the hours of one run each. A ratio of 1.003
cannot be seen in two runs; here whole training steps (crop, flip, forward, backward, collision,
momentum) of the same network take turns, and the ratios are taken within a turn. `speed.collisions`
has the same for a smaller network, and for a large layer alone.

Reproduces: KO, section 4.2, 3.69 h against 3.68 h.
Needs: nothing; images of noise take as long as others.
Takes: smoke 1 min; laptop 3 min on 2 cores; paper 5 min on a GPU.
Scale: ResNet-50 at batch 128 was not timed: a step takes a minute on 2 cores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks import vision
from benchmarks.ko import images
from benchmarks.markdown import table_of
from benchmarks.record import Row
from benchmarks.speed._ratios import ratios_picture
from benchmarks.timing import MedianRatio, interleaved, median_ratio

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

RATE = 0.1
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True)
class Settings:
    """The network, its images, and how often each method is timed."""

    model: str = "resnet-8"
    num_classes: int = 10
    side: int = 32
    batch_size: int = 128
    num_turns: int = 60
    methods: tuple[str, ...] = ("sgd", "soft 0.1", "hard 0.2, rms")
    seed: int = 0


PRESETS = {
    "smoke": Settings(side=8, batch_size=8, num_turns=8, methods=("sgd", "soft 0.1")),
    "laptop": Settings(),
    "paper": Settings(model="resnet-50", num_classes=100, num_turns=200),
}


def run(settings: Settings) -> Iterator[Row]:
    """One row for each method, all timed together."""
    random = np.random.default_rng(settings.seed)
    shape = (settings.batch_size, settings.side, settings.side, 3)
    batch = random.integers(0, 256, shape, np.uint8)
    labels = random.integers(0, settings.num_classes, settings.batch_size).astype(np.int32)
    networks = vision.Trainer(
        vision.MODELS[settings.model](num_classes=settings.num_classes),
        batch,
        {method: images.build(method, WEIGHT_DECAY) for method in settings.methods},
        settings.batch_size,
    )
    key = jax.random.key(settings.seed)
    states = {method: networks.initial(method, settings.seed) for method in settings.methods}

    def stepper(method: str):
        def advance():
            states[method], loss, _ = networks.steps[method](
                states[method], RATE, key, batch, labels
            )
            return loss

        return advance

    calls = {method: stepper(method) for method in settings.methods}
    seconds = interleaved(calls, settings.num_turns, "whole steps")
    for method, times in seconds.items():
        yield {
            "method": method,
            "milliseconds": float(1e3 * np.median(times)),
            "ratio": list(median_ratio(times, seconds["sgd"])),
        }


def table(rows: list[Row]) -> str:
    """Times and ratios of the last run."""
    settings = rows[0]["settings"]
    side = settings["side"]
    title = f"{settings['model']}, batch {settings['batch_size']}, {side} x {side}"
    return table_of(
        [f"step of {title}", "median time (ms)", "ratio to sgd, 95 % interval"],
        [
            [row["method"], f"{row['milliseconds']:.2f}", str(MedianRatio(*row["ratio"]))]
            for row in rows
        ],
    )


def headline(rows: list[Row]) -> str:
    """The ratios."""
    found = [
        f"{row['method']} {MedianRatio(*row['ratio'])}" for row in rows if row["method"] != "sgd"
    ]
    return f"{rows[-1]['settings']['model']}, whole steps: {', '.join(found)}"


def plot(rows: list[Row]) -> Figure:
    """The ratios, and the paper's."""
    ratios = {row["method"]: row["ratio"] for row in rows if row["method"] != "sgd"}
    label = "a whole step, in steps without collisions (dotted: the paper's 3.69 h / 3.68 h)"
    return ratios_picture(ratios, label, aim=3.69 / 3.68)
