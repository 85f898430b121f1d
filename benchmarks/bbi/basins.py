"""Where do runs end, and where do they stay? The two basins of section 4.3.

Eq. 17 has two minima of equal depth; phase-space volume (Eq. 10) says 1.93 : 1 for a system that
mixes. The paper ends each run at its first entry into |eta| < 1, finds 1.72 in 2,000 runs, and
calls it within 11 % of the prediction. Two things are measured here.

First entry. Runs end at their first entry, under the authors' protocol and changes of it. A first
entry is a hitting probability: it depends on the start and on the bounces, and from a start that is
mixed already, far from the basins, it is the ratio of the fluxes through their surfaces
(`kinopt.theory.entry_flux_ratio`, 1.375), not of the volumes behind them.

    authors' protocol    from (10, -10), dt = 1e-2, T0 = 20, Nb = 1, T1 = 750, Delta V = 1e-3
    step 1e-3            the same, with all times in the same units
    ten bounces          Nb = 10
    one bounce           T1 = infinity
    from (1, -1), (14, 0)  at the same energy as from (10, -10)
    mixed start          positions drawn from the predicted density 1/V outside of both basins,
                         random directions, E as in the authors' protocol, step 1e-3

Bounce directions are isotropic here; the authors' code draws them from a cube.

Occupancy. Runs go on, with a bounce every 25 steps of 0.05 and Delta V = -1e-2, so that V stays
above 1e-2; `kinopt.basins.dwell` counts the steps they spend in each basin. The prediction is the
volume on the true landscape, `kinopt.theory.occupancy_ratio`. Errors are those of independent runs.

Potential. The same for the time histogram of V in a quadratic bowl, H = 1, V_I = 0.05, E = 1, with
a bounce every 25 steps of 0.05: its Kolmogorov-Smirnov distance from the predicted density. The
paper's step rescales Pi (its footnote hopes that this does no harm to the measure); "leapfrog" is
kinopt's unbiased step. "Noise" is the distance that as many independent runs show by chance, from
halves of the seeds.

Reproduces: BBI, section 4.3, Figs. 5 and 6, Eqs. 10 and 18.
Needs: nothing.
Takes: smoke 30 s; laptop 10 min; paper 1 h on 2 cores.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
import kinopt.plots
from benchmarks.markdown import table_of
from benchmarks.progress import progress_bar
from benchmarks.record import Row, where

__all__ = ["PRESETS", "Settings", "headline", "plot", "run", "table"]

LANDSCAPE = kinopt.landscapes.two_basins()
AUTHORS = (1265, 734)
"""Runs that ended in each basin, published with the authors' code."""

START = (10.0, -10.0)
F_MIN = 1e-3
STAY_RATE = 0.05
"""dt of runs that go on. Visits to a basin last hundreds of units of time, which sets the error."""

PATIENCE = 7.5
"""T1 in units of time: 750 steps of 1e-2."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How runs start and bounce until their first entry. Times in units of time, dt of steps."""

    start: tuple[float, float] | None = START  # None: drawn from the predicted density
    dt: float = 1e-2
    num_bounces: int = 1  # Nb, every 0.2
    patient: bool = False  # no bounce for lack of progress
    few: bool = True  # the smaller number of seeds is enough


PROTOCOLS = {
    "authors' protocol": Protocol(few=False),
    "step 1e-3": Protocol(dt=1e-3),
    "ten bounces": Protocol(num_bounces=10),
    "one bounce": Protocol(patient=True),
    "from (1, -1)": Protocol(start=(1.0, -1.0)),
    "from (14, 0)": Protocol(start=(14.0, 0.0)),
    "mixed start, step 1e-3": Protocol(start=None, dt=1e-3),
}

STEPS = {
    "leapfrog": {"integrator": "leapfrog"},
    "leapfrog, dt halved": {"integrator": "leapfrog", "dt": 0.5},
    "paper's step": {"integrator": "paper"},
    "paper's step, no rescaling": {"integrator": "paper", "conserve_energy": False},
}
"""What is compared where runs go on; dt is a factor."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is run, how often, and how long."""

    protocols: tuple[str, ...] = tuple(PROTOCOLS)  # until a first entry
    steps: tuple[str, ...] = tuple(STEPS)  # where runs go on
    num_seeds: int = 100_000  # of the authors' protocol
    few_seeds: int = 20_000  # of the others
    max_time: float = 250.0  # of a run that does not enter; the authors' 25,000 steps
    stays: int = 4000  # runs that go on
    stay_steps: int = 200_000  # their length
    burn_in: int = 50_000  # of it not counted
    bowl_runs: int = 1000
    bowl_steps: int = 20_000
    bowl_bins: int = 40
    seed: int = 0


PRESETS = {
    "smoke": Settings(
        protocols=("authors' protocol", "mixed start, step 1e-3"),
        steps=("leapfrog",),
        num_seeds=400,
        few_seeds=100,
        max_time=50.0,
        stays=20,
        stay_steps=3000,
        burn_in=1000,
        bowl_runs=20,
        bowl_steps=2000,
    ),
    "laptop": Settings(),
    "paper": Settings(
        num_seeds=1_000_000,
        few_seeds=100_000,
        stays=10_000,
        stay_steps=300_000,
        bowl_runs=10_000,
    ),
}


@functools.cache
def hessians() -> np.ndarray:
    """Hessians at the two minima, [2, 2, 2]."""
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(jax.hessian(LANDSCAPE.fn))(jnp.asarray(LANDSCAPE.minimizers)))


@functools.cache
def basin():
    """The stop rule |eta| < 1."""
    return kinopt.basins.quadratic_basins(LANDSCAPE.minimizers, hessians())


def energy(f_min: float) -> float:
    """E of a run that starts at rest at (10, -10)."""
    return float(LANDSCAPE(jnp.array(START))) - f_min


def predictions() -> dict[str, float]:
    """Ratios of basin 1 to basin 2 that theory gives."""
    minimizers = LANDSCAPE.minimizers
    arguments = (LANDSCAPE.fn, minimizers, hessians())
    return {
        "volume": float(kinopt.theory.basin_ratio(*hessians())),
        "flux": float(kinopt.theory.entry_flux_ratio(*arguments, energy(F_MIN), F_MIN)),
        "occupancy": float(kinopt.theory.occupancy_ratio(*arguments, energy(-1e-2), -1e-2)),
    }


def mixed_starts(number: int, seed: int) -> jax.Array:
    """Positions from the predicted density for n = 2, rho ~ E/V where V < E, outside the basins."""
    rng = np.random.default_rng(seed)
    look = jax.jit(jax.vmap(lambda x: (LANDSCAPE.fn(x) - F_MIN, basin()(x, 0.0))))
    kept, total = [], 0
    while total < number:
        x = rng.uniform(-20, 20, (20 * number, 2))
        v, inside = (np.asarray(a) for a in look(jnp.asarray(x, jnp.float32)))
        # Outside of the basins V > 0.3; 1/V is accepted against its maximum there.
        ok = (inside == 0) & (v < energy(F_MIN)) & (rng.uniform(size=len(x)) < 0.25 / v)
        kept.append(x[ok])
        total += ok.sum()
    starts = np.concatenate(kept)[:number]
    return jnp.asarray(starts, jnp.float32)


@functools.cache
def entering(protocol: Protocol):
    """The optimizer of a key."""
    dt = protocol.dt
    rules = [kinopt.bounces.periodic(round(0.2 / dt), protocol.num_bounces)]
    if not protocol.patient:
        rules.append(kinopt.bounces.patience(round(PATIENCE / dt)))
    hamiltonian = kinopt.hamiltonians.born_infeld()
    mixed = protocol.start is None
    if protocol.start != START:  # every run at the same energy, wherever it starts
        shell = energy(F_MIN)
        hamiltonian = dataclasses.replace(
            hamiltonian, initial_energy=lambda v, extra: jnp.full_like(v, shell)
        )

    def optimizer(key):
        return kinopt.ecd(
            dt,
            hamiltonian,
            f_min=F_MIN,
            bounces=rules,
            initial_direction="random" if mixed else "gradient",
            stay=False,
            key=key,
        )

    return optimizer


def first_entries(protocol: Protocol, settings: Settings) -> kinopt.ensemble.EnsembleResult:
    """Runs until their first entry."""
    number = settings.few_seeds if protocol.few else settings.num_seeds
    mixed = protocol.start is None
    starts = mixed_starts(number, settings.seed) if mixed else jnp.array(protocol.start)
    return kinopt.ensemble.run(
        LANDSCAPE.fn,
        entering(protocol),
        starts,
        jax.random.split(jax.random.key(settings.seed), number),
        num_steps=round(settings.max_time / protocol.dt),
        stacked=mixed,
        stop=basin(),
    )


def _descent(step: dict, dt: float, **settings):
    """An optimizer for each key that bounces every 25 steps for ever."""
    step = dict(step)
    rate = dt * step.pop("dt", 1.0)
    rules = kinopt.bounces.periodic(25, 2**30)
    return lambda key: kinopt.ecd(rate, bounces=rules, stay=False, key=key, **step, **settings)


def stays(step: dict, settings: Settings) -> kinopt.basins.Occupancy:
    """The shares of time in the two basins."""
    descent = _descent(step, STAY_RATE, f_min=-1e-2)
    times = kinopt.basins.dwell(basin(), 2, num_steps=settings.stay_steps, burn_in=settings.burn_in)
    result = kinopt.ensemble.run(
        LANDSCAPE.fn,
        lambda key: optax.chain(times, descent(key)),
        jnp.array(START),
        jax.random.split(jax.random.key(settings.seed + 1), settings.stays),
        num_steps=settings.stay_steps,
    )
    return kinopt.basins.occupancy(result.opt_state[0].num_steps)


def potentials(step: dict, n: int, settings: Settings) -> dict:
    """The time histogram of V in a bowl, and its distance from the prediction."""
    v_min, level = 0.05, 1.0
    edges = np.linspace(v_min, level, settings.bowl_bins + 1)
    predicted = np.asarray(
        kinopt.theory.potential_fractions(kinopt.hamiltonians.born_infeld(), edges, level, n, v_min)
    )
    inner = jnp.asarray(edges[1:-1], jnp.float32)
    histogram = kinopt.basins.dwell(
        lambda x, value: 1 + jnp.sum(value > inner),
        settings.bowl_bins,
        num_steps=settings.bowl_steps,
        burn_in=settings.bowl_steps // 10,
    )
    start = jnp.zeros(n).at[0].set(1.0)
    descent = _descent(step, 0.05, extra_energy=level - v_min - 0.5)
    result = kinopt.ensemble.run(
        lambda x: v_min + jnp.sum(x**2) / 2,
        lambda key: optax.chain(histogram, descent(key)),
        start,
        jax.random.split(jax.random.key(settings.seed + 2), settings.bowl_runs),
        num_steps=settings.bowl_steps,
    )
    counts = np.asarray(result.opt_state[0].num_steps, np.float64).sum(axis=1)
    halves = [_fractions(part) for part in (counts[::2], counts[1::2])]
    measured = _fractions(counts)
    return {
        "ks": _distance(measured, predicted),
        "noise": _distance(*halves) / 2,
        "edges": edges.tolist(),
        "measured": measured.tolist(),
        "predicted": predicted.tolist(),
    }


def _fractions(counts: np.ndarray) -> np.ndarray:
    return counts.sum(axis=0) / counts.sum()


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of two histograms."""
    return float(np.abs(np.cumsum(one) - np.cumsum(other)).max())


def run(settings: Settings) -> Iterator[Row]:
    """A row for each protocol, then for each way to go on, then for each bowl."""
    theory = predictions()
    yield {"kind": "theory", "method": "prediction", **theory}
    number = len(settings.protocols) + 3 * len(settings.steps)
    with progress_bar(number, "bbi.basins") as bar:
        for name in settings.protocols:
            began = time.perf_counter()
            found = _entry_row(PROTOCOLS[name], settings, theory)
            seconds = time.perf_counter() - began
            yield {"kind": "first entry", "method": name, **found, "seconds": seconds}
            bar.update(1)
        for name in settings.steps:
            began = time.perf_counter()
            times = stays(STEPS[name], settings)
            ratio, error = float(times.ratio), float(times.ratio_error)
            yield {
                "kind": "occupancy",
                "method": name,
                "ratio": ratio,
                "ratio_error": error,
                "fractions": np.asarray(times.fractions).tolist(),
                "z": (ratio - theory["occupancy"]) / error,
                "seconds": time.perf_counter() - began,
            }
            bar.update(1)
        for name in settings.steps:
            for n in (2, 4):
                began = time.perf_counter()
                found = potentials(STEPS[name], n, settings)
                seconds = time.perf_counter() - began
                yield {"kind": "potential", "method": name, "n": n, **found, "seconds": seconds}
                bar.update(1)


def _entry_row(protocol: Protocol, settings: Settings, theory: dict[str, float]) -> dict:
    result = first_entries(protocol, settings)
    found = kinopt.basins.statistics(result.outcome, 2)
    seen = np.unique(np.geomspace(1, len(result.outcome), 300).astype(int)) - 1
    return {
        "seeds": len(result.outcome),
        "counts": found.counts.tolist(),
        "num_undecided": int(found.num_undecided),
        "num_failed": int(found.num_failed),
        "ratio": float(found.ratio),
        "ratio_interval": found.ratio_interval.tolist(),
        "z_volume": _z(found.counts, theory["volume"]),
        "z_flux": _z(found.counts, theory["flux"]),
        "steps_per_seed": float(np.mean(result.num_steps)),
        "running_seeds": (seen + 1).tolist(),
        "running_ratio": [
            float(x) if np.isfinite(x) else None for x in np.asarray(found.running_ratio)[seen]
        ],
    }


def _finite(row: Row) -> list[float]:
    """A ratio and the ends of its interval; a JSON row has null for infinity."""
    numbers = [row["ratio"], *row["ratio_interval"]]
    return [math.inf if number is None else number for number in numbers]


def _z(counts: jax.Array, ratio: float) -> float:
    return float(kinopt.basins.z_score(counts, jnp.array([ratio, 1.0]))[0])


def table(rows: list[Row]) -> str:
    """First entries, occupancy and potentials, each beside what theory says."""
    theory = where(rows, kind="theory")[0]
    authors = kinopt.basins.statistics(jnp.repeat(jnp.array([1, 2]), jnp.array(AUTHORS)), 2)
    z = _z(authors.counts, theory["volume"])
    lines = [["paper, authors' code", "1999", _ratio(authors), "0", f"{z:.1f}", ""]]
    for row in where(rows, kind="first entry"):
        ratio = "{:.3f} ({:.3f} to {:.3f})".format(*_finite(row))
        open_ = str(row["num_undecided"] + row["num_failed"])
        scores = [f"{row['z_volume']:.1f}", f"{row['z_flux']:.1f}"]
        lines.append([row["method"], str(row["seeds"]), ratio, open_, *scores])
    header = ["first entry", "runs", "ratio (95 %)", "undecided", "z, volume", "z, flux"]
    first = table_of(header, lines)

    lines = [
        [row["method"], f"{row['ratio']:.3f} ± {row['ratio_error']:.3f}", f"{row['z']:.1f}"]
        for row in where(rows, kind="occupancy")
    ]
    occupied = table_of(["time in the basins", "ratio ± standard error", "z"], lines)

    bowls = {}
    for row in where(rows, kind="potential"):
        bowls.setdefault(row["method"], {})[row["n"]] = f"{row['ks']:.4f} ({row['noise']:.4f})"
    lines = [[method, *by_n.values()] for method, by_n in bowls.items()]
    bowl = table_of(["density of V", "KS distance, n = 2 (noise)", "n = 4 (noise)"], lines)
    return f"""{first}

Theory: {theory["volume"]:.4f} by volume (Eq. 10), {theory["flux"]:.4f} by flux, for a mixed start.

{occupied}

Theory: {theory["occupancy"]:.4f}, the volumes on the true landscape.

{bowl}"""


def _ratio(found: kinopt.basins.BasinStatistics) -> str:
    low, high = found.ratio_interval
    return f"{found.ratio:.3f} ({low:.3f} to {high:.3f})"


def headline(rows: list[Row]) -> str:
    """First entry and occupancy, each with its prediction."""
    theory = where(rows, kind="theory")[0]
    entry = where(rows, kind="first entry")[0]
    low, high = entry["ratio_interval"]
    time_ = where(rows, kind="occupancy")[0]
    return (
        f"first entry {entry['ratio']:.3f} ({low:.3f} to {high:.3f}) in {entry['seeds']} runs, not "
        f"the volume ratio {theory['volume']:.2f}; share of time {time_['ratio']:.3f} ± "
        f"{time_['ratio_error']:.3f}, predicted {theory['occupancy']:.3f}"
    )


def plot(rows: list[Row]) -> Figure:
    """Trajectories (Fig. 5), the running ratio (Fig. 6), all ratios, and the density of V."""
    theory = where(rows, kind="theory")[0]
    entries = where(rows, kind="first entry")
    figure = Figure(figsize=(11, 9), layout="constrained")
    (path_axes, running_axes), (ratio_axes, density_axes) = figure.subplots(2, 2)

    protocol = PROTOCOLS["authors' protocol"]
    path = kinopt.ensemble.trajectories(
        LANDSCAPE.fn,
        entering(protocol),
        jnp.array(protocol.start),
        jax.random.split(jax.random.key(1), 10),
        num_steps=8000,
        every=10,
        stop=basin(),
    )
    kinopt.plots.trajectories(
        LANDSCAPE,
        path.params,
        path_axes,
        minimizers=LANDSCAPE.minimizers,
        hessians=hessians(),
    )
    path_axes.set_title("Ten runs of the authors' protocol (Fig. 5)")

    kinopt.plots.running_ratio(
        entries[0]["running_ratio"],
        running_axes,
        runs=entries[0]["running_seeds"],
        interval=entries[0]["ratio_interval"],
        predictions={
            "volume (Eq. 10)": theory["volume"],
            "flux": theory["flux"],
            "authors' 2,000 runs": AUTHORS[0] / AUTHORS[1],
        },
    )
    running_axes.set_title("First entry, authors' protocol (Fig. 6)")

    stay = where(rows, kind="occupancy")
    names = [f"first entry: {row['method']}" for row in entries]
    names += [f"time: {row['method']}" for row in stay]
    for n, row in enumerate(entries):
        ratio, low, high = _finite(row)
        if math.isfinite(high):
            error = [[ratio - low], [high - ratio]]
            ratio_axes.errorbar(ratio, n, xerr=error, fmt="o", color="C0")
    for n, row in enumerate(stay, start=len(entries)):
        ratio_axes.errorbar(row["ratio"], n, xerr=2 * row["ratio_error"], fmt="s", color="C1")
    for line in running_axes.lines[1:3]:  # volume and flux, in the same colours
        ratio_axes.axvline(line.get_ydata()[0], color=line.get_color(), ls="--")
    ratio_axes.set_yticks(range(len(names)), names)
    ratio_axes.invert_yaxis()
    ratio_axes.set(xlabel="ratio of the basins (95 %)", xscale="log")
    ratio_axes.set_title("Volume (yellow) predicts time, flux (green) mixed entries")

    bowls = where(rows, kind="potential", n=2)
    edges = bowls[0]["edges"]
    width = np.diff(edges)
    for n, row in enumerate(bowls):
        density = np.array(row["measured"]) / width
        density_axes.stairs(density, edges, color=f"C{n}", label=row["method"])
    predicted = np.array(bowls[0]["predicted"]) / width
    density_axes.stairs(predicted, edges, color="black", ls="--", label="predicted (Eq. 40)")
    density_axes.set(xlabel="potential V", ylabel="share of time", yscale="log")
    density_axes.set_title("Time at each V in a bowl, n = 2")
    density_axes.legend(frameon=False)
    return figure
