"""Fig. 2 of the KO paper: do collisions hinder the condensation of a small network?

A network of 5 inputs, 50 hidden neurons and one output starts from tiny weights and learns 80
values of a sum of sines. Its hidden neurons soon gather on a few directions. The figure shows their
cosines at step 100, without collisions, with soft and with hard ones, and says that both hinder
condensation. Its coefficients are not given: here every law is measured from where it does nothing
to where it stops the network from learning, over seeds, with the loss beside it.

    f(x) = sum_j a_j s(w_j . (x, 1)),   target sum_k 3.5 sin(5 x_k + 1),  x_k uniform in [-4, 2],
    all weights from N(0, 0.005^2), mean squared error, Adam on all 80 points at once

(section 4.1, after Zhou et al. 2022, whose network has its bias as a sixth input; so the collision
and the cosine both see (w_j, b_j)). The activation xtanh is x tanh(x). The laws:

    soft             Algorithm 2
    soft, normalized the same, M divided by its infinity norm
    hard, paper      Algorithm 1: all accepted pairs, raw distances ("l2")
    hard, rms        the same, distances divided by sqrt(D)
    hard, matching   each neuron collides at most once, as in DSMC; energy is conserved

Reproduces: KO, Fig. 2 and section 4.1.
Needs: nothing.
Takes: smoke 30 s; laptop 12 min; paper 3 h on 2 cores.
"""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks.experiments import UsageError
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row
from benchmarks.statistics import mean_and_error
from benchmarks.train import accepted_fraction
from kinopt import metrics
from kinopt._typing import PyTree
from kinopt.plots import PALETTE, similarity_heatmaps

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

INPUTS, HIDDEN, SAMPLES = 5, 50, 80
START = 0.005  # standard deviation of all initial weights
HIDDEN_LAYER = kinopt.layer_mask("hidden")

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "xtanh": lambda x: x * jnp.tanh(x),
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "relu": jax.nn.relu,
}

Law = Callable[[jax.Array, jax.Array], optax.GradientTransformation]
"""The collision of a coefficient and a key."""

LAWS: dict[str, Law] = {
    "none": lambda c, key: optax.identity(),
    "soft": lambda c, key: kinopt.soft_collision(c, mask=HIDDEN_LAYER),
    "soft, normalized": lambda c, key: kinopt.soft_collision(c, mask=HIDDEN_LAYER, normalize=True),
    "hard, paper": lambda c, key: summed_collision(c, key=key, mask=HIDDEN_LAYER, distance="l2"),
    "hard, rms": lambda c, key: summed_collision(c, key=key, mask=HIDDEN_LAYER),
    "hard, matching": lambda c, key: kinopt.hard_collision(
        c, key=key, mask=HIDDEN_LAYER, combine="matching"
    ),
}

COEFFICIENTS = {
    "none": (0.0,),
    "soft": (0.01, 0.02, 0.05, 0.1, 0.3),
    "soft, normalized": (0.3, 1.0),
    "hard, paper": (0.03, 0.1, 0.3, 0.9),
    "hard, rms": (0.03, 0.1, 0.3),
    "hard, matching": (0.3, 1.0),
}
"""From no effect to the end of learning."""

SHOWN = {"none": 0.0, "soft": 0.05, "soft, normalized": 1.0, "hard, paper": 0.1, "hard, rms": 0.1}
"""The heat maps: the coefficient of the lowest |cos| at which the network still learns."""


@dataclass(frozen=True)
class Settings:
    """Every activation meets every law at every coefficient and learning rate."""

    num_seeds: int = 20
    num_steps: int = 600
    shown_step: int = 100  # the paper's epoch 100: one batch holds all samples
    num_snapshots: int = 24
    rates: tuple[float, ...] = (1e-4, 1e-3)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    laws: tuple[str, ...] = tuple(LAWS)
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        num_seeds=2,
        num_steps=20,
        shown_step=10,
        num_snapshots=4,
        rates=(1e-3,),
        activations=("tanh",),
        laws=("none", "soft", "hard, paper"),
    ),
    "laptop": Settings(),
    "paper": Settings(num_seeds=100, num_steps=1000, num_snapshots=20, rates=(1e-4, 3e-4, 1e-3)),
}


def samples(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inputs [80, 6], the last one 1, and targets [80]."""
    x = jax.random.uniform(key, (SAMPLES, INPUTS), minval=-4, maxval=2)
    return jnp.c_[x, jnp.ones(SAMPLES)], jnp.sum(3.5 * jnp.sin(5 * x + 1), axis=1)


def start(key: jax.Array) -> PyTree:
    """Hidden kernel [6, 50] and output weights [50]."""
    hidden, output = jax.random.split(key)
    return {
        "hidden": START * jax.random.normal(hidden, (INPUTS + 1, HIDDEN)),
        "output": START * jax.random.normal(output, (HIDDEN,)),
    }


@functools.partial(jax.jit, static_argnames=("activation", "law", "settings"))
def train(keys, coll_coef, rate, activation: str, law: Law, settings: Settings):
    """All seeds: what was measured at the start and at every snapshot, [seeds, snapshots + 1].

    A seed fixes samples and start, whatever the law: laws are compared seed by seed.
    """
    chunk = settings.num_steps // settings.num_snapshots

    def one(key):
        data_key, start_key, law_key = jax.random.split(key, 3)
        x, y = samples(data_key)
        params = start(start_key)
        optimizer = optax.chain(law(coll_coef, law_key), optax.adam(rate))

        def loss_of(params):
            hidden = ACTIVATIONS[activation](x @ params["hidden"])
            return jnp.mean(jnp.square(hidden @ params["output"] - y))

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss_of)(params), state, params)
            return (optax.apply_updates(params, updates), state), accepted_fraction(state)

        def measure(params, accepted):
            neurons = params["hidden"].T
            return {
                "mean_abs_cosine": metrics.weight_correlation(neurons),
                "max_abs_cosine": metrics.neuron_similarity(neurons),
                "effective_rank": metrics.effective_rank(neurons),
                "loss": loss_of(params),
                "accepted_fraction": jnp.mean(accepted),
                "neurons": neurons / jnp.linalg.norm(neurons, axis=1, keepdims=True),
            }

        def snapshot(carry, _):
            carry, accepted = jax.lax.scan(step, carry, length=chunk)
            return carry, measure(carry[0], accepted)

        first = measure(params, jnp.full(1, jnp.nan))
        _, rest = jax.lax.scan(
            snapshot, (params, optimizer.init(params)), length=settings.num_snapshots
        )
        return jax.tree.map(lambda leaf, leaves: jnp.concatenate([leaf[None], leaves]), first, rest)

    return jax.vmap(one)(keys)


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each activation, law, coefficient and learning rate.

    `x` is measured at the shown step and `x_curve` along training (mean over seeds); `loss` at the
    end. The neurons kept are those of the first seed at the shown step, at the last learning rate.
    """
    chunk = settings.num_steps // settings.num_snapshots
    if settings.shown_step % chunk:
        raise UsageError(f"shown_step must be a multiple of {chunk}, the steps between snapshots.")
    steps = np.arange(settings.num_snapshots + 1) * chunk
    shown = settings.shown_step // chunk
    keys = jax.random.split(jax.random.key(settings.seed), settings.num_seeds)
    cases = [
        {"activation": activation, "law": law, "coll_coef": coll_coef, "rate": rate}
        for activation in settings.activations
        for law in settings.laws
        for coll_coef in COEFFICIENTS[law]
        for rate in settings.rates
    ]
    for case, _ in counted(done.left(cases), "networks"):
        began = time.perf_counter()
        activation, law, coll_coef, rate = case.values()
        measured = train(keys, coll_coef, rate, activation, LAWS[law], settings)
        found = {name: np.asarray(leaf, np.float64) for name, leaf in measured.items()}
        row = {**case, "steps": steps, "loss": significant(found["loss"][:, -1])}
        for name in ("mean_abs_cosine", "max_abs_cosine", "effective_rank"):
            row[name] = significant(found[name][:, shown])
        for name in ("mean_abs_cosine", "loss"):
            row[f"{name}_curve"] = significant(found[name].mean(axis=0))
        row["accepted_fraction"] = found["accepted_fraction"][:, 1 : shown + 1].mean()
        if rate == settings.rates[-1]:
            row["neurons"] = found["neurons"][0, shown].round(3)
        yield row | {"seconds": round(time.perf_counter() - began, 3)}


def significant(values: np.ndarray) -> list[float]:
    """Four significant digits: rows stay short."""
    return [float(f"{value:.4g}") for value in values]


_READING = """\
Means and standard errors over seeds, each with its own samples, start and collisions. Cosines and
effective rank (of at most 6) are taken at step {shown}, the paper's epoch 100; the loss at step
{last}. The column of the loss is bold where it is below that without collisions by two standard
errors of the paired difference, and in italics where it is above by as much."""


def table(rows: list[Row]) -> str:
    """The last run at its highest learning rate, and in short at the others."""
    rates = sorted({row["rate"] for row in rows}, reverse=True)
    header = [
        "activation",
        "law",
        "c",
        "mean abs. cosine",
        "max",
        "effective rank",
        "pairs",
        "loss",
    ]
    lines = []
    for row in rows:
        if row["rate"] == rates[0]:
            values = [mean_and_error(np.array(row[name])) for name in COLUMNS]
            lines.append(
                [
                    row["activation"],
                    row["law"],
                    f"{row['coll_coef']:g}" if row["law"] != "none" else "",
                    *values,
                    "" if row["accepted_fraction"] is None else f"{row['accepted_fraction']:.1%}",
                    _loss(row, _plain(rows, row)),
                ]
            )
    parts = [f"Learning rate {rates[0]:g}:", table_of(header, lines)]
    parts += [
        f"Mean abs. cosine (loss) at learning rate {rate:g}:\n\n{_short(rows, rate)}"
        for rate in rates[1:]
    ]
    settings = rows[0]["settings"]
    reading = _READING.format(shown=settings["shown_step"], last=settings["num_steps"])
    return "\n\n".join([*parts, reading])


COLUMNS = ("mean_abs_cosine", "max_abs_cosine", "effective_rank")


def _plain(rows: list[Row], row: Row) -> Row:
    """The row without collisions at the same activation and learning rate."""
    return next(
        other
        for other in rows
        if other["law"] == "none"
        and (other["activation"], other["rate"]) == (row["activation"], row["rate"])
    )


def _paired(row: Row, plain: Row, name: str) -> tuple[float, float]:
    """Mean difference to no collisions, and its standard error."""
    difference = np.array(row[name], float) - np.array(plain[name], float)
    return difference.mean(), difference.std(ddof=1) / np.sqrt(len(difference))


def _loss(row: Row, plain: Row) -> str:
    difference, error = _paired(row, plain, "loss")
    mark = "" if abs(difference) < 2 * error or row is plain else "**" if difference < 0 else "*"
    return f"{mark}{np.mean(row['loss']):.2f}{mark}"


def _short(rows: list[Row], rate: float) -> str:
    """One line for each law and coefficient, one column for each activation."""
    rows = [row for row in rows if row["rate"] == rate]
    activations = list(dict.fromkeys(row["activation"] for row in rows))
    cells: dict[tuple[str, float], dict[str, str]] = {}
    for row in rows:
        text = f"{np.mean(row['mean_abs_cosine']):.2f} ({_loss(row, _plain(rows, row))})"
        cells.setdefault((row["law"], row["coll_coef"]), {})[row["activation"]] = text
    return table_of(
        ["law", "c", *activations],
        [
            [law, f"{c:g}" if law != "none" else "", *(line.get(a, "") for a in activations)]
            for (law, c), line in cells.items()
        ],
    )


def headline(rows: list[Row]) -> str:
    """How many activations each law of the paper parts, and at what cost."""
    rate = max(row["rate"] for row in rows)
    rows = [row for row in rows if row["rate"] == rate]
    parts = []
    for law in ("soft", "hard, paper"):
        lowered: dict[str, bool] = {}
        for row in rows:
            if row["law"] == law:
                plain = _plain(rows, row)
                (cosine, error), (loss, loss_error) = (
                    _paired(row, plain, name) for name in ("mean_abs_cosine", "loss")
                )
                good = cosine < -2 * error and loss < 2 * loss_error
                lowered[row["activation"]] = lowered.get(row["activation"], False) or good
        parts.append(f"{law}: {sum(lowered.values())} of {len(lowered)} activations")
    return f"mean abs. cosine lower at no higher loss, at some coefficient: {'; '.join(parts)}"


def plot(rows: list[Row]) -> Figure:
    """Heat maps like the paper's, one row for each law; below, cosine and loss by coefficient."""
    rate = max(row["rate"] for row in rows)
    rows = [row for row in rows if row["rate"] == rate]
    activations = list(dict.fromkeys(row["activation"] for row in rows))
    laws = [law for law in SHOWN if any(row["law"] == law for row in rows)]
    width = len(activations)
    figure = Figure(figsize=(2.2 * width + 1.6, 2.15 * len(laws) + 4.6), layout="constrained")
    heights = [2.15 * len(laws), 4.6]
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    shown = {
        (row["law"], row["activation"]): row
        for row in rows
        if SHOWN.get(row["law"]) == row["coll_coef"]
    }
    neurons = {
        law if law == "none" else f"{law}\nc = {SHOWN[law]:g}": {
            activation: np.array(shown[law, activation]["neurons"]) for activation in activations
        }
        for law in laws
    }
    grid = similarity_heatmaps(neurons, upper)
    for line, law in zip(grid, laws, strict=True):
        for axes, activation in zip(line, activations, strict=True):
            mean = np.mean(shown[law, activation]["mean_abs_cosine"])  # of all seeds
            above = f"{activation}\n" if law == laws[0] else ""
            axes.set_title(f"{above}mean |cos| {mean:.2f}", fontsize=9)
    upper.suptitle(
        f"Hidden neurons of a 5-50-1 network at step 100, first of all seeds, Adam {rate:g}",
        fontsize=12,
    )
    _windows(lower.subplots(2, width, squeeze=False, sharex=True), rows, activations)
    return figure


def _windows(grid, rows: list[Row], activations: list[str]) -> None:
    """Mean |cos| at the shown step and the loss at the end, over the coefficient."""
    for (upper, lower), activation in zip(grid.T, activations, strict=True):
        for color, law in zip(PALETTE, [law for law in LAWS if law != "none"], strict=False):
            part = [r for r in rows if (r["activation"], r["law"]) == (activation, law)]
            part.sort(key=lambda row: row["coll_coef"])
            for axes, name in ((upper, "mean_abs_cosine"), (lower, "loss")):
                values = np.array([row[name] for row in part], float)
                if part:
                    error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
                    c = [row["coll_coef"] for row in part]
                    axes.errorbar(
                        c, values.mean(axis=1), error, color=color, label=law, marker=".", lw=1
                    )
        (plain,) = [r for r in rows if (r["activation"], r["law"]) == (activation, "none")]
        for axes, name in ((upper, "mean_abs_cosine"), (lower, "loss")):
            axes.axhline(np.mean(plain[name]), color="black", lw=1, ls="--", label="none")
            axes.set_xscale("log")
            axes.tick_params(labelsize=7)
        upper.set(ylim=(0, 1.05))
        lower.set_xlabel("coefficient c", fontsize=9)
    grid[0, 0].set_ylabel("mean |cos|, step 100", fontsize=9)
    grid[1, 0].set_ylabel("loss at the end", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    grid[0, 0].figure.legend(
        handles, labels, ncols=len(labels), loc="outside lower center", fontsize=8, frameon=False
    )
