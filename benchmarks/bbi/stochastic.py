"""What do minibatches do to BBI: its energy, its steady state, its diffusion? Section 3.2, A.4.

Every step sees another batch B of a quadratic loss, whose bottom lies elsewhere:

    V^B(Theta) = c + 1/2 sum_i h_i (Theta_i - mu^B_i)^2,    mu^B normal and independent

Three questions, each a row or a few.

1. Energy. When batch B follows on batch A, Algorithm 1 multiplies the momentum by a factor a that
   restores the energy. Eq. 48 says lambda = sqrt((E^2/V^B - V^B) / (E^2/V^A - V^A)) at the same
   Theta. The factor is read off the states before and after an update, and compared with lambda as
   the time step shrinks. Without rescaling the energy is not kept: the same runs say how it drifts.

2. Steady state. What does not grow has increments of mean zero; for V << E this gives Eq. 49:

       <[| Theta_i d_j V^B / V^B |]> = <[| Theta_j d_i V^B / V^B |]>
       <V (Theta_i Pi_j + Theta_j Pi_i)>
           = Delta t E <[| q (Theta_i d_j V^B + Theta_j d_i V^B) - 2 q (V^B)^2 Pi_i Pi_j / E^2 |]>

   with q = 1/4 in the paper, as far as its second line can be read. Two lines of algebra from
   Eqs. 11 and 12 give q = 1/2 where Pi is the momentum with its energy restored and before the
   kick; so what is measured is q. (E/V + V/E)/2 stands for E/(2 V) here, so that V << E need not
   hold. There are no bounces, as in A.4.

3. Diffusion. One direction is a thousand times shallower than the other, and all runs start at its
   bottom. <Theta^2> in it grows with the noise alone. The paper expects much less diffusion of BBI
   than of SGD with momentum, because Theta'^2 < V. Both are tuned first, on the mean full loss from
   the start to the end of a short run; BBI is told the lowest loss of a batch, c, as its f_min.

Reproduces: BBI, section 3.2 and A.4, which have no experiment.
Needs: nothing.
Takes: smoke 15 s; laptop 2 min; paper 1 hour on 2 cores (estimated).
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks.markdown import table_of
from benchmarks.progress import progress_bar
from benchmarks.record import NOTHING, Done, Row, where

__all__ = ["PRESETS", "Batches", "Settings", "headline", "plot", "run", "steady_state", "table"]


class Batches(NamedTuple):
    """A quadratic loss whose batches have their bottoms at normal places."""

    floor: float  # c
    curvature: tuple[float, ...]  # h
    spread: tuple[float, ...]  # standard deviations of mu
    correlation: float  # of the first two components of mu

    def draw(self, key: jax.Array) -> jax.Array:
        """The bottom of a batch, mu."""
        z = jax.random.normal(key, (len(self.curvature),))
        r = self.correlation
        z = z.at[1].set(r * z[0] + np.sqrt(1 - r**2) * z[1])
        return z * jnp.array(self.spread)

    def value(self, theta: jax.Array, bottom: jax.Array) -> jax.Array:
        """The loss of a batch."""
        return self.floor + jnp.sum(jnp.array(self.curvature) * (theta - bottom) ** 2) / 2

    def full(self, theta: jax.Array) -> jax.Array:
        """The loss of all batches, their mean."""
        noise = np.dot(self.curvature, np.square(self.spread)) / 2
        return self.value(theta, jnp.zeros(len(self.curvature))) + noise


STEADY = Batches(1.0, (1.0, 0.3), (0.6, 1.0), 0.6)
SHALLOW = Batches(0.02, (1.0, 1e-3), (0.2, 10.0), 0.0)

NO_BOUNCES: dict[str, Any] = {"fixed_bounce_every": None, "patience": None}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Two losses, and how long they are watched."""

    batches: Batches = STEADY
    energy: float = 30.0  # delta E
    dts: tuple[float, ...] = (0.1, 0.05, 0.025, 0.0125)
    num_seeds: int = 64
    duration: float = 4_000.0  # of the steady state, in units of time
    burn_in: float = 400.0
    num_steps: int = 10_000

    shallow: Batches = SHALLOW
    start: tuple[float, ...] = (3.0, 0.0)
    walkers: int = 256
    tuning_walkers: int = 32
    tuning_steps: int = 1_000
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    momenta: tuple[float, ...] = (0.9, 0.99)
    extra_energies: tuple[float, ...] = (0.0, 1.0)
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        dts=(0.1, 0.05),
        num_seeds=4,
        duration=60,
        burn_in=20,
        num_steps=400,
        walkers=4,
        tuning_walkers=2,
        tuning_steps=40,
        rates=(0.03,),
        momenta=(0.9,),
        extra_energies=(0.0,),
    ),
    "laptop": Settings(),
    "paper": Settings(
        num_seeds=512, duration=40_000, num_steps=50_000, walkers=2048, tuning_walkers=256
    ),
}


def walk(
    optimizer: optax.GradientTransformation,
    batches: Batches,
    start: jax.Array,
    key: jax.Array,
    num_steps: int,
    look: Callable,
    every: int = 1,
) -> Any:
    """One run on a new batch at every step: what `look` returns, [num_steps // every, ...].

    Args:
        optimizer: What takes the steps.
        batches: The loss.
        start: Theta at first.
        key: Of the batches.
        num_steps: How many.
        look: (theta, bottom, value, gradient, state, new theta, new state) -> arrays.
        every: Steps over which they are averaged.
    """
    descent = optax.with_extra_args_support(optimizer)

    def step(carry, key):
        theta, state = carry
        bottom = batches.draw(key)
        value, gradient = jax.value_and_grad(batches.value)(theta, bottom)
        update, moved_state = descent.update(gradient, state, theta, value=value)
        moved = theta + update
        seen = look(theta, bottom, value, gradient, state, moved, moved_state)
        return (moved, moved_state), seen

    def block(carry, keys):
        carry, seen = jax.lax.scan(step, carry, jax.random.split(keys, every))
        return carry, jax.tree.map(lambda x: jnp.mean(x, axis=0), seen)

    keys = jax.random.split(key, num_steps // every)
    return jax.lax.scan(block, (start, descent.init(start)), keys)[1]


def _keys(settings: Settings, part: int, number: int) -> jax.Array:
    return jax.random.split(jax.random.key(1000 * settings.seed + part), number)


# 1. Energy


def energy(settings: Settings, dt: float) -> Row:
    """How far the factor is from Eq. 48, and the drift of the energy without it."""
    batches = settings.batches

    def look(theta, bottom, value, gradient, state, moved, moved_state):
        # The kick taken back leaves the momentum whose energy was restored.
        e = moved_state.energy
        restored = moved_state.momentum + dt * (e / value + value / e) / 2 * gradient
        factor = jnp.vdot(restored, state.momentum) / state.momentum_sq
        before = batches.value(moved, bottom)  # what the next batch follows on
        own = jnp.sqrt(value * (state.momentum_sq + value))  # H on this batch, not restored
        return {"value": value, "factor": factor, "before": before, "e": e, "h": own}

    def one(conserve, key):
        optimizer = kinopt.bbi(
            dt,
            extra_energy=settings.energy,
            **NO_BOUNCES,
            conserve_energy=conserve,
            initial_direction="random",
            key=key,
        )
        return walk(optimizer, batches, start, key, settings.num_steps, look)

    start = jnp.ones(len(batches.curvature))

    keys = _keys(settings, 1, settings.num_seeds)
    seen = jax.jit(jax.vmap(functools.partial(one, True)))(keys)
    seen = {name: np.asarray(x, np.float64) for name, x in seen.items()}

    # The first update has no momentum to restore; the second is the first jump.
    old, new = seen["before"][:, :-1], seen["value"][:, 1:]
    factor, e = seen["factor"][:, 1:], seen["e"][:, 1:]
    known = (old < e) & (new < e) & (factor > 0)  # not where V > E, and the particle is stopped
    predicted = np.sqrt(np.where(known, (e**2 / new - new) / (e**2 / old - old), 1))  # Eq. 48
    factor = factor[known]
    error = np.abs(factor / predicted[known] - 1)
    free = jax.jit(jax.vmap(functools.partial(one, False)))(keys)
    drift = np.abs(np.log(np.asarray(free["h"] / free["e"], np.float64)))[:, -1]
    return {
        "kind": "energy",
        "dt": dt,
        "stopped": float(1 - known.mean()),
        "median_factor": float(np.median(np.abs(np.log(factor)))),
        "median_error": float(np.median(error)),
        "high_error": float(np.quantile(error, 0.99)),
        "median_drift": float(np.median(np.where(np.isfinite(drift), drift, np.inf))),
    }


# 2. Steady state


def steady_state(settings: Settings, dt: float) -> Row:
    """Both sides of Eq. 49, averaged along each run: means and standard errors over runs."""
    batches = settings.batches
    number = len(batches.curvature)

    def look(theta, bottom, value, gradient, state, moved, moved_state):
        e = moved_state.energy
        value = jnp.minimum(value, e)  # as the descent has it where V > E
        force = (e / value + value / e) / 2 * gradient
        kicked = moved_state.momentum
        restored = kicked + dt * force
        return {
            "torque": jnp.outer(theta, force) / e,
            "turn": jnp.outer(theta, restored - state.momentum) / (dt * e),
            "left": value * _both(theta, restored),
            "push": value * _both(theta, force),
            "stress": value**2 * jnp.outer(kicked, kicked) / e,
        }

    def one(key):
        optimizer = kinopt.bbi(
            dt,
            extra_energy=settings.energy,
            **NO_BOUNCES,
            initial_direction="random",
            key=key,
        )
        num_steps, every = round(settings.duration / dt), round(settings.burn_in / dt)
        seen = walk(optimizer, batches, jnp.ones(number), key, num_steps, look, every)
        return jax.tree.map(lambda x: jnp.mean(x[1:], axis=0), seen)

    mean = jax.jit(jax.vmap(one))(_keys(settings, 2, settings.num_seeds))
    mean = {name: np.asarray(x, np.float64) for name, x in mean.items()}
    torque, turn = (mean[name][:, 0, 1] - mean[name][:, 1, 0] for name in ("torque", "turn"))
    scale = np.abs(mean["torque"][:, 0, 1]).mean()
    # left = 2 q right, with right = dt (push - stress): push holds 2 (E/2V) of the text.
    right = dt * (mean["push"] - mean["stress"])
    row: Row = {"kind": "steady state", "dt": dt, "symmetry": _estimate(torque / scale)}
    row["with_rescaling"] = _estimate((torque - turn) / scale)
    for i, j in itertools.combinations_with_replacement(range(number), 2):
        q = _ratio(mean["left"][:, i, j], right[:, i, j])
        row[f"q_{i}{j}"] = [q[0] / 2, q[1] / 2]
        row[f"right_{i}{j}"] = _estimate(right[:, i, j])
    return row


def _both(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.outer(a, b) + jnp.outer(b, a)


def _estimate(values: np.ndarray) -> list[float]:
    """Mean over runs and its standard error."""
    return [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]


def _ratio(above: np.ndarray, below: np.ndarray) -> list[float]:
    """The ratio of two means and its standard error, by the delta method."""
    ratio = above.mean() / below.mean()
    spread = (above - ratio * below).std(ddof=1) / np.sqrt(len(above))
    return [float(ratio), float(spread / abs(below.mean()))]


# 3. Diffusion


class Method(NamedTuple):
    """What is tuned: the rate of every method, and one thing more."""

    build: Callable  # (rate, other, key) -> optimizer
    other: str
    choices: tuple[float, ...]


def _methods(settings: Settings) -> dict[str, Method]:
    def sgd(rate, momentum, key):
        del key
        return optax.sgd(rate, momentum=momentum)

    def bbi(bounces, rate, extra_energy, key):
        floor = settings.shallow.floor  # the lowest loss that a batch can have
        fixed = {"f_min": floor, "extra_energy": extra_energy, "stay": False}
        return kinopt.bbi(rate, key=key, **fixed, **bounces)

    often = {"fixed_bounce_every": 100, "num_fixed_bounces": 5, "patience": 1000}
    energies = "extra_energy", settings.extra_energies
    return {
        "SGD with momentum": Method(sgd, "momentum", settings.momenta),
        "BBI, no bounces": Method(functools.partial(bbi, NO_BOUNCES), *energies),
        "BBI": Method(functools.partial(bbi, often), *energies),
    }


def _paths(method: Method, chosen: jax.Array, settings: Settings, part: int, number: int, steps):
    """Many runs: {"full": loss of all batches, "theta": [.., n]}, each [runs, steps]."""
    batches = settings.shallow

    def look(theta, bottom, value, gradient, state, moved, moved_state):
        return {"full": batches.full(moved), "theta": moved}

    def one(key):
        optimizer = method.build(chosen[0], chosen[1], key)
        return walk(optimizer, batches, jnp.array(settings.start), key, steps, look)

    return jax.vmap(one)(_keys(settings, part, number))


def _tuned(method: Method, settings: Settings) -> tuple[tuple[float, float], float]:
    """The choice with the lowest mean loss over its runs, from start to end."""
    choices = list(itertools.product(settings.rates, method.choices))

    @jax.jit
    @jax.vmap
    def loss(chosen):
        number, steps = settings.tuning_walkers, settings.tuning_steps
        return jnp.mean(_paths(method, chosen, settings, 3, number, steps)["full"])

    losses = np.asarray(loss(jnp.array(choices)), np.float64)
    best = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))
    return choices[best], float(losses[best])


def diffusion(name: str, settings: Settings) -> Row:
    """Tunes a method, and lets it walk: <Theta^2> in the shallow direction along the way."""
    method = _methods(settings)[name]
    chosen, loss = _tuned(method, settings)
    walkers, num_steps = settings.walkers, settings.num_steps
    paths = jax.jit(lambda c: _paths(method, c, settings, 4, walkers, num_steps))(jnp.array(chosen))
    paths = {name: np.asarray(x, np.float64) for name, x in paths.items()}
    square = paths["theta"][:, :, 1] ** 2
    times = np.unique(np.geomspace(10, settings.num_steps, 40).astype(int))
    mean, error = square.mean(axis=0), square.std(axis=0, ddof=1) / np.sqrt(len(square))
    late = slice(settings.num_steps // 2, None)
    return {
        "kind": "diffusion",
        "method": name,
        "chosen": {"rate": chosen[0], method.other: chosen[1]},
        "tuning_loss": loss,
        "loss": _estimate(paths["full"][:, late].mean(axis=1)),
        "spread": _estimate(square[:, late].mean(axis=1)),
        "times": times,
        "mean_square": [float(f"{x:.4g}") for x in mean[times - 1]],
        "error": [float(f"{x:.3g}") for x in error[times - 1]],
    }


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """Rows of the energy and of the steady state for each time step, and of each method."""
    methods = _methods(settings)
    with progress_bar(2 * len(settings.dts) + len(methods), "bbi.stochastic") as bar:
        for measure, kind in ((energy, "energy"), (steady_state, "steady state")):
            for dt in settings.dts:
                if not done(kind=kind, dt=dt):
                    began = time.perf_counter()
                    yield {**measure(settings, dt), "seconds": time.perf_counter() - began}
                bar.update()
        for name in methods:
            if not done(kind="diffusion", method=name):
                began = time.perf_counter()
                row = diffusion(name, settings)
                yield {**row, "seconds": time.perf_counter() - began}
            bar.update()


def _with_error(estimate: list[float], digits: int = 3) -> str:
    return f"{estimate[0]:.{digits}f} ± {estimate[1]:.{digits}f}"


def table(rows: list[Row]) -> str:
    """One table for each question."""
    kept = table_of(
        ["time step", "change of momentum", "error of Eq. 48", "99 %", "drift without"],
        [
            [
                f"{row['dt']:g}",
                f"{row['median_factor']:.2%}",
                f"{row['median_error']:.3%}",
                f"{row['high_error']:.2%}",
                f"{row['median_drift']:.0%}",
            ]
            for row in where(rows, kind="energy")
        ],
    )
    steady = where(rows, kind="steady state")
    pairs = sorted(name for name in steady[0] if name.startswith("q_"))
    relations = table_of(
        [
            "time step",
            "first line",
            "with the rescaling",
            *(f"q, i j = {p[2]} {p[3]}" for p in pairs),
        ],
        [
            [
                f"{row['dt']:g}",
                _with_error(row["symmetry"], 2),
                _with_error(row["with_rescaling"], 2),
                *(_with_error(row[p], 4) for p in pairs),
            ]
            for row in steady
        ],
    )
    walked = where(rows, kind="diffusion")
    times = [t for t in (100, 1_000, 10_000, 100_000) if t <= walked[0]["times"][-1]]
    walks = table_of(
        ["method", "tuned", "mean loss, second half", *(f"<Theta^2> at {t:,}" for t in times)],
        [
            [
                row["method"],
                ", ".join(f"{k} {v:g}" for k, v in row["chosen"].items()),
                _with_error(row["loss"], 4),
                *(f"{np.interp(t, row['times'], row['mean_square']):.2g}" for t in times),
            ]
            for row in walked
        ],
    )
    return f"""\
Energy. The factor that restores it against Eq. 48, and |log(H/E)| after the last step without it
(medians over jumps, and over runs):

{kept}

Steady state. The first line of Eq. 49, difference of its sides in units of one of them, and the
coefficient q of the second (1/4 in the paper, 1/2 from Eqs. 11 and 12); one standard error. The
rescaling of the momentum turns, too, and Eq. 49 leaves it out: "with the rescaling" counts it.

{relations}

Diffusion in a direction of a thousandth of the curvature, all runs from its bottom, by step:

{walks}

On the way down BBI diffuses less than SGD, as the paper expects. Then nothing takes out what noise
and bounces put into the shallow direction: without friction it neither settles nor stays."""


def headline(rows: list[Row]) -> str:
    """The error of Eq. 48, the coefficient of Eq. 49, and the ratio of the spreads."""
    kept = where(rows, kind="energy")[0]
    steady = where(rows, kind="steady state")[0]
    walks = {row["method"]: row["spread"][0] for row in where(rows, kind="diffusion")}
    sgd = walks["SGD with momentum"]
    return (
        f"Eq. 48 to {kept['median_error']:.2%} at a time step of {kept['dt']:g}; Eq. 49 with the "
        f"coefficient {_with_error(steady['q_00'])} (1/4 in the paper); <Theta^2> in a shallow "
        f"direction {walks['BBI, no bounces'] / sgd:.2g} times that of tuned SGD, with bounces "
        f"{walks['BBI'] / sgd:.2g}"
    )


def plot(rows: list[Row]) -> Figure:
    """Errors against the time step, and the spread in the shallow direction against time."""
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    kept, steady = where(rows, kind="energy"), where(rows, kind="steady state")
    dts = [row["dt"] for row in kept]
    left.loglog(dts, [row["median_factor"] for row in kept], "C7s-", label="change of momentum")
    left.loglog(dts, [row["median_error"] for row in kept], "C0o-", label="error of Eq. 48")
    off = [abs(row["q_00"][0] - 0.5) for row in steady]
    left.errorbar(
        [row["dt"] for row in steady], off, [row["q_00"][1] for row in steady], fmt="C1^-",
        label="|q - 1/2|, Eq. 49",
    )  # fmt: skip
    left.set(xlabel="time step", title="From one batch to the next", ylabel="relative")
    left.set_xticks(dts, [f"{dt:g}" for dt in dts])
    left.xaxis.set_minor_locator(NullLocator())
    left.legend(frameon=False)
    for row in where(rows, kind="diffusion"):
        times, mean, error = (np.array(row[name]) for name in ("times", "mean_square", "error"))
        line = right.plot(times, mean, label=row["method"])[0]
        right.fill_between(times, mean - error, mean + error, color=line.get_color(), alpha=0.25)
    right.set(xscale="log", yscale="log", xlabel="step", ylabel="mean square, shallow direction")
    right.set_title("Diffusion of tuned methods")
    right.legend(frameon=False)
    return figure
