"""How the rows of `alike` are read: paired differences, and what the rule makes of them."""

import itertools
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.evidence._rule import COMMON, COS_G, COS_W, advice
from benchmarks.markdown import table_of
from benchmarks.record import Row, budget
from benchmarks.statistics import holm, mean_and_error, paired_p

__all__ = ["Comparison", "comparisons", "headline", "plot", "table"]

LAWS = ("soft", "soft, gradients")
RIVALS = ("soft", "muon")
NUMBERS = ("common", "cos_g", "cos_w")
PLACE = ("base", "schedule", "steps", "units", "activation", "cosine")


class Comparison(NamedTuple):
    """A method against the plain one on a task: log10 of the error, less that of plain."""

    task: tuple
    method: str
    difference: np.ndarray  # [seeds]
    numbers: tuple[float, float, float]  # of the plain training's end
    sure: bool  # after Holm's correction for all

    @property
    def gains(self) -> bool:
        """Whether the error is lower, beyond chance."""
        return self.sure and self.difference.mean() < 0

    @property
    def loses(self) -> bool:
        """Whether it is higher."""
        return self.sure and self.difference.mean() > 0

    @property
    def is_named(self) -> bool:
        """Whether the rule would have it tried."""
        return self.method in advice(*self.numbers)


def _task(row: Row) -> tuple:
    return tuple(row[name] for name in PLACE)


def comparisons(rows: list[Row]) -> list[Comparison]:
    """All methods against the plain one of their base, in the rows' order."""
    plain = {_task(row): row for row in rows if row["method"] == "plain"}
    pairs = [
        (row, plain[_task(row)]) for row in rows if row["method"] != "plain" and _task(row) in plain
    ]
    differences = [np.subtract(row["log_error"], base["log_error"]) for row, base in pairs]
    sure = holm([paired_p(difference) for difference in differences])
    return [
        Comparison(
            _task(row),
            row["method"],
            difference,
            tuple(base[name][-1] for name in NUMBERS),  # pyright: ignore[reportArgumentType]
            good,
        )
        for (row, base), difference, good in zip(pairs, differences, sure, strict=True)
    ]


RULE = f"""\
The rule, with Adam: train it plain with a rate that decays to zero, and look at three numbers at
the end. Where the common share is at least {COMMON:g} and the mean |cos| of the gradients at least
{COS_G:g}, `alike="gradients"` is worth a search; where the mean |cos| of the weights is at least
{COS_W:g} as well, the paper's law is. At a constant rate the first two are high in any case, and
say little; with SGD the rule does not hold."""

SOLVED = -9.5

_READING = """\
log10 of the test error at the end: of the plain optimizer, and what the others have more (less is
better), with one standard error over {seeds} fresh seeds, which are paired. Bold: p below 0.05
after Holm's correction for all {number} comparisons. Every method had {trials} trials of
{trial_seeds} seeds each; an error below 1e-10 counts as 1e-10. The three numbers are those of the
plain training at its end: the common share of the gradient, mean |cos| of the gradients and of the
weights."""


def table(rows: list[Row]) -> str:
    """Every task, what it comes to for each method, and how often the rule is right."""
    found = comparisons(rows)
    methods = list(dict.fromkeys(c.method for c in found))
    plain = {_task(row): row for row in rows if row["method"] == "plain"}
    lines = []
    for task, row in plain.items():
        base, schedule, steps, units, activation, cosine = task
        here = {c.method: c for c in found if c.task == task}
        line = [f"{base}, {steps} {schedule}", f"{units} {activation}", f"{cosine:g}"]
        line += [f"{row[name][-1]:.2f}" for name in NUMBERS]
        line.append(f"{np.mean(row['log_error']):.2f}")
        for method in methods:
            c = here.get(method)
            bold = "**" if c and c.sure else ""
            line.append("" if c is None else f"{bold}{mean_and_error(c.difference, '+')}{bold}")
        lines.append(line)
    header = ["training", "units", "cosine", "common g", "cos g", "cos w", "plain", *methods]
    reading = _READING.format(**budget(rows, len(found)))
    solved = {task for task, row in plain.items() if np.mean(row["log_error"]) < SOLVED}
    parts = table_of(header, lines), reading, _by_cosine(found, methods), _rule(found, solved)
    return "\n\n".join([*parts, _rivals(rows)])


def _by_cosine(found: list[Comparison], methods: list[str]) -> str:
    """The mean over a base's tasks of each cosine, with the error of their spread, and a tally."""
    cosines = sorted({c.task[-1] for c in found})
    bases = dict.fromkeys((c.task[0], c.task[3]) for c in found)
    lines = []
    for (base, units), method in itertools.product(bases, methods):
        line = [base, str(units), method]
        for cosine in cosines:
            here = method, base, units, cosine
            part = [c for c in found if (c.method, c.task[0], c.task[3], c.task[-1]) == here]
            tally = f"{sum(c.gains for c in part)} gain, {sum(c.loses for c in part)} lose"
            means = np.array([c.difference.mean() for c in part])
            line.append(f"{mean_and_error(means, '+')} ({tally})" if part else "")
        if any(line[3:]):
            lines.append(line)
    header = ["base", "units", "method", *(f"cosine {cosine:g}" for cosine in cosines)]
    return (
        f"{table_of(header, lines)}\n\n"
        "Means over activations and trainings, with the standard error of their spread; on how "
        "many the method gains or loses beyond chance."
    )


def _rule(found: list[Comparison], solved: set[tuple]) -> str:
    left = [c for c in found if c.method in LAWS and c.task not in solved]
    kinds = dict.fromkeys((c.task[0], c.task[1], c.task[3], c.method) for c in left)
    said = []
    for base, schedule, units, method in kinds:
        kind = base, schedule, units, method
        part = [c for c in left if (c.task[0], c.task[1], c.task[3], c.method) == kind]
        named = [c for c in part if c.is_named]
        right = sum(c.gains for c in named)
        missed = sum(c.gains for c in part) - right
        said.append(
            [
                f"{base}, {schedule}",
                f"{units}",
                method,
                f"{len(named)} of {len(part)}",
                f"{right}",
                f"{sum(c.loses for c in named)}",
                f"{missed}",
                f"{len(named) - right + missed}",
                f"{len(part) - right - missed}",
            ]
        )
    header = ["the rule", "units", "law", "tasks named", "of them gain", "of them lose"]
    table = table_of([*header, "gain unnamed", "errors", "if all were named"], said)
    return (
        f"{RULE}\n\n{table}\n\nWithout the tasks that the plain optimizer solves (mean log10 error "
        "below -9.5), where nothing is left to gain. An error is a task that is named and does not "
        "gain beyond chance, or gains and is not named; the last column has the errors of a rule "
        "that names every task. The thresholds were chosen on five units with Adam and a decayed "
        "rate; ten units and SGD were measured later."
    )


def _rivals(rows: list[Row]) -> str:
    """Soft collisions of both kinds and Muon, face to face."""
    errors = {(_task(row), row["method"]): np.array(row["log_error"]) for row in rows}
    pairs = [
        (task, method, errors[task, method] - errors[task, "soft, gradients"])
        for task, method in errors
        if method in RIVALS and (task, "soft, gradients") in errors
    ]
    sure = holm([paired_p(difference) for _, _, difference in pairs])
    kinds: dict[tuple, dict[str, list[float]]] = {}
    for (task, method, difference), good in zip(pairs, sure, strict=True):
        kind = kinds.setdefault((task[0], task[1], task[3]), {name: [] for name in RIVALS})
        kind[method].append(difference.mean() if good else 0.0)
    lines = []
    for (base, schedule, units), kind in kinds.items():
        line = [f"{base}, {schedule}", str(units)]
        for signs in (np.sign(means) for means in kind.values()):
            words = f"{np.sum(signs < 0)} ahead, {np.sum(signs > 0)} behind, of {len(signs)}"
            line.append(words if len(signs) else "")
        lines.append(line)
    return (
        f"{table_of(['against soft, gradients', 'units', *RIVALS], lines)}\n\n"
        f"Ahead, behind: beyond chance, after Holm's correction for these {len(pairs)} comparisons."
    )


def headline(rows: list[Row]) -> str:
    """On how many of Adam's tasks with alike units, and with orthogonal ones, methods gain."""
    found = [c for c in comparisons(rows) if c.task[0] == "adam"]
    said = []
    for method in (*LAWS, "muon"):
        words = []
        for name, alike in (("alike", True), ("orthogonal", False)):
            part = [c for c in found if c.method == method and (c.task[-1] >= 0.7) == alike]
            part = part if alike else [c for c in part if c.task[-1] == 0]
            gains, loses = sum(c.gains for c in part), sum(c.loses for c in part)
            words.append(f"{name} {gains} gain and {loses} lose of {len(part)}")
        said.append(f"{method}: {', '.join(words)}")
    return "; ".join(said)


def plot(rows: list[Row]) -> Figure:
    """What soft collisions and Muon change, over the cosine of the plain weights at the end."""
    found = [c for c in comparisons(rows) if c.task[0] == "adam"]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    grid = figure.subplots(1, 3, sharey=True)
    few, many = min(c.task[3] for c in found), max(c.task[3] for c in found)
    marks = dict(zip(dict.fromkeys(c.task[4] for c in found), "osD^v", strict=False))
    for ax, method in zip(grid, (*LAWS, "muon"), strict=True):
        for (activation, mark), units in itertools.product(marks.items(), sorted({few, many})):
            kind = method, activation, units
            part = [c for c in found if (c.method, c.task[4], c.task[3]) == kind]
            error = [c.difference.std(ddof=1) / len(c.difference) ** 0.5 for c in part]
            ax.errorbar(
                [c.numbers[2] for c in part],
                [c.difference.mean() for c in part],
                2 * np.array(error),
                fmt=mark,
                color=f"C{list(marks).index(activation)}",
                mfc=None if units == few else "white",
                ms=4,
                lw=1,
                label=f"{activation}, {units}" if part else None,
            )
        ax.axhline(0, color="black", lw=0.8)
        ax.set(title=method, xlabel="mean |cos| of weights at the end")
    grid[0].set_ylabel("log10 error, less plain")
    grid[0].legend(frameon=False, fontsize=8)
    return figure
