"""How long do the transformations take to trace and to compile, and how large are they?

Each transformation alone, `jax.jit(tx.update)` on networks of two Dense layers, with collisions in
the head of 10 neurons; every candidate starts with empty caches, and they take turns. Ratios are
medians of the ratios to Adam within a turn, with 95 % intervals from seven turns on.

On a CPU the time is that of XLA's code generation, some 6 ms for each kernel it makes, which a row
counts: Adam is one elementwise pass over each leaf, nothing else has so few. Every number that is
one for the whole tree (energy, counters, conditions of a bounce) takes a kernel, however little it
computes; a random draw takes some ten. So does a sum take three over fewer than 4,096 numbers, and
none over more, which XLA leaves to a library: of the two networks the larger one compiles faster.

Reproduces: nothing.
Needs: nothing.
Takes: smoke 20 s; laptop 3 min; paper 15 min on 2 cores.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.record import Row
from benchmarks.speed._ratios import ratios_picture
from benchmarks.timing import MedianRatio, median_ratio

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

YARDSTICK = "adam"


@dataclass(frozen=True)
class Settings:
    """The networks, as widths of their layers, and how often each candidate is compiled."""

    networks: tuple[tuple[int, int, int], ...] = ((64, 128, 10), (784, 512, 10))
    num_turns: int = 8
    seed: int = 0


PRESETS = {
    "smoke": Settings(((8, 8, 4),), 2),
    "laptop": Settings(),
    "paper": Settings(num_turns=51),
}


def transformations() -> dict[str, optax.GradientTransformation]:
    """Every public factory, and the settings that make another program of it."""
    head = kinopt.layer_mask("head")
    soft, hard = kinopt.soft_collision, summed_collision
    return {
        YARDSTICK: optax.adam(1e-3),
        "adamw": optax.adamw(1e-3),
        "muon": optax.contrib.muon(1e-3),
        "soft": soft(0.1, mask=head),
        "soft, cells": soft(0.1, mask=head, cell_size=5),
        "hard": hard(0.2, mask=head),
        "hard, no scattering": hard(0.2, mask=head, restitution=0),
        "hard, matching": hard(0.2, mask=head, combine="matching"),
        "hard, gaussian": hard(0.2, mask=head, scatter="gaussian"),
        "bbi": kinopt.bbi(1e-3),
        "bbi, leapfrog": kinopt.bbi(1e-3, integrator="leapfrog"),
        "ecdsep": kinopt.ecdsep(1e-3),
    }


def run(settings: Settings) -> Iterator[Row]:
    """One row for each network and transformation."""
    for widths in settings.networks:
        yield from _of_network(widths, settings.num_turns)


def _of_network(sizes: tuple[int, int, int], num_turns: int) -> Iterator[Row]:
    params = {
        name: {"kernel": jnp.ones(shape), "bias": jnp.ones(shape[1])}
        for name, shape in {"body": sizes[:2], "head": sizes[1:]}.items()
    }
    stages: dict[str, list] = {name: [] for name in transformations()}
    sizes_of: dict[str, dict[str, int]] = {}
    for turn in range(num_turns):
        for name, tx in transformations().items():
            seconds, sizes_of[name] = _compile(tx, params)
            if turn:  # the first starts JAX up
                stages[name].append(seconds)
    totals = {name: np.sum(values, axis=1) for name, values in stages.items()}
    for name, values in stages.items():
        trace, lower, compile_ = 1e3 * np.median(values, axis=0)
        yield {
            "network": list(sizes),
            "transformation": name,
            **sizes_of[name],
            "trace_ms": float(trace),
            "lower_ms": float(lower),
            "compile_ms": float(compile_),
            "total_ms": [1e3 * float(q) for q in np.quantile(totals[name], [0.25, 0.5, 0.75])],
            "ratio": list(median_ratio(totals[name], totals[YARDSTICK])),
        }


def _compile(
    tx: optax.GradientTransformation, params
) -> tuple[tuple[float, float, float], dict[str, int]]:
    """Seconds to trace, to lower and to compile an update, and its size before and after."""
    tx = optax.with_extra_args_support(tx)
    state = tx.init(params)
    jax.clear_caches()

    def update(gradients, state, params):
        return tx.update(gradients, state, params, value=jnp.ones(()))

    times = [time.perf_counter()]
    traced = jax.jit(update).trace(params, state, params)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    compiled = lowered.compile()
    times.append(time.perf_counter())
    trace, lower, compile_ = np.diff(times)
    kernels = len(re.findall(r" fusion\(", compiled.as_text() or ""))
    sizes = {"equations": _equations(traced.jaxpr.jaxpr), "kernels": kernels}
    return (trace, lower, compile_), sizes


def _equations(jaxpr) -> int:
    """Equations of a jaxpr and of all those inside it."""
    inner = (x for equation in jaxpr.eqns for x in jax.tree.leaves([*equation.params.values()]))
    jaxprs = [getattr(part, "jaxpr", part) for part in inner]
    return len(jaxpr.eqns) + sum(_equations(part) for part in jaxprs if hasattr(part, "eqns"))


def table(rows: list[Row]) -> str:
    """The last run."""
    return table_of(
        [
            "network",
            "transformation",
            "equations",
            "kernels",
            "trace",
            "lower",
            "compile (ms)",
            "ratio to adam",
        ],
        [
            [
                "-".join(map(str, row["network"])),
                row["transformation"],
                str(row["equations"]),
                str(row["kernels"]),
                *(f"{row[stage]:.0f}" for stage in ("trace_ms", "lower_ms", "compile_ms")),
                str(MedianRatio.from_row(row["ratio"])),
            ]
            for row in rows
        ],
    )


def headline(rows: list[Row]) -> str:
    """The ratios of the three families, for the last network."""
    found = {row["transformation"]: row["ratio"][0] for row in _of_last(rows)}
    listed = ", ".join(f"{name} {found[name]:.1f}" for name in ("soft", "hard", "bbi"))
    return f"tracing and compiling, times Adam's: {listed}"


def _of_last(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["network"] == rows[-1]["network"]]


def plot(rows: list[Row]) -> Figure:
    """The ratios to Adam with their intervals, for the last network."""
    last = _of_last(rows)
    ratios = {r["transformation"]: r["ratio"] for r in last if r["transformation"] != YARDSTICK}
    label = "time to trace and compile, in Adam's"
    return ratios_picture(ratios, label, aim=1.5)
