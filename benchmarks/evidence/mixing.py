"""Do the verdicts of `basins.mixing` hold, and do the intervals of `occupancy` cover?

A verdict that calls trapped chains mixed makes a share of time look like a measurement. Here are
twenty double wells whose shares are known by quadrature, ten in one dimension and ten in two,

    V = b (x^2 - 1)^2 + a x + w(x) y^2 / 2,    T = 1,    w = 1 on the left, 4 on the right

with barriers b from 1 to 12, level and tilted (a), without and with y. Eight chains of Metropolis'
method, four from each side, are judged many times on each. The relaxation time tau is measured
apart, from chains that start in equilibrium, by what they remember of their side after a run's
length N: correlation exp(-N/tau). Chains are trapped where tau > N. Level wells in one dimension
are images of each other: "symmetry-bound" is then the right word, and in two dimensions, where V
is distributed alike on both sides, it is all that can be seen.

On the same twenty, chains of a bouncing descent at four energies, in units of the pass between the
wells: below it, just above, a little and well above. Their shares of time are others, known by
quadrature too (`benchmarks.evidence._bouncing_chains`). In one dimension they go to and fro above
the pass, where tau is how long that keeps in step and no relaxation.

Then the 95 % intervals of `occupancy`, on a chain of two states whose shares are known, from few
pieces and from many, each of 40 relaxation times.

Reproduces: nothing; the papers judge no mixing.
Needs: nothing.
Takes: smoke 30 s; laptop 6 min on 2 cores.
Scale: wells in one and two dimensions.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.evidence import _bouncing_chains as bouncing
from benchmarks.markdown import table_of
from benchmarks.progress import counted
from benchmarks.record import NOTHING, Done, Row, where
from kinopt import basins
from kinopt.basins.verdicts import MIXED, SYMMETRY_BOUND, TRAPPED, UNDECIDED

__all__ = [
    "PRESETS",
    "Settings",
    "headline",
    "plot",
    "relaxation_time",
    "run",
    "table",
    "true_share",
]

NUM_CHAINS = 8
EQUILIBRIUM_CHAINS = 2000
STEP = 0.3
"""Standard deviation of a proposal: too short to jump from well to well."""

CORE = 0.5
"""|x| below this is in neither well: a wave over the top is no crossing."""

METROPOLIS, BOUNCING = "Metropolis", "bouncing descent"

STAYS = (TRAPPED, SYMMETRY_BOUND)


@dataclass(frozen=True)
class Settings:
    """Wells, chains, and how often each is judged."""

    barriers: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 12.0)
    tilts: tuple[float, ...] = (0.0, 0.3)
    energies: tuple[float, ...] = (0.9, 1.002, 1.02, 1.3)
    num_times: int = 4000
    num_judged: int = 40
    pieces: tuple[int, ...] = (3, 5, 8, 20)
    shares: tuple[float, ...] = (0.5, 0.8)
    num_intervals: int = 4000
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        (1.0, 18.0),
        (0.3,),
        (1.3,),
        num_times=1000,
        num_judged=5,
        pieces=(3, 5),
        shares=(0.5,),
        num_intervals=200,
    ),
    "laptop": Settings(),
    "paper": Settings(num_judged=1000, num_intervals=20_000),
}


def potential(x: jax.Array, barrier, tilt) -> jax.Array:
    """V at x [2], whose second entry stays 0 in one dimension."""
    width = jnp.where(x[0] < 0, 1.0, 4.0)
    return barrier * (x[0] ** 2 - 1) ** 2 + tilt * x[0] + width * x[1] ** 2 / 2


def _marginal(barrier: float, tilt: float, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """A grid over x, and the probabilities there."""
    x = np.linspace(-3, 3, 12_001)
    logs = -barrier * (x**2 - 1) ** 2 - tilt * x
    weights = np.exp(logs - logs.max()) * (np.where(x < 0, 1.0, 0.5) if dimensions == 2 else 1.0)
    return x, weights / weights.sum()


def true_share(barrier: float, tilt: float, dimensions: int) -> float:
    """Of the time in the wells, |x| >= 1/2, the share in the left one."""
    x, p = _marginal(barrier, tilt, dimensions)
    left, right = p[x <= -CORE].sum(), p[x >= CORE].sum()
    return float(left / (left + right))


@functools.partial(jax.jit, static_argnames=("num_times", "dimensions"))
def _chains(key, starts, barrier, tilt, *, num_times, dimensions):
    """Metropolis chains from starts [chains, 2]: x and V, [times, chains]."""
    free = jnp.array([1.0, float(dimensions == 2)])
    energy = jax.vmap(potential, (0, None, None))

    def step(carry, key):
        x, v = carry
        move, accept = jax.random.split(key)
        new = x + STEP * free * jax.random.normal(move, x.shape)
        v_new = energy(new, barrier, tilt)
        good = jnp.log(jax.random.uniform(accept, v.shape)) < v - v_new
        x, v = jnp.where(good[:, None], new, x), jnp.where(good, v_new, v)
        return (x, v), (x[:, 0], v)

    carry = starts, energy(starts, barrier, tilt)
    return jax.lax.scan(step, carry, jax.random.split(key, num_times))[1]


def relaxation_time(key, barrier: float, tilt: float, dimensions: int, num_times: int) -> float:
    """Tau, from what chains in equilibrium remember of their side after so many steps."""
    x, p = _marginal(barrier, tilt, dimensions)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    first = rng.choice(x, EQUILIBRIUM_CHAINS, p=p)
    second = rng.normal(size=first.shape) / np.where(first < 0, 1.0, 2.0) * (dimensions == 2)
    starts = jnp.asarray(np.stack([first, second], axis=1), jnp.float32)
    path, _ = _chains(key, starts, barrier, tilt, num_times=num_times, dimensions=dimensions)
    lags = [num_times // 4**k for k in range(5)]
    return _memory(np.asarray(path), [num_times - 1, *lags[1:]])


def _memory(path: np.ndarray, lags: list[int], every: int = 1) -> float:
    """Tau from x [records, chains] of chains in equilibrium, with a record after `every` steps."""
    side = np.sign(path)
    middle = side.mean()
    # The longest lag of which chains still remember a tenth: the one least touched by fast motion.
    for lag in lags:
        correlation = np.mean((side[0] - middle) * (side[lag] - middle)) / np.var(side)
        if correlation > 0.1:
            return float(-lag * every / np.log(min(correlation, 1 - 1e-4)))
    return float(lags[-1] * every)


def run(settings: Settings, done: Done = NOTHING) -> Iterator[Row]:
    """One row for each landscape, then one for each share and number of pieces."""
    cases = [
        {"stage": "verdicts", "chains": chains, "energy": energy, "dimensions": n}
        | {"tilt": tilt, "barrier": barrier}
        for chains, energies in ((METROPOLIS, (None,)), (BOUNCING, settings.energies))
        for n in (1, 2)
        for energy in energies
        for tilt in settings.tilts
        for barrier in settings.barriers
    ]
    wells = [_wells(case) for case in cases if case["chains"] == BOUNCING]
    descents = {
        n: bouncing.Chains([w for w in wells if w.dimensions == n])
        for n in {w.dimensions for w in wells}
    }
    for case, _ in counted(done.left(cases), "landscapes"):
        if case["chains"] == METROPOLIS:
            yield case | _judged(*_metropolis(case, settings), settings)
        else:
            yield case | _judged(*_bounced(case, descents[case["dimensions"]], settings), settings)
    cases = [
        {"stage": "coverage", "share": share, "pieces": pieces}
        for share in settings.shares
        for pieces in settings.pieces
    ]
    for case, _ in counted(done.left(cases), "intervals"):
        yield case | {"covered": _coverage(case["share"], case["pieces"], settings)}


def _wells(case: Row) -> bouncing.Wells:
    return bouncing.Wells(case["dimensions"], case["barrier"], case["tilt"], case["energy"])


def _sides(settings: Settings) -> np.ndarray:
    """Where chains start, one after the other left and right."""
    return np.tile([-1.0, 1.0], NUM_CHAINS * settings.num_judged // 2)


def _metropolis(case: Row, settings: Settings) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Tau, the true share, and x and V of all chains, [chains, times]."""
    where = case["barrier"], case["tilt"]
    n, num_times = case["dimensions"], settings.num_times
    key = jax.random.key(settings.seed)
    for part in (n, int(10 * where[0]), int(10 * where[1])):
        key = jax.random.fold_in(key, part)
    tau = relaxation_time(jax.random.fold_in(key, 0), *where, n, num_times)
    sides = jnp.asarray(_sides(settings))
    starts = jnp.stack([sides, jnp.zeros_like(sides)], axis=1)
    x, v = _chains(jax.random.fold_in(key, 1), starts, *where, num_times=num_times, dimensions=n)
    return tau, true_share(*where, n), np.asarray(x).T, np.asarray(v).T


def _bounced(
    case: Row, chains: bouncing.Chains, settings: Settings
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """The same of a bouncing descent."""
    well, num_times = _wells(case), settings.num_times
    points, weights = bouncing.equilibrium(well)
    rng = np.random.default_rng(settings.seed)
    first = points[rng.choice(len(points), EQUILIBRIUM_CHAINS, p=weights)]
    every = max(1, num_times // 256)
    x, _ = chains.path(well, first, num_times, every, 2 * settings.seed)
    records = x.shape[1]
    tau = _memory(x.T, [records - 1, records // 4, records // 16, records // 64, 1], every)
    starts = np.zeros((NUM_CHAINS * settings.num_judged, well.dimensions))
    starts[:, 0] = _sides(settings)
    x, v = chains.path(well, starts, num_times, 1, 2 * settings.seed + 1)
    return tau, bouncing.true_share(well, CORE), x[:, 1:], v[:, 1:]


def _judged(tau: float, truth: float, x: np.ndarray, v: np.ndarray, settings: Settings) -> Row:
    """How often each verdict was given, and how far the share was off where it was "mixed"."""
    x, v = (part.reshape(settings.num_judged, NUM_CHAINS, -1) for part in (x, v))
    labels = np.where(x <= -CORE, 1, np.where(x >= CORE, 2, 0))
    verdicts, errors, covered = [], [], []
    for values, label in zip(v, labels, strict=True):
        fair = basins.mixing(values, label)
        verdicts.append(fair.verdict)
        if fair.verdict == MIXED:
            times = basins.occupancy(np.stack([(label == k).sum(axis=1) for k in (1, 2)], axis=1))
            errors.append(abs(float(times.fractions[0]) - truth))
            low, high = np.asarray(times.intervals[0])
            covered.append(bool(low <= truth <= high))
    return {
        "tau": tau,
        "true_share": truth,
        "verdicts": {name: verdicts.count(name) for name in sorted(set(verdicts))},
        "largest_error": max(errors, default=None),
        "covered": sum(covered),
    }


PIECE = 1000
"""Steps of a piece of the chain of two states, whose relaxation time is 25."""


def _coverage(share: float, pieces: int, settings: Settings) -> int:
    """How many of the intervals hold the true share."""
    rng = np.random.default_rng([settings.seed, pieces, int(100 * share)])
    shape = settings.num_intervals, pieces
    first = rng.random(shape) < share
    time = np.zeros(shape, int)
    leave = 0.04 * np.array([share, 1 - share])  # of the second state, of the first
    for _ in range(PIECE):
        time += first
        first = np.where(rng.random(shape) < leave[first.astype(int)], ~first, first)
    counts = jnp.asarray(np.stack([time, PIECE - time], axis=-1))
    intervals = np.asarray(jax.vmap(lambda part: basins.occupancy(part).intervals)(counts))[:, 0]
    return int(np.sum((intervals[:, 0] <= share) & (share <= intervals[:, 1])))


# Reading the rows

READING = """\
Energy: of a bouncing descent, in units of the pass between the wells. N: steps of a run; tau:
relaxation time. Trapped: tau > N. Share: of the time in the left well.
Covered: intervals of `occupancy` that hold it, of the runs called mixed."""


def _split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    return where(rows, stage="verdicts"), where(rows, stage="coverage")


def table(rows: list[Row]) -> str:
    """The landscapes, then the intervals."""
    judged, covered = _split(rows)
    num_times = rows[-1]["settings"]["num_times"]
    lines = [
        [
            row["chains"],
            "" if row["energy"] is None else f"{row['energy']:g}",
            str(row["dimensions"]),
            f"{row['barrier']:g}",
            f"{row['tilt']:g}",
            f"{num_times / row['tau']:.2g}",
            f"{row['true_share']:.3f}",
            ", ".join(f"{name.split(' as ')[0]} {k}" for name, k in row["verdicts"].items()),
            "" if row["largest_error"] is None else f"{row['largest_error']:.3f}",
            f"{row['covered']}" if row["largest_error"] is not None else "",
        ]
        for row in judged
    ]
    names = [
        "chains",
        "energy",
        "n",
        "barrier / T",
        "tilt",
        "N / tau",
        "share",
        "verdicts",
        "largest error",
        "covered",
    ]
    number = rows[-1]["settings"]["num_intervals"]
    parts = [
        [f"{row['share']:g}", str(row["pieces"]), f"{row['covered'] / number:.1%}"]
        for row in covered
    ]
    return "\n\n".join([table_of(names, lines), table_of(["share", "pieces", "covered"], parts)])


def headline(rows: list[Row]) -> str:
    """False "mixed", power on trapped chains, and the range of the coverage."""
    judged, covered = _split(rows)
    settings = rows[-1]["settings"]
    told = []
    for chains in (METROPOLIS, BOUNCING):
        slow = [row for row in where(judged, chains=chains) if row["tau"] > settings["num_times"]]
        number = settings["num_judged"] * len(slow)
        false = sum(row["verdicts"].get(MIXED, 0) for row in slow)
        stays = sum(row["verdicts"].get(name, 0) for row in slow for name in STAYS)
        told.append(f"{chains}: {false} and {stays} of {number}")
    rates = [row["covered"] / settings["num_intervals"] for row in covered]
    return (
        f"trapped chains that were called mixed, and that were called trapped or symmetry-bound: "
        f"{'; '.join(told)}; 95 % intervals cover {min(rates):.1%} to {max(rates):.1%}"
    )


def plot(rows: list[Row]) -> Figure:
    """How often each verdict comes, against the length of a run in relaxation times."""
    judged = sorted(_split(rows)[0], key=lambda row: row["tau"])
    lengths = [rows[-1]["settings"]["num_times"] / row["tau"] for row in judged]
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for name in (MIXED, UNDECIDED, TRAPPED, SYMMETRY_BOUND):
        shares = [row["verdicts"].get(name, 0) / sum(row["verdicts"].values()) for row in judged]
        axes.plot(lengths, shares, "o", alpha=0.6, label=name)
    axes.axvline(1, color="0.6", linewidth=1)
    axes.set(xscale="log", xlabel="length of a run / relaxation time", ylabel="share of verdicts")
    axes.legend(frameon=False, fontsize=8)
    return figure
