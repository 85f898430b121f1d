"""The tasks of `evidence.architectures` and `longer`: texts, images, an equation, sentences.

Texts, images and sentences are in two parts beside the training data: by the first hyperparameters
are chosen, by the second they are judged.
"""

import functools
import importlib
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from benchmarks import data, encoder
from benchmarks.bbi import _poisson as poisson
from benchmarks.evidence import when
from benchmarks.evidence._search import Task
from benchmarks.models import ConvNet, Transformer

__all__ = ["DATA", "LONGER", "TASKS", "source", "text"]

CONTEXT, WINDOWS = 32, 32
"""Characters that the transformer sees, and sequences of them in a step."""

JUDGED = 300
"""Sequences in each held-out part of the text."""

CHANNELS = (16, 32, 64)

PROBLEM = poisson.Poisson(frequency=2.0)
WIDTH, DEPTH = 32, 1
POINTS, BOUNDARY, BOUNDARY_WEIGHT = 100, 20, 100.0
RADII = 100

EXAMPLES, QUERIES, FEW = 10, 200, 12
"""Queries of each class to learn from, in each held-out part, and in a step."""

MOST_TOKENS = 16
"""Of a query; what is longer is cut."""


def text() -> str:
    """The help that comes with Python, 470,000 characters; another version has some others."""
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in sorted(topics))


def source() -> str:
    """The source of some modules that come with Python, some 700,000 characters."""
    names = ("argparse", "doctest", "inspect", "pdb", "tarfile", "typing", "zipfile")
    return "".join(inspect.getsource(importlib.import_module(name)) for name in names)


def _characters(text: Callable[[], str], width: int, num_layers: int = 2) -> Task:
    """What is the next character? A transformer's loss in nats."""
    names, codes = np.unique(list(text()), return_inverse=True)
    model = Transformer(len(names), width, num_layers)
    window = np.arange(CONTEXT + 1)
    cut = len(codes) - 2 * JUDGED * (CONTEXT + 1)
    parts = jnp.asarray(codes[cut:].reshape(2, JUDGED, CONTEXT + 1), jnp.int32)
    codes = jnp.asarray(codes, jnp.int32)

    def loss(params, tokens):
        logits = jnp.asarray(model.apply({"params": params}, tokens[:, :-1]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def batch(key):
        start = jax.random.randint(key, (WINDOWS, 1), 0, cut - CONTEXT)
        return codes[start + window]

    return Task(
        lambda key: model.init(key, parts[0, :1, :-1])["params"],
        batch,
        loss,
        lambda params: jnp.stack([loss(params, part) for part in parts]),
        worst=float(np.log(len(names))),
        lanes=2,
    )


def _images(name: str) -> Task:
    """Coarse images, three convolutions; the error in %."""
    split = when.load(name)
    model = ConvNet(CHANNELS, split.num_classes)
    images, labels = jnp.asarray(split.train), jnp.asarray(split.train_labels)

    def loss(params, index):
        logits = jnp.asarray(model.apply({"params": params}, images[index]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[index]).mean()

    def error(params, images, labels):
        logits = jnp.asarray(model.apply({"params": params}, images))
        return 100 * jnp.mean(logits.argmax(-1) != labels)

    return Task(
        lambda key: model.init(key, images[:1])["params"],
        lambda key: jax.random.randint(key, (when.BATCH,), 0, len(labels)),
        loss,
        lambda params: jnp.stack(
            [
                error(params, split.validation, split.validation_labels),
                error(params, split.test, split.test_labels),
            ]
        ),
        worst=100.0,
        lanes=1,  # convolutions of many networks at once are far slower
    )


def _equation() -> Task:
    """The nonlinear Poisson problem of `bbi.pde`, new points in each step; log10 of the error.

    Nothing is held out of an equation: choice and judgement differ in their seeds alone.
    """
    radii = poisson.midpoints(RADII)
    exact = np.asarray(PROBLEM.known(radii**2))[None]

    def loss(params, points):
        inside, edge = points
        equation = jnp.mean(poisson.residual(PROBLEM, params, inside) ** 2)
        miss = jnp.mean((poisson.values(params, edge) - PROBLEM.boundary) ** 2)
        return equation + BOUNDARY_WEIGHT * miss

    def batch(key):
        radius, angle = jax.random.split(key)
        radius = jnp.sqrt(jax.random.uniform(radius, (POINTS, 1)))
        angle = 2 * jnp.pi * jax.random.uniform(angle, (POINTS + BOUNDARY, 1))
        points = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
        return radius * points[:POINTS], points[POINTS:]

    def judge(params):
        error = poisson.relative_errors(functools.partial(poisson.values, params), exact)
        return jnp.broadcast_to(jnp.log10(error[0]), 2)

    return Task(lambda key: poisson.initial(key, WIDTH, DEPTH), batch, loss, judge, 0.0)


def _sentences() -> Task:
    """Which of seven intentions has a query? All of a pretrained encoder learns; the error in %."""
    texts = data.load_texts(DATA["sentences"], when.SPLIT_SEED)
    classes = range(len(texts.classes))
    few = np.concatenate([np.flatnonzero(texts.train_labels == n)[:EXAMPLES] for n in classes])
    held_out = np.random.default_rng(when.SPLIT_SEED).permutation(len(texts.test_texts))
    held_out = held_out[: 2 * min(QUERIES, len(held_out) // 2)]
    queries = [texts.train_texts[n] for n in few] + [texts.test_texts[n] for n in held_out]
    labels = jnp.asarray(np.concatenate([texts.train_labels[few], texts.test_labels[held_out]]))
    tokens = encoder.tokenize(queries)
    # Words that do not occur have no gradient: without their vectors all else is as it was.
    kept, words = np.unique(tokens.words[:, :MOST_TOKENS], return_inverse=True)
    words, mask = jnp.asarray(words.reshape(-1, MOST_TOKENS)), jnp.asarray(tokens.mask)
    mask = mask[:, :MOST_TOKENS]
    pretrained = encoder.load_params()
    pretrained = pretrained | {"words": {"embedding": pretrained["words"]["embedding"][kept]}}
    body = encoder.Encoder(num_words=len(kept))
    head = linen.Dense(len(texts.classes))

    def logits(params, index):
        vectors = body.apply({"params": params["encoder"]}, words[index], mask[index])
        return jnp.asarray(head.apply({"params": params["head"]}, vectors))

    def loss(params, index):
        found = logits(params, index)
        return optax.softmax_cross_entropy_with_integer_labels(found, labels[index]).mean()

    def init(key):
        return {"encoder": pretrained, "head": head.init(key, jnp.ones(encoder.WIDTH))["params"]}

    def judge(params):
        index = len(few) + jnp.arange(len(held_out))
        wrong = logits(params, index).argmax(-1) != labels[index]
        return 100 * wrong.reshape(2, -1).mean(axis=1)

    return Task(
        init,
        lambda key: jax.random.randint(key, (FEW,), 0, len(few)),
        loss,
        judge,
        worst=100.0,
        lanes=1,
    )


TASKS: dict[str, Callable[[], Task]] = {
    "characters": functools.partial(_characters, text, 32),
    "code": functools.partial(_characters, source, 48),
    "equation": _equation,
    "sentences": _sentences,
    "mnist": functools.partial(_images, "mnist"),
    "cifar10-small": functools.partial(_images, "cifar10-small"),
}

LONGER: dict[str, Callable[[], Task]] = {
    "characters, longer": TASKS["characters"],
    "code, deeper": functools.partial(_characters, source, 64, num_layers=4),
}
"""Those of `evidence.longer`."""

DATA = {"sentences": "snips", "mnist": "mnist", "cifar10-small": "cifar10-small"}
"""What of a user's data a task needs."""
