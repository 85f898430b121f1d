"""What a step of each optimizer costs: bbi and ecdsep beside sgd, adam and adamw.

Question: does a step of energy-conserving descent cost no more than one of Adam, on a tree of 50
million parameters? In the BBI paper this is left open; its state is one momentum, half of Adam's.

A step is `tx.update` and `optax.apply_updates`, jitted, with parameters and state donated and a
fixed gradient. The optimizers run side by side in one process, interleaved round by round, so
that a slow moment of a shared machine hits all of them; a ratio is taken within a round. A row is
one optimizer on one tree: median and quartiles of the time and of its ratio to Adam's.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import kinopt

__all__ = ["PRESETS", "Settings", "run"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to time.

    Args:
      sizes: numbers of parameters; each tree has leaves of a million or fewer in two shapes.
      rounds: rounds in which every optimizer is timed once.
      steps: steps in a timing.
      dtype: type of parameters, gradient and state.
    """

    sizes: tuple[int, ...] = (1_000_000, 50_000_000)
    rounds: int = 15
    steps: int = 3
    dtype: str = "float32"


PRESETS = {
    "smoke": Settings(sizes=(10_000,), rounds=3, steps=2),
    "laptop": Settings(),
    "paper": Settings(rounds=51, steps=5),
}

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
"""Adam first: it is the yardstick. A rotation (nu) draws a normal number for each parameter."""


def _tree(size: int, dtype: str, seed: int) -> dict[str, jax.Array]:
    """Square-ish kernels of about 4 million entries, and a vector for what is left over."""
    generator = np.random.default_rng(seed)
    kernel = (2048, 2048)
    count, rest = divmod(size, kernel[0] * kernel[1])
    shapes = {f"kernel_{i}": kernel for i in range(count)} | ({"rest": (rest,)} if rest else {})
    return {
        name: jnp.asarray(generator.standard_normal(shape, np.float32) * 1e-2, dtype)
        for name, shape in shapes.items()
    }


def _stepper(optimizer: optax.GradientTransformation):
    optimizer = optax.with_extra_args_support(optimizer)

    def step(params, state, gradient, value):
        updates, state = optimizer.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def _time_one(step, params, state, gradient, value, steps: int):
    start = time.perf_counter()
    for _ in range(steps):
        params, state = step(params, state, gradient, value)
    jax.block_until_ready((params, state))
    return (time.perf_counter() - start) / steps, params, state


def _summary(values) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(middle), float(low), float(high)


def _measure(size: int, settings: Settings) -> list[dict]:
    gradient = _tree(size, settings.dtype, seed=1)
    value = jnp.ones((), jnp.float32)
    steps = {name: _stepper(make()) for name, make in OPTIMIZERS.items()}
    # One set of parameters for all, handed on: only the states differ.
    params = _tree(size, settings.dtype, seed=0)
    states = {}
    for name, make in OPTIMIZERS.items():  # the first step compiles
        _, params, states[name] = _time_one(
            steps[name], params, make().init(params), gradient, value, 1
        )
    seconds = {name: [] for name in OPTIMIZERS}
    for _ in range(settings.rounds):
        for name in OPTIMIZERS:
            taken, params, states[name] = _time_one(
                steps[name], params, states[name], gradient, value, settings.steps
            )
            seconds[name].append(taken)
    rows = []
    for name, times in seconds.items():
        median, low, high = _summary(times)
        ratio, ratio_low, ratio_high = _summary(np.array(times) / np.array(seconds["adam"]))
        floats = [x for x in jax.tree.leaves(states[name]) if x.size > 16]
        rows.append(
            {
                "optimizer": name,
                "parameters": size,
                "dtype": settings.dtype,
                "milliseconds": 1e3 * median,
                "milliseconds_low": 1e3 * low,
                "milliseconds_high": 1e3 * high,
                "ratio_to_adam": ratio,
                "ratio_low": ratio_low,
                "ratio_high": ratio_high,
                "state_per_parameter": sum(x.size for x in floats) / size,
            }
        )
    return rows


def _show(rows: list[dict]) -> str:
    lines = [
        "| parameters | optimizer | ms a step (quartiles) | ratio to adam (quartiles) | state |",
        "|---|---|---|---|---|",
    ]
    lines += [
        "| {parameters:,} | {optimizer} | {milliseconds:.2f} ({milliseconds_low:.2f} to "
        "{milliseconds_high:.2f}) | {ratio_to_adam:.2f} ({ratio_low:.2f} to {ratio_high:.2f}) | "
        "{state_per_parameter:.0f} |".format(**row)
        for row in rows
    ]
    return "\n".join(lines)


def run(settings: Settings) -> list[dict]:
    """Time every optimizer on every size; prints the table and returns its rows."""
    rows = [row for size in settings.sizes for row in _measure(size, settings)]
    print(_show(rows))
    return rows
