"""The search for f_min, one step at a time, in numbers that can be done by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from kinopt.brackets import Bracket, tighten


def step(gap, quiet, f_min, loss, lowest, first=False):
    """Gap, quiet steps and f_min after a step, under a ceiling of 2."""
    bracket = Bracket(jnp.float32(gap), jnp.int32(quiet))
    bracket, f_min = tighten(bracket, *map(jnp.float32, (f_min, loss, lowest, 2)), first)
    return float(bracket.gap), int(bracket.quiet_steps), float(f_min)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0.25, 7, 1.0, 1.5, 1.25), (0.25, 8, 1.0)),  # a loss above f_min: nothing but waiting
        ((0.25, 7, 1.0, 1.0, 1.25), (0.5, 0, 0.5)),  # at f_min: the gap doubles, below the loss
        ((0.25, 7, 1.0, 0.75, 1.25), (0.5, 0, 0.25)),  # below it
        ((0.25, 7, 1.0, 1.0, 0.5), (0.5, 0, 0.0)),  # below the lowest loss of all
        ((0.5, 98, 0.0, 1.5, 1.0), (0.5, 99, 0.0)),
        ((0.5, 99, 0.0, 1.5, 1.0), (0.25, 0, 0.75)),  # a hundred quiet steps: the gap is halved
        ((0.5, 99, 0.0, 0.5, 1.0), (0.25, 0, 0.25)),  # this loss is the lowest
        ((0.5, 99, 0.875, 1.5, 1.0), (0.25, 0, 0.875)),  # which never lowers f_min
    ],
)
def test_one_step(before, after):
    assert step(*before) == after


def test_the_first_gap_is_a_part_of_what_the_energy_allows():
    gap, quiet, f_min = step(0, 0, 1.0, 1.5, np.inf, first=True)
    np.testing.assert_allclose((gap, quiet, f_min), (1e-3, 1, 1.0))


@pytest.mark.parametrize("lowest", [1024.0, -1024.0, 0.0])
def test_the_gap_stays_above_the_resolution_of_the_loss(lowest):
    """V = loss - f_min is never below eight units in the last place."""
    information = np.finfo(np.float32)
    gap, _, f_min = step(0, 0, lowest, lowest, lowest)
    assert gap == 8 * max(float(information.eps) * abs(lowest), float(information.tiny))
    assert f_min < lowest
