"""Do collisions help where people would expect it?

Three problems whose units should differ in the end, each beside the field's own remedy: a TopK
sparse autoencoder (recovery of the features; the auxiliary loss), a codebook (quantization error;
reset of dead codes), an ensemble whose members are the neurons (loss on digits; weight decay). And
two whose units have to be alike at the end: a committee with a trained output, and a linear head
with five outputs of which every two have the cosine 0.8. Adam with a decayed rate everywhere; rates
and strengths are searched with the same number of trials, and compared on fresh paired seeds.

Reproduces: nothing.
Needs: nothing.
Takes: smoke 1 min; laptop 15 min on 2 busy cores; paper 4 h.
Scale: tens of units.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks.evidence._committee import COEFFICIENTS
from benchmarks.evidence._expected_problems import PROBLEMS
from benchmarks.evidence._rule import advice
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row, budget
from benchmarks.statistics import holm, paired_p
from kinopt.collisions.rows import in_common, scales
from kinopt.metrics import weight_correlation

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

TUNING_SEED = 99
RATES = (1e-3, 0.3)
UNITS = kinopt.layer_mask("units")
FIRST = {
    "plain": lambda s: optax.identity(),
    "soft": lambda s: kinopt.soft_collision(s, normalize=True, mask=UNITS),
    "soft, gradients": lambda s: kinopt.soft_collision(
        s, normalize=True, alike="gradients", mask=UNITS
    ),
    "trick": lambda s: optax.identity(),
}
WORST = 1e3
"""The score of a training that ended in NaN."""


@dataclass(frozen=True)
class Settings:
    """The problems, the budget of the search, and the fresh seeds."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    num_steps: int = 500
    num_trials: int = 12
    trial_seeds: int = 2
    num_seeds: int = 24
    seed: int = 0


PRESETS = {
    "smoke": Settings(problems=("codebook",), num_steps=20, num_trials=2, num_seeds=4),
    "laptop": Settings(),
    "paper": Settings(num_steps=4000, num_trials=48, num_seeds=96),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """A row for each method on each problem."""
    cases = [
        {"problem": problem, "method": method}
        for problem in settings.problems
        for method in FIRST
        if not (method == "trick" and PROBLEMS[problem].trick == "none")
    ]
    for case, _ in counted(done.left(cases), "methods on problems"):
        yield case | _judged(case["problem"], case["method"], settings)


def _judged(name: str, method: str, settings: Settings) -> Row:
    random = np.random.default_rng([TUNING_SEED, list(PROBLEMS).index(name)])

    def draw(low: float, high: float) -> np.ndarray:
        values = np.exp(random.uniform(np.log(low), np.log(high), settings.num_trials))
        return np.array([float(f"{x:.3g}") for x in values])

    strengths = PROBLEMS[name].strengths if method == "trick" else COEFFICIENTS
    tried = {"rate": draw(*RATES), "strength": draw(*strengths)}  # the same rates for all

    def trained(rate, strength, seeds):
        lanes = jnp.float32(rate), jnp.float32(strength), jnp.uint32(seeds)
        return [np.asarray(x, float) for x in _train(name, method, settings.num_steps, *lanes)]

    rate, strength = (np.repeat(values, settings.trial_seeds) for values in tried.values())
    seeds = [1000 * TUNING_SEED + n for n in range(settings.trial_seeds)] * settings.num_trials
    score = np.nan_to_num(trained(rate, strength, seeds)[0], nan=WORST, posinf=WORST)
    found = score.reshape(settings.num_trials, -1).mean(axis=1)
    best = int(found.argmin())
    chosen = {name: float(values[best]) for name, values in tried.items()}
    seeds = [1000 * settings.seed + n for n in range(settings.num_seeds)]
    rate, strength = (np.full(settings.num_seeds, value) for value in chosen.values())
    score, common, cos_g, cos_w = trained(rate, strength, seeds)
    return {
        "trick": PROBLEMS[name].trick,
        "tried": tried,
        "searched": found.round(4),
        "chosen": chosen,
        "score": np.nan_to_num(score, nan=WORST, posinf=WORST).round(5),
        "common": float(np.nanmean(common).round(4)),
        "cos_g": float(np.nanmean(cos_g).round(4)),
        "cos_w": float(np.nanmean(cos_w).round(4)),
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train(name: str, method: str, num_steps: int, rates, strengths, seeds):
    """Scores and the three numbers at the end, [lanes] each."""
    problem = PROBLEMS[name]

    def one(rate, strength, seed):
        keys = jax.random.split(jax.random.key(seed), 4)
        world, params = problem.world(keys[0]), problem.init(keys[1])
        tx = optax.chain(
            FIRST[method](strength), optax.adam(optax.cosine_decay_schedule(rate, num_steps))
        )
        trick = strength if method == "trick" else None

        def step(carry, number):
            params, state = carry
            key = jax.random.fold_in(keys[2], number)
            g = jax.grad(problem.loss)(params, world, key, trick)
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            if method == "trick":
                params = problem.after(params, world, jax.random.fold_in(key, 1), number)
            return (params, state), None

        start = params, tx.init(params)
        (params, _), _ = jax.lax.scan(step, start, jnp.arange(num_steps))

        def mean_loss(params):
            """Of 16 batches: what the gradient is beneath its noise."""
            of = jax.vmap(lambda key: problem.loss(params, world, key, None))
            return jnp.mean(of(jax.random.split(keys[3], 16)))

        g, w = jax.grad(mean_loss)(params)["units"].T, params["units"].T
        numbers = in_common(g, scales(g)).mode, weight_correlation(g), weight_correlation(w)
        return problem.score(params, world), *numbers

    return jax.vmap(one)(rates, strengths, seeds)


# Reading the rows

_READING = """\
Lower scores are better: of the autoencoder one less the mean cosine of a feature and the unit next
to it; of codebook, committee and head log10 of the error; of the ensemble the loss on test digits.
Differences are to plain, with one standard error over {seeds} fresh seeds, which are paired. Bold:
p below 0.05 after Holm's correction for all {number} comparisons. Every method had {trials} trials
of {trial_seeds} seeds each. The three numbers are those of the plain training at its end."""


def table(rows: list[Row]) -> str:
    """Every problem: plain, differences, the three numbers, and what the rule says."""
    plain = {row["problem"]: row for row in rows if row["method"] == "plain"}
    others = [row for row in rows if row["method"] != "plain" and row["problem"] in plain]
    found = [np.subtract(row["score"], plain[row["problem"]]["score"]) for row in others]
    cells: dict[tuple, str] = {}
    for row, difference, sure in zip(
        others, found, holm([paired_p(difference) for difference in found]), strict=True
    ):
        bold = "**" if sure else ""
        place = row["problem"], row["method"]
        cells[place] = f"{bold}{_mean(difference, '+')}{bold}"
    lines = []
    for problem, row in plain.items():
        numbers = [row[name] for name in ("common", "cos_g", "cos_w")]
        lines.append(
            [
                problem,
                *(f"{number:.2f}" for number in numbers),
                " and ".join(sorted(advice(*numbers))) or "none",
                _mean(np.array(row["score"])),
                *(cells.get((problem, name), "") for name in list(FIRST)[1:]),
                row["trick"],
            ]
        )
    header = ["problem", "common g", "cos g", "cos w", "the rule says", "plain", *list(FIRST)[1:]]
    reading = _READING.format(**budget(rows, len(found)))
    return f"{table_of([*header, 'which is'], lines)}\n\n{reading}"


def _mean(values: np.ndarray, sign: str = "") -> str:
    """Mean and error, with three digits: some scores are small."""
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():{sign}.3f} ± {error:.3f}"


def headline(rows: list[Row]) -> str:
    """What soft collisions change on each problem."""
    plain = {row["problem"]: np.array(row["score"]) for row in rows if row["method"] == "plain"}
    said = [
        f"{row['problem']} {_mean(np.array(row['score']) - plain[row['problem']], '+')}"
        for row in rows
        if row["method"] == "soft"
    ]
    return f"soft collisions, lower is better: {', '.join(said)}"


def plot(rows: list[Row]) -> Figure:
    """What each method changes on each problem, with two standard errors."""
    plain = {row["problem"]: np.array(row["score"]) for row in rows if row["method"] == "plain"}
    figure = Figure(figsize=(2.3 * len(plain), 2.8), layout="constrained")
    grid = figure.subplots(1, len(plain), squeeze=False)[0]
    for ax, (problem, base) in zip(grid, plain.items(), strict=True):
        part = [row for row in rows if row["problem"] == problem and row["method"] != "plain"]
        for number, row in enumerate(part):
            less = np.array(row["score"]) - base
            ax.errorbar(number, less.mean(), 2 * less.std(ddof=1) / len(less) ** 0.5, fmt="o", ms=4)
        names = [row["trick"] if row["method"] == "trick" else row["method"] for row in part]
        ax.set_xticks(range(len(part)), names, rotation=30, ha="right", fontsize=7)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_title(problem, fontsize=9)
    grid[0].set_ylabel("score less plain (lower is better)", fontsize=8)
    return figure
