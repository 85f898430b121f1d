"""Small problems whose units one might expect to gain from collisions, each with the field's trick.

A problem's neurons are the columns of its leaf "units". `loss` is that of a minibatch, with the
strength of the trick or None; `score` is lower where it went better.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import data
from benchmarks.evidence._committee import teacher_units

__all__ = ["PROBLEMS", "Problem"]


class Problem(NamedTuple):
    """What is learned; every function gets `world`, which a seed draws."""

    world: Callable  # key -> what is to be learned
    init: Callable  # key -> params
    loss: Callable  # (params, world, key, trick's strength or None) -> number
    score: Callable  # (params, world) -> number
    trick: str  # the field's own remedy
    strengths: tuple[float, float]  # where its strength is searched
    after: Callable = lambda params, world, key, step: params  # the trick, where it is no loss


def _columns(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=0), 1e-8)


# A TopK sparse autoencoder: which directions is the data made of?

DIMENSIONS, FEATURES, ACTIVE = 12, 32, 3


def _sparse(world, key, number):
    """Each feature in a sample or not, independently; `ACTIVE` of them on average."""
    which, size = jax.random.split(key)
    active = jax.random.bernoulli(which, ACTIVE / FEATURES, (number, FEATURES))
    return (active * jax.random.uniform(size, active.shape, minval=0.5, maxval=1.5)) @ world.T


def _top(code, k):
    """The k largest of each row, where above 0; zeros elsewhere."""
    rest = jax.lax.stop_gradient(code)
    for _ in range(k - 1):
        rest = jnp.where(rest >= jnp.max(rest, axis=1, keepdims=True), -jnp.inf, rest)
    return jnp.where(code >= jnp.max(rest, axis=1, keepdims=True), jax.nn.relu(code), 0)


def _autoencoder_loss(params, world, key, trick):
    x = _sparse(world, key, 128)
    code, atoms = x @ params["units"], _columns(params["decoder"])
    sparse = _top(code, ACTIVE)
    rest = x - sparse @ atoms.T
    found = jnp.mean(rest**2)
    if trick is not None:  # units that the batch did not use explain what is left (AuxK)
        spare = _top(jnp.where(jnp.any(sparse > 0, axis=0), -1e9, code), 4)
        found += trick * jnp.mean((jax.lax.stop_gradient(rest) - spare @ atoms.T) ** 2)
    return found


AUTOENCODER = Problem(
    world=lambda key: _columns(jax.random.normal(key, (DIMENSIONS, FEATURES))),
    init=lambda key: {
        name: _columns(jax.random.normal(key, (DIMENSIONS, FEATURES)))
        for name in ("units", "decoder")
    },
    loss=_autoencoder_loss,
    score=lambda params, world: (
        1 - jnp.mean(jnp.max(world.T @ _columns(params["decoder"]), axis=1))
    ),
    trick="auxiliary loss",
    strengths=(0.003, 1.0),
)

# A codebook: 32 codes for 32 clusters, from a start close to zero.

CODES, CODE_SIZE = 32, 8


def _clusters(world, key, number):
    which, where = jax.random.split(key)
    centre = world.T[jax.random.randint(which, (number,), 0, CODES)]
    return centre + 0.1 * jax.random.normal(where, centre.shape)


def _distances(codes, x):
    return jnp.sum(x**2, axis=1)[:, None] - 2 * x @ codes + jnp.sum(codes**2, axis=0)


def _codebook_loss(params, world, key, trick):
    del trick
    return jnp.mean(jnp.min(_distances(params["units"], _clusters(world, key, 128)), axis=1))


def _reset(params, world, key, step):
    """Every 50 steps, codes that no sample of a batch is nearest to become samples."""
    x = _clusters(world, key, 128)
    used = jnp.zeros(CODES, bool).at[jnp.argmin(_distances(params["units"], x), axis=1)].set(True)
    fresh = (step % 50 == 49) & ~used
    return {"units": jnp.where(fresh, x[:CODES].T, params["units"])}


CODEBOOK = Problem(
    world=lambda key: jax.random.normal(key, (CODE_SIZE, CODES)),
    init=lambda key: {"units": 0.1 * jax.random.normal(key, (CODE_SIZE, CODES))},
    loss=_codebook_loss,
    score=lambda params, world: jnp.log10(
        jnp.mean(
            jnp.min(_distances(params["units"], _clusters(world, jax.random.key(0), 2048)), axis=1)
        )
    ),
    trick="reset of dead codes",
    strengths=(1.0, 1.0),
    after=_reset,
)

# An ensemble of networks for few digits, its members the neurons.

MEMBERS, HIDDEN, NUM_TRAIN = 8, 16, 200


@functools.cache
def _digits():
    split = data.load("digits", 0)
    x, labels, x_test, labels_test = (np.asarray(part) for part in split)
    flat = [part.reshape(len(part), -1).astype(np.float32) for part in (x, x_test)]
    return flat[0][:NUM_TRAIN], labels[:NUM_TRAIN], flat[1], labels_test


def _logits(units, x):
    """[members, images, 10]."""

    def one(w):
        first, second = w[: x.shape[1] * HIDDEN], w[x.shape[1] * HIDDEN :]
        return jnp.tanh(x @ first.reshape(-1, HIDDEN)) @ second.reshape(HIDDEN, 10)

    return jax.vmap(one, in_axes=1)(units)


def _ensemble_loss(params, world, key, trick):
    x, labels, _, _ = _digits()
    rows = jax.random.randint(key, (32,), 0, NUM_TRAIN)
    logits = _logits(params["units"], jnp.asarray(x)[rows])
    here = jnp.broadcast_to(jnp.asarray(labels)[rows], logits.shape[:2])
    found = optax.softmax_cross_entropy_with_integer_labels(logits, here).mean(axis=1).sum()
    return found if trick is None else found + trick * jnp.sum(params["units"] ** 2) / 2


def _ensemble_score(params, world):
    _, _, x, labels = _digits()
    said = jax.nn.logsumexp(jax.nn.log_softmax(_logits(params["units"], jnp.asarray(x))), axis=0)
    return -jnp.mean(said[jnp.arange(len(x)), jnp.asarray(labels)]) + jnp.log(MEMBERS)


ENSEMBLE = Problem(
    world=lambda key: jnp.zeros(()),
    init=lambda key: {"units": 0.15 * jax.random.normal(key, (HIDDEN * (64 + 10), MEMBERS))},
    loss=_ensemble_loss,
    score=_ensemble_score,
    trick="weight decay",
    strengths=(1e-4, 0.1),
)

# Units that have to be alike at the end: of a committee with trained output, and of a linear head.

INPUTS, UNITS = 30, 5


def _committee(params, x):
    return jnp.tanh(x @ params["units"]) @ params["output"]


def _committee_error(params, world, key, number):
    x = jax.random.normal(key, (number, INPUTS))
    return jnp.mean((_committee(params, x) - jnp.sum(jnp.tanh(x @ world), axis=1)) ** 2) / 2


COMMITTEE = Problem(
    world=lambda key: teacher_units(key, UNITS, INPUTS, 0.8),
    init=lambda key: {
        "units": 0.05 * jax.random.normal(key, (INPUTS, UNITS)),
        "output": jnp.ones(UNITS),
    },
    loss=lambda params, world, key, trick: _committee_error(params, world, key, 64),
    score=lambda params, world: jnp.log10(
        jnp.maximum(_committee_error(params, world, jax.random.key(0), 2048), 1e-10)
    ),
    trick="none",
    strengths=(1.0, 1.0),
)


def _head_error(params, world, key, number):
    keys = jax.random.split(key)
    x = jax.random.normal(keys[0], (number, INPUTS))
    noise = 0.1 * jax.random.normal(keys[1], (number, UNITS))
    return jnp.mean((x @ (params["units"] - world) - noise) ** 2) / 2


HEAD = Problem(
    world=lambda key: teacher_units(key, UNITS, INPUTS, 0.8),
    init=lambda key: {"units": 0.05 * jax.random.normal(key, (INPUTS, UNITS))},
    loss=lambda params, world, key, trick: _head_error(params, world, key, 64),
    score=lambda params, world: jnp.log10(jnp.mean((params["units"] - world) ** 2)),
    trick="none",
    strengths=(1.0, 1.0),
)

PROBLEMS = {
    "sparse autoencoder": AUTOENCODER,
    "codebook": CODEBOOK,
    "ensemble": ENSEMBLE,
    "committee": COMMITTEE,
    "linear head": HEAD,
}
