"""What the demo compares, and on which task.

Every method belongs to a base optimizer. The base alone chooses the learning rate, tuned without
collisions (`benchmarks.tuning`), so that a collision can never win by a better learning rate; and
every method of a base is compared with that base, seed by seed.
"""

from dataclasses import dataclass

import optax

import kinopt
from benchmarks.train import Build

__all__ = ["METHODS", "SOFT", "SPLIT_SEED", "Method", "Settings", "bases"]

SOFT = 0.1
HARD = 0.2
MOMENTUM = 0.9
HEAD = kinopt.layer_mask("head")

SPLIT_SEED = 0
"""Fixed for every run, so that tuning never sees an image that the demo tests with."""


@dataclass(frozen=True)
class Settings:
    """The task, the same for all methods."""

    data: str = "digits"
    num_seeds: int = 16
    num_steps: int = 800
    batch_size: int = 64
    steps_between_tests: int = 25
    hidden: tuple[int, ...] = (128, 64)
    seed: int = 0

    @property
    def seeds(self) -> list[int]:
        """The seeds of the networks; those of another `seed` are all different."""
        return [1000 * self.seed + number for number in range(self.num_seeds)]


@dataclass(frozen=True)
class Method:
    """An optimizer of the demo.

    Attributes:
        name: Its name in tables and pictures.
        base: The method it is compared with, and whose learning rate it uses.
        build: (learning rate, key) -> optimizer. Its update gets `value=loss` as well.
        rates: The learning rates to choose from; only a base has them.
    """

    name: str
    base: str
    build: Build
    rates: tuple[float, ...] = ()


def _soft() -> optax.GradientTransformation:
    return kinopt.soft_collision(SOFT, mask=HEAD)


def _hard(key) -> optax.GradientTransformation:
    return kinopt.hard_collision(HARD, key=key, mask=HEAD)


def _sgd(rate) -> optax.GradientTransformation:
    return optax.sgd(rate, momentum=MOMENTUM)


METHODS = (
    Method("sgd", "sgd", lambda rate, key: _sgd(rate), (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)),
    Method("sgd + soft", "sgd", lambda rate, key: optax.chain(_soft(), _sgd(rate))),
    Method("sgd + hard", "sgd", lambda rate, key: optax.chain(_hard(key), _sgd(rate))),
    Method(
        "adamw",
        "adamw",
        lambda rate, key: optax.adamw(rate),
        (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    ),
    Method("adamw + soft", "adamw", lambda rate, key: optax.chain(_soft(), optax.adamw(rate))),
    Method("adamw + hard", "adamw", lambda rate, key: optax.chain(_hard(key), optax.adamw(rate))),
)
"""One more method is one more entry; one that is its own base gets learning rates to try."""


def bases() -> list[Method]:
    """The methods that others are compared with."""
    return [method for method in METHODS if method.name == method.base]
