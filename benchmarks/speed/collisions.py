"""What do collisions cost, in time and in memory?

The physical limit of the soft law is its three matrix products: weights with weights, gradients
with gradients, and their similarities with the gradients. Every scheme is measured against them on
one layer alone, `tx.update` jitted: over the number of neurons N, the number of features D, and the
share of pairs that the hard law accepts; and against the laws as one would write them down, with
an array of N x N x D for the hard one. Parts of the laws are timed as programs of their own, to see
where the time goes that is not in the products. All candidates take turns; ratios are medians of
the ratios within a turn, with 95 % intervals.

Reproduces: nothing; KO names the overhead of collisions as its limitation (`ko.overhead` has its
  hours).
Needs: nothing.
Takes: smoke 20 s; laptop more than 7 min; paper 20 min on 2 cores.
Scale: on a GPU one layer with four schemes was timed; there is no kernel that keeps N x N out of
  memory by hand.
"""

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks.laws import summed_collision
from benchmarks.markdown import table_of
from benchmarks.record import NOTHING, Done, Row, where
from benchmarks.timing import MedianRatio, interleaved, median_ratio
from kinopt.collisions import partners, scattering
from kinopt.collisions import rows as row_geometry

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

PRODUCTS = "three matrix products"

Shape = tuple[int, int]


@dataclass(frozen=True)
class Settings:
    """The layers, neurons by features, and how often each candidate is timed."""

    shape: Shape = (1000, 2048)  # every scheme
    neurons: tuple[int, ...] = (64, 256, 1024, 4096)  # cost against N
    features: tuple[int, ...] = (64, 256, 1024, 4096)  # cost against D
    middle: Shape = (512, 512)  # the other size in those two
    large: Shape = (16_384, 256)  # too large for N x N in memory
    naive: Shape = (100, 512)  # small enough for N x N x D
    densities: tuple[float, ...] = (0.0, 0.003, 0.01, 0.03, 0.1)
    density: float = 0.015  # of accepted pairs, where it is not what is looked at
    dtypes: tuple[str, ...] = ()  # other types of the first layer
    cell_size: int = 128
    num_turns: int = 7
    num_large_turns: int = 6
    schemes: tuple[str, ...] | None = None  # compared on the first layer; None: all
    explains: bool = True  # the laws' parts, and the laws as written, are timed, too
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        (16, 8), (8,), (8,), (8, 8), (32, 4), (6, 5), (0.1,), 0.1, ("bfloat16",), 4, 6, 6
    ),
    "laptop": Settings(),
    "gpu": Settings(
        neurons=(),
        features=(),
        densities=(0.003, 0.03, 0.3),
        dtypes=("bfloat16",),
        schemes=("soft", "hard", "hard, gaussian", "hard, matching"),
        explains=False,
        num_turns=31,
        num_large_turns=31,
    ),
    "paper": Settings(num_turns=51, num_large_turns=21),
}


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each task and candidate."""
    soft, hard, s = kinopt.soft_collision, summed_collision, settings
    layer = _Layer(s.shape, s.seed)
    few = layer.coefficient(s.density)
    size = s.cell_size
    schemes = {
        "soft": soft(0.1),
        "soft, normalized": soft(0.1, normalize=True),
        "soft, random cells": soft(0.1, cell_size=size),
        "soft, hashed cells": soft(0.1, cells="hash", cell_size=size),
        "hard": hard(few),
        "hard, Metropolis": hard(few, combine="metropolis"),
        "hard, approaching only": hard(few, approaching_only=True),
        "hard, no scattering": hard(few, restitution=0),
        "hard, gaussian": hard(few, scatter="gaussian"),
        "hard, random cells": hard(few, cell_size=size),
        "hard, matching": hard(few, combine="matching"),
    }
    names = s.schemes or tuple(schemes)
    yield from _rows(done, "schemes", layer, {n: schemes[n] for n in names}, s.num_turns)
    first = kinopt.NeuronAxes(output_axis=0)
    lying = {
        "soft": soft(0.1, neuron_axes=first),
        "soft, random cells": soft(0.1, cell_size=size, neuron_axes=first),
        "hard, no scattering": hard(few, restitution=0, neuron_axes=first),
        "hard, matching": hard(few, combine="matching", neuron_axes=first),
    }
    turned = _Layer(s.shape, s.seed, neurons_first=True)
    yield from _rows(done, "neurons first", turned, lying, s.num_turns)
    large = {
        "soft": soft(0.1),
        "soft, random cells": soft(0.1, cell_size=size),
        "hard, no pair accepted": hard(1e-9),  # XLA would compute with a zero while it compiles
        "hard, matching": hard(0.2, combine="matching"),
    }
    yield from _rows(done, "large", _Layer(s.large, s.seed), large, s.num_large_turns)
    for dtype in s.dtypes:
        both = {"soft": soft(0.1), "hard": hard(few)}
        yield from _rows(done, dtype, _Layer(s.shape, s.seed, dtype), both, s.num_turns)
    for density in s.densities:
        c = layer.coefficient(density) if density else 0.0
        candidates = {
            "soft": soft(0.1),
            "hard": hard(c),
            "hard, gaussian": hard(c, scatter="gaussian"),
        }
        yield from _rows(done, "density", layer, candidates, s.num_turns, wanted=density)
    if s.explains:
        whole = {"soft": soft(0.1), "hard, matching": hard(few, combine="matching")}
        yield from _rows(done, "parts", layer, whole | PARTS, s.num_turns)
    del layer
    shapes = {
        "neurons": [(n, s.middle[1]) for n in s.neurons],
        "features": [(s.middle[0], d) for d in s.features],
    }
    for task, listed in shapes.items():
        for shape in listed:
            layer = _Layer(shape, s.seed)
            c = layer.coefficient(s.density)
            yield from _rows(
                done,
                task,
                layer,
                {
                    "soft": soft(0.1),
                    "soft, random cells": soft(0.1, cell_size=size),
                    "hard": hard(c),
                    "hard, matching": hard(c, combine="matching"),
                },
                s.num_turns,
            )
    if not s.explains:
        return
    layer = _Layer(s.naive, s.seed)
    c = layer.coefficient(s.density)
    naive = {"soft as written": _naive_soft(0.1), "hard as written": _naive_hard(c, s.seed)}
    yield from _rows(
        done, "naive", layer, {"soft": soft(0.1), "hard": hard(c)} | naive, s.num_turns
    )


class _Layer:
    """Weights and gradients of a Flax kernel, whose neurons are last, or of an Equinox layer."""

    def __init__(
        self, shape: Shape, seed: int, dtype: str = "float32", neurons_first: bool = False
    ):
        """Draws them."""
        self.neurons_first = neurons_first
        self.neurons, self.features = shape
        keys = jax.random.split(jax.random.key(seed))
        kernel = self.features, self.neurons
        weights = jax.random.normal(keys[0], kernel) / self.features**0.5
        self.weights = weights.astype(dtype)
        self.gradients = jax.random.normal(keys[1], kernel).astype(dtype)
        if neurons_first:
            self.weights, self.gradients = self.weights.T, self.gradients.T

    def coefficient(self, fraction: float) -> float:
        """The coll_coef at which about this share of all pairs collides (Eq. 7, RMS distance)."""

        def distances(kernel):
            squares = jnp.sum(kernel**2, axis=0)
            return jnp.sqrt(jnp.maximum(squares[:, None] + squares - 2 * kernel.T @ kernel, 0))

        speeds = distances(self.gradients)
        keys = speeds * jnp.exp(-distances(self.weights) / self.features**0.5)
        pairs = np.asarray(keys)[np.triu_indices(self.neurons, 1)]
        return float(1 - np.quantile(pairs, 1 - fraction) / speeds.max())

    def products(self, updates, state, params):
        """What no soft law can do without, a block of rows at a time where all are too many."""
        if self.neurons_first:
            return ((params @ params.T) * (updates @ updates.T)) @ updates, state
        rows = self.neurons if self.neurons <= 4096 else 512

        def block(start):
            w, g = (jax.lax.dynamic_slice_in_dim(x, start, rows, axis=1) for x in (params, updates))
            return updates @ ((params.T @ w) * (updates.T @ g))

        if rows == self.neurons:
            return block(0), state
        parts = jax.lax.map(block, jnp.arange(0, self.neurons, rows))
        return jnp.moveaxis(parts, 0, 1).reshape(updates.shape), state


def _rows(
    done: Done,
    task: str,
    layer: _Layer,
    transformations: dict[str, Any],
    num_turns: int,
    wanted: float | None = None,
) -> Iterator[Row]:
    identity = {
        "task": task,
        "neurons": layer.neurons,
        "features": layer.features,
        "density": wanted,
    }
    if all(done(**identity, candidate=name) for name in (PRODUCTS, *transformations)):
        return
    compiled = {PRODUCTS: jax.jit(layer.products)}
    states: dict[str, Any] = {PRODUCTS: ()}
    for name, tx in transformations.items():
        states[name] = tx.init(layer.weights)
        compiled[name] = jax.jit(tx.update)
    arguments = {name: (layer.gradients, states[name], layer.weights) for name in compiled}
    programs = {name: f.lower(*arguments[name]).compile() for name, f in compiled.items()}
    calls: dict[str, Callable] = {
        name: lambda name=name: programs[name](*arguments[name]) for name in programs
    }
    seconds = interleaved(calls, num_turns, "speed.collisions")
    for name, program in programs.items():
        accepted = None
        if name.startswith("hard") and not name.endswith("written"):
            (stats,) = kinopt.collision_stats(calls[name]()[1]).values()
            accepted = stats.accepted_fraction
        yield {
            **identity,
            "candidate": name,
            "milliseconds": [1e3 * float(q) for q in np.quantile(seconds[name], [0.25, 0.5, 0.75])],
            "ratio": list(median_ratio(seconds[name], seconds[PRODUCTS])),
            "ratio_to_soft": list(median_ratio(seconds[name], seconds["soft"])),
            "temporary_bytes": getattr(program.memory_analysis(), "temp_size_in_bytes", None),
            "accepted_fraction": accepted,
        }


def _part(f: Callable[[Any, Any], Any]) -> optax.GradientTransformation:
    """What f makes of weights and gradients, neurons first."""

    def update(updates, state, params=None):
        assert params is not None
        return f(params.T, updates.T), state

    return optax.GradientTransformation(lambda params: (), update)


def _matching(neurons: int):
    return partners.random_matching(jax.random.key(0), neurons)


def _look_at_pairs(w, g):
    i, j = _matching(len(w))
    w, g = row_geometry.in_rows(w, g)
    return [jnp.sum((x[i] - x[j]) ** 2, axis=1) for x in (w, g)], jnp.sum(w[i] * w[j], axis=1)


PARTS = {
    "one sum of W and G": _part(lambda w, g: (g - 0.1 * w).T),
    "their directions": _part(
        lambda w, g: [(to.scaled.T, to.inverse_norm) for to in map(row_geometry.directions, (w, g))]
    ),
    "the change of energy": _part(
        lambda w, g: row_geometry.energy_ratio(w, g, row_geometry.scales(g))
    ),
    "a matching's pairs, seen": _part(_look_at_pairs),
    "a matching's directions": _part(
        lambda w, g: scattering.pair_directions(jax.random.key(0), *_matching(len(w)), g)
    ),
}
"""What the laws do beside matrix products."""


def _naive_soft(c: float) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        def cosines(x):
            norms = jnp.linalg.norm(x, axis=1)
            return (x @ x.T) / (norms[:, None] * norms)

        assert params is not None
        w, g = params.T, updates.T
        return (g - c * (cosines(w) * cosines(g)) @ g).T, state

    return optax.GradientTransformation(lambda params: (), update)


def _naive_hard(c: float, seed: int) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        assert params is not None
        w, g = params.T, updates.T
        dw, dg = w - w[:, None], g - g[:, None]  # [N, N, D]
        w_r = jnp.linalg.norm(dw, axis=2) / w.shape[1] ** 0.5
        g_r = jnp.linalg.norm(dg, axis=2)
        accepted = g_r * jnp.exp(-w_r) > (1 - c) * jnp.max(g_r)
        n = jax.random.normal(jax.random.fold_in(jax.random.key(seed), state), dg.shape)
        n = jnp.triu(jnp.moveaxis(n, 2, 0), 1)
        n = jnp.moveaxis(n - jnp.swapaxes(n, 1, 2), 0, 2)
        n /= jnp.maximum(jnp.linalg.norm(n, axis=2, keepdims=True), 1e-12)
        change = jnp.where(accepted[:, :, None], (dg + g_r[:, :, None] * n) / 2, 0)
        return (g + jnp.sum(change, axis=1)).T, state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def table(rows: list[Row]) -> str:
    """Times, ratios and memory of the last run, and what they say of the aims."""
    text = table_of(
        ["task", "layer", "candidate", "ms (quartiles)", "ratio to products", "to soft", "MB"],
        [
            [
                row["task"] if row["density"] is None else f"{row['density']:.1%} of pairs",
                f"{row['neurons']} x {row['features']}",
                row["candidate"],
                "{1:.2f} ({0:.2f} to {2:.2f})".format(*row["milliseconds"]),
                str(MedianRatio.from_row(row["ratio"])),
                f"{row['ratio_to_soft'][0]:.2f}",
                f"{row['temporary_bytes'] / 1e6:.1f}",
            ]
            for row in rows
        ],
    )
    return f"{text}\n\n{_reading(rows)}"


def _reading(rows: list[Row]) -> str:
    """Why the laws cost what they do."""
    found = {row["candidate"]: row for row in rows if row["task"] == "parts"}
    if not found:
        return ""
    milliseconds = {name: row["milliseconds"][1] for name, row in found.items()}
    soft, matching, *parts = (milliseconds[name] for name in ("soft", "hard, matching", *PARTS))
    wide = max(
        (row for row in rows if row["candidate"] == "hard, matching"), key=lambda x: x["neurons"]
    )
    return textwrap.fill(
        f"Soft takes {soft - milliseconds[PRODUCTS]:.0f} ms more than its products. The directions "
        f"of both matrices take {parts[1]:.0f} ms of it, the statistics of energy {parts[2]:.0f}, "
        f"and its last sum {parts[0]:.0f}: passes over the layer, which are bound by memory and "
        f"weigh the less the more neurons there are. Matching has no product at all. Seeing its "
        f"pairs takes {parts[3]:.0f} of {matching:.0f} ms, because neighbours in a kernel's memory "
        f"are neurons, and pairs are picked as rows; drawing directions {parts[4]:.0f}; the rest "
        f"was not timed apart: scales, and bringing changes back into the kernel's order. That is "
        f"N D work where soft has N^2 D: {matching / soft:.2f} of soft here, "
        f"{wide['ratio_to_soft'][0]:.2f} at {wide['neurons']} x {wide['features']}.",
        100,
    )


def headline(rows: list[Row]) -> str:
    """The layer of all schemes: soft against its products, the others against soft."""
    found = {row["candidate"]: row for row in rows if row["task"] == "schemes"}
    return (
        f"soft takes {found['soft']['ratio'][0]:.2f} times its three products; of soft, hard "
        f"{found['hard']['ratio_to_soft'][0]:.1f}, matching "
        f"{found['hard, matching']['ratio_to_soft'][0]:.2f}"
    )


def plot(rows: list[Row]) -> Figure:
    """Time against neurons, features, and the share of accepted pairs."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    labels = {"neurons": "neurons N", "features": "features D", "density": "pairs accepted, %"}
    tasks = {task: label for task, label in labels.items() if where(rows, task=task)}
    for axes, (task, label) in zip(
        figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True
    ):
        part = where(rows, task=task)
        for name in dict.fromkeys(row["candidate"] for row in part):
            mine = [row for row in part if row["candidate"] == name]
            x = [100 * row[task] if task == "density" else row[task] for row in mine]
            low, middle, high = np.array([row["milliseconds"] for row in mine]).T
            style = {"color": "black", "ls": "--"} if name == PRODUCTS else {"marker": "o"}
            axes.errorbar(x, middle, [middle - low, high - middle], label=name, ms=4, **style)
        others = {row["features"] if task == "neurons" else row["neurons"] for row in part}
        fixed = f"{'D' if task == 'neurons' else 'N'} = {', '.join(map(str, others))}"
        axes.set(xlabel=label, ylabel="ms", yscale="log", title=fixed)
        if task == "density":  # zero is one of them
            axes.set_xscale("symlog", linthresh=0.1)
            axes.set_xlim(-0.02, 1.5 * max(row[task] for row in part) * 100)
        else:
            axes.set_xscale("log")
        axes.legend(fontsize=7)
    return figure
