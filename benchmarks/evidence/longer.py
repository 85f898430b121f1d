"""Does what a sphere for each neuron gains on texts last? Longer trainings, a deeper net, and Muon.

A third look at `evidence.architectures`, where `isokinetic(per_neuron=True)` is ahead of AdamW
after 250 to 300 steps of transformers of two layers. Its search, judgement and methods, on

    characters, longer    the task of that name, five times as long
    code, deeper          a transformer of four layers, 64 wide, on the same source

with Muon beside them, a rival that scales updates by matrix, on one momentum as well, and with
the scales of `in_metric`, which are what the gap after 1,500 steps asks for.

Reproduces: nothing.
Needs: nothing.
Takes: smoke 30 s; laptop 4 h on 2 cores; paper 20 h (estimated).
Scale: 33,000 and 215,000 parameters.
"""

import functools
from collections.abc import Iterator

from benchmarks.evidence._architecture_tasks import LONGER
from benchmarks.evidence._search import searched
from benchmarks.evidence.architectures import BASE, Settings, headline, methods, plot, table
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row

__all__ = ["METHODS", "PRESETS", "Settings", "headline", "plot", "run", "table"]

METHODS = (
    BASE,
    "isokinetic, in metric",
    "isokinetic, per neuron",
    "normalized sgd, per neuron",
    "muon",
)

STEPS = {"characters, longer": 1500, "code, deeper": 250}


PRESETS = {
    "smoke": Settings({"characters, longer": 3}, num_trials=2, num_seeds=2),
    "laptop": Settings(STEPS),
    "paper": Settings({name: 4 * steps for name, steps in STEPS.items()}, trial_seeds=2),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """For each task and method a row: the search, and the test of what it chose."""
    cases = done.left({"task": t, "method": m} for t in settings.tasks for m in METHODS)
    made = functools.cache(lambda name: LONGER[name]())
    for case, _ in counted(cases, "methods"):
        task, method = case["task"], case["method"]
        row, found = searched(made(task), methods(task), method, settings.tasks[task], settings)
        yield case | row | {"figure": found[:, 0].round(5)}
