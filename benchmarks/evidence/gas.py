"""A gas far from equilibrium becomes Maxwellian: the hard collision law is DSMC.

KO paper, section 3.2: DSMC picks candidate pairs, accepts each with probability g_r / g_r^max
(Eq. 2), and turns the relative velocity of an accepted pair to a uniformly random direction
(Eqs. 3, 4), which conserves momentum and energy. Section 3.5: under such collisions
H = int f log f falls to its minimum (Theorem 3.7), which the Maxwell distribution attains.

Here the particles are the neurons of `kinopt.hard_collision(combine="matching")`: a velocity in
three dimensions is a gradient with D = 3 features, and all particles of a box share one position,
as in a cell of DSMC, so that U_r = 1 in Eq. 7. Boxes are batch axes of one leaf: independent gases,
whose spread gives the errors. Two rules of acceptance:

    "threshold"   c fixed, Eq. 7 as it stands: g_r / g_r^max > 1 - c. At c = 1 every pair of the
                  matching collides. At c < 1 slow pairs never do, yet the end is the same: g_r does
                  not change in a collision, so any rule that looks at g_r alone keeps detailed
                  balance.
    "hard sphere" c drawn uniformly from (0, 1) before every sweep, so that 1 - c is the R_1 of
                  Eq. 2: a pair collides with probability g_r / g_r^max, as hard spheres do. (DSMC
                  draws R_1 for each pair; here the pairs of a sweep share it, which leaves each
                  pair's probability, and the equilibrium, as they are.)

What is measured after every sweep, with the mean and standard error over boxes:

    momentum, energy    relative change since the start: rounding only
    H - H_Maxwell       energy and momentum fix the mean of log f_Maxwell, so this difference is the
                        relative entropy KL(f | f_Maxwell). It is estimated with a histogram of
                        cells that are equally likely under Maxwell, k for each component, less the
                        bias (cells - 1) / (2 n) that n samples of Maxwell itself would show.
                        H_Maxwell = -3/2 log(2 pi e T), with T the variance of a component.
    KS, components      Kolmogorov-Smirnov distance of all 3n components from the Gaussian
    KS, speeds          and of the speeds from Maxwell's distribution
    kurtosis, stress    <v^4> / (5/3 <v^2>^2) - 1, and the anisotropy (T_x - T) / T. At c = 1, where
                        all pairs collide, both have closed forms, since after a collision
                        v' = (v_i + v_j) / 2 + |v_i - v_j| n / 2 with independent v_i, v_j, n:
                        <v'^4> = 2/3 <v^4> + 5/9 <v^2>^2 and <v' v'^T> = <v v^T> / 2 + <v^2> I / 6.
                        Hence they shrink by 2/3 and by 1/2 in every sweep, to 0.

The statistics at equilibrium have exact reference values: particles spread evenly over the sphere
of given momentum and energy. They are drawn and measured in the same way (`at_equilibrium`).
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import kinopt

Acceptance = Literal["threshold", "hard sphere"]
Start = Literal["beams", "equal speeds"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """One gas experiment; every combination of start and acceptance is run."""

    boxes: int = 8  # independent gases
    particles: int = 4000  # in each box
    sweeps: int = 30  # applications of the collision law
    cells: int = 6  # of the histogram, for each of the three components
    coll_coef: float = 1.0  # c of the "threshold" rule
    combine: str = "matching"  # "sum" and "metropolis" are no gas: energy changes
    starts: tuple[Start, ...] = ("beams", "equal speeds")
    acceptances: tuple[Acceptance, ...] = ("threshold", "hard sphere")
    equilibria: int = 200  # boxes drawn from equilibrium for the reference values
    seed: int = 0


PRESETS = {
    "smoke": Settings(boxes=4, particles=1000, sweeps=12, equilibria=50),
    "laptop": Settings(),
    "paper": Settings(boxes=32, particles=20_000, sweeps=60, cells=10, equilibria=1000),
}


def initial_velocities(start: Start, boxes: int, particles: int, seed: int) -> np.ndarray:
    """Velocities [boxes, particles, 3] of zero momentum and energy 3/2 per particle (T = 1).

    "beams": two cold beams that meet head on along x. "equal speeds": one speed, all directions.
    """
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(boxes, particles, 3))
    if start == "beams":
        v *= 0.3
        v[:, ::2, 0] += 1.6
        v[:, 1::2, 0] -= 1.6
    else:
        v /= np.linalg.norm(v, axis=-1, keepdims=True)
    return normalized(v)


def normalized(v: np.ndarray) -> np.ndarray:
    """The same gas at rest and at temperature T = 1."""
    v = v - v.mean(axis=-2, keepdims=True)
    return v / np.sqrt(np.square(v).mean(axis=(-2, -1), keepdims=True))


def collide(v: np.ndarray, acceptance: Acceptance, settings: Settings) -> Iterator[np.ndarray]:
    """The gas at the start and after each sweep of hard collisions."""
    key = jax.random.key(settings.seed)

    def uniform(sweep):
        return jax.random.uniform(jax.random.fold_in(key, sweep))

    transform = kinopt.hard_collision(
        uniform if acceptance == "hard sphere" else settings.coll_coef,
        key=settings.seed,
        combine=settings.combine,  # pyright: ignore[reportArgumentType]
        neuron_axes=kinopt.NeuronAxes(output_axis=1, reduction_axis=2),  # axis 0: boxes
    )
    velocities = jnp.asarray(v)
    position = jnp.zeros_like(velocities)
    state = transform.init(position)
    sweep = jax.jit(transform.update)
    yield v
    for _ in range(settings.sweeps):
        velocities, state = sweep(velocities, state, position)
        yield np.asarray(velocities)


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.scipy.special.ndtr(x))


def _maxwell_cdf(speed: np.ndarray) -> np.ndarray:
    density = np.sqrt(2 / np.pi) * speed * np.exp(-np.square(speed) / 2)
    return 2 * _normal_cdf(speed) - 1 - density


def kolmogorov_smirnov(samples: np.ndarray, cdf) -> float:
    """sup |F_n - F| over the real line."""
    expected = cdf(np.sort(samples.ravel()))
    below = np.arange(expected.size) / expected.size
    return float(np.max(np.maximum(expected - below, below + 1 / expected.size - expected)))


def excess_h(v: np.ndarray, cells: int) -> float:
    """H - H_Maxwell of one box at T = 1, from cells that are equally likely under Maxwell."""
    index = np.minimum((_normal_cdf(v) * cells).astype(int), cells - 1)
    counts = np.bincount(np.ravel_multi_index(tuple(index.T), (cells,) * 3), minlength=cells**3)
    share = counts[counts > 0] / len(v)
    bias = (cells**3 - 1) / (2 * len(v))
    return float(np.sum(share * np.log(share * cells**3)) - bias)


H_MAXWELL = -1.5 * math.log(2 * math.pi * math.e)
"""int f log f of the Maxwell distribution at T = 1 (Eq. 10, without the positions)."""


def measure(v: np.ndarray, cells: int) -> dict[str, float]:
    """All statistics of one box [particles, 3] of zero momentum and T = 1."""
    v = np.asarray(v, np.float64)
    energy = np.square(v).sum(axis=1)
    return {
        "excess_h": excess_h(v, cells),
        "ks_components": kolmogorov_smirnov(v, _normal_cdf),
        "ks_speeds": kolmogorov_smirnov(np.sqrt(energy), _maxwell_cdf),
        "kurtosis": float(np.square(energy).mean() / (5 / 3 * energy.mean() ** 2) - 1),
        "stress": float(np.square(v[:, 0]).mean() / (energy.mean() / 3) - 1),
    }


def at_equilibrium(settings: Settings) -> dict[str, np.ndarray]:
    """The same statistics for boxes drawn from the equilibrium, [equilibria] each.

    A Gaussian cloud brought to zero momentum and T = 1 is uniform on the sphere of that momentum
    and energy, the gas's microcanonical ensemble.
    """
    rng = np.random.default_rng(settings.seed + 1)
    boxes = [
        measure(normalized(rng.normal(size=(settings.particles, 3))), settings.cells)
        for _ in range(settings.equilibria)
    ]
    return {name: np.array([box[name] for box in boxes]) for name in boxes[0]}


def run(settings: Settings) -> list[dict]:
    """One row for each start, acceptance and sweep: means and standard errors over the boxes.

    The last columns give the 95 % interval of the same mean at equilibrium.
    """
    reference = at_equilibrium(settings)
    rows = []
    for start in settings.starts:
        v0 = initial_velocities(start, settings.boxes, settings.particles, settings.seed)
        v0 = v0.astype(np.result_type(jnp.zeros(())))
        for acceptance in settings.acceptances:
            for sweep, v in enumerate(collide(v0, acceptance, settings)):
                row = {"start": start, "acceptance": acceptance, "sweep": sweep}
                change = np.mean(v, axis=1, dtype=np.float64) - v0.mean(axis=1, dtype=np.float64)
                row["momentum_change"] = float(np.abs(change).max())
                ratio = np.square(v, dtype=np.float64).sum() / np.square(v0, dtype=np.float64).sum()
                row["energy_change"] = float(ratio - 1)
                boxes = [measure(box, settings.cells) for box in v]
                for name, equilibrium in reference.items():
                    values = np.array([box[name] for box in boxes])
                    row[name] = float(values.mean())
                    row[f"{name}_error"] = float(values.std(ddof=1) / math.sqrt(len(values)))
                    spread = 1.96 * equilibrium.std(ddof=1) / math.sqrt(settings.boxes)
                    row[f"{name}_equilibrium_low"] = float(equilibrium.mean() - spread)
                    row[f"{name}_equilibrium_high"] = float(equilibrium.mean() + spread)
                row["h"] = H_MAXWELL + row["excess_h"]
                rows.append(row)
    return rows


def plot(rows: list[dict], folder: str | Path) -> Path:
    """H, the distance from Maxwell, the exact moments and the conserved quantities in one PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    (h_axes, ks_axes), (moment_axes, conserved_axes) = figure.subplots(2, 2)
    runs = list(dict.fromkeys((row["start"], row["acceptance"]) for row in rows))
    for color, (start, acceptance) in enumerate(runs):
        part = [row for row in rows if (row["start"], row["acceptance"]) == (start, acceptance)]
        column = {name: np.array([row[name] for row in part]) for name in part[0]}
        style = {"color": f"C{color}", "label": f"{start}, {acceptance}"}
        h_axes.errorbar(column["sweep"], column["h"], 2 * column["excess_h_error"], **style)
        ks_axes.errorbar(column["sweep"], column["ks_speeds"], column["ks_speeds_error"], **style)
        moment = "stress" if start == "beams" else "kurtosis"
        rate = 1 / 2 if start == "beams" else 2 / 3
        moment_axes.errorbar(
            column["sweep"], np.abs(column[moment]), column[f"{moment}_error"], fmt=".", **style
        )
        if acceptance == "threshold":
            exact = np.abs(column[moment][0]) * rate ** column["sweep"]
            moment_axes.plot(column["sweep"], exact, ":", color=f"C{color}", lw=1)
        conserved_axes.plot(column["sweep"], column["energy_change"], **style)

    h_axes.axhline(H_MAXWELL, color="black", lw=1, ls="--", label="Maxwell, the minimum")
    h_axes.set(xlabel="sweep", ylabel=r"$H=\int f\,\log f$", title="H falls to its minimum")
    ks_axes.axhspan(
        rows[0]["ks_speeds_equilibrium_low"],
        rows[0]["ks_speeds_equilibrium_high"],
        color="black",
        alpha=0.2,
        lw=0,
        label="equilibrium, 95 %",
    )
    ks_axes.set(xlabel="sweep", ylabel="KS distance of speeds", yscale="log", title="Speeds")
    moment_axes.set(
        xlabel="sweep",
        ylabel="|kurtosis| or |stress|",
        yscale="log",
        ylim=(1e-4, 3),
        title="Moments; dotted: exact for c = 1",
    )
    conserved_axes.set(xlabel="sweep", ylabel="relative change", title="Energy is conserved")
    for axes in (h_axes, ks_axes):
        axes.legend(fontsize=8)
    path = Path(folder) / "gas.png"
    figure.savefig(path, dpi=150)
    return path
