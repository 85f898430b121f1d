"""What both laws measure on rows: at zero, at rest, and where a scale is common to all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinopt.collisions import rows


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_unit_of_zeros_is_one():
    """Both ratios are then |X|^2 itself, in the unit of X: of 2 x 3 twos 24."""
    x, zeros = jnp.full((2, 3), 2.0), jnp.zeros((2, 3))
    assert rows.binary_scale(zeros) == 1
    of_x, of_zeros = rows.scales(x), rows.scales(zeros)
    assert of_zeros.unit == 1
    assert rows.squared_ratio(x, of_zeros) == 24
    assert rows.energy_ratio(x, zeros, of_zeros) == 1 + 24
    assert rows.squared_ratio(zeros, of_x) == rows.energy_ratio(zeros, x, of_x) == 0
    assert rows.energy_ratio(x, x, of_x) == 1
    assert rows.in_common(zeros, of_zeros) == (0, 0)
    one = zeros.at[0].set(1)
    assert rows.in_common(one, rows.scales(one)) == (0.5, 0)  # there is no pair


@pytest.mark.parametrize("power", [-100, 0, 100])
def test_ratios_of_any_unit(power):
    """With a neuron at rest among them."""
    x, g = np.float32(normal(2, 4, 3))
    g[1] = 0
    unit = np.float32(2.0**power)
    expected = np.sum(x**2, dtype=np.float64) / np.sum(g**2, dtype=np.float64)
    x, scaled = jnp.asarray(unit * x), jnp.asarray(unit * g)
    of_g = rows.scales(scaled)
    assert rows.squared_ratio(x, of_g) == pytest.approx(expected, rel=1e-5)
    assert rows.energy_ratio(x, scaled, of_g) == pytest.approx(expected, rel=1e-5)
    mean = g.mean(axis=0, dtype=np.float64)
    common = 4 * np.sum(mean**2) / np.sum(g**2, dtype=np.float64)
    assert rows.in_common(scaled, of_g).mode == pytest.approx(common, rel=1e-5)


def test_centred_rows_have_no_mean():
    """And the differences that they had."""
    with jax.enable_x64(True):
        x = normal(5, 3) + 7
        centred = np.asarray(rows.centred(jnp.asarray(x)))
    np.testing.assert_allclose(centred, x - x.mean(axis=0), rtol=0, atol=1e-14)
