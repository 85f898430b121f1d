"""Chains of a bouncing descent, on which `evidence.mixing` judges: their shares and their walls."""

import numpy as np
import pytest

from benchmarks.evidence import _bouncing_chains as bouncing
from benchmarks.evidence.mixing import CORE


def test_true_shares_of_level_wells():
    """Images of each other in one dimension; in two, areas of ellipses, of widths 1 and 4."""
    assert bouncing.true_share(bouncing.Wells(1, 4.0, 0.0, 1.3), CORE) == pytest.approx(0.5)
    share = bouncing.true_share(bouncing.Wells(2, 4.0, 0.0, 0.9), CORE)
    assert share == pytest.approx(2 / 3, abs=2e-3)
    tilted = bouncing.true_share(bouncing.Wells(2, 4.0, 0.3, 0.9), CORE)
    assert share < tilted < 1


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [1, 2])
def test_chains_spend_the_true_shares_and_stay_below_the_pass(dimensions):
    high, low = (bouncing.Wells(dimensions, 2.0, 0.3, energy) for energy in (1.3, 0.9))
    chains = bouncing.Chains([high, low])
    starts = np.zeros((400, dimensions))
    starts[:, 0] = np.tile([-1.0, 1.0], 200)
    x, _ = chains.path(high, starts, 8000, 4, 1)
    late = x[:, x.shape[1] // 4 :]
    left, right = (late <= -CORE).sum(axis=1), (late >= CORE).sum(axis=1)
    share = left.sum() / (left + right).sum()
    away = (left - share * (left + right)) / (left + right).mean()
    error = away.std(ddof=1) / np.sqrt(len(away))
    assert error < 0.02
    # The step's own bias, dt^2, is within that of the second term.
    assert abs(share - bouncing.true_share(high, CORE)) < 4 * error + 0.01
    x, v = chains.path(low, starts, 2000, 1, 1)
    assert np.isfinite(v).all()
    assert (np.sign(x) == np.sign(starts[:, :1])).all()
