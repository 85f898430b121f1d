"""Does BBI find both solutions of a nonlinear Poisson problem from one start? Section 4.4.

The problem has two radial solutions (`benchmarks.bbi._poisson`): u_an, from which it was made, and
a deeper one. A residual network u (Eq. 56) is to solve it; the loss is Eq. 19 as means over points
drawn in the disc and on the circle,

    F = mean (-lap(u) + u^2 - f)^2 + gamma mean (u - f_0)^2 + 2e-4 |Theta|^2,

with the exact Laplacian. A run has found a solution if its last parameters are within 5 % of it, in
the relative L2 norm of the disc; the two solutions differ by more than half of their size.

    BBI                 from one start and on the same points; only the keys of the bounces differ
    BBI, no bounces     one run, there is nothing to draw
    BBI, resampled      the same start, and new points from time to time (section 4.4)
    Adam, resampled     a control: the same start and the same changes of points
    Adam, <rate>        on the points that BBI has, from several starts, the first of them BBI's

The paper's k = 20 needs wide networks and long runs. The laptop preset has k = 2 and u_an lowered
by 2, a choice made beforehand among shifts of -1, -2 and -4 with 8 runs of BBI each, because both
solutions appear; without a shift BBI ended at u_an in all of 48 runs at k = 2. So the shares say
that BBI can find both, not how often it does in other problems.

Reproduces: BBI, section 4.4, appendix B, Fig. 7.
Needs: nothing.
Takes: smoke 1 min; laptop 10 min on 2 cores (estimated); paper was not timed.
Scale: k = 20 with width 200 and depth 3 was not run at this scale: 1.5 million steps of a second
on 2 cores.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import kinopt
from benchmarks.bbi import _poisson as poisson
from benchmarks.markdown import table_of
from benchmarks.progress import progress_bar
from benchmarks.record import NOTHING, Done, Row, where
from kinopt._typing import PyTree, Scalar

__all__ = ["PRESETS", "Settings", "headline", "loss", "outcomes", "plot", "run", "table"]

RADII = 100
"""Middles of intervals at which the error is measured."""

SECTION = np.linspace(-1, 1, 81)
"""x_1 of the sections at x_2 = 0 that are kept, as in Fig. 7."""

NAMES = {0: "u_an", 1: "the other"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The problem, the network, and how long it is trained."""

    frequency: float = 2.0  # k
    shift: float = -2.0
    shooting: tuple[float, ...] = (2.0, 3.0, 5.0, 10.0, 20.0)  # k of problems that are only shot
    width: int = 32
    depth: int = 1
    num_points: int = 300  # in the disc
    num_boundary: int = 40
    boundary_weight: float = 1e3  # gamma
    regularisation: float = 2e-4
    num_steps: int = 15_000
    epoch: int = 500  # steps between two records, and between two samples where they change
    dt: float = 3e-3
    extra_energy: float = 0.0
    bounce_every: int = 200  # T0
    num_bounces: int = 10  # Nb
    patience: int = 2000  # T1
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)  # of Adam
    resampled_rate: float = 1e-2  # of Adam where points change
    num_seeds: int = 16  # of BBI
    resampled_seeds: int = 4
    starts: int = 4  # of Adam, for each rate
    tolerance: float = 0.05  # largest relative error of a solution found
    seed: int = 0

    @property
    def problem(self) -> poisson.Poisson:
        """What is to be solved."""
        return poisson.Poisson(self.frequency, self.shift)


PRESETS = {
    "smoke": Settings(
        shooting=(),
        width=8,
        num_points=40,
        num_boundary=10,
        num_steps=40,
        epoch=20,
        rates=(1e-2,),
        num_seeds=2,
        resampled_seeds=2,
        starts=2,
    ),
    "laptop": Settings(),
    "gpu": Settings(
        frequency=5.0,
        shift=0.0,
        shooting=(),
        num_steps=50_000,
        dt=1e-3,
        rates=(1e-2,),
        num_seeds=48,
        resampled_seeds=16,
        starts=16,
    ),
    "paper": Settings(
        frequency=20.0,
        shift=0.0,
        width=200,
        depth=3,
        num_points=10_000,
        num_boundary=1000,
        boundary_weight=1e5,
        num_steps=1_500_000,
        epoch=1000,
        dt=5e-6,
        extra_energy=2e6,
        bounce_every=1000,
        patience=5000,
        rates=(1e-4, 3e-4, 1e-3),
        resampled_rate=3e-4,
        num_seeds=12,
        resampled_seeds=12,
    ),
}


def points(rng: np.random.Generator, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Uniform in the disc, [num_points, 2], and on the circle, [num_boundary, 2]."""
    radius = np.sqrt(rng.uniform(size=(settings.num_points, 1)))
    angles = (rng.uniform(0, 2 * np.pi, n) for n in (settings.num_points, settings.num_boundary))
    inside, boundary = (np.stack([np.cos(a), np.sin(a)], axis=1) for a in angles)
    return (radius * inside).astype(np.float32), boundary.astype(np.float32)


def loss(params: PyTree, inside: jax.Array, boundary: jax.Array, settings: Settings) -> Scalar:
    """Eq. 19, with means for the sums."""
    equation = jnp.mean(poisson.residual(settings.problem, params, inside) ** 2)
    edge = jnp.mean((poisson.values(params, boundary) - settings.problem.boundary) ** 2)
    size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return equation + settings.boundary_weight * edge + settings.regularisation * size


def bbi(settings: Settings, bounce: bool = True) -> Callable:
    """Key -> the optimizer."""

    def optimizer(key):
        rules = [
            kinopt.bounces.periodic(settings.bounce_every, settings.num_bounces),
            kinopt.bounces.patience(settings.patience),
        ]
        return kinopt.ecd(
            settings.dt,
            extra_energy=settings.extra_energy,
            bounces=rules if bounce else None,
            stay=False,
            key=key,
        )

    return optimizer


def train(
    optimizer: Callable,
    starts: PyTree,
    keys: jax.Array,
    exact: np.ndarray,
    settings: Settings,
    resample: bool = False,
) -> dict[str, np.ndarray]:
    """All runs: errors and losses after each epoch, and sections at the end.

    Not `kinopt.ensemble.run`: all runs are of one length, and their errors are wanted on the way.
    On a CPU matrices of this size are multiplied faster one network after another; elsewhere all
    networks go abreast.

    Args:
        optimizer: Key -> optimizer.
        starts: Parameters, with a leading axis of runs.
        keys: Of the bounces, [runs].
        exact: The solutions at the middles of RADII intervals, [solutions, RADII].
        settings: The problem and the lengths.
        resample: Whether each epoch has new points.

    Returns:
        "errors" [runs, epochs, solutions], "loss" and "best_loss" [runs, epochs],
        "section" [runs, len(SECTION)]. The best loss is over all steps so far.
    """
    section = jnp.stack([jnp.asarray(SECTION), jnp.zeros(len(SECTION))], axis=1)
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], starts))[1]
    epochs = settings.num_steps // settings.epoch
    rng = np.random.default_rng(settings.seed)
    fixed = [points(rng, settings)] * epochs

    def one(start, key, samples):
        descent = optax.with_extra_args_support(optimizer(key))

        def epoch(carry, sample):
            inside, boundary = sample

            def value(theta):
                return loss(unravel(theta), inside, boundary, settings)

            def step(carry, _):
                theta, state, best = carry
                found, gradient = jax.value_and_grad(value)(theta)
                update, state = descent.update(gradient, state, theta, value=found)
                return (theta + update, state, jnp.minimum(best, found)), None

            carry, _ = jax.lax.scan(step, carry, length=settings.epoch)
            theta, _, best = carry
            network = functools.partial(poisson.values, unravel(theta))
            errors = poisson.relative_errors(network, exact)
            return carry, {"errors": errors, "loss": value(theta), "best_loss": best}

        # One vector: its optimizer compiles sooner than that of many leaves.
        theta = ravel_pytree(start)[0]
        carry = (theta, descent.init(theta), jnp.asarray(jnp.inf))
        (theta, *_), records = jax.lax.scan(epoch, carry, samples)
        return {**records, "section": poisson.values(unravel(theta), section)}

    def drawn():
        sample = [points(rng, settings) for _ in range(epochs)] if resample else fixed
        return tuple(map(np.stack, zip(*sample, strict=True)))

    samples = [drawn() for _ in keys]
    if jax.default_backend() == "cpu":
        program = jax.jit(one)
        runs = [
            program(jax.tree.map(lambda leaf, n=n: leaf[n], starts), key, samples[n])
            for n, key in enumerate(keys)
        ]
        found = jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
    else:
        abreast = jax.tree.map(lambda *leaves: np.stack(leaves), *samples)
        found = jax.jit(jax.vmap(one))(starts, keys, abreast)
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def outcomes(errors: np.ndarray, tolerance: float) -> np.ndarray:
    """Which solution each run has found: 0, 1, ..., or -1 for none.

    >>> outcomes(np.array([[0.01, 0.7], [0.6, 0.04], [0.3, 0.4], [np.nan, np.nan]]), 0.05)
    array([ 0,  1, -1, -1])
    """
    errors = np.where(np.isfinite(errors), errors, np.inf)
    return np.where(errors.min(axis=-1) < tolerance, errors.argmin(axis=-1), -1)


def methods(settings: Settings) -> dict[str, dict]:
    """What is run: the arguments of `train` for each name."""
    keys = jax.random.split(jax.random.key(settings.seed + 1), max(settings.num_seeds, 2))
    resampled_keys = jax.random.split(jax.random.key(settings.seed + 2), settings.resampled_seeds)

    def start(key):
        return poisson.initial(key, settings.width, settings.depth)

    start_keys = jax.random.split(jax.random.key(settings.seed + 3), settings.starts)
    starts = jax.jit(jax.vmap(start))(start_keys)

    def same(number):
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], number, axis=0), starts)

    resampled = {
        "starts": same(settings.resampled_seeds),
        "keys": resampled_keys,
        "resample": True,
    }
    adam = optax.adam
    return {
        "BBI": {
            "optimizer": bbi(settings),
            "starts": same(settings.num_seeds),
            "keys": keys[: settings.num_seeds],
        },
        "BBI, no bounces": {
            "optimizer": bbi(settings, bounce=False),
            "starts": same(1),
            "keys": keys[:1],
        },
        "BBI, resampled": {"optimizer": bbi(settings), **resampled},
        f"Adam {settings.resampled_rate:g}, resampled": {
            "optimizer": lambda key: adam(settings.resampled_rate),
            **resampled,
        },
        **{
            f"Adam {rate:g}": {
                "optimizer": functools.partial(lambda rate, key: adam(rate), rate),
                "starts": starts,
                "keys": start_keys,
            }
            for rate in settings.rates
        },
    }


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """A row for each problem that is shot, then one for each method."""
    shot = [poisson.Poisson(k) for k in settings.shooting]
    with progress_bar(len(shot) + 1 + 4 + len(settings.rates), "bbi.pde") as bar:
        for problem in shot:
            if not done(kind="shooting", frequency=problem.frequency, shift=problem.shift):
                yield _shooting(problem, poisson.solutions(problem))
            bar.update()
        problem = settings.problem
        centers = poisson.solutions(problem)
        radii = poisson.midpoints(RADII)
        exact = np.stack([problem.shoot(center, radii)[0] for center in centers])
        if not done(kind="shooting", frequency=problem.frequency, shift=problem.shift):
            curves = [problem.shoot(c, SECTION[SECTION >= 0])[0].round(4) for c in centers]
            yield {**_shooting(problem, centers), "curves": curves}
        bar.update()
        for name, arguments in methods(settings).items():
            if not done(kind="training", method=name):
                began = time.perf_counter()
                found = train(exact=exact, settings=settings, **arguments)
                errors = found["errors"]
                yield {
                    "kind": "training",
                    "method": name,
                    "outcome": outcomes(errors[:, -1], settings.tolerance),
                    "errors": errors[:, -1].round(5),
                    "loss": found["loss"][:, -1].round(4),
                    "best_loss": found["best_loss"][:, -1].round(4),
                    "path": errors.min(axis=-1).round(4),
                    "epoch": settings.epoch,
                    "section": found["section"].round(3),
                    "seconds": time.perf_counter() - began,
                }
            bar.update()


def _shooting(problem: poisson.Poisson, centers: list[float]) -> Row:
    return {"kind": "shooting", **dataclasses.asdict(problem), "centers": np.round(centers, 6)}


def _share(row: Row, solution: int) -> str:
    found, number = row["outcome"].count(solution), len(row["outcome"])
    low, high = np.asarray(kinopt.basins.wilson_interval(found, number))
    return f"{found} of {number} ({low:.0%} to {high:.0%})"


def _median(numbers: list, form: str) -> str:
    known = [number for number in numbers if number is not None]
    return format(float(np.median(known)), form) if known else "-"


def table(rows: list[Row]) -> str:
    """The solutions that exist, then what each method finds."""
    lines = [
        [
            f"{row['frequency']:g}",
            f"{row['shift']:g}",
            *(f"{round(c, 3) + 0.0:.3f}" for c in row["centers"]),
        ]
        for row in where(rows, kind="shooting")
    ]
    header = ["k", "shift", "u(0) of u_an", "of the other"]
    shot = table_of(header, lines)
    lines = []
    for row in where(rows, kind="training"):
        errors = [
            min(pair)
            for pair, outcome in zip(row["errors"], row["outcome"], strict=True)
            if outcome >= 0
        ]
        lines.append(
            [
                row["method"],
                _share(row, 0),
                _share(row, 1),
                str(row["outcome"].count(-1)),
                _median(errors, ".2%"),
                _median(row["loss"], ".2f"),
                _median(row["best_loss"], ".2f"),
            ]
        )
    header = ["method", "end at u_an (95 %)", "at the other", "at none"]
    header += ["median error", "median loss", "median best loss"]
    trained = table_of(header, lines)
    return f"""\
Radial solutions found by shooting, for u(0) between -2000 and 30:

{shot}

What networks find in the last of these problems:

{trained}

The error is that of the runs that end within {rows[-1]["settings"]["tolerance"]:.0%} of a solution.
The problem was chosen because BBI finds both: the shares hold for no other."""


def headline(rows: list[Row]) -> str:
    """How often BBI and Adam end at each solution."""
    trained = where(rows, kind="training")
    settings = rows[-1]["settings"]
    row = trained[0]
    adam = [one for one in trained if one["method"].startswith("Adam")]
    found = [sum(one["outcome"].count(k) for one in adam) for k in NAMES]
    number = sum(len(one["outcome"]) for one in adam)
    return (
        f"k = {settings['frequency']:g}, shift {settings['shift']:g}: BBI from one start ends at "
        f"u_an in {_share(row, 0)}, at the other in {_share(row, 1)}; Adam in {found[0]} and "
        f"{found[1]} of {number}"
    )


def plot(rows: list[Row]) -> Figure:
    """Sections of both solutions, exact and found (Fig. 7); the way to them; all ends."""
    from matplotlib.ticker import NullFormatter

    shot = where(rows, kind="shooting")[-1]
    trained = where(rows, kind="training")
    methods_ = {row["method"]: row for row in trained}
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (bbi_axes, adam_axes), (path_axes, end_axes) = figure.subplots(2, 2)
    colors = {0: "C0", 1: "C3", -1: "0.7"}

    plain = [row for row in trained if row["method"].startswith("Adam")]
    fixed = [row for row in plain if "resampled" not in row["method"]]
    for axes, shown, title in (
        (bbi_axes, [methods_["BBI"]], "BBI: all runs from one start"),
        (adam_axes, fixed, "Adam: all starts and rates"),
    ):
        for row in shown:
            for section, outcome in zip(row["section"], row["outcome"], strict=True):
                if None not in section:
                    axes.plot(SECTION, section, color=colors[outcome], lw=1, alpha=0.6)
        half = SECTION[SECTION >= 0]
        for n, curve in enumerate(shot["curves"]):
            whole = np.concatenate([curve[:0:-1], curve])
            label = "exact" if n == 0 else None
            axes.plot(np.concatenate([-half[:0:-1], half]), whole, "k--", lw=1.3, label=label)
        for n, name in NAMES.items():
            share = sum(row["outcome"].count(n) for row in shown)
            total = sum(len(row["outcome"]) for row in shown)
            axes.plot([], [], color=colors[n], label=f"{name}: {share} of {total} runs")
        axes.set(xlabel="$x_1$, at $x_2 = 0$", ylabel="u", title=title)
        axes.legend(frameon=False, fontsize=9)
    low = min(bbi_axes.get_ylim()[0], adam_axes.get_ylim()[0])
    high = max(bbi_axes.get_ylim()[1], adam_axes.get_ylim()[1])
    for axes in (bbi_axes, adam_axes):
        axes.set_ylim(low, high)

    row = methods_["BBI"]
    for path, outcome in zip(row["path"], row["outcome"], strict=True):
        steps = row["epoch"] * np.arange(1, len(path) + 1)
        path_axes.plot(steps, np.array(path, float), color=colors[outcome], lw=1)
    path_axes.axhline(rows[-1]["settings"]["tolerance"], color="black", ls=":", lw=1)
    path_axes.set(yscale="log", xlabel="step", ylabel="relative error to the nearer solution")
    path_axes.set_title("BBI on the way")

    for n, row in enumerate(trained):
        for pair, value, outcome in zip(row["errors"], row["loss"], row["outcome"], strict=True):
            if value is not None and None not in pair:
                marker = "o" if row["method"].startswith("BBI") else "^"
                color = colors[outcome]
                end_axes.plot(min(pair), n, marker, color=color, alpha=0.6, mew=0)
    end_axes.axvline(rows[-1]["settings"]["tolerance"], color="black", ls=":", lw=1)
    end_axes.set_yticks(range(len(trained)), [row["method"] for row in trained])
    end_axes.invert_yaxis()
    end_axes.set(xscale="log", xlabel="relative error to the nearer solution")
    end_axes.xaxis.set_minor_formatter(NullFormatter())
    end_axes.set_title("At the end: blue u_an, red the other, grey neither")
    return figure
