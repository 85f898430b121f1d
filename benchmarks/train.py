"""Many seeds of one network trained at once, in the same way for every optimizer.

Seed s fixes the initial weights and the order of the images, whatever the optimizer: methods can be
compared seed by seed, and the spread between seeds cancels in the difference. All seeds advance
together (`vmap`), a chunk of steps at a time (`scan`), and every chunk is timed.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

import kinopt
from benchmarks.data import Split
from kinopt._typing import PyTree

__all__ = ["Build", "Training", "accepted_fraction", "averaging", "batch_order"]

Build = Callable[[Any, jax.Array], optax.GradientTransformation]
"""(learning rate, random key) -> optimizer; called while JAX traces, once for all seeds."""


class Averaged(NamedTuple):
    """What `averaging` keeps."""

    averaged_params: PyTree
    ema: optax.OptState


def averaging(memory) -> optax.GradientTransformation:
    """Keeps a running mean of the parameters, which a `Training` is judged by.

    It leaves the updates as they are, and comes last in a chain.

    Args:
        memory: The weight of the newest parameters, in (0, 1]; the mean is free of the start.
    """
    ema = optax.ema(1 - memory)

    def update(updates, state: Any, params: Any = None):
        mean, inner = ema.update(optax.apply_updates(params, updates), state.ema)
        return updates, Averaged(mean, inner)

    return optax.GradientTransformation(lambda params: Averaged(params, ema.init(params)), update)


class Carry(NamedTuple):
    """What the seeds carry from step to step; every leaf starts with the seeds."""

    params: PyTree
    opt_state: PyTree
    key: jax.Array  # [seeds], the optimizers' own keys


def batch_order(
    num_images: int, num_steps: int, batch_size: int, seed: int | list[int]
) -> np.ndarray:
    """Which images make each batch, [steps, batch]: epoch after epoch, each in a new order."""
    random = np.random.default_rng(seed)
    num_epochs = -(-num_steps * batch_size // num_images)
    order = np.concatenate([random.permutation(num_images) for _ in range(num_epochs)])
    return order[: num_steps * batch_size].reshape(num_steps, batch_size).astype(np.int32)


def accepted_fraction(opt_state: PyTree) -> jax.Array:
    """The share of pairs that collided in the last step; nan without hard collisions."""
    try:
        stats = kinopt.collision_stats(opt_state)
    except ValueError:  # an optimizer without collisions
        stats = {}
    fractions = [leaf.accepted_fraction for leaf in stats.values()]
    hard = [fraction for fraction in fractions if fraction is not None]
    return jnp.mean(jnp.stack(hard)) if hard else jnp.array(jnp.nan, jnp.float32)


class Training:
    """One optimizer on all seeds.

    Args:
        model: A linen network from images to class logits.
        data: What to learn, and what to be judged by.
        build: The optimizer, as a function of learning rate and key.
        learning_rate: Its learning rate, or a tree of whatever `build` wants to be given: each
            leaf is a number for all seeds, or an array with one for each.
        num_steps: Steps of the whole training.
        batch_size: Images in a step.
        seeds: One network is trained for each.
        num_train: Only so many of the training images are used, the first ones; None: all. (The
            compiled program depends on the number of images, not on this.)
    """

    def __init__(
        self,
        model: linen.Module,
        data: Split,
        build: Build,
        learning_rate: Any,
        num_steps: int,
        batch_size: int,
        seeds: list[int],
        num_train: int | None = None,
    ):
        self._program = model, build
        self._learning_rate = jax.tree.map(
            lambda leaf: jnp.broadcast_to(jnp.float32(leaf), len(seeds)), learning_rate
        )
        self.num_steps = num_steps
        # What was measured after each chunk:
        self.steps: list[int] = []  # steps done so far
        self.accuracy: list[np.ndarray] = []  # [seeds], on the test images
        self.accepted: list[np.ndarray] = []  # [seeds], mean over the chunk's steps
        self.heads: list[np.ndarray] = []  # [seeds, neurons, features], the classifier's weights
        self.seconds: list[float] = []  # of the chunk
        self._images, self._labels, self._test_images, self._test_labels = map(jnp.asarray, data)
        num_images = num_train or len(data.train_labels)
        self._order = np.stack(
            [batch_order(num_images, num_steps, batch_size, seed) for seed in seeds]
        )
        params, keys = _start(model, tuple(seeds), self._images.shape[1:])
        opt_state = jax.vmap(lambda p, rate, key: _optimizer(build, rate, key).init(p))(
            params, self._learning_rate, keys
        )
        self._carry = Carry(params, opt_state, keys)

    def advance(self, num_steps: int) -> int:
        """Trains up to `num_steps` more steps, measures the time they took, and tests.

        Returns:
            How many steps were done.
        """
        done = self.steps[-1] if self.steps else 0
        indices = jnp.asarray(self._order[:, done : done + num_steps])
        began = time.perf_counter()
        self._carry, accepted = jax.block_until_ready(
            _advance(
                *self._program,
                self._carry,
                self._learning_rate,
                indices,
                self._images,
                self._labels,
            )
        )
        seconds = time.perf_counter() - began
        model, params = self._program[0], self._carry.params
        judged = optax.tree.get(self._carry.opt_state, "averaged_params", params)
        accuracy = np.asarray(_accuracy(model, judged, self._test_images, self._test_labels))
        # All together and last, so that an interruption seldom finds lists of different lengths.
        self.accuracy.append(accuracy)
        self.accepted.append(np.asarray(accepted))
        self.heads.append(np.asarray(params["head"]["kernel"]).swapaxes(-1, -2))
        self.seconds.append(seconds)
        self.steps.append(done + indices.shape[1])
        return indices.shape[1]

    @property
    def params(self) -> PyTree:
        """The networks as they are now, every leaf with the seeds first."""
        return self._carry.params

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return bool(self.steps) and self.steps[-1] == self.num_steps


def _optimizer(build: Build, learning_rate, key) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(build(learning_rate, key))


@functools.lru_cache(maxsize=4)
def _start(model: linen.Module, seeds: tuple[int, ...], shape: tuple[int, ...]):
    """Initial parameters and the optimizers' keys, the same for every optimizer."""
    keys = jnp.stack([jax.random.split(jax.random.key(seed)) for seed in seeds])

    # One seed after the other: compiling random numbers for all at once takes far longer.
    @jax.jit
    def init(keys):
        return jax.lax.map(lambda key: model.init(key, jnp.zeros((1, *shape)))["params"], keys)

    return init(keys[:, 0]), keys[:, 1]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _advance(
    model: linen.Module, build: Build, carry: Carry, learning_rate, indices, images, labels
):
    """Takes as many steps as `indices` has, [seeds, steps, batch]."""

    def advance_one(carry, rate, indices):
        transformation = _optimizer(build, rate, carry.key)

        def loss_of(params, index):
            logits = jnp.asarray(model.apply({"params": params}, images[index]))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[index])
            return losses.mean()

        def step(state, index):
            params, opt_state = state
            loss, grads = jax.value_and_grad(loss_of)(params, index)
            updates, opt_state = transformation.update(grads, opt_state, params, value=loss)
            return (optax.apply_updates(params, updates), opt_state), accepted_fraction(opt_state)

        state, accepted = jax.lax.scan(step, (carry.params, carry.opt_state), indices)
        return Carry(*state, carry.key), accepted.mean()

    return jax.vmap(advance_one)(carry, learning_rate, indices)


@functools.partial(jax.jit, static_argnums=0)
def _accuracy(model: linen.Module, params: PyTree, images, labels):
    def accuracy_one(params):
        logits = jnp.asarray(model.apply({"params": params}, images))
        return jnp.mean(logits.argmax(-1) == labels)

    return jax.vmap(accuracy_one)(params)
