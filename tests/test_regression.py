"""The tasks of `evidence.regression`, and what it reads of its rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.evidence import ratios, regression
from benchmarks.evidence._search import fit


@pytest.mark.parametrize("name", ["regression", "autoencoder"])
def test_who_knows_nothing_has_the_variance_of_the_targets(name):
    """A network of zeros says the mean; targets are in units of their deviation."""
    task = regression.TASKS[name]()
    params = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
    chosen, judged = task.judge(params)
    index = task.batch(jax.random.key(1))
    assert index.shape == (regression.BATCH,)
    assert 0.3 < task.loss(params, index) < 3
    # Of choice and judgement; the judgement of the regression has no noise, a 25th of the variance.
    assert abs(chosen) < 0.06
    assert abs(judged) < 0.06


def test_the_regression_is_judged_by_friedman_s_function():
    """A training's error must come below that of the noise, which the judgement has not."""
    task = regression.TASKS["regression"]()
    method = regression.METHODS["adamw"]
    h = {"rate": jnp.float32(3e-3), "decay": jnp.float32(1e-2)}
    chosen, judged = jax.jit(lambda: fit(task, method, 800, h, 0))()
    assert judged < chosen < -0.5


@pytest.mark.slow
def test_log_ratios_are_judged_by_their_truth():
    task = regression.TASKS["shift"]()
    params = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
    problem = ratios.PROBLEMS["shift"]
    truth = np.asarray(problem.log_ratio(ratios.judged(problem)))
    chosen, judged = task.judge(params)
    np.testing.assert_allclose(chosen, np.log(2), rtol=1e-5)
    np.testing.assert_allclose(judged, np.log10(np.abs(truth).mean()), rtol=1e-5)


def test_the_reading():
    settings = {"num_seeds": 3, "num_trials": 2, "trial_seeds": 1}

    def row(method, figure):
        found = {"figure": figure, "validation": [0.1, 0.2], "settings": settings}
        return {"task": "regression", "method": method} | found

    rows = [row("adamw", [-1.0, -1.1, -0.9]), row("isokinetic, cool", [-1.5, -1.6, -1.41])]
    assert "**-0.50 ± 0.00**" in regression.table(rows)
    assert "3 fresh seeds" in regression.table(rows)
    assert "regression -0.50 ± 0.00" in regression.headline(rows)
    assert len(regression.plot(rows).axes) == 1


def test_a_running_mean_is_what_is_judged():
    """Of a memory of one step it is the parameters; of a longer one it lags behind."""
    task, steps = regression.TASKS["regression"](), 20
    h = {"rate": jnp.float32(1e-2), "decay": jnp.float32(0.1)}
    plain = fit(task, regression.METHODS["adamw"], steps, h, 0)
    newest, mean = (
        fit(task, regression.METHODS["adamw, averaged"], steps, h | {"memory": memory}, 0)
        for memory in (1.0, 0.1)
    )
    np.testing.assert_allclose(newest, plain, rtol=1e-5)
    assert np.all(mean > plain + 0.01)
