"""The nonlinear Poisson problem of appendix B: its radial solutions, and a network to find them.

    -lap(u) + u^2 = f  in the unit disc,    u given on the circle

f and the boundary value are made from u_an = shift + sin^2(k r^2), so that one solution is known
(Eqs. 53 to 55; the paper has k = 20 and no shift). `solutions` finds the radial ones by shooting:
it integrates u'' + u'/r = u^2 - f from u(0) = a, u'(0) = 0 and looks for the values of a at which
u(1) is right. The network of Eq. 56 knows nothing of this symmetry.

Its Laplacian is exact. Value, Jacobian rows and Laplacian of all units go through the network
together, (y, dy/dx_1, ..., dy/dx_d, lap y), as rows of one array: an affine layer acts on each row
alike (the bias on y only), and the sigmoid s by

    s(z),    s'(z) dz/dx,    s'(z) lap z + s''(z) |dz/dx|^2.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from kinopt._typing import PyTree, Scalar

__all__ = [
    "Poisson",
    "fields",
    "initial",
    "midpoints",
    "relative_errors",
    "residual",
    "solutions",
    "values",
]

BLOW_UP = 1e4
"""|u| at which a radial solution counts as one that does not reach the circle."""

START_RADIUS = 1e-6
"""Where the integration begins, with the first two terms of the series around 0."""


@dataclasses.dataclass(frozen=True)
class Poisson:
    """The problem made from u_an = shift + sin^2(frequency r^2)."""

    frequency: float = 20.0  # k
    shift: float = 0.0

    def known(self, r_sq):
        """u_an, a function of r^2."""
        return self.shift + jnp.sin(self.frequency * r_sq) ** 2

    def source(self, r_sq):
        """F = -lap(u_an) + u_an^2, with lap = 4 (s d^2/ds^2 + d/ds) at s = r^2."""
        k, angle = self.frequency, 2 * self.frequency * r_sq
        laplacian = 4 * (2 * k**2 * r_sq * jnp.cos(angle) + k * jnp.sin(angle))
        return self.known(r_sq) ** 2 - laplacian

    @property
    def boundary(self) -> float:
        """U on the circle."""
        return self.shift + float(np.sin(self.frequency)) ** 2

    def shoot(self, center: float, radii=None, tolerance: float = 1e-10) -> np.ndarray:
        """The radial solution with u(0) = center, at the radii: u and u', shape [2, radii].

        Args:
            center: U at r = 0.
            radii: Increasing, at most 1; None: the circle only.
            tolerance: Relative; absolute as well.

        Returns:
            Infinity where it blew up on the way.
        """
        radii = np.array([1.0]) if radii is None else np.asarray(radii, float)
        k, shift = self.frequency, self.shift

        def slope(r, state):
            # `source` in plain numpy: one number at a time, jax.numpy would take a hundred times
            # as long.
            s = r * r
            laplacian = 4 * (2 * k**2 * s * np.cos(2 * k * s) + k * np.sin(2 * k * s))
            f = (shift + np.sin(k * s) ** 2) ** 2 - laplacian
            return [state[1], state[0] ** 2 - f - state[1] / r]

        def far(r, state):
            return abs(state[0]) - BLOW_UP

        far.terminal = True  # pyright: ignore[reportFunctionMemberAccess]  # scipy's interface
        bend = (center**2 - shift**2) / 2  # u'' at 0, where f = shift^2
        start = [center + bend * START_RADIUS**2 / 2, bend * START_RADIUS]
        path = solve_ivp(
            slope,
            (START_RADIUS, 1.0),
            start,
            method="DOP853",
            t_eval=np.maximum(radii, START_RADIUS),
            rtol=tolerance,
            atol=tolerance,
            events=far,
        )
        found = np.full((2, len(radii)), np.inf)
        found[:, : len(path.t)] = np.reshape(path.y, (2, -1))
        return found


def solutions(problem: Poisson, lowest=-2000.0, highest=30.0, number=200) -> list[float]:
    """U(0) of every radial solution between two values, by shooting, from the highest down.

    Args:
        problem: Whose solutions.
        lowest: Of u(0).
        highest: Of u(0).
        number: Of shots that look for a change of sign of u(1) less the boundary value; they stand
            closer where u(0) is small.
    """

    def miss(center: float, tolerance: float = 1e-10) -> float:
        return min(problem.shoot(center, tolerance=tolerance)[0, 0], BLOW_UP) - problem.boundary

    centers = np.sinh(np.linspace(np.arcsinh(lowest), np.arcsinh(highest), number))
    misses = [miss(center, 1e-6) for center in centers]
    found = [
        float(brentq(miss, low, high, xtol=1e-12))  # pyright: ignore[reportArgumentType]
        for low, high, below, above in zip(centers, centers[1:], misses, misses[1:], strict=False)
        if below * above < 0
    ]
    return found[::-1]


def initial(key: jax.Array, width: int, depth: int, dimension: int = 2) -> PyTree:
    """Parameters of the network of Eq. 56: normal weights of variance 1/inputs, no biases."""
    sizes = [(dimension, width), *[(width, width)] * depth, (width, 1)]
    keys = jax.random.split(key, len(sizes))
    return [
        {"kernel": jax.random.normal(k, size) / np.sqrt(size[0]), "bias": jnp.zeros(size[1])}
        for k, size in zip(keys, sizes, strict=True)
    ]


def values(params: PyTree, x: jax.Array) -> jax.Array:
    """The network at the points x, [..., dimension] -> [...]."""
    first, *middle, last = params
    y = jax.nn.sigmoid(x @ first["kernel"] + first["bias"])
    for layer in middle:
        y = y + jax.nn.sigmoid(y @ layer["kernel"] + layer["bias"])
    return (y @ last["kernel"] + last["bias"])[..., 0]


def fields(params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The network and its Laplacian at the points x, [points, dimension] -> [points], twice."""
    points, dimension = x.shape
    slopes = jnp.broadcast_to(jnp.eye(dimension)[:, None], (dimension, points, dimension))
    rows = jnp.concatenate([x[None], slopes, jnp.zeros((1, *x.shape))]).astype(x.dtype)

    def affine(layer, rows):
        return (rows @ layer["kernel"]).at[0].add(layer["bias"])

    def activate(rows):
        y = jax.nn.sigmoid(rows[0])
        d1 = y * (1 - y)
        d2 = d1 * (1 - 2 * y)
        laplacian = d1 * rows[-1] + d2 * jnp.sum(rows[1:-1] ** 2, axis=0)
        return jnp.concatenate([y[None], d1 * rows[1:-1], laplacian[None]])

    first, *middle, last = params
    rows = activate(affine(first, rows))
    for layer in middle:
        rows = rows + activate(affine(layer, rows))
    rows = affine(last, rows)[..., 0]
    return rows[0], rows[-1]


def residual(problem: Poisson, params: PyTree, x: jax.Array) -> jax.Array:
    """-lap(u) + u^2 - f at the points."""
    u, laplacian = fields(params, x)
    return u**2 - laplacian - problem.source(jnp.sum(x**2, axis=-1))


def relative_errors(
    function: Callable[[jax.Array], jax.Array], exact: np.ndarray, angles: int = 24
) -> Scalar:
    """|u - u_k| / |u_k| in L2 of the disc, for each radial solution u_k, shape [solutions].

    Args:
        function: U, of points [..., 2].
        exact: Each solution at the middles of equal intervals of the radius, [solutions, radii].
        angles: How many directions.
    """
    radii = midpoints(exact.shape[1])
    angle = 2 * np.pi * np.arange(angles) / angles
    points = radii[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    u = function(jnp.asarray(points, jnp.float32))
    target = jnp.asarray(exact, u.dtype)
    weight = jnp.asarray(radii, u.dtype)
    distance = jnp.mean((u - target[:, :, None]) ** 2, axis=-1) @ weight
    return jnp.sqrt(distance / (target**2 @ weight))


def midpoints(number: int) -> np.ndarray:
    """The middles of equal intervals of the radius."""
    return (np.arange(number) + 0.5) / number
