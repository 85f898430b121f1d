"""The landscapes of the BBI paper: Ackley, Zakharov, and two basins (Eqs. 15 to 17)."""

from typing import SupportsFloat, SupportsIndex

import jax.numpy as jnp
import numpy as np

from kinopt._checks import check_number
from kinopt.landscapes.landscape import Landscape, dimension, landscape, sin_pi_squared

__all__ = ["ackley", "two_basins", "zakharov"]


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
    n = dimension(n)
    check_number("decay", decay, above=0)  # or the egg box has no lowest hole
    decay = float(decay)

    def fn(x):
        mean_square = jnp.mean(x**2)
        at_the_tip = mean_square == 0
        r = jnp.where(at_the_tip, 0, jnp.sqrt(jnp.where(at_the_tip, 1, mean_square)))
        egg_box = -jnp.e * jnp.expm1(-2 * jnp.mean(sin_pi_squared(x)))
        return egg_box - 20 * jnp.expm1(-decay * r)

    return landscape(fn, np.zeros(n), -32.768, 32.768)


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
    n = dimension(n)

    def fn(x):
        s = jnp.sum(jnp.arange(1, n + 1, dtype=x.dtype) * x) / 2
        return jnp.sum(x**2) + s**2 + s**4

    return landscape(fn, np.zeros(n), -5.0, 10.0)


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
    return landscape(fn, [[t, t] for t in points], -10.0, 10.0, minimum)


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
