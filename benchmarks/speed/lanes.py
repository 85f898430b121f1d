"""What is lost when loops of uneven length run side by side, and what is won?

Minimizations by Optimistix's BFGS, stepped by hand in `kinopt.lanes.run`, whose numbers of steps
spread a hundredfold: Rosenbrock's function, its steepness drawn between 0.01 and 10,000. They are
compared with their useful work and with `jax.vmap` of a while loop. *Useful work* is what it would
take if no lane ever waited: the number of steps times what a step costs in lanes that never end
(the cheapest of some numbers of lanes), and the time in which all seeds are started at once. `vmap`
goes on until the slowest is done; it is timed on a part of the seeds, and scaled by their number
and by the steps of the slowest.

Then networks on digits, with minibatches and dropout: `kinopt.ensemble.run` trains all, a jitted
`jax.lax.scan` one after the other (timed on some, and scaled). All ways take turns; ratios are
medians of the ratios within a turn.

Needs: optimistix.
Takes: smoke 1 min; laptop 10 min on 2 cores.
"""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from matplotlib.figure import Figure

import kinopt
from benchmarks import data
from benchmarks.markdown import table_of
from benchmarks.progress import progress_bar
from benchmarks.record import Row
from benchmarks.speed._ratios import ratios_picture
from benchmarks.timing import MedianRatio, median_ratio
from kinopt._programs import num_cores

__all__ = ["PRESETS", "Loop", "Settings", "headline", "plot", "rosenbrock", "run", "table"]

READING = "A ratio is the time of `kinopt` in that of this way; to useful work 1 would be perfect."

SHAPE = jax.ShapeDtypeStruct((), jnp.float32)
FEW_STEPS = 10_000_000
"""Steps that are timed in lanes that never end, at most: some seconds."""


@dataclass(frozen=True)
class Settings:
    """Numbers of seeds and steps, and how often each way is timed."""

    seeds: int = 100_000
    num_steps: int = 1000  # at most, of a minimization
    vmapped: int = 10_000  # seeds of the part that is timed under `vmap`
    full_lanes: tuple[int, ...] = (128, 512)  # that never end
    networks: int = 1000
    epochs: int = 10
    one_by_one: int = 3  # networks that are timed one after the other
    turns: int = 5
    seed: int = 0


PRESETS = {
    "smoke": Settings(300, 200, 100, (32,), 8, 1, 2, 2),
    "laptop": Settings(),
    "paper": Settings(vmapped=100_000, epochs=30, turns=15),
    "gpu": Settings(1_000_000, vmapped=1_000_000, full_lanes=(2**14, 2**16), epochs=30),
}


class Loop(NamedTuple):
    """A minimization as a loop: key -> carry, and carry -> carry, outcome."""

    init: Callable[[jax.Array], Any]
    step: Callable[[Any], tuple[Any, jax.Array]]


def by_bfgs(loss: Callable, draw: Callable) -> Loop:
    """Optimistix's solver, a step at a time.

    Args:
        loss: Parameters, arguments -> value.
        draw: Key -> where a seed starts, and its arguments.
    """
    import equinox as eqx  # what else reads this module does without
    import optimistix

    solver = optimistix.BFGS(rtol=1e-4, atol=1e-6)
    fixed = {}, SHAPE, None, frozenset()

    def fn(y, args):
        return loss(y, args), None

    def begin(key):
        y, args = draw(key)
        return y, args, solver.init(fn, y, args, *fixed)

    # A solver's state has parts that are no arrays; they are the same at every step.
    rest = eqx.filter(
        eqx.filter_eval_shape(begin, jax.random.key(0))[2],
        lambda x: isinstance(x, jax.ShapeDtypeStruct),
        inverse=True,
    )

    def init(key):
        y, args, state = begin(key)
        return y, args, eqx.filter(state, eqx.is_array)

    def step(carry):
        y, args, arrays = carry
        state = eqx.combine(arrays, rest)
        y, state, _ = solver.step(fn, y, args, {}, state, frozenset())
        done, result = solver.terminate(fn, y, args, {}, state, frozenset())
        failed = (result != optimistix.RESULTS.successful) | ~jnp.all(jnp.isfinite(y))
        outcome = jnp.where(failed, 2, jnp.where(done, 1, 0))
        return (y, args, eqx.filter(state, eqx.is_array)), outcome

    return Loop(init, step)


def rosenbrock(number: int = 4) -> Loop:
    """A banana of so many parameters, flat or steep."""

    def loss(y, steepness):
        return jnp.sum(steepness * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)

    def draw(key):
        start, steep = jax.random.split(key)
        exponent = jax.random.uniform(steep, minval=-2.0, maxval=4.0)
        return jax.random.normal(start, (number,)), 10**exponent

    return by_bfgs(loss, draw)


MINIMIZATIONS, NETWORKS = "minimizations", "networks"


def seconds_of(call: Callable[[], Any]) -> float:
    """How long a call takes, until its result is there."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def run(settings: Settings) -> Iterator[Row]:
    """One row for each problem and each way to do it."""
    with progress_bar(2 * (1 + settings.turns), "loops") as bar:
        yield from _minimized(settings, rosenbrock(), bar.update)
        yield from _trained(settings, bar.update)


def _rows(problem: str, seconds: dict[str, list[float]], **more: Any) -> Iterator[Row]:
    """A row for each way; the first of them is the yardstick."""
    ours = np.array(next(iter(seconds.values())))
    for way, took in seconds.items():
        yield {
            "problem": problem,
            "way": way,
            "seconds": np.quantile(took, [0.25, 0.5, 0.75]).tolist(),
            "ratio": list(median_ratio(ours, np.array(took))),
            **more,
        }


def _minimized(settings: Settings, loop: Loop, update: Callable) -> Iterator[Row]:
    keys = jax.random.split(jax.random.key(settings.seed), settings.seeds)
    part = keys[: settings.vmapped]

    def in_lanes():
        return kinopt.lanes.run(loop.step, loop.init, keys, num_steps=settings.num_steps)

    def forever(carry):
        return loop.step(carry)[0], 0

    def step_in(lanes: int) -> float:
        """Seconds of a step in so many full lanes on every core."""
        number = lanes * (num_cores() if jax.default_backend() == "cpu" else 1)
        steps = max(1, FEW_STEPS // number)
        steps = min(steps, settings.num_steps * settings.seeds // number)
        call = functools.partial(
            kinopt.lanes.run, forever, loop.init, keys[:number], num_steps=steps, lanes=lanes
        )
        return seconds_of(call) / (number * steps)

    @jax.jit
    @jax.vmap
    def vmapped(key):
        def goes_on(carry):
            return (carry[1] == 0) & (carry[2] < settings.num_steps)

        def body(carry):
            return *loop.step(carry[0]), carry[2] + 1

        start = loop.init(key), jnp.zeros((), jnp.int32), 0
        return jax.lax.while_loop(goes_on, body, start)

    starts = jax.jit(jax.vmap(loop.init))
    names = ("kinopt.lanes", "useful work", "jax.vmap")
    seconds: dict[str, list[float]] = {way: [] for way in names}
    result = in_lanes()
    num_steps = np.asarray(result.num_steps)
    scale = settings.seeds / len(part) * num_steps.max() / num_steps[: len(part)].max()
    for turn in range(1 + settings.turns):
        cost = min(step_in(lanes) for lanes in settings.full_lanes)
        useful = cost * num_steps.sum() + seconds_of(lambda: starts(keys))
        took = seconds_of(in_lanes), useful, scale * seconds_of(lambda: vmapped(part))
        for way, s in zip(names, took, strict=True):
            seconds[way] += [s] * (turn > 0)  # the first compiles
        update()
    yield from _rows(
        MINIMIZATIONS,
        seconds,
        number=settings.seeds,
        steps=np.quantile(num_steps, [0, 0.01, 0.5, 0.99, 1]).tolist(),
        mean_steps=float(num_steps.mean()),
        counts=np.bincount(np.asarray(result.outcome), minlength=3).tolist(),
    )


class Classifier(linen.Module):
    """One hidden layer, and dropout."""

    @linen.compact
    def __call__(self, x, training=False):
        """Logits of the digits."""
        x = linen.relu(linen.Dense(32)(x))
        return linen.Dense(10)(linen.Dropout(0.1, deterministic=not training)(x))


def _trained(settings: Settings, update: Callable) -> Iterator[Row]:
    images, labels, test_images, test_labels = map(jnp.asarray, data.load("digits", 0))
    rows, test_rows = (x.reshape(len(x), -1) for x in (images, test_images))
    model, optimizer = Classifier(), optax.adam(3e-3)
    batches = kinopt.ensemble.minibatches((rows, labels), 64, keyed=True)
    num_steps = settings.epochs * (len(rows) // 64)
    keys = jax.random.split(jax.random.key(settings.seed), settings.networks)

    def loss(params, batch):
        (x, y), key = batch
        logits = jnp.asarray(model.apply(params, x, training=True, rngs={"dropout": key}))
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def accuracy(params):
        logits = jnp.asarray(model.apply(params, test_rows))
        return jnp.mean(jnp.argmax(logits, axis=-1) == test_labels)

    starts = jax.jit(jax.vmap(lambda key: model.init(key, rows[:1])))(keys)

    def together():
        given = {"num_steps": num_steps, "stacked": True, "batches": batches}
        found = kinopt.ensemble.run(
            loss, optimizer, starts, keys, **given, summary=accuracy, keep=()
        )
        return found.summary

    @jax.jit
    def one(key, params):
        def step(carry, count):
            params, state = carry
            grads = jax.grad(loss)(params, batches(key, count))
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = params, optimizer.init(params)
        return accuracy(jax.lax.scan(step, start, jnp.arange(num_steps))[0][0])

    def some():
        row = [jax.tree.map(lambda x, n=n: x[n], starts) for n in range(settings.one_by_one)]
        return [one(key, params) for key, params in zip(keys, row, strict=False)]

    seconds: dict[str, list[float]] = {"kinopt.ensemble": [], "one after the other": []}
    scale = settings.networks / settings.one_by_one
    for turn in range(1 + settings.turns):
        took = seconds_of(together), scale * seconds_of(some)
        for way, s in zip(seconds, took, strict=True):
            seconds[way] += [s] * (turn > 0)  # the first compiles
        update()
    found = np.asarray(together())
    quantiles = np.quantile(found, [0, 0.25, 0.5, 0.75, 1]).tolist()
    steps = [num_steps] * 5
    yield from _rows(NETWORKS, seconds, number=settings.networks, steps=steps, accuracies=quantiles)


def table(rows: list[Row]) -> str:
    """Seconds of each way, and the ratio of ours to it."""
    return table_of(
        ["what", "steps (least, median, 99 %, most)", "way", "seconds (quartiles)", "ratio"],
        [
            [
                f"{row['number']:,} {row['problem']}",
                "{0:,.0f}, {2:,.0f}, {3:,.0f}, {4:,.0f}".format(*row["steps"]),
                row["way"],
                "{1:.2f} ({0:.2f} to {2:.2f})".format(*row["seconds"]),
                str(MedianRatio.from_row(row["ratio"])),
            ]
            for row in rows
        ],
    )


def headline(rows: list[Row]) -> str:
    """Ratios to useful work, to vmap, and to one network after the other."""
    ratio = {row["way"]: row["ratio"][0] for row in rows}
    return "; ".join(
        f"{ratio[way]:.2g} of {words}"
        for way, words in (
            ("useful work", "useful work"),
            ("jax.vmap", "the time of vmap"),
            ("one after the other", "that of networks one after the other"),
        )
        if way in ratio
    )


def plot(rows: list[Row]) -> Figure:
    """The ratios with their intervals."""
    ratios = {
        f"{row['problem']}: {row['way']}": row["ratio"]
        for row in rows
        if not row["way"].startswith("kinopt")
    }
    return ratios_picture(ratios, "time of kinopt, in that of this way")
