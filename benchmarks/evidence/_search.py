"""One training, one search and one judgement for tasks of any kind.

A `Task` is functions of parameters and keys, so that one training serves a text, images, an
equation and a density. A seed fixes the start, the batches and the optimizer's key.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.evidence.learning import Method, drawn
from benchmarks.evidence.when import TUNING_SEED
from benchmarks.record import Row
from kinopt._typing import PyTree, Scalar

__all__ = ["Task", "searched"]


class Task(NamedTuple):
    """Something to learn, and how well it was learnt; the lower the better."""

    init: Callable[[jax.Array], PyTree]  # key -> parameters
    batch: Callable[[jax.Array], Any]  # key -> what a step sees
    loss: Callable[[PyTree, Any], Scalar]  # (parameters, batch) -> what is descended
    judge: Callable[[PyTree], jax.Array]  # parameters -> [in the choice, in the judgement ...]
    worst: float  # what a run that diverged counts for
    lanes: int = 6  # how many are trained at once, as the device likes it


def fit(
    task: Task, method: Method, num_steps: int, hyperparameters: dict[str, jax.Array], seed: Any
) -> jax.Array:
    """What the judge says after so many steps; to be compiled."""
    start, order, own = jax.random.split(jax.random.key(seed), 3)
    params = task.init(start)
    optimizer = optax.with_extra_args_support(method.build(hyperparameters, own, num_steps, params))

    def step(carry, n):
        params, state = carry
        batch = task.batch(jax.random.fold_in(order, n))
        loss, gradient = jax.value_and_grad(task.loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    (params, state), _ = jax.lax.scan(step, carry, jnp.arange(num_steps))
    return task.judge(optax.tree.get(state, "averaged_params", params))


def searched(
    task: Task, methods: dict[str, Method], method: str, num_steps: int, settings: Any
) -> tuple[Row, np.ndarray]:
    """The search of one of the methods, and what the judge says of its choice.

    Args:
        task: What is learnt.
        methods: All that are compared; what one tries depends on its place.
        method: The one that is searched.
        num_steps: Of a training.
        settings: `num_trials` are judged by the mean over `trial_seeds`, and what was chosen by
            `num_seeds` fresh ones, from 1000 `seed` on.

    Returns:
        What was tried, found and chosen; and the judgements, [seeds, ...].
    """
    train = _at_once(functools.partial(fit, task, methods[method], num_steps), task)
    tried = drawn(methods, method, settings.num_trials)

    def of_seeds(hyperparameters: dict[str, np.ndarray], first: int, number: int) -> np.ndarray:
        """[trials, seeds, judgements]."""
        trials = len(next(iter(hyperparameters.values())))
        each = {name: np.repeat(values, number) for name, values in hyperparameters.items()}
        seeds = np.tile(1000 * first + np.arange(number), trials)
        return train(each, seeds).reshape(trials, number, -1)

    found = of_seeds(tried, TUNING_SEED, settings.trial_seeds)[:, :, 0].mean(axis=1)
    chosen = {name: values[[found.argmin()]] for name, values in tried.items()}
    row = {
        "tried": tried,
        "validation": found.round(5),
        "chosen": {name: float(value[0]) for name, value in chosen.items()},
    }
    return row, of_seeds(chosen, settings.seed, settings.num_seeds)[0, :, 1:]


def _at_once(fit: Callable, task: Task) -> Callable:
    """(hyperparameters, seeds), [runs] each -> [runs, judgements], so many lanes at a time."""
    lanes = task.lanes
    compiled = jax.jit(jax.vmap(fit) if lanes > 1 else fit)

    def train(hyperparameters: dict[str, np.ndarray], seeds: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(seeds), lanes):
            # The last ones are filled up from the beginning, so that there is one program.
            index = np.arange(start, start + lanes) % len(seeds) if lanes > 1 else start
            values = {name: jnp.float32(each[index]) for name, each in hyperparameters.items()}
            found.append(np.atleast_2d(compiled(values, jnp.asarray(seeds[index]))))
        every = np.concatenate(found)[: len(seeds)].astype(float)
        return np.where(np.isfinite(every), every, task.worst)

    return train
