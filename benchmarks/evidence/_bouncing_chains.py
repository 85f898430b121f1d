"""Chains of a bouncing descent on double wells, whose shares of time are known by quadrature.

Born-Infeld with the leapfrog step and a bounce every 25 steps, at an energy E that is given in
units of the pass over the lowest minimum,

    E = 1 + energy * (V_top - V_lowest),    f_min = V_lowest - 1

so that chains stay for ever where energy < 1, and squeeze through a gap where it is little above.
In one dimension every chain with energy > 1 goes to and fro. The width changes from 1 to 4 over
0.1, for a descent must not meet a step in V.

All landscapes are one program: key[0] says which a chain is on.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import kinopt

__all__ = ["Chains", "Wells"]

STEEPNESS = 10.0
"""Of the change of width: 1/0.1."""

BOUNCE_EVERY = 25
PART = 0.3
"""Of sqrt(2 / largest curvature): the time step."""

GRID = np.linspace(-2.5, 2.5, 2001), np.linspace(-6, 6, 801)


class Wells(NamedTuple):
    """A landscape and an energy."""

    dimensions: int
    barrier: float
    tilt: float
    energy: float  # in units of the pass


def potential(x, barrier, tilt):
    """V at x [1] or [2]."""
    v = barrier * (x[0] ** 2 - 1) ** 2 + tilt * x[0]
    if x.shape[0] == 1:
        return v
    return v + (1 + 3 * jax.nn.sigmoid(STEEPNESS * x[0])) * x[1] ** 2 / 2


class Chains:
    """The chains of all these wells, in one number of dimensions."""

    def __init__(self, wells: list[Wells]):
        self.wells, self.dimensions = wells, wells[0].dimensions
        numbers = np.array([(w.barrier, w.tilt, *_levels(w)) for w in wells])
        self.table = jnp.asarray(numbers, jnp.float32)

        def batches(key, step):
            del step
            return self.table[key[0], :2]

        def optimizer(key):
            barrier, _, f_min, energy = self.table[key[0]]
            curvature = jnp.maximum(8 * barrier, 4.0)
            hamiltonian = dataclasses.replace(
                kinopt.hamiltonians.born_infeld(),
                initial_energy=lambda v, extra: jnp.full_like(v, energy),
            )
            return kinopt.ecd(
                PART * jnp.sqrt(2 / curvature),
                hamiltonian,
                f_min=f_min,
                bounces=kinopt.bounces.periodic(BOUNCE_EVERY, None),
                initial_direction="random",
                integrator="leapfrog",
                stay=False,
                key=key,
            )

        self.batches, self.optimizer = batches, optimizer
        self.loss = lambda x, numbers: potential(x, *numbers)

    def path(self, well: Wells, starts: np.ndarray, num_steps: int, every: int, seed: int):
        """Paths of x and V, [chains, records] each, from starts [chains, n]."""
        number = len(starts)
        first = np.full(number, self.wells.index(well))
        keys = np.stack([first, seed * 100_000 + np.arange(number)], axis=1)
        record = kinopt.ensemble.trajectories(
            self.loss,
            self.optimizer,
            jnp.asarray(starts, jnp.float32),
            jnp.asarray(keys, jnp.uint32),
            num_steps=num_steps,
            every=every,
            stacked=True,
            batches=self.batches,
        )
        return np.asarray(record.params[..., 0]), np.asarray(record.value)


def _levels(well: Wells) -> tuple[float, float]:
    """f_min and E."""
    x = GRID[0]
    v = well.barrier * (x**2 - 1) ** 2 + well.tilt * x
    lowest, top = v.min(), v[np.abs(x) < 0.9].max()
    return lowest - 1, 1 + well.energy * (top - lowest)


@functools.lru_cache(maxsize=4)
def equilibrium(well: Wells) -> tuple[np.ndarray, np.ndarray]:
    """Points [points, n], and their shares of the time."""
    x, y = GRID if well.dimensions == 2 else (GRID[0], np.zeros(1))
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    points = points[:, : well.dimensions]
    f_min, energy = _levels(well)
    v = np.asarray(jax.vmap(lambda x: potential(x, well.barrier, well.tilt))(points)) - f_min
    inside = v < energy
    v = np.where(inside, v, energy / 2)
    # Born-Infeld's density, BBI paper, Eq. 40; integrable where V = E in one dimension.
    density = energy / v * np.maximum(energy**2 / v - v, 1e-12) ** ((well.dimensions - 2) / 2)
    weights = np.where(inside, density, 0)
    return points, weights / weights.sum()


def true_share(well: Wells, core: float) -> float:
    """Of the time in the wells, |x| >= core, the share in the left one."""
    points, weights = equilibrium(well)
    left, right = weights[points[:, 0] <= -core].sum(), weights[points[:, 0] >= core].sum()
    return float(left / (left + right))
