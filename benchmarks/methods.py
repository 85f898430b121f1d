"""What the demo compares, and on which task.

Every method belongs to a base optimizer. The base alone chooses the learning rate, tuned without
collisions (`benchmarks.tuning`), so that a collision can never win by a better learning rate; and
every method of a base is compared with that base, seed by seed. BBI's learning rate is its time
step. It conserves energy, and asks for the loss: that of the minibatch.
"""

from dataclasses import dataclass

import jax
import optax

import kinopt
from benchmarks.laws import summed_collision
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


def _sgd(rate, key) -> optax.GradientTransformation:
    del key
    return optax.sgd(rate, momentum=MOMENTUM)


def _adamw(rate, key) -> optax.GradientTransformation:
    del key
    return optax.adamw(rate)


def _bbi(rate, key) -> optax.GradientTransformation:
    """T0, Nb, T1 are those of the BBI paper's MNIST run (section 4.5).

    f_min and the extra energy are zero. The paper searched for the extra energy too; here the time
    step alone is tuned.
    """
    return kinopt.bbi(
        rate,
        fixed_bounce_every=100,
        num_fixed_bounces=5,
        patience=1000,
        key=jax.random.fold_in(key, 1),  # a hard collision before it uses the key itself
    )


def _methods(base: str, build: Build, rates: tuple[float, ...]) -> tuple[Method, Method, Method]:
    """A base optimizer, and the same after soft and after hard collisions of the head."""

    def soft(rate, key):
        return optax.chain(kinopt.soft_collision(SOFT, mask=HEAD), build(rate, key))

    def hard(rate, key):
        return optax.chain(summed_collision(HARD, key=key, mask=HEAD), build(rate, key))

    return (
        Method(base, base, build, rates),
        Method(f"{base} + soft", base, soft),
        Method(f"{base} + hard", base, hard),
    )


METHODS = (
    *_methods("sgd", _sgd, (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)),
    *_methods("adamw", _adamw, (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)),
    *_methods("bbi", _bbi, (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)),
)
"""One more method is one more entry; one that is its own base gets learning rates to try."""


def bases() -> list[Method]:
    """The methods that others are compared with."""
    return [method for method in METHODS if method.name == method.base]
