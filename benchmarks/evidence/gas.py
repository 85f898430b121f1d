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
                  pair's probability, and the equilibrium, as they are. All boxes share it too, so
                  their spread does not show how much the pace depends on the R_1 drawn.)

What is measured after every sweep, with the mean and standard error over boxes:

    momentum, energy    relative change since the start: rounding only
    H - H_Maxwell       energy and momentum fix the mean of log f_Maxwell, so this difference is the
                        relative entropy KL(f | f_Maxwell). It is estimated with a histogram of
                        cells that are equally likely under Maxwell, k for each component, less the
                        bias (cells - 1) / (2 n) that n samples of Maxwell itself would show.
                        H_Maxwell = -3/2 log(2 pi e T), with T the variance of a component.
    KS, components      Kolmogorov-Smirnov distance of all 3n components from the Gaussian
    KS, speeds          and of the speeds from Maxwell's distribution
    kurtosis, stress    <v^4> / (5/3 <v^2>^2) - 1, and the anisotropy <v_x^2> / (<v^2> / 3) - 1

The last two have closed forms at c = 1, where all pairs of the matching collide. Then
v' = (v_i + v_j) / 2 + |v_i - v_j| n / 2 with independent v_i, v_j, n, and

    <v' v'^T> = <v v^T> / 2 + <v^2> I / 6         the stress halves in every sweep;
    <v'^4> = 2/3 <v^4> + 5/9 <v^2>^2              for isotropic f, the kurtosis shrinks by 2/3.

The statistics at equilibrium have exact reference values: particles spread evenly over the sphere
of given momentum and energy. They are drawn and measured in the same way (`at_equilibrium`).

The paper has no such experiment: it is the check that its kernel is what it is said to be. With
`combine="sum"`, the paper's Eq. 8, it is not, and energy explodes: a hard sphere meets one partner
at a time.

Reproduces: KO, section 3.2 and Theorem 3.7, which the paper does not measure.
Needs: nothing.
Takes: smoke 3 s; laptop 20 s; paper 10 min on 2 cores.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import kinopt
from benchmarks.evidence._maxwell import H_MAXWELL, measure
from benchmarks.markdown import table_of
from benchmarks.progress import progress_bar
from benchmarks.record import Row

Acceptance = Literal["threshold", "hard sphere"]
Combine = Literal["matching", "sum", "metropolis"]
Start = Literal["beams", "equal speeds"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """One gas experiment; every combination of start and acceptance is run."""

    boxes: int = 8  # independent gases
    particles: int = 4000  # in each box
    sweeps: int = 30  # applications of the collision law
    cells: int = 6  # of the histogram, for each of the three components
    coll_coef: float = 1.0  # c of the "threshold" rule
    combine: Combine = "matching"  # the others are no gas: they change the energy
    starts: tuple[Start, ...] = ("beams", "equal speeds")
    acceptances: tuple[Acceptance, ...] = ("threshold", "hard sphere")
    equilibria: int = 200  # boxes drawn from equilibrium for the reference values
    seed: int = 0


MOMENTS = {"beams": ("stress", 1 / 2), "equal speeds": ("kurtosis", 2 / 3)}
"""The moment that is far off at each start, and the share of it that a sweep leaves at c = 1."""

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


def collisions(coll_coef, settings: Settings) -> optax.GradientTransformationExtraArgs:
    """The library's hard collision between the particles of each box."""
    return kinopt.hard_collision(
        coll_coef,
        key=settings.seed,
        combine=settings.combine,
        scatter="pairs",
        neuron_axes=kinopt.NeuronAxes(output_axis=1, reduction_axis=2),  # axis 0: boxes
    )


@functools.partial(jax.jit, static_argnames="settings")
def sweep(v, state, position, coll_coef, settings: Settings):
    """One application of the collision law."""
    return collisions(coll_coef, settings).update(v, state, position)


def collide(v: np.ndarray, acceptance: Acceptance, settings: Settings) -> Iterator[np.ndarray]:
    """The gas at the start and after each sweep of hard collisions."""
    coefficients = np.full(settings.sweeps, settings.coll_coef)
    if acceptance == "hard sphere":
        coefficients = np.random.default_rng(settings.seed).random(settings.sweeps)
    position = jnp.zeros_like(v)  # one place for all particles: U_r = 1
    state = collisions(0.0, settings).init(position)
    yield v
    for coll_coef in coefficients:
        v, state = sweep(v, state, position, coll_coef, settings)
        yield np.asarray(v)


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
    """One row for each start, acceptance and sweep.

    `x` and `x_error` are mean and standard error of the statistic x over the boxes;
    `x_equilibrium` and `x_equilibrium_error` are what as many boxes at equilibrium would have.
    """
    reference = at_equilibrium(settings)
    starts = [
        initial_velocities(start, settings.boxes, settings.particles, settings.seed)
        for start in settings.starts
    ]
    v0 = np.concatenate(starts).astype(np.float32)  # more boxes: one program runs all starts
    rows = []
    total = len(settings.acceptances) * (1 + settings.sweeps)
    with progress_bar(total, "sweeps") as bar:
        for acceptance in settings.acceptances:
            for sweep, v in enumerate(collide(v0, acceptance, settings)):
                bar.update()
                for n, start in enumerate(settings.starts):
                    part = slice(n * settings.boxes, (n + 1) * settings.boxes)
                    row = {"start": start, "acceptance": acceptance, "sweep": sweep}
                    row |= _conserved(v0[part], v[part])
                    row |= _compared([measure(box, settings.cells) for box in v[part]], reference)
                    row["h"] = H_MAXWELL + row["excess_h"]
                    rows.append(row)
    return rows


def _conserved(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    before, after = before.astype(np.float64), after.astype(np.float64)
    drift = np.mean(after - before, axis=1)
    return {
        "momentum_change": float(np.abs(drift).max()),  # for each particle, in thermal speeds
        "energy_change": float(np.square(after).sum() / np.square(before).sum() - 1),
    }


def _compared(boxes: list[dict[str, float]], reference: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean and standard error over boxes, and mean and standard error of it at equilibrium."""
    row = {}
    for name, equilibrium in reference.items():
        values = np.array([box[name] for box in boxes])
        row[name] = float(values.mean())
        row[f"{name}_error"] = float(values.std(ddof=1) / math.sqrt(len(values)))
        row[f"{name}_equilibrium"] = float(equilibrium.mean())
        row[f"{name}_equilibrium_error"] = float(equilibrium.std(ddof=1) / math.sqrt(len(values)))
    return row


def table(rows: list[Row]) -> str:
    """The last run at a few times, beside what equilibrium looks like."""
    last = rows[-1]["sweep"]
    times = [0, *(sweep for sweep in (5, 10) if sweep < last), last]
    lines = []
    for (start, acceptance), part in _runs(rows).items():
        moment, _ = MOMENTS[start]
        names = {"excess_h": "H - H_Maxwell", "ks_speeds": "KS, speeds", moment: moment}
        for name, words in names.items():
            values = [_with_error(part[time], name) for time in times]
            expected = _with_error(part[0], f"{name}_equilibrium")
            lines.append([start, acceptance, words, *values, expected])
    header = ["start", "acceptance", "statistic", "at the start"]
    header += [*(f"after {time} sweeps" for time in times[1:]), "at equilibrium"]
    momentum = max(row["momentum_change"] for row in rows)
    energy = max(abs(row["energy_change"]) for row in rows)
    return f"""{table_of(header, lines)}

Means over {rows[0]["settings"]["boxes"]} boxes with standard errors; on the right those of as many
boxes drawn from equilibrium. Momentum changed by at most {momentum:.0e} thermal speeds for each
particle, energy by at most {energy:.0e} of itself. The picture shows every sweep."""


def headline(rows: list[Row]) -> str:
    """How far H is from its minimum, at the start and at the end."""
    part = next(iter(_runs(rows).values()))
    first, last = (_with_error(part[n], "excess_h") for n in (0, -1))
    return f"H - H_Maxwell from {first} to {last} in {part[-1]['sweep']} sweeps"


def _with_error(row: Row, name: str) -> str:
    return f"{row[name]:.4f} ± {row[f'{name}_error']:.4f}"


def _runs(rows: list[Row]) -> dict[tuple[Start, Acceptance], list[Row]]:
    """The rows of each start and acceptance, sweep by sweep."""
    runs = {}
    for row in rows:
        runs.setdefault((row["start"], row["acceptance"]), []).append(row)
    return runs


def plot(rows: list[Row]) -> Figure:
    """H, the distance from Maxwell, the exact moments and the conserved quantities in one PNG."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    (h_axes, ks_axes), (moment_axes, conserved_axes) = figure.subplots(2, 2)
    for color, ((start, acceptance), part) in enumerate(_runs(rows).items()):
        column = {name: np.array([row[name] for row in part]) for name in part[0]}
        style = {"color": f"C{color}", "label": f"{start}, {acceptance}"}
        h_axes.errorbar(column["sweep"], column["h"], 2 * column["excess_h_error"], **style)
        ks_axes.errorbar(column["sweep"], column["ks_speeds"], column["ks_speeds_error"], **style)
        moment, rate = MOMENTS[start]
        moment_axes.errorbar(
            column["sweep"], np.abs(column[moment]), column[f"{moment}_error"], fmt=".", **style
        )
        if acceptance == "threshold":
            exact = np.abs(column[moment][0]) * rate ** column["sweep"]
            moment_axes.plot(column["sweep"], exact, ":", color=f"C{color}", lw=1)
        conserved_axes.plot(column["sweep"], column["energy_change"], **style)

    h_axes.axhline(H_MAXWELL, color="black", lw=1, ls="--", label="Maxwell, the minimum")
    h_axes.set(xlabel="sweep", ylabel=r"$H=\int f\,\log f$", title="H falls to its minimum")
    middle, error = (rows[0][f"ks_speeds_equilibrium{end}"] for end in ("", "_error"))
    band = (middle - 1.96 * error, middle + 1.96 * error)
    ks_axes.axhspan(*band, color="black", alpha=0.2, lw=0, label="equilibrium, 95 %")
    ks_axes.set(xlabel="sweep", ylabel="KS distance of speeds", yscale="log", title="Speeds")
    moment_axes.set(
        xlabel="sweep",
        ylabel="|kurtosis| or |stress|",
        yscale="log",
        ylim=(1e-3, 3),
        title="Moments; dotted: exact for c = 1",
    )
    conserved_axes.set(xlabel="sweep", ylabel="relative change", title="Energy: float32 rounding")
    for axes in (h_axes, ks_axes):
        axes.legend(fontsize=8)
    return figure
