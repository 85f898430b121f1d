"""Test functions whose minima are known, for looking at how an optimizer moves.

A landscape is a function of one vector x [n], the value of its global minimum, the points where it
is attained, and the box in which it is usually studied:

    name                 n        minimum        minimizers  the BBI paper
    ackley               any      0              1           section 4.1, Eq. 15
    zakharov             any      0              1           section 4.2, Eq. 16
    two_basins           2        about 0        2           section 4.3, Eq. 17
    rosenbrock           >= 2     0              1
    rastrigin            any      0              1
    griewank             any      0              1
    levy                 any      0              1
    styblinski_tang      any      -39.17 n       1
    himmelblau           2        0              4
    beale                2        0              1
    booth                2        0              1
    three_hump_camel     2        0              1
    six_hump_camel       2        -1.03          2

An optimizer that slows down as V = loss - minimum -> 0 needs V, not just the loss, to the last
digit. Where the textbook formula subtracts numbers that are nearly equal, it is rewritten here so
that V keeps its relative precision next to a minimizer: 1 - cos t = 2 sin^2(t/2),
1 - e^-t = -expm1(-t). A landscape whose minimum is not 0 cannot be helped in this way.

All are differentiable any number of times, at their minimizers too (for Ackley see there), work
under `jax.jit` and `jax.vmap`, and compute in the type of x.

References: Jamil, Yang, "A literature survey of benchmark functions for global optimisation
problems" (2013); Surjanovic, Bingham, "Virtual library of simulation experiments" (2013).

>>> import jax, jax.numpy as jnp, kinopt
>>> valley = kinopt.landscapes.rosenbrock()
>>> float(valley(jnp.array([-1.0, 1.0]))), jax.grad(valley)(jnp.ones(2)).tolist()
(4.0, [0.0, 0.0])
"""

import dataclasses
from collections.abc import Callable
from typing import Any, SupportsFloat, SupportsIndex

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kinopt._checks import check_count, check_number, check_numbers
from kinopt._typing import Scalar

__all__ = [
    "Landscape",
    "ackley",
    "beale",
    "booth",
    "griewank",
    "himmelblau",
    "levy",
    "rastrigin",
    "rosenbrock",
    "six_hump_camel",
    "styblinski_tang",
    "three_hump_camel",
    "two_basins",
    "zakharov",
]


@dataclasses.dataclass(frozen=True, eq=False)  # compared and hashed by identity, as functions are
class Landscape:
    """A function of x [n] and what is known about it. Call it as you would call `fn`.

    Args:
      fn: x [n] -> value [].
      minimum: the value of the global minimum.
      minimizers: where it is attained, [points, n], float64.
      domain: lower and upper corner of the box where it is usually studied, [2, n], float64.

    >>> low, high = booth().domain
    >>> low.tolist(), high.tolist(), booth().n
    ([-10.0, -10.0], [10.0, 10.0], 2)
    """

    fn: Callable[[Any], Scalar]
    minimum: float
    minimizers: np.ndarray
    domain: np.ndarray

    @property
    def n(self) -> int:
        """The number of coordinates."""
        return self.minimizers.shape[1]

    def __call__(self, x: ArrayLike) -> Scalar:
        """The value at x [n].

        Raises:
          TypeError: if x is not real numbers.
          ValueError: if x has another shape. For many points, use `jax.vmap`.
        """
        check_numbers("x", x, finite=False)
        x = jnp.asarray(x)
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
        if x.shape != (self.n,):
            raise ValueError(
                f"this landscape takes one point of shape ({self.n},), got {x.shape}. For many "
                "points, use jax.vmap(landscape)(points)."
            )
        return self.fn(x)


def _landscape(fn, minimizers, low: float, high: float, minimum: float = 0.0) -> Landscape:
    points = np.atleast_2d(np.asarray(minimizers, np.float64))
    domain = np.broadcast_to(np.array([[low], [high]]), (2, points.shape[1])).copy()
    points.flags.writeable = domain.flags.writeable = False
    return Landscape(fn, minimum, points, domain)


def _dimension(n, smallest: int = 1) -> int:
    return check_count("n, the number of coordinates,", n, least=smallest, optional=False)


def _sin_pi_squared(x):
    """sin(pi x)^2. It has period 1; taking whole numbers away first is exact."""
    return jnp.sin(jnp.pi * (x - jnp.round(x))) ** 2


def ackley(n: SupportsIndex = 2, decay: SupportsFloat = 0.2) -> Landscape:
    """Ackley: a funnel under an egg box (BBI paper, Eq. 15, n = 2).

    $$
    F = 20 (1 - exp(-decay r)) + e - exp(mean_i cos(2 pi x_i)),   r = sqrt(mean_i x_i^2)
    $$

    The paper and the literature have decay = 0.2. The code published with the paper has 0.02:
    a funnel ten times flatter, whose local minima lie lower.

    At x = 0 the funnel ends in a cone with slopes 20 decay / sqrt(n), which has no gradient. Its
    derivatives there are those of the egg box alone: the gradient is 0, one of the cone's
    subgradients.

    Args:
      n: number of coordinates, >= 1.
      decay: of the funnel, > 0.

    Raises:
      TypeError: if `n` or `decay` is no number.
      ValueError: if one is out of range.

    >>> import jax
    >>> jax.grad(ackley())(jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """
    n = _dimension(n)
    check_number("decay", decay, above=0)  # or the egg box has no lowest hole
    decay = float(decay)

    def fn(x):
        mean_square = jnp.mean(x**2)
        at_the_tip = mean_square == 0
        r = jnp.where(at_the_tip, 0, jnp.sqrt(jnp.where(at_the_tip, 1, mean_square)))
        egg_box = -jnp.e * jnp.expm1(-2 * jnp.mean(_sin_pi_squared(x)))
        return egg_box - 20 * jnp.expm1(-decay * r)

    return _landscape(fn, np.zeros(n), -32.768, 32.768)


def zakharov(n: SupportsIndex = 10) -> Landscape:
    """Zakharov: a bowl in a valley (BBI paper, Eq. 16, n = 10).

    $$
    F = sum_i x_i^2 + s^2 + s^4,   s = 1/2 sum_i i x_i
    $$

    Its Hessian at 0 has n - 1 eigenvalues 2 and one of 2 + sum_i i^2 / 2.

    Args:
      n: number of coordinates, >= 1.

    Raises:
      TypeError: if `n` is no whole number.
      ValueError: if it is too small.

    >>> float(zakharov(3)(-jnp.ones(3)))
    93.0
    """
    n = _dimension(n)

    def fn(x):
        s = jnp.sum(jnp.arange(1, n + 1, dtype=x.dtype) * x) / 2
        return jnp.sum(x**2) + s**2 + s**4

    return _landscape(fn, np.zeros(n), -5.0, 10.0)


def two_basins(epsilon: SupportsFloat = 2.75e-6) -> Landscape:
    """Two round basins of different width and (nearly) equal depth (BBI paper, Eq. 17).

    $$
    F = 1 - exp(-0.4 d_1) - (1 - epsilon) exp(-0.8 d_2) + 1e-3 d_1 d_2
    d_1 = |x - (-2, -2)|^2,   d_2 = |x - (2, 2)|^2
    $$

    The tail of each basin pulls the other's lowest point off its centre. For the default epsilon:

        minimizers          (-2, -2) + 5.6e-11      (2, 2) - 5.3e-6
        F                   -7.6e-12                -1.08e-8
        Hessian             0.8640, 0.8640          1.6639, 1.6640

    so the second is the global minimum, by 1e-8; both are listed, the wide basin first. epsilon
    = 2.76081e-6 would make them equal.

    The formula as written subtracts numbers near 1, so that float32 would give it in steps of 6e-8
    and see the depth of neither basin. Here F is right to 1e-11 next to the minimizers, even in
    float32.

    Args:
      epsilon: in [0, 0.1].

    Raises:
      TypeError: if `epsilon` is no number.
      ValueError: if it is out of range.

    >>> basins = two_basins()
    >>> [f"{float(basins(x)):.2e}" for x in basins.minimizers]
    ['-7.62e-12', '-1.08e-08']
    """
    check_number("epsilon", epsilon, least=0, most=0.1)  # two basins near equal depth
    epsilon = float(epsilon)

    def fn(x):
        d1, d2 = jnp.sum((x + 2) ** 2), jnp.sum((x - 2) ** 2)
        a, b = 0.4 * d1, 0.8 * d2
        # exp(-a) + exp(-b) is symmetric: the one near 1 is the one to take from 1.
        near, far = jnp.where(a < b, a, b), jnp.where(a < b, b, a)
        return -jnp.expm1(-near) - jnp.exp(-far) + epsilon * jnp.exp(-b) + 1e-3 * d1 * d2

    points = [_lowest_on_the_diagonal(centre, epsilon) for centre in (-2.0, 2.0)]
    minimum = min(_on_the_diagonal(t, epsilon)[0] for t in points)
    return _landscape(fn, [[t, t] for t in points], -10.0, 10.0, minimum)


def _on_the_diagonal(t: float, epsilon: float) -> tuple[float, float, float]:
    """Value, slope and curvature of Eq. 17 at x = (t, t), in float64."""
    u, v = t + 2, t - 2  # d1 = 2 u^2, d2 = 2 v^2
    a, b = np.exp(-0.8 * u**2), (1 - epsilon) * np.exp(-1.6 * v**2)
    # As in `two_basins`, 1 - a - b without cancellation.
    near_first = abs(u) < abs(v)
    rest = -np.expm1(-0.8 * u**2) - b if near_first else -np.expm1(-1.6 * v**2) - a
    value = rest + (0 if near_first else epsilon * np.exp(-1.6 * v**2)) + 4e-3 * (u * v) ** 2
    slope = 1.6 * u * a + 3.2 * v * b + 8e-3 * u * v * (u + v)
    curvature = (1.6 - 2.56 * u**2) * a + (3.2 - 10.24 * v**2) * b
    return float(value), slope, curvature + 8e-3 * (u**2 + 4 * u * v + v**2)


def _lowest_on_the_diagonal(t: float, epsilon: float) -> float:
    """Newton's method from a centre; by symmetry the minimizers have equal coordinates."""
    for _ in range(6):  # the first guess is 5e-6 off; errors square
        _, slope, curvature = _on_the_diagonal(t, epsilon)
        t = t - float(slope / curvature)
    return t


def rosenbrock(n: SupportsIndex = 2) -> Landscape:
    """Rosenbrock: a bent valley.

    $$
    F = sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2
    $$

    Args:
      n: number of coordinates, >= 2.

    Raises:
      TypeError: if `n` is no whole number.
      ValueError: if it is too small.

    >>> float(rosenbrock(3)(jnp.array([0.0, 0.0, 0.0])))
    2.0
    """
    n = _dimension(n, 2)

    def fn(x):
        u = x - 1  # x_{i+1} - x_i^2 = u_{i+1} - u_i (x_i + 1), each term small next to (1, ..., 1)
        return jnp.sum(100 * (u[1:] - u[:-1] * (x[:-1] + 1)) ** 2 + u[:-1] ** 2)

    return _landscape(fn, np.ones(n), -5.0, 10.0)


def rastrigin(n: SupportsIndex = 2) -> Landscape:
    """Rastrigin: a bowl full of holes.

    $$
    F = sum_i x_i^2 + 10 (1 - cos(2 pi x_i))
    $$

    Args:
      n: number of coordinates, >= 1.

    Raises:
      TypeError: if `n` is no whole number.
      ValueError: if it is too small.

    >>> float(rastrigin()(jnp.array([1.0, 2.0])))
    5.0
    """
    n = _dimension(n)
    return _landscape(lambda x: jnp.sum(x**2 + 20 * _sin_pi_squared(x)), np.zeros(n), -5.12, 5.12)


def griewank(n: SupportsIndex = 2) -> Landscape:
    """Griewank: a wide bowl under ripples.

    $$
    F = sum_i x_i^2 / 4000 + 1 - prod_i cos(x_i / sqrt(i))
    $$

    Args:
      n: number of coordinates, >= 1.

    Raises:
      TypeError: if `n` is no whole number.
      ValueError: if it is too small.

    >>> f"{float(griewank()(jnp.array([2 * jnp.pi, 0.0]))):.5f}"  # (2 pi)^2 / 4000
    '0.00987'
    """
    n = _dimension(n)

    def fn(x):
        angle = x / jnp.sqrt(jnp.arange(1, n + 1, dtype=x.dtype))
        # 1 - prod_i c_i = sum_i (1 - c_i) prod_{j < i} c_j
        before = jnp.cumprod(jnp.concatenate([jnp.ones(1, x.dtype), jnp.cos(angle[:-1])]))
        return jnp.sum(x**2) / 4000 + jnp.sum(2 * jnp.sin(angle / 2) ** 2 * before)

    return _landscape(fn, np.zeros(n), -600.0, 600.0)


def levy(n: SupportsIndex = 2) -> Landscape:
    """Levy: waves across a bowl, with u_i = (x_i - 1)/4.

    $$
    F = sin(pi u_1)^2 + sum_{i < n} u_i^2 (1 + 10 sin(pi (u_i + 1) + 1)^2)
    + u_n^2 (1 + sin(2 pi u_n)^2)
    $$

    Args:
      n: number of coordinates, >= 1.

    Raises:
      TypeError: if `n` is no whole number.
      ValueError: if it is too small.

    >>> float(levy()(jnp.array([1.0, 5.0])))
    1.0
    """
    n = _dimension(n)

    def fn(x):
        u = (x - 1) / 4
        inner = u[:-1] ** 2 * (1 + 10 * jnp.sin(jnp.pi * (u[:-1] + 1) + 1) ** 2)
        last = u[-1] ** 2 * (1 + _sin_pi_squared(2 * u[-1]))
        return _sin_pi_squared(u[0]) + jnp.sum(inner) + last

    return _landscape(fn, np.ones(n), -10.0, 10.0)


def styblinski_tang(n: SupportsIndex = 2) -> Landscape:
    """Styblinski-Tang: 2^n local minima.

    $$
    F = 1/2 sum_i (x_i^4 - 16 x_i^2 + 5 x_i)
    $$

    The global one is at the lowest root of 4 x^3 - 32 x + 5.

    Args:
      n: number of coordinates, >= 1.

    Raises:
      TypeError: if `n` is no whole number.
      ValueError: if it is too small.

    >>> f"{styblinski_tang(1).minimum:.4f}"
    '-39.1662'
    """
    n = _dimension(n)
    root = -2.903534027771177
    return _landscape(
        lambda x: jnp.sum(x * (5 + x * (x**2 - 16))) / 2,
        np.full(n, root),
        -5.0,
        5.0,
        minimum=n * root * (5 + root * (root**2 - 16)) / 2,
    )


def himmelblau() -> Landscape:
    """Himmelblau: four equal minima.

    $$
    F = (x^2 + y - 11)^2 + (x + y^2 - 7)^2
    $$

    >>> len(himmelblau().minimizers)
    4
    """

    def fn(x):
        x, y = x
        return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2

    minimizers = [  # where both brackets vanish
        [3.0, 2.0],
        [-2.805118086952745, 3.131312518250573],
        [-3.779310253377747, -3.283185991286169],
        [3.584428340330492, -1.8481265269644036],
    ]
    return _landscape(fn, minimizers, -5.0, 5.0)


def beale() -> Landscape:
    """Beale: steep corners around a flat middle.

    $$
    F = (1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2
    $$

    >>> float(beale()(jnp.array([3.0, 0.5])))
    0.0
    """

    def fn(x):
        # 3 (1 - 0.5^k) - x (1 - y^k) with y^k - 0.5^k = v q, all small next to (3, 0.5)
        u, v, y = x[0] - 3, x[1] - 0.5, x[1]
        quotients = 1, y + 0.5, y**2 + y / 2 + 0.25
        return sum((3 * v * q - u * (1 - y**k)) ** 2 for k, q in enumerate(quotients, start=1))

    return _landscape(fn, [3.0, 0.5], -4.5, 4.5)


def booth() -> Landscape:
    """Booth: a quadratic.

    $$
    F = (x + 2 y - 7)^2 + (2 x + y - 5)^2
    $$

    >>> float(booth()(jnp.array([0.0, 0.0])))
    74.0
    """

    def fn(x):
        u, v = x[0] - 1, x[1] - 3
        return (u + 2 * v) ** 2 + (2 * u + v) ** 2

    return _landscape(fn, [1.0, 3.0], -10.0, 10.0)


def three_hump_camel() -> Landscape:
    """Three-hump camel: three minima.

    $$
    F = 2 x^2 - 1.05 x^4 + x^6 / 6 + x y + y^2
    $$

    >>> float(three_hump_camel()(jnp.array([0.0, 2.0])))
    4.0
    """

    def fn(x):
        x, y = x
        return x**2 * (2 - x**2 * (1.05 - x**2 / 6)) + x * y + y**2

    return _landscape(fn, [0.0, 0.0], -5.0, 5.0)


def six_hump_camel() -> Landscape:
    """Six-hump camel: six minima.

    $$
    F = (4 - 2.1 x^2 + x^4 / 3) x^2 + x y + (4 y^2 - 4) y^2
    $$

    >>> f"{six_hump_camel().minimum:.4f}"
    '-1.0316'
    """

    def fn(x):
        x, y = x
        return x**2 * (4 - x**2 * (2.1 - x**2 / 3)) + x * y + 4 * y**2 * (y**2 - 1)

    point = np.array([0.089842013100318062, -0.71265640302073964])
    return _landscape(fn, [point, -point], -5.0, 5.0, minimum=-1.0316284534898774)
