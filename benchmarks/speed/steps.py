"""Does a step of energy-conserving descent cost no more than one of Adam?

The BBI paper leaves it open; its state is one momentum, half of Adam's. A step here is `tx.update`
and `optax.apply_updates`, jitted, with parameters and state donated and a fixed gradient. The
optimizers take turns; ratios are medians of the ratios within a turn, with 95 % intervals.

Reproduces: BBI, section 5, which leaves the cost of a step open.
Needs: nothing; 2 GB of memory at laptop.
Takes: smoke 20 s; laptop 2 min; paper 5 min on 2 cores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

import kinopt
from benchmarks.markdown import table_of
from benchmarks.record import Row, latest
from benchmarks.timing import MedianRatio, interleaved, median_ratio

__all__ = ["PRESETS", "Settings", "run", "table"]

KERNEL = (2048, 2048)
"""A tree is made of such leaves, and a vector for what is left over."""


@dataclass(frozen=True)
class Settings:
    """Numbers of parameters, how often each optimizer takes its turn, and the type of it all."""

    sizes: tuple[int, ...] = (1_000_000, 50_000_000)
    num_turns: int = 21
    dtype: str = "float32"
    seed: int = 0


PRESETS = {
    "smoke": Settings(sizes=(10_000,), num_turns=6),
    "laptop": Settings(),
    "paper": Settings(num_turns=101),
}

YARDSTICK = "adam"

OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-3),
    "adamw": lambda: optax.adamw(1e-3),
    "sgd": lambda: optax.sgd(1e-3),
    "sgd, momentum": lambda: optax.sgd(1e-3, momentum=0.9),
    "bbi": lambda: kinopt.bbi(1e-3, extra_energy=1.0),
    "bbi, leapfrog": lambda: kinopt.bbi(1e-3, extra_energy=1.0, integrator="leapfrog"),
    "ecdsep, nu=0": lambda: kinopt.ecdsep(1e-3, extra_energy=1.0, nu=0),
    "ecdsep": lambda: kinopt.ecdsep(1e-3, extra_energy=1.0),
}
"""A rotation (nu > 0) draws a normal number for each parameter at each step."""


def _tree(key: jax.Array, size: int, dtype: str) -> dict[str, jax.Array]:
    count, rest = divmod(size, KERNEL[0] * KERNEL[1])
    shapes = {f"kernel_{n}": KERNEL for n in range(count)} | ({"rest": (rest,)} if rest else {})
    keys = jax.random.split(key, len(shapes))
    return {
        name: 0.01 * jax.random.normal(subkey, shape, dtype)
        for subkey, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def run(settings: Settings) -> Iterator[Row]:
    """One row for each optimizer on each tree."""
    for size in settings.sizes:
        yield from _rows(settings, size)


def _rows(settings: Settings, size: int) -> Iterator[Row]:
    params_key, gradient_key = jax.random.split(jax.random.key(settings.seed))
    gradient = _tree(gradient_key, size, settings.dtype)
    value = jnp.ones((), jnp.float32)
    # One set of parameters for all, handed on from turn to turn: only the states differ.
    params = _tree(params_key, size, settings.dtype)
    states, calls = {}, {}

    def stepper(name: str, optimizer: optax.GradientTransformationExtraArgs):
        def step(params, state, gradient, value):
            updates, state = optimizer.update(gradient, state, params, value=value)
            return optax.apply_updates(params, updates), state

        compiled = jax.jit(step, donate_argnums=(0, 1))

        def advance():
            nonlocal params
            params, states[name] = compiled(params, states[name], gradient, value)
            return params, states[name]

        return advance

    for name, make in OPTIMIZERS.items():
        optimizer = optax.with_extra_args_support(make())
        states[name] = optimizer.init(params)
        calls[name] = stepper(name, optimizer)
    seconds = interleaved(calls, settings.num_turns, f"{size:,} parameters")
    for name, times in seconds.items():
        yield {
            "parameters": size,
            "optimizer": name,
            "milliseconds": [1e3 * float(q) for q in np.quantile(times, [0.25, 0.5, 0.75])],
            "ratio": list(median_ratio(times, seconds[YARDSTICK])),
            "state_per_parameter": sum(
                leaf.size for leaf in jax.tree.leaves(states[name]) if leaf.ndim and leaf.size > 8
            )
            / size,
        }


def table(rows: list[Row]) -> str:
    """Times with quartiles, and ratios to Adam, of the last run."""
    return table_of(
        ["parameters", "optimizer", "ms (quartiles)", "ratio to adam", "numbers a parameter"],
        [
            [
                f"{row['parameters']:,}",
                row["optimizer"],
                "{1:.2f} ({0:.2f} to {2:.2f})".format(*row["milliseconds"]),
                str(MedianRatio(*row["ratio"])),
                f"{row['state_per_parameter']:.0f}",
            ]
            for row in latest(rows)
        ],
    )
