"""Targets of `evidence.canonical`: losses whose averages at T are known by quadrature.

The chain is a phi^4 chain whose two wells differ in depth and in width; its averages come from a
transfer matrix, which also counts how many sites are on the right. Of the cluster no quadrature is
known: its energy is that of a long run of a ladder.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kinopt import landscapes

__all__ = ["TARGETS", "Target", "target"]

DISTANCE, WIDTHS = 6.0, (1.0, 0.5)
"""Of the two Gaussians, which have equal weights."""

BARRIER, COUPLING, TILT = 1.5, 4.0, 0.05
"""Of the chain: sum b (x^2 - 1)^2 + c (x^3/3 - x + 2/3) + k/2 (x_i - x_(i+1))^2."""

TRAP = 0.1
"""Of the cluster: sum trap |x_i|^2 / 2 keeps it together, and where it is."""


class Target(NamedTuple):
    """A loss, where to start, and what is known."""

    loss: Callable  # x [n] -> []
    starts: np.ndarray  # [starts, n]
    temperature: float
    side: Callable | None  # x [n] -> 1. in the mode whose weight is asked for, 0. elsewhere
    truth: tuple[float, float]  # that weight (NaN: none), and the mean loss
    prior: tuple[np.ndarray, float]  # a Gaussian that covers it, for tempering: mean, width
    hottest: float = 5.0  # of a ladder, in units of the temperature


def _gaussians(n: int) -> Target:
    centres = np.zeros((2, n))
    centres[:, 0] = -DISTANCE / 2, DISTANCE / 2
    widths = np.array(WIDTHS)
    constant = np.log(0.5) - n * np.log(widths) - n / 2 * np.log(2 * np.pi)

    def parts(x):
        return constant - jnp.sum((x - centres) ** 2, axis=1) / (2 * widths**2)

    # Along the axis, and across it, where only the radius counts.
    along = np.linspace(-11, 11, 1101)[:, None]
    radius = np.linspace(1e-4, 12, 1201)[None]
    squares = (along[..., None] - centres[:, 0]) ** 2 + radius[..., None] ** 2
    loss = -np.logaddexp(*np.moveaxis(constant - squares / (2 * widths**2), -1, 0))
    weights = np.exp(-(loss - loss.min())) * radius ** (n - 2)
    mean = (weights * loss).sum() / weights.sum()
    return Target(
        loss=lambda x: -jax.scipy.special.logsumexp(parts(x)),
        starts=centres[::-1],
        temperature=1.0,
        side=lambda x: jnp.where(parts(x)[0] > parts(x)[1], 1.0, 0.0),
        truth=(0.5, float(mean)),
        prior=(np.zeros(n), 4.0),
    )


def _site(x):
    return BARRIER * (x**2 - 1) ** 2 + TILT * (x**3 / 3 - x + 2 / 3)


def _chain(n: int) -> Target:
    def loss(x):
        return jnp.sum(_site(x)) + COUPLING / 2 * jnp.sum((x[1:] - x[:-1]) ** 2)

    x = np.linspace(-2.6, 2.6, 402)  # no site is at 0
    right = x > 0

    def counted(temperature):
        """Z by the number of sites on the right, [n + 1]."""
        bond = np.exp(-COUPLING / 2 * (x[:, None] - x) ** 2 / temperature)
        site = np.exp(-_site(x) / temperature) * (x[1] - x[0])
        z = np.zeros((n + 1, len(x)))
        z[0], z[1] = site * ~right, site * right
        for _ in range(n - 1):
            new = z @ bond * site
            z = new * ~right
            z[1:] += (new * right)[:-1]
        return z.sum(axis=1)

    z, step = counted(1.0), 1e-4
    weight = (z[np.arange(n + 1) > n / 2].sum() + z[n // 2] / 2 * (n % 2 == 0)) / z.sum()
    mean = (np.log(counted(1 + step).sum()) - np.log(counted(1 - step).sum())) / (2 * step)

    def side(x):
        number = jnp.sum(x > 0)
        return jnp.where(2 * number > n, 1.0, jnp.where(2 * number < n, 0.0, 0.5))

    return Target(
        loss=loss,
        starts=np.stack([np.ones(n), -np.ones(n)]),
        temperature=1.0,
        side=side,
        truth=(float(weight), float(mean)),
        prior=(np.zeros(n), 1.2),
    )


def _mueller_brown() -> Target:
    """The Mueller-Brown surface at kT = 20: a barrier of 5 kT above the shallower of its ends."""
    height = np.array([-200.0, -100.0, -170.0, 15.0])
    a, b = np.array([-1.0, -1.0, -6.5, 0.7]), np.array([0.0, 0.0, 11.0, 0.6])
    c, x0 = np.array([-10.0, -10.0, -6.5, 0.7]), np.array([1.0, 0.0, -0.5, -1.0])
    y0 = np.array([0.0, 0.5, 1.5, 1.0])

    def value(x, y):
        dx, dy = x - x0, y - y0
        return (height * np.e ** (a * dx**2 + b * dx * dy + c * dy**2)).sum(-1)

    temperature = 20.0
    x, y = np.meshgrid(np.linspace(-3, 2, 2001), np.linspace(-1.5, 3, 1801), indexing="ij")
    loss = value(x[..., None], y[..., None])
    weights = np.exp(-(loss - loss.min()) / temperature)

    def upper(x, y):
        """Above the line through the saddle: the deepest minimum's side."""
        return y - 0.624 > 0.75 * (x + 0.822)

    total = weights.sum()
    share = float(weights[upper(x, y)].sum() / total)
    return Target(
        loss=lambda x: value(x[0], x[1]),
        starts=np.array([[-0.55, 1.44], [0.62, 0.03]]),
        temperature=temperature,
        side=lambda x: jnp.where(upper(x[0], x[1]), 1.0, 0.0),
        truth=(share, float((weights * loss).sum() / total)),
        prior=(np.array([-0.3, 0.7]), 1.0),
    )


def _cluster() -> Target:
    cluster = landscapes.lennard_jones(7)
    start = cluster.minimizers[:1]
    start = (start.reshape(7, 3) - start.reshape(7, 3).mean(axis=0)).reshape(1, -1)
    return Target(
        loss=lambda x: cluster.fn(x) + TRAP / 2 * jnp.sum(x**2),
        starts=start,
        temperature=0.15,
        side=None,
        truth=(float("nan"), float("nan")),
        prior=(start[0], 0.1),
        hottest=2.0,  # above, the cluster evaporates
    )


TARGETS: dict[str, Callable[[], Target]] = {
    **{f"two Gaussians, n = {n}": functools.partial(_gaussians, n) for n in (2, 5, 10)},
    **{f"phi^4 chain, n = {n}": functools.partial(_chain, n) for n in (8, 16, 32)},
    "Mueller-Brown, n = 2": _mueller_brown,
    "LJ7, n = 21": _cluster,
}


@functools.cache
def target(name: str) -> Target:
    """The target of this name; under 64 bits."""
    return TARGETS[name]()
