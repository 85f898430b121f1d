"""The NumPy yardstick of `speed.ensemble` is the protocol it says it is."""

import numpy as np
import pytest

from benchmarks.bbi.basins import LANDSCAPE
from benchmarks.speed import ensemble


def test_the_gradient_is_that_of_the_loss():
    import jax

    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32) * 3
    value, gradient = ensemble.loss_and_gradient(x)
    exact, slope = jax.vmap(jax.value_and_grad(LANDSCAPE.fn))(x)
    np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_numpy_and_the_ensemble_end_in_the_same_basins_as_often():
    """400 runs each: ratios within 4 standard errors, steps within 20 %."""
    ours, our_steps = ensemble.kinopt_runs(400, 0)
    theirs, their_steps = ensemble.numpy_runs(400, 0)
    share, other = (np.mean(outcome == 1) for outcome in (ours, theirs))
    assert abs(share - other) < 4 * np.sqrt(2 * 0.62 * 0.38 / 400)
    assert (theirs > 0).all()
    np.testing.assert_allclose(our_steps.mean(), their_steps.mean(), rtol=0.2)
