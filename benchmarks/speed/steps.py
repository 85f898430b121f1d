"""Does a step of energy-conserving descent cost no more than Adam's, and what do collisions add?

The BBI paper leaves it open; its state is one momentum, half of Adam's. A step here is `tx.update`
and `optax.apply_updates`, jitted, with parameters and state donated and a fixed gradient. Two of
the leaves are heads, of few and of many neurons, which collide before Adam. The optimizers take
turns; ratios are medians of the ratios within a turn, with 95 % intervals. The least traffic
possible reads parameters, gradient and state once, and writes all but the gradient; the limit is
the time that takes at the speed at which parameters are read and written alone. Beside it stands
what the compiled program touches, as XLA counts it: with both branches of every condition, so that
most bytes of BBI are those of a bounce's random direction, which only a bounce draws. And what a
training needs of memory but for its activations: parameters, gradient, state and what a step makes
on the way.

Reproduces: BBI, section 5, which leaves the cost of a step open.
Needs: nothing; 6 GB of memory at laptop.
Takes: smoke 20 s; laptop 5 min; paper 20 min on 2 cores.
"""

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
from benchmarks.record import Row, where
from benchmarks.speed._ratios import ratios_picture
from benchmarks.timing import MedianRatio, interleaved, median_ratio

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

KERNEL = (2048, 2048)
"""A tree is made of such leaves, and a vector for what is left over."""


@dataclass(frozen=True)
class Settings:
    """Numbers of parameters, how often each optimizer takes its turn, and the type of it all."""

    sizes: tuple[int, ...] = (1_000_000, 50_000_000)
    head_features: int = 512
    head_neurons: tuple[int, int] = (10, 1000)
    num_turns: int = 9
    dtype: str = "float32"
    optimizers: tuple[str, ...] | None = None  # None: all
    seed: int = 0


COPY, YARDSTICK = "read and written", "adam"
"""The parameters, with their signs changed: what the memory can do; and what others are told in."""

ENERGY = (
    COPY,
    YARDSTICK,
    "sgd, momentum",
    "bbi",
    "isokinetic",
    "isokinetic, per neuron",
    "isokinetic, in metric",
    "ecdsep, nu=0",
    "ecdsep",
)

PRESETS = {
    "smoke": Settings((10_000,), 4, (4, 8), num_turns=6),
    "laptop": Settings(),
    "gpu": Settings((50_000_000,), num_turns=51, optimizers=ENERGY),
    "paper": Settings(num_turns=101),
}

OPTIMIZERS = {
    COPY: lambda: optax.stateless(lambda updates, params: jax.tree.map(lambda p: -2 * p, params)),
    "adam": lambda: optax.adam(1e-3),
    "adamw": lambda: optax.adamw(1e-3),
    "sgd": lambda: optax.sgd(1e-3),
    "sgd, momentum": lambda: optax.sgd(1e-3, momentum=0.9),
    "muon": lambda: optax.contrib.muon(1e-3),
    "bbi": lambda: kinopt.bbi(1e-3, extra_energy=1.0),
    "bbi, leapfrog": lambda: kinopt.bbi(1e-3, extra_energy=1.0, integrator="leapfrog"),
    "isokinetic": lambda: kinopt.isokinetic(1e-3),
    "isokinetic, decay": lambda: kinopt.isokinetic(1e-3, weight_decay=1e-2),
    "isokinetic, bfloat16": lambda: kinopt.isokinetic(1e-3, mu_dtype=jnp.bfloat16),
    "isokinetic, per neuron": lambda: kinopt.isokinetic(1e-3, per_neuron=True),
    "isokinetic, in metric": lambda: kinopt.in_metric(kinopt.isokinetic(1e-3)),
    "ecdsep, nu=0": lambda: kinopt.ecdsep(1e-3, extra_energy=1.0, nu=0),
    "ecdsep": lambda: kinopt.ecdsep(1e-3, extra_energy=1.0),
    "soft, few neurons; adam": lambda: _before_adam(kinopt.soft_collision(0.1, mask=FEW)),
    "soft, many neurons; adam": lambda: _before_adam(kinopt.soft_collision(1e-3, mask=MANY)),
    "hard, few neurons; adam": lambda: _before_adam(summed_collision(0.2, mask=FEW)),
    "hard, many neurons; adam": lambda: _before_adam(summed_collision(0.01, mask=MANY)),
    "matching, many neurons; adam": lambda: _before_adam(
        kinopt.hard_collision(0.2, combine="matching", mask=MANY)
    ),
}
"""A rotation (nu > 0) draws a normal number for each parameter at each step."""

LARGEST = {"muon": 1_000_000}
"""Muon's five iterations of matrix products take minutes a turn on two cores beyond this size."""

FEW, MANY = kinopt.layer_mask("few"), kinopt.layer_mask("many")


def _before_adam(collision: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(collision, optax.adam(1e-3))


def _tree(key: jax.Array, size: int, settings: Settings) -> dict[str, jax.Array]:
    few, many = settings.head_neurons
    features = settings.head_features
    count, rest = divmod(size - features * (few + many), KERNEL[0] * KERNEL[1])
    shapes: dict[str, tuple[int, ...]] = {"few": (features, few), "many": (features, many)}
    shapes |= {f"kernel_{n}": KERNEL for n in range(count)} | ({"rest": (rest,)} if rest else {})
    keys = jax.random.split(key, len(shapes))
    return {
        name: 0.01 * jax.random.normal(subkey, shape, settings.dtype)
        for subkey, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def run(settings: Settings) -> Iterator[Row]:
    """One row for each optimizer on each tree."""
    for size in settings.sizes:
        yield from _rows(settings, size)


def _rows(settings: Settings, size: int) -> Iterator[Row]:
    params_key, gradient_key = jax.random.split(jax.random.key(settings.seed))
    gradient = _tree(gradient_key, size, settings)
    value = jnp.ones((), jnp.float32)
    # One set of parameters for all, handed on from turn to turn: only the states differ.
    params = _tree(params_key, size, settings)
    states, calls, touched, held = {}, {}, {}, {}

    def stepper(name: str, optimizer: optax.GradientTransformationExtraArgs):
        def step(params, state, gradient, value):
            updates, state = optimizer.update(gradient, state, params, value=value)
            return optax.apply_updates(params, updates), state

        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, states[name], gradient, value)
        compiled = lowered.compile()
        touched[name] = (compiled.cost_analysis() or {}).get("bytes accessed", float("nan"))
        held[name] = float("nan")
        if (memory := compiled.memory_analysis()) is not None:
            held[name] = memory.argument_size_in_bytes + memory.temp_size_in_bytes
            held[name] += memory.output_size_in_bytes - memory.alias_size_in_bytes

        def advance():
            nonlocal params
            params, states[name] = compiled(params, states[name], gradient, value)
            return params, states[name]

        return advance

    for name in settings.optimizers or OPTIMIZERS:
        if size > LARGEST.get(name, size):
            continue
        optimizer = optax.with_extra_args_support(OPTIMIZERS[name]())
        states[name] = optimizer.init(params)
        calls[name] = stepper(name, optimizer)
    seconds = interleaved(calls, settings.num_turns, "updates")
    width = jnp.dtype(settings.dtype).itemsize
    for name, times in seconds.items():
        numbers = [leaf for leaf in jax.tree.leaves(states[name]) if leaf.ndim and leaf.size > 8]
        state_bytes = sum(leaf.nbytes for leaf in numbers) / size
        yield {
            "parameters": size,
            "optimizer": name,
            "milliseconds": [1e3 * float(q) for q in np.quantile(times, [0.25, 0.5, 0.75])],
            "ratio": list(median_ratio(times, seconds[YARDSTICK])),
            "state_per_parameter": sum(leaf.size for leaf in numbers) / size,
            "least_bytes_per_parameter": (2 if name == COPY else 3) * width + 2 * state_bytes,
            "bytes_per_parameter": touched[name] / size,
            "held_bytes_per_parameter": held[name] / size,
        }


def table(rows: list[Row]) -> str:
    """Times with quartiles, and ratios to Adam, of the last run."""
    return table_of(
        [
            "parameters",
            "optimizer",
            "ms (quartiles)",
            "ratio to adam",
            "state, numbers a parameter",
            "memory, bytes a parameter",
            "bytes a parameter (least)",
            "of the limit",
        ],
        [
            [
                f"{row['parameters']:,}",
                row["optimizer"],
                "{1:.2f} ({0:.2f} to {2:.2f})".format(*row["milliseconds"]),
                str(MedianRatio.from_row(row["ratio"])),
                f"{row['state_per_parameter']:.0f}",
                f"{row['held_bytes_per_parameter']:.1f}"
                if "held_bytes_per_parameter" in row
                else "",
                f"{row['bytes_per_parameter']:.0f} ({row['least_bytes_per_parameter']:.0f})",
                _of_limit(row, rows),
            ]
            for row in rows
        ],
    )


def _of_limit(row: Row, rows: list[Row]) -> str:
    """How many times as long as the least traffic takes."""
    copies = where(rows, optimizer=COPY, parameters=row["parameters"])
    if not copies:
        return ""
    (copy,) = copies
    share = row["least_bytes_per_parameter"] / copy["least_bytes_per_parameter"]
    return f"{row['milliseconds'][1] / (share * copy['milliseconds'][1]):.2f}"


def headline(rows: list[Row]) -> str:
    """BBI against Adam on the largest tree."""
    last = rows
    largest = max(row["parameters"] for row in last)
    (bbi,) = (r for r in last if (r["parameters"], r["optimizer"]) == (largest, "bbi"))
    ratio = MedianRatio.from_row(bbi["ratio"])
    return f"bbi takes {ratio} times Adam's step on {largest / 1e6:.0f} million parameters"


def plot(rows: list[Row]) -> Figure:
    """The ratios to Adam with their intervals."""
    ratios = {
        f"{row['optimizer']} ({row['parameters']:,})": row["ratio"]
        for row in rows
        if row["optimizer"] != YARDSTICK
    }
    label = "a step, in steps of Adam (number of parameters in brackets)"
    return ratios_picture(ratios, label)
