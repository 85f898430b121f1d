"""Soft committee machines that learn from a teacher whose units are as alike as one wants.

A teacher of K units with weights b_k of length one, at mutual cosines rho, says

    y(x) = sum_k f(b_k x),      x ~ N(0, I) in N dimensions,

and a student of as many units learns it from minibatches, error = mean (y' - y)^2 / 2. Its output
weights are one, as the teacher's: the hidden units are all there is, and at the end they stand at
the cosines of the teacher's. With rho near one the units' gradients are nearly the same, and what
tells them apart is learned last.

All networks of a call are trained side by side in one program, each with its own rate, strength and
seed; a seed fixes teacher, start and batches (its `World`), whatever the method.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import kinopt
from kinopt.collisions.rows import in_common, scales
from kinopt.metrics import weight_correlation

__all__ = ["ACTIVATIONS", "METHODS", "Looks", "Method", "Size", "methods_of", "train"]

ACTIVATIONS: dict[str, Callable] = {
    "erf": lambda u: jax.lax.erf(u / 2**0.5),
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
}

POOL = 2**16
"""Samples that batches are cut from: so many that none is learned by heart."""

NUM_TEST = 2048
LONGEST = 2000
"""Steps that batches are drawn for; a training may be shorter."""

START = 0.3
"""Length of a student's weights at the start, where the teacher's is one."""


class Method(NamedTuple):
    """An optimizer that is searched: (strength, rate, key) -> transformation, and where."""

    build: Callable
    rates: tuple[float, float]
    strengths: tuple[float, float] = (1.0, 1.0)


class Size(NamedTuple):
    """Of a network and its batches; each makes a program of its own."""

    units: int
    inputs: int
    batch: int
    looks: int  # how many times the networks are looked at, evenly spread


class World(NamedTuple):
    """What a seed fixes."""

    teacher: Any  # [inputs, units]
    start: Any  # [inputs, units], of the student, before it is scaled
    batches: Any  # [LONGEST], where they begin in the pool
    key: Any  # of the method


class Looks(NamedTuple):
    """What was seen of the networks, arrays [lanes, looks] but for the last."""

    error: Any  # on fresh samples
    common: Any  # N |mean g|^2 / sum |g|^2 of the units' gradients
    cos_g: Any  # mean |cos| between the units' gradients
    cos_w: Any  # mean |cos| between their weights
    units: Any  # [lanes, looks, units, inputs], their weights


def noise_like_gradient(strength, key) -> optax.GradientTransformation:
    """Adds strength * rms(g) * normal to g: gradient noise that ends when learning does."""

    def update(updates, state, params=None):
        del params
        state, here = jax.random.split(state)
        g = updates["units"]
        noise = jax.random.normal(here, g.shape) * strength * jnp.sqrt(jnp.mean(g**2))
        return {"units": g + noise}, state

    return optax.GradientTransformation(lambda params: key, update)


BASES = {"adam": optax.adam, "sgd": optax.sgd}
RATES = {"adam": (1e-3, 0.3), "sgd": (3e-3, 3.0)}
COEFFICIENTS = (0.1, 1.0)
MEMORIES = (0.003, 0.5)
"""Of 1 - beta."""

FIRST: dict[str, tuple[Callable, tuple[float, float]]] = {
    "plain": (lambda s, key: optax.identity(), (1.0, 1.0)),
    "soft": (lambda s, key: kinopt.soft_collision(s, normalize=True), COEFFICIENTS),
    "soft, gradients": (
        lambda s, key: kinopt.soft_collision(s, normalize=True, alike="gradients"),
        COEFFICIENTS,
    ),
    "larger start": (lambda s, key: optax.identity(), (1.0, 10.0)),
    "noise": (noise_like_gradient, (0.03, 3.0)),
    "penalty": (lambda s, key: optax.identity(), (1e-6, 0.1)),
}
"""What stands before the base optimizer, and the range of its strength."""


def methods_of(base: str) -> dict[str, Method]:
    """Every method on this base optimizer; Muon is a base of its own, and stands beside Adam."""
    optimizer, rates = BASES[base], RATES[base]

    def after(first):
        return lambda s, rate, key: optax.chain(first(s, key), optimizer(rate))

    def momentum(s, rate, key):
        del key
        return optimizer(rate, b1=1 - s) if base == "adam" else optimizer(rate, momentum=1 - s)

    found = {name: Method(after(first), rates, s) for name, (first, s) in FIRST.items()}
    found["momentum"] = Method(momentum, (rates[0] / 10, rates[1]), MEMORIES)
    if base == "adam":
        found["muon"] = Method(
            lambda s, rate, key: optax.contrib.muon(rate, beta=1 - s), (1e-3, 1.0), MEMORIES
        )
    return found


METHODS = {(base, name): method for base in BASES for name, method in methods_of(base).items()}


def teacher_units(key, units: int, inputs: int, cosine) -> jax.Array:
    """[inputs, units]: columns of length one with this mutual cosine, in a random frame.

    >>> b = teacher_units(jax.random.key(0), 3, 8, 0.7)
    >>> [round(float(x), 4) for x in (b.T @ b)[0]]
    [1.0, 0.7, 0.7]
    """
    frame = jnp.linalg.qr(jax.random.normal(key, (inputs, units + 1)))[0]
    return jnp.sqrt(cosine) * frame[:, :1] + jnp.sqrt(1 - cosine) * frame[:, 1:]


def mean_squared_cosine(w) -> jax.Array:
    """Mean squared cosine between different columns: what the penalty is on."""
    u = w / jnp.linalg.norm(w, axis=0)
    units = w.shape[1]
    return (jnp.sum((u.T @ u) ** 2) - units) / (units * (units - 1))


@functools.lru_cache(maxsize=4)
def _samples(inputs: int) -> tuple[jax.Array, jax.Array]:
    """The pool, and samples to test with; the same for all networks, whose frames differ."""
    random = np.random.default_rng(inputs)
    pool = random.standard_normal((POOL, inputs), np.float32)
    return jnp.asarray(pool), jnp.asarray(random.standard_normal((NUM_TEST, inputs), np.float32))


def train(
    method: tuple[str, str],
    size: Size,
    activation: str,
    cosine: float,
    steps: int,
    decayed: bool,
    rate: np.ndarray,
    strength: np.ndarray,
    seeds: np.ndarray,
) -> Looks:
    """Trains a network for each rate, strength and seed.

    Args:
        method: Base and name, one of `METHODS`.
        size: Of all of them.
        activation: One of `ACTIVATIONS`.
        cosine: Between the teacher's units, in [0, 1).
        steps: Of the training; a multiple of `size.looks`, at most `LONGEST`.
        decayed: The rate follows half a cosine to zero; else it is constant. The penalty does as
            the rate does, so that it may leave the end as it is.
        rate: The learning rate, [lanes].
        strength: Of what the method adds, [lanes].
        seeds: [lanes].

    Raises:
        ValueError: For more steps than batches are drawn for.
    """
    if steps > LONGEST:
        raise ValueError(f"steps must be at most {LONGEST} (`LONGEST`), got {steps}.")
    looks = _train(
        method,
        size,
        jnp.int32(list(ACTIVATIONS).index(activation)),
        jnp.int32(steps),
        jnp.float32(decayed),
        *(jnp.asarray(x, jnp.float32) for x in (rate, strength)),
        _worlds(size, jnp.float32(cosine), jnp.asarray(seeds, jnp.uint32)),
        *_samples(size.inputs),
    )
    return Looks(*(np.asarray(x, float) for x in looks))


@functools.partial(jax.jit, static_argnums=0)
def _worlds(size, cosine, seeds):
    """What the seeds fix, for every method alike: a program of its own, that is compiled once."""

    def one(seed):
        keys = jax.random.split(jax.random.key(seed), 4)
        here = jax.vmap(jax.random.fold_in, (None, 0))(keys[1], jnp.arange(LONGEST))
        return World(
            teacher_units(keys[0], size.units, size.inputs, cosine),
            jax.random.normal(keys[2], (size.inputs, size.units)),
            jax.vmap(lambda key: jax.random.randint(key, (), 0, POOL - size.batch))(here),
            keys[3],
        )

    return jax.vmap(one)(seeds)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(method, size, activation, steps, decayed, rates, strengths, worlds, pool, fresh):
    name = method[1]

    def output(w, x):
        return jnp.sum(jax.lax.switch(activation, [*ACTIVATIONS.values()], x @ w), axis=1)

    def one(rate, strength, world):
        scale = START * (strength if name == "larger start" else 1) / size.inputs**0.5
        params = {"units": scale * world.start}

        def share(step):
            """What is left of the rate: half a cosine, or all of it."""
            half = (1 + jnp.cos(jnp.pi * step / steps)) / 2
            return decayed * half + 1 - decayed

        tx = METHODS[method].build(strength, lambda step: rate * share(step), world.key)

        def error(params, x):
            return jnp.mean((output(params["units"], x) - output(world.teacher, x)) ** 2) / 2

        def loss(params, x, step):
            found = error(params, x)
            if name == "penalty":
                found += strength * share(step) * mean_squared_cosine(params["units"])
            return found

        def step(number, carry):
            params, state = carry
            x = jax.lax.dynamic_slice_in_dim(pool, world.batches[number], size.batch)
            g = jax.grad(loss)(params, x, number)
            updates, state = tx.update(g, state, params)
            return optax.apply_updates(params, updates), state

        def look(carry, number):
            every = steps // size.looks
            carry = jax.lax.fori_loop(number * every, (number + 1) * every, step, carry)
            found, g = jax.value_and_grad(error)(carry[0], fresh)
            g, w = g["units"].T, carry[0]["units"].T
            cos_g, cos_w = weight_correlation(g), weight_correlation(w)
            return carry, Looks(found, in_common(g, scales(g)).mode, cos_g, cos_w, w)

        carry = params, tx.init(params)
        return jax.lax.scan(look, carry, jnp.arange(size.looks))[1]

    return jax.vmap(one)(rates, strengths, worlds)
