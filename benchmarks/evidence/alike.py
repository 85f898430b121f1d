"""Do collisions help where units have to be alike?

Elsewhere (`evidence.when`) collisions gain nothing, and what they do, braking the common motion of
units that are alike, says where they might: where units stay alike to the end. Here is such a
problem with a knob. A soft committee machine of K units learns from a teacher whose units have the
mutual cosine rho (`_committee`). Every method searches its rate, and the strength of what it adds,
with the same number of trials on seeds of their own; what it chose is compared with the plain
optimizer on fresh seeds, paired, by log10 of the test error at the end.

    plain               Adam, or SGD without momentum
    soft                soft collisions, normalized, c from 0.1 to 1
    soft, gradients     the same with M = cos(G, G) alone
    momentum            1 - beta of the base from 0.003 to 0.5
    larger start        weights of 1 to 10 times the length
    noise               gradient noise, as a share of the gradient's rms
    penalty             on the squared cosines between units; it goes with the rate
    muon                Muon, 1 - beta likewise; on Adam's tasks

SGD has no momentum but as a method of its own, and twice Adam's steps. Left out: collisions before
SGD with momentum, layers of more than ten units, and trainings in which ten units are learned to
the end.

Beside it stand three numbers of the plain training: the share of the gradient that all units have
in common, and the mean |cos| between gradients and between weights, all at its end.

Reproduces: nothing.
Needs: nothing.
Takes: smoke 1 min; laptop 1 h on 2 busy cores; paper 6 h.
Scale: one layer of 5 or 10 units, noise-free; the output weights are not trained.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.evidence._alike_reading import headline, plot, table
from benchmarks.evidence._committee import ACTIVATIONS, METHODS, Looks, Size, train
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

TUNING_SEED = 99
DIVERGED = 1e3
"""The error of a training that ended in NaN."""

SOLVED = 1e-10
"""No error counts for less: some way below, the rounding of float32 decides."""

SCHEDULES = {"decayed": True, "constant": False}


@dataclass(frozen=True)
class Settings:
    """The grid, the budget of the search, and the fresh seeds."""

    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    cosines: tuple[float, ...] = (0.0, 0.5, 0.7, 0.9)
    units: tuple[int, ...] = (5, 10)
    schedules: tuple[tuple[str, int], ...] = (  # of Adam and Muon
        ("decayed", 500),
        ("decayed", 1000),
        ("constant", 500),
    )
    sgd_schedules: tuple[tuple[str, int], ...] = (  # twice as long
        ("decayed", 1000),
        ("decayed", 2000),
        ("constant", 1000),
    )
    inputs: int = 30
    batch: int = 64
    num_trials: int = 24
    trial_seeds: int = 2
    num_seeds: int = 48
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        activations=("erf",),
        cosines=(0.9,),
        units=(5,),
        schedules=(("decayed", 40),),
        sgd_schedules=(),
        num_trials=3,
        num_seeds=6,
    ),
    "laptop": Settings(),
    "paper": Settings(
        cosines=(0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9),
        schedules=(("decayed", 500), ("decayed", 1000), ("constant", 500), ("constant", 1000)),
        num_trials=48,
        num_seeds=96,
    ),
}
LOOKS = 10


def cases(settings: Settings) -> list[Row]:
    """What identifies each row: the task, the training, and the method."""
    found = []
    for base, name in METHODS:
        grid = itertools.product(
            settings.sgd_schedules if base == "sgd" else settings.schedules,
            settings.units,
            settings.activations,
            settings.cosines,
        )
        found += [
            {
                "base": base,
                "schedule": schedule,
                "steps": steps,
                "units": units,
                "activation": activation,
                "cosine": cosine,
                "method": name,
            }
            for (schedule, steps), units, activation, cosine in grid
        ]
    return found


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """A row for each method on each task."""
    for case, _ in counted(done.left(cases(settings)), "methods on tasks"):
        yield case | _judged(case, settings)


def trials(base: str, name: str, settings: Settings) -> dict[str, np.ndarray]:
    """Rates and strengths drawn log-uniformly, [num_trials]; where ranges agree, the same rates."""
    method = METHODS[base, name]
    random = np.random.default_rng([TUNING_SEED, ["adam", "sgd"].index(base)])

    def draw(low: float, high: float) -> np.ndarray:
        values = np.exp(random.uniform(np.log(low), np.log(high), settings.num_trials))
        return np.array([float(f"{x:.3g}") for x in values])

    return {"rate": draw(*method.rates), "strength": draw(*method.strengths)}


def log_error(looks: Looks) -> np.ndarray:
    """log10 of the error at the end, [lanes]."""
    error = np.nan_to_num(looks.error[:, -1], nan=DIVERGED, posinf=DIVERGED)
    return np.log10(np.clip(error, SOLVED, DIVERGED))


def _judged(case: Row, settings: Settings) -> Row:
    method = case["base"], case["method"]
    size = Size(case["units"], settings.inputs, settings.batch, LOOKS)

    def trained(rate, strength, seeds) -> Looks:
        place = case["activation"], case["cosine"], case["steps"], SCHEDULES[case["schedule"]]
        return train(method, size, *place, rate, strength, seeds)

    tried = trials(*method, settings)
    rate, strength = (np.repeat(values, settings.trial_seeds) for values in tried.values())
    seeds = [1000 * TUNING_SEED + n for n in range(settings.trial_seeds)] * settings.num_trials
    found = log_error(trained(rate, strength, seeds)).reshape(settings.num_trials, -1).mean(axis=1)
    best = int(found.argmin())
    chosen = {name: float(values[best]) for name, values in tried.items()}
    seeds = [1000 * settings.seed + n for n in range(settings.num_seeds)]
    rate, strength = (np.full(settings.num_seeds, value) for value in chosen.values())
    looks = trained(rate, strength, seeds)
    means = {
        name: np.nanmean(getattr(looks, name), axis=0) for name in ("common", "cos_g", "cos_w")
    }
    return {
        "tried": tried,
        "searched": found.round(3),
        "chosen": chosen,
        "log_error": log_error(looks).round(4),
        **{name: values.round(4) for name, values in means.items()},
    }
