"""Averages at a temperature from trajectories at an energy: what wins, ties, loses?

`kinopt.canonical` weights the steps of a walk on an energy shell, so that one run gives averages at
every temperature, the weights of modes, and the evidence. Here it stands beside samplers of
BlackJAX that are given the same loss, the same starts and the same number of gradients: a ladder of
HMC kernels, adaptive tempered SMC, and MCLMC on the very density that `kinopt.canonical` walks; and
beside its prototype, which weights `kinopt.bbi`. Each estimates the weight of a mode and the mean
loss at one temperature, whose true values are known; what some give besides is not asked.

The targets are two Gaussians of widths 1 and 0.5, six apart, with equal weights; a phi^4 chain
whose wells differ in depth and width, with the share of states that have most sites on the right;
the surface of Mueller and Brown at kT = 20, with the share on the side of its deepest minimum; and
the mean energy of seven Lennard-Jones particles in a weak harmonic trap at T = 0.15, against a long
run of the ladder. Then the automatic settings against others.

Reproduces: nothing; the papers weight no trajectory.
Needs: blackjax.
Takes: smoke 2 min; laptop 40 min on 2 cores that are shared.
Scale: up to 32 parameters and 4e5 gradients; ten seeds resolve factors of two, not less.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.evidence import _canonical_methods as methods
from benchmarks.evidence._canonical_targets import TARGETS, target
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row, where

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

OURS = "kinopt.canonical"
CLUSTER = "LJ7, n = 21"
LONG = ("two Gaussians, n = 10", "phi^4 chain, n = 16")
"""Targets with the larger number of gradients too; the last with other settings."""

FACTORS = ((0.7, 1.0), (1.4, 1.0), (1.0, 0.5), (1.0, 2.0))
"""Of the automatic hot temperature (above T) and dt."""

QUANTITIES = ("weight of a mode", "mean loss")


@dataclass(frozen=True)
class Settings:
    """Which targets, with how many gradients and seeds."""

    targets: tuple[str, ...] = tuple(TARGETS)
    gradients: int = 100_000
    many_gradients: int = 400_000
    num_seeds: int = 10
    reference_gradients: int = 1_000_000
    seed: int = 0


PRESETS = {
    "smoke": Settings(("two Gaussians, n = 2",), 4000, 8000, 2, 10_000),
    "laptop": Settings(),
    "paper": Settings(num_seeds=100, reference_gradients=10_000_000),
}


@contextlib.contextmanager
def _double_and_kept():
    """64 bits, and programs that are compiled once for all seeds: closures differ, they do not."""
    names = {
        "jax_enable_x64": True,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with tempfile.TemporaryDirectory() as folder:
        names["jax_compilation_cache_dir"] = folder
        before = {name: getattr(jax.config, name) for name in names}
        for name, value in names.items():
            jax.config.update(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)


def _cases(settings: Settings) -> list[Row]:
    cases = [{"stage": "reference", "target": name} for name in settings.targets if name == CLUSTER]
    for name in settings.targets:
        budgets = [settings.gradients] + [settings.many_gradients] * (name in LONG)
        cases += [
            {"stage": "methods", "target": name, "gradients": budget, "method": method}
            for budget in budgets
            for method in methods.METHODS
        ]
    return cases + [
        {"stage": "settings", "target": name, "hot": hot, "dt": dt}
        for name in settings.targets
        if name == LONG[-1]
        for hot, dt in FACTORS
    ]


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each target, number of gradients and method; then for other settings."""
    with _double_and_kept():
        for case, _ in counted(done.left(_cases(settings)), "cases"):
            yield case | _measured(case, settings)


def _measured(case: Row, settings: Settings) -> Row:
    """What each seed gave, and the truth where it is known."""
    what = target(case["target"])
    keys = jax.random.split(jax.random.key(settings.seed), settings.num_seeds)
    if case["stage"] == "reference":
        fresh = jax.random.split(jax.random.key(settings.seed + 1), settings.num_seeds)
        found = methods.ladder(what, settings.reference_gradients, fresh)[:, 1]
        error = found.std(ddof=1) / np.sqrt(len(found))
        return {"truth": [None, float(found.mean())], "truth_error": float(error)}
    if case["stage"] == "settings":
        automatic = methods.automatic(what)
        hot = what.temperature + case["hot"] * (automatic.hot - what.temperature)
        found = methods.canonical(
            what, settings.gradients, keys, hot=hot, dt=case["dt"] * automatic.dt
        )
    else:
        found = methods.METHODS[case["method"]](what, case["gradients"], keys)
    row = {
        "truth": list(what.truth),
        "estimates": found[:, :2].tolist(),
        "num_gradients": float(found[:, 2].mean()),
    }
    if found.shape[1] > 3:
        row |= {"said": found[:, 3:5].tolist(), "refused": int(found[:, 5].sum())}
    return row


# Reading the rows

READING = """\
Root mean square error over the seeds, with a 95 % interval of the bootstrap; in brackets the p
value of Wilcoxon's signed-rank test that its errors are as large as those of `kinopt.canonical` on
the same seeds, **bold** where below 0.05. Weight: of the mode; loss: its mean. Refused: seeds for
which `kinopt.canonical` would have given NaN and a reason; its number is counted here all the same.
Error / said: root mean square of its errors in units of the standard errors that it gives."""


def _errors(rows: list[Row], row: Row) -> np.ndarray:
    """Errors [seeds, 2]; NaN where there is no truth."""
    truth = np.array(row["truth"], float)
    for reference in where(rows, stage="reference", target=row["target"]):
        truth = np.array(reference["truth"], float)
    return np.array(row["estimates"], float) - truth


def _rms(errors: np.ndarray) -> tuple[float, float, float]:
    """Root mean square, and its interval."""
    drawn = np.random.default_rng(0).integers(len(errors), size=(2000, len(errors)))
    many = np.sqrt((errors[drawn] ** 2).mean(axis=1))
    return float(np.sqrt((errors**2).mean())), *np.quantile(many, [0.025, 0.975])


def _p(errors: np.ndarray, ours: np.ndarray) -> float:
    difference = np.abs(errors) - np.abs(ours)
    return float(np.asarray(stats.wilcoxon(difference))[1]) if difference.any() else 1.0


def _compared(rows: list[Row]) -> list[tuple[Row, int, np.ndarray, np.ndarray]]:
    """Row, quantity, its errors and ours: all comparisons."""
    found = []
    for row in where(rows, stage="methods"):
        case = {name: row[name] for name in ("target", "gradients")}
        ours = where(rows, stage="methods", method=OURS, **case)
        if not ours:
            continue
        errors, our_errors = _errors(rows, row), _errors(rows, ours[0])
        found += [
            (row, k, errors[:, k], our_errors[:, k])
            for k in range(2)
            if np.isfinite(errors[:, k]).all()
        ]
    return found


def table(rows: list[Row]) -> str:
    """Targets by methods, what ours says of itself, and other settings."""
    cells: dict[str, dict[str, str]] = {}
    for row, k, errors, ours in _compared(rows):
        rms, low, high = _rms(errors)
        text = f"{rms:.3g} ({low:.2g} to {high:.2g})"
        if row["method"] != OURS:
            p = _p(errors, ours)
            text += f" [**{p:.2g}**]" if p < 0.05 else f" [{p:.2g}]"
        name = f"{row['target']}: {('weight', 'loss')[k]}, {row['gradients']:g}"
        cells.setdefault(name, {})[row["method"]] = text
    names = list(methods.METHODS)
    lines = [[name, *(line.get(m, "") for m in names)] for name, line in cells.items()]
    parts = [table_of(["target", *names], lines)]
    own = [
        [
            f"{row['target']}, {row['gradients']:g}",
            f"{row['refused']} of {len(row['estimates'])}",
            *(_in_units(_errors(rows, row)[:, k], np.array(row["said"])[:, k]) for k in range(2)),
        ]
        for row in where(rows, stage="methods", method=OURS)
    ]
    parts.append(
        table_of(["kinopt.canonical", "refused", "weight: error / said", "loss: error / said"], own)
    )
    others = [
        [
            f"{row['target']}: hot x {row['hot']:g}, dt x {row['dt']:g}",
            *(f"{_rms(_errors(rows, row)[:, k])[0]:.3g}" for k in range(2)),
        ]
        for row in where(rows, stage="settings")
    ]
    if others:
        parts.append(table_of(["other settings", "weight", "loss"], others))
    return "\n\n".join(parts)


def _in_units(errors: np.ndarray, said: np.ndarray) -> str:
    if not np.isfinite(errors).all():
        return ""
    return f"{np.sqrt(np.mean((errors / said) ** 2)):.2f}"


def headline(rows: list[Row]) -> str:
    """How often ours won, tied and lost against each of BlackJAX's."""
    said = []
    for method in methods.METHODS:
        if method == OURS:
            continue
        won = tied = lost = 0
        for row, _, errors, ours in _compared(rows):
            if row["method"] == method:
                differs = _p(errors, ours) < 0.05
                better = np.mean(ours**2) < np.mean(errors**2)
                won, tied, lost = (
                    won + (differs and better),
                    tied + (not differs),
                    lost + (differs and not better),
                )
        said.append(f"{method} {won}/{tied}/{lost}")
    return "kinopt.canonical wins/ties/loses (p < 0.05) against: " + ", ".join(said)


def plot(rows: list[Row]) -> Figure:
    """Errors of each method in units of ours, for each target."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = list(dict.fromkeys((r["target"], r["gradients"]) for r in where(rows, stage="methods")))
    for k, axes in enumerate(panels):
        for method in methods.METHODS:
            points = [
                (_rms(errors)[0] / _rms(ours)[0], names.index((row["target"], row["gradients"])))
                for row, quantity, errors, ours in _compared(rows)
                if quantity == k and row["method"] == method
            ]
            style = "k|" if method == OURS else "o"
            x, y = np.reshape(points, (-1, 2)).T
            axes.plot(x, y, style, alpha=0.7, label=method)
        axes.set(xscale="log", title=QUANTITIES[k])
    figure.supxlabel("error / that of kinopt.canonical", fontsize=10)
    labels = [f"{name}, {gradients:g}" for name, gradients in names]
    panels[0].set_yticks(range(len(names)), labels, fontsize=8)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", frameon=False)
    return figure
