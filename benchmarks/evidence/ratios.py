"""Is descent at unit speed ahead of Adam on likelihood ratios at a constant rate, and steadier?

The authors of ECD_q=1 say so (arXiv 2501.18419). A classifier that tells samples of one density
from those of another has, at the minimum of its cross-entropy, log p_1/p_0 for its logit. Here the
densities are known, and so is the error of the logit.

    shift    two normal densities on a line, 0.4 apart
    six      two normal densities in six dimensions, with other means and other covariances
    mixture  two pairs of normal densities in a plane, crosswise

    adam                    at a constant rate
    ecd                     `isokinetic` at a constant rate, without decay, on one sphere: ECD_q=1
    ecd, per tensor         the same with a sphere for each tensor, as in the authors' code
    adamw, annealed         a cosine schedule, decoupled decay
    isokinetic, annealed    the same; the schedule anneals the drift alone

Each is tuned with the same number of trials by the cross-entropy of fresh samples, as a user would,
who does not know the ratio. Then networks of other starts and other orders learn from the same
samples: their mean error, and how far they lie from their common mean, which is what the authors
call stable. Lengths are shares of the norm of all parameters at the start.

Departures: their samples come from collisions of particles, their settings are known from the
abstract alone; `ecd, per tensor` takes kicks that keep the density of a product of spheres.

Reproduces: arXiv 2501.18419, the claim of its abstract.
Needs: nothing.
Takes: smoke 1 min; laptop 15 min on 2 cores; paper 5 h (estimated).
Scale: two hidden layers of 64, 10,000 samples.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks.evidence import architectures
from benchmarks.evidence._search import Task, searched
from benchmarks.evidence.learning import Method
from benchmarks.markdown import table_of
from benchmarks.models import MLP
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row, budget, grouped
from benchmarks.statistics import holm, paired_p

__all__ = [
    "METHODS",
    "PRESETS",
    "PROBLEMS",
    "Problem",
    "Settings",
    "headline",
    "plot",
    "run",
    "table",
]

HIDDEN = (64, 64)
BATCH = 250
SAMPLES = 5_000  # of each density, to learn from and to choose by
JUDGED = 1_000  # of each density
BASE = "adam"


class Problem(NamedTuple):
    """Two densities: each a mixture, in equal parts, of normal densities."""

    means: np.ndarray  # [2, parts, dimensions]
    roots: np.ndarray  # [2, dimensions, dimensions]: covariance = root root^T

    def sample(self, key: jax.Array, which: int, number: int) -> jax.Array:
        """[number, dimensions] from one of the densities."""
        part, noise = jax.random.split(key)
        part = jax.random.randint(part, (number,), 0, self.means.shape[1])
        noise = jax.random.normal(noise, (number, self.means.shape[2]))
        return jnp.asarray(self.means[which])[part] + noise @ self.roots[which].T

    def log_density(self, which: int, x: jax.Array) -> jax.Array:
        """[...] of points [..., dimensions], without the powers of 2 pi, which both have."""
        root = self.roots[which]
        away = jnp.linalg.solve(root, (x[..., None, :] - self.means[which])[..., None])[..., 0]
        exponents = -jnp.sum(away**2, axis=-1) / 2
        return jax.nn.logsumexp(exponents, axis=-1) - np.linalg.slogdet(root)[1]

    def log_ratio(self, x: jax.Array) -> jax.Array:
        """Of p_1 and p_0: log p_1/p_0."""
        return self.log_density(1, x) - self.log_density(0, x)


def _six() -> Problem:
    random = np.random.default_rng(0)
    means = 0.3 * random.normal(size=(2, 1, 6))
    return Problem(means, np.eye(6) + 0.15 * random.normal(size=(2, 6, 6)))


PROBLEMS = {
    "shift": Problem(np.array([[[-0.2]], [[0.2]]]), np.ones((2, 1, 1))),
    "six": _six(),
    "mixture": Problem(
        1.5 * np.array([[[1.0, 1.0], [-1.0, -1.0]], [[1.0, -1.0], [-1.0, 1.0]]]),
        np.stack([np.eye(2)] * 2),
    ),
}


def task_of(problem: Problem) -> Task:
    """The judge's first number is the cross-entropy of fresh samples, the others are logits."""
    model = MLP(HIDDEN, 1)
    keys = jax.random.split(jax.random.key(0), (3, 2))

    def samples(part: int, number: int) -> tuple[jax.Array, jax.Array]:
        both = [problem.sample(keys[part, which], which, number) for which in range(2)]
        return jnp.concatenate(both), jnp.repeat(jnp.arange(2.0), number)

    train, labels = samples(0, SAMPLES)
    fresh, fresh_labels = samples(1, SAMPLES)
    points = judged(problem)

    def logits(params, x):
        return jnp.asarray(model.apply({"params": params}, x))[:, 0]

    def entropy(params, x, labels):
        return optax.sigmoid_binary_cross_entropy(logits(params, x), labels).mean()

    return Task(
        lambda key: model.init(key, train[:1])["params"],
        lambda key: jax.random.randint(key, (BATCH,), 0, 2 * SAMPLES),
        lambda params, index: entropy(params, train[index], labels[index]),
        lambda params: jnp.append(entropy(params, fresh, fresh_labels), logits(params, points)),
        worst=100.0,
    )


def judged(problem: Problem) -> jax.Array:
    """The points at which the ratio is compared, as many from each density."""
    keys = jax.random.split(jax.random.key(1))
    return jnp.concatenate([problem.sample(keys[n], n, JUDGED) for n in range(2)])


def _adam(h, key, n, params):
    del key, n, params
    return optax.adam(h["rate"])


def _ecd(h, key, n, params):
    del n
    return kinopt.isokinetic(h["rate"] * optax.tree.norm(params), eta=h["eta"], key=key)


def _ecd_per_tensor(h, key, n, params):
    del n
    constant = h | {"decay": 0.0}
    return architectures.per_tensor(constant, key, params, lambda rate: rate)


_LENGTH = {"rate": (3e-5, 3e-2)}
_DECAY = {"decay": (1e-5, 1e-2)}
_TURN = {"eta": (1.0, 300.0)}

METHODS: dict[str, Method] = {
    BASE: Method(_adam, {"rate": (1e-5, 3e-2)}),
    "ecd": Method(_ecd, _LENGTH | _TURN),
    "ecd, per tensor": Method(_ecd_per_tensor, _LENGTH | _TURN),
    "adamw, annealed": Method(
        architectures.METHODS["adamw"].build, {"rate": (1e-5, 3e-2), "decay": (1e-4, 1.0)}
    ),
    "isokinetic, annealed": Method(
        architectures.METHODS["isokinetic"].build, _LENGTH | _DECAY | _TURN
    ),
}
"""As those of `evidence.architectures`. A new one comes last."""


@dataclass(frozen=True)
class Settings:
    """The problems, the steps of a training, the budget of the search, and the fresh seeds."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    num_steps: int = 1500
    num_trials: int = 24
    trial_seeds: int = 2
    num_seeds: int = 30
    seed: int = 0


PRESETS = {
    "smoke": Settings(("shift",), num_steps=3, num_trials=2, trial_seeds=1, num_seeds=2),
    "laptop": Settings(),
    "paper": Settings(num_steps=6000, num_trials=60, num_seeds=120),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """For each problem and method a row: the search, and the errors of what it chose."""
    cases = done.left({"problem": p, "method": m} for p in settings.problems for m in METHODS)
    task = functools.cache(lambda name: task_of(PROBLEMS[name]))
    for case, _ in counted(cases, "methods"):
        problem = PROBLEMS[case["problem"]]
        row, found = searched(
            task(case["problem"]), METHODS, case["method"], settings.num_steps, settings
        )
        truth = np.asarray(problem.log_ratio(judged(problem)))
        yield (
            case
            | row
            | {
                "error": np.abs(found - truth).mean(axis=1).round(6),
                "deviation": np.abs(found - found.mean(axis=0)).mean(axis=1).round(6),
            }
        )


# Reading the rows


_READING = """\
Error: the mean of |logit - log p_1/p_0| over fresh points. Deviation: the mean of |logit - the mean
logit of all networks|, the spread between starts and orders on the same samples. Both with one
standard error over {seeds} networks. Bold: p below 0.05 against Adam after Holm's correction for
all {number} comparisons of the table. Every method had {trials} trials of {trial_seeds} seeds."""

FIGURES = ("error", "deviation")


def _values(rows: list[Row]) -> dict[tuple[str, str, str], np.ndarray]:
    """(figure, problem, method) -> [seeds]."""
    return {
        (figure, row["problem"], row["method"]): np.array(row[figure])
        for row in rows
        for figure in FIGURES
    }


def table(rows: list[Row]) -> str:
    """Error and deviation of every method on every problem."""
    every = _values(rows)
    compared = [
        (figure, problem, method)
        for figure, problem, method in every
        if method != BASE and (figure, problem, BASE) in every
    ]
    p_values = [paired_p(every[case] - every[case[0], case[1], BASE]) for case in compared]
    passed = dict(zip(compared, holm(p_values), strict=True))
    columns = [(figure, problem) for problem in grouped(rows, "problem") for figure in FIGURES]

    def cell(figure: str, problem: str, method: str) -> str:
        values = every.get((figure, problem, method))
        if values is None:
            return ""
        mark = "**" if passed.get((figure, problem, method)) else ""
        return f"{mark}{values.mean():.4f} ± {_error(values):.4f}{mark}"

    lines = [[method, *(cell(*column, method) for column in columns)] for method in METHODS]
    head = ["method", *(f"{problem}, {figure}" for figure, problem in columns)]
    return "\n\n".join([table_of(head, lines), _READING.format(**budget(rows, len(compared)))])


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def headline(rows: list[Row]) -> str:
    """What descent at a constant rate has of Adam's error and of its spread."""
    every = _values(rows)
    said = []
    for problem in grouped(rows, "problem"):
        if (FIGURES[0], problem, "ecd") in every:
            error, deviation = (
                every[figure, problem, "ecd"].mean() / every[figure, problem, BASE].mean()
                for figure in FIGURES
            )
            said.append(f"{problem} {error:.2f} and {deviation:.2f}")
    return "ecd at a constant rate, of tuned Adam's error and spread: " + ", ".join(said)


def plot(rows: list[Row]) -> Figure:
    """Error against deviation, with two standard errors."""
    every, problems = _values(rows), list(grouped(rows, "problem"))
    figure = Figure(figsize=(3.2 * len(problems), 3.4), layout="constrained")
    panels = figure.subplots(1, len(problems), squeeze=False)[0]
    for axes, problem in zip(panels, problems, strict=True):
        for method in METHODS:
            if (FIGURES[0], problem, method) in every:
                error, deviation = (every[name, problem, method] for name in FIGURES)
                axes.errorbar(
                    error.mean(),
                    deviation.mean(),
                    2 * _error(deviation),
                    2 * _error(error),
                    fmt="o",
                    ms=4,
                    label=method,
                )
        axes.set(title=problem, xlabel="error of the log ratio")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("deviation between networks")
    figure.axes[0].legend(fontsize=7, frameon=False, loc="lower right")
    return figure
