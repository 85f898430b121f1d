"""How the BBI paper compares optimizers on a function, sections 4.1 and 4.2.

Hyperparameters are searched by a Tree of Parzen Estimators (Bergstra et al. 2013): the paper used
hyperopt's, here it is Optuna's with its defaults. A trial is one descent from a fixed start; it
counts by the lowest loss on the way. Trials follow one another, each knowing all those before.

The paper gives ranges and no distribution; samples here are uniform, unless a range says otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optuna
from scipy import stats

import kinopt
from benchmarks.progress import progress_bar
from kinopt.landscapes import Landscape

__all__ = ["Method", "Range", "Search", "adam", "bbi", "descent", "gdm", "search", "wilson"]

Hyperparameters = dict[str, Any]


class Range(NamedTuple):
    """Where a hyperparameter is searched."""

    low: float
    high: float
    logarithmic: bool = False


@dataclass(frozen=True, eq=False)
class Method:
    """An optimizer and what is searched of it.

    Attributes:
        name: Its name in tables and pictures.
        build: (hyperparameters, key) -> optimizer.
        space: The ranges of its hyperparameters.
    """

    name: str
    build: Callable[[Hyperparameters, jax.Array], optax.GradientTransformation]
    space: Mapping[str, Range]

    def optimizer(self, hyperparameters: Hyperparameters):
        """Key -> optimizer, as `kinopt.ensemble.run` wants it."""
        return lambda key: self.build(hyperparameters, key)


def bbi(name: str, step: Range | float, **fixed: Any) -> Method:
    """Algorithm 1 with a time step that is searched, or given; other arguments are given."""

    def build(found, key):
        return kinopt.bbi(found.get("learning_rate", step), key=key, stay=False, **fixed)

    return Method(name, build, {"learning_rate": step} if isinstance(step, Range) else {})


def gdm(name: str, step: Range) -> Method:
    """Gradient descent with momentum, as PyTorch's SGD: v <- mu v + g, Theta <- Theta - eta v."""

    def build(found, key):
        del key
        return optax.sgd(found["learning_rate"], momentum=found["momentum"])

    return Method(name, build, {"learning_rate": step, "momentum": Range(0.0, 1.0)})


def adam(name: str, step: Range) -> Method:
    """Adam, which the paper leaves out; only its learning rate is searched."""

    def build(found, key):
        del key
        return optax.adam(found["learning_rate"])

    return Method(name, build, {"learning_rate": step})


class Search(NamedTuple):
    """What a search found."""

    hyperparameters: dict[str, float]
    lowest_loss: float  # of the best trial


def descent(method: Method, landscape: Landscape, num_steps: int):
    """A compiled function (hyperparameters, start, key) -> points and losses along the way.

    Points are [num_steps + 1, n], losses [num_steps + 1], the start first.
    """

    @jax.jit
    def descend(hyperparameters, start, key):
        optimizer = optax.with_extra_args_support(method.build(hyperparameters, key))

        def step(carry, _):
            x, state = carry
            value, gradient = jax.value_and_grad(landscape)(x)
            update, state = optimizer.update(gradient, state, x, value=value)
            moved: Any = optax.apply_updates(x, update)
            return (moved, state), x

        (last, _), points = jax.lax.scan(step, (start, optimizer.init(start)), length=num_steps)
        points = jnp.concatenate([points, last[None]])
        return points, jax.vmap(landscape)(points)

    return descend


def search(
    method: Method,
    landscape: Landscape,
    start: np.ndarray,
    *,
    num_steps: int,
    num_trials: int,
    seed: int,
) -> Search:
    """The best hyperparameters of `num_trials` descents of `num_steps` from one start.

    A method without ranges has one trial.
    """
    descend = descent(method, landscape, num_steps)

    def lowest(hyperparameters):
        _, losses = descend(hyperparameters, jnp.asarray(start, dtype=float), jax.random.key(seed))
        return float(np.nanmin(losses))  # NaN once it has diverged

    if not method.space:
        return Search({}, lowest({}))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    with progress_bar(num_trials, f"search: {method.name}") as bar:
        for _ in range(num_trials):
            trial = study.ask()
            chosen = {
                name: trial.suggest_float(name, space.low, space.high, log=space.logarithmic)
                for name, space in method.space.items()
            }
            study.tell(trial, lowest(chosen))
            bar.update()
    return Search(study.best_params, float(study.best_value))


def wilson(successes: int, trials: int) -> list[float]:
    """The 95 % Wilson interval of a fraction."""
    interval = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]
