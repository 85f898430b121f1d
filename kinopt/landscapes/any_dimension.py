"""Landscapes of any number of coordinates that the literature compares optimizers on."""

from typing import SupportsIndex

import jax.numpy as jnp
import numpy as np

from kinopt.landscapes.landscape import Landscape, dimension, landscape, sin_pi_squared

__all__ = ["griewank", "levy", "rastrigin", "rosenbrock", "styblinski_tang"]


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
    n = dimension(n, 2)

    def fn(x):
        u = x - 1  # x_{i+1} - x_i^2 = u_{i+1} - u_i (x_i + 1), each term small next to (1, ..., 1)
        return jnp.sum(100 * (u[1:] - u[:-1] * (x[:-1] + 1)) ** 2 + u[:-1] ** 2)

    return landscape(fn, np.ones(n), -5.0, 10.0)


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
    n = dimension(n)
    return landscape(lambda x: jnp.sum(x**2 + 20 * sin_pi_squared(x)), np.zeros(n), -5.12, 5.12)


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
    n = dimension(n)

    def fn(x):
        angle = x / jnp.sqrt(jnp.arange(1, n + 1, dtype=x.dtype))
        # 1 - prod_i c_i = sum_i (1 - c_i) prod_{j < i} c_j
        before = jnp.cumprod(jnp.concatenate([jnp.ones(1, x.dtype), jnp.cos(angle[:-1])]))
        return jnp.sum(x**2) / 4000 + jnp.sum(2 * jnp.sin(angle / 2) ** 2 * before)

    return landscape(fn, np.zeros(n), -600.0, 600.0)


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
    n = dimension(n)

    def fn(x):
        u = (x - 1) / 4
        inner = u[:-1] ** 2 * (1 + 10 * jnp.sin(jnp.pi * (u[:-1] + 1) + 1) ** 2)
        last = u[-1] ** 2 * (1 + sin_pi_squared(2 * u[-1]))
        return sin_pi_squared(u[0]) + jnp.sum(inner) + last

    return landscape(fn, np.ones(n), -10.0, 10.0)


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
    n = dimension(n)
    root = -2.903534027771177
    return landscape(
        lambda x: jnp.sum(x * (5 + x * (x**2 - 16))) / 2,
        np.full(n, root),
        -5.0,
        5.0,
        minimum=n * root * (5 + root * (root**2 - 16)) / 2,
    )
