"""Landscapes of two coordinates, which can be drawn: with one minimum, or with several."""

import numpy as np

from kinopt.landscapes.landscape import Landscape, landscape

__all__ = ["beale", "booth", "himmelblau", "six_hump_camel", "three_hump_camel"]


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
    return landscape(fn, minimizers, -5.0, 5.0)


def beale() -> Landscape:
    """Beale: steep corners around a flat middle.

    $$
    F = (1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2
    $$

    >>> float(beale()(np.array([3.0, 0.5])))
    0.0
    """

    def fn(x):
        # 3 (1 - 0.5^k) - x (1 - y^k) with y^k - 0.5^k = v q, all small next to (3, 0.5)
        u, v, y = x[0] - 3, x[1] - 0.5, x[1]
        quotients = 1, y + 0.5, y**2 + y / 2 + 0.25
        return sum((3 * v * q - u * (1 - y**k)) ** 2 for k, q in enumerate(quotients, start=1))

    return landscape(fn, [3.0, 0.5], -4.5, 4.5)


def booth() -> Landscape:
    """Booth: a quadratic.

    $$
    F = (x + 2 y - 7)^2 + (2 x + y - 5)^2
    $$

    >>> float(booth()(np.array([0.0, 0.0])))
    74.0
    """

    def fn(x):
        u, v = x[0] - 1, x[1] - 3
        return (u + 2 * v) ** 2 + (2 * u + v) ** 2

    return landscape(fn, [1.0, 3.0], -10.0, 10.0)


def three_hump_camel() -> Landscape:
    """Three-hump camel: three minima.

    $$
    F = 2 x^2 - 1.05 x^4 + x^6 / 6 + x y + y^2
    $$

    >>> float(three_hump_camel()(np.array([0.0, 2.0])))
    4.0
    """

    def fn(x):
        x, y = x
        return x**2 * (2 - x**2 * (1.05 - x**2 / 6)) + x * y + y**2

    return landscape(fn, [0.0, 0.0], -5.0, 5.0)


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
    return landscape(fn, [point, -point], -5.0, 5.0, minimum=-1.0316284534898774)
