"""What `evidence.ratios` knows exactly, and the search that it shares with others."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from benchmarks.evidence import _search, ratios
from benchmarks.evidence.learning import Method, drawn


@pytest.mark.parametrize("name", ratios.PROBLEMS)
def test_log_ratios_are_those_of_scipy(name):
    problem = ratios.PROBLEMS[name]
    x = np.asarray(ratios.judged(problem))[::100]

    def density(which):
        root = problem.roots[which]
        parts = [stats.multivariate_normal(m, root @ root.T).pdf(x) for m in problem.means[which]]
        return np.mean(parts, axis=0)

    expected = np.log(density(1) / density(0))
    np.testing.assert_allclose(problem.log_ratio(jnp.asarray(x)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", ratios.PROBLEMS)
def test_samples_have_the_moments_of_their_density(name, which):
    problem, number = ratios.PROBLEMS[name], 20_000
    x = np.asarray(problem.sample(jax.random.key(2), which, number))
    means, root = problem.means[which], problem.roots[which]
    mean = means.mean(axis=0)
    covariance = root @ root.T + (means - mean).T @ (means - mean) / len(means)
    error = np.sqrt(np.diag(covariance) / number)
    assert np.all(np.abs(x.mean(axis=0) - mean) < 4 * error)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.all(np.abs(np.cov(x.T) - covariance) < 4 * scale * np.sqrt(3 / number))


@pytest.mark.slow
def test_the_judge_is_a_cross_entropy_and_the_logits():
    """A network that knows nothing has the entropy of a coin."""
    task = ratios.task_of(ratios.PROBLEMS["shift"])
    params = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
    found = task.judge(params)
    np.testing.assert_allclose(found[0], np.log(2), rtol=1e-5)
    assert found.shape == (1 + 2 * ratios.JUDGED,)
    assert not found[1:].any()


def row(problem: str, method: str, error: list[float], deviation: list[float]):
    settings = {"num_seeds": 3, "num_trials": 1, "trial_seeds": 1}
    found = {"error": error, "deviation": deviation, "settings": settings}
    return {"problem": problem, "method": method} | found


def test_the_reading():
    rows = [
        row("shift", "adam", [0.1, 0.2, 0.3], [0.1, 0.1, 0.1]),
        row("shift", "ecd", [0.2, 0.3, 0.4], [0.1, 0.3, 0.2]),
        row("six", "adam", [0.1, 0.2, 0.3], [0.1, 0.1, 0.1]),
    ]
    table = ratios.table(rows)
    assert "0.2000 ± 0.0577" in table
    assert "**0.3000 ± 0.0577**" in table  # each is 0.1 more than its partner
    assert "| 0.2000 ± 0.0577 | 0.1000 ± 0.0000" in table
    assert ratios.headline(rows).endswith("spread: shift 1.50 and 2.00")
    assert [axes.get_title() for axes in ratios.plot(rows).axes] == ["shift", "six"]


# The search


def parabola(lanes: int) -> _search.Task:
    """One step of descent from 1 + seed/1000 towards 0, judged by |x| and x."""
    return _search.Task(
        init=lambda key: jax.random.uniform(key, (2,)) + 1,
        batch=lambda key: jax.random.normal(key),
        loss=lambda x, noise: jnp.sum(x**2) / 2 + 0 * noise,
        judge=lambda x: jnp.append(jnp.linalg.norm(x), x),
        worst=7.0,
        lanes=lanes,
    )


METHODS = {
    "sgd": Method(lambda h, key, n, params: optax.sgd(h["rate"]), {"rate": (0.1, 1.9)}),
    "nan": Method(lambda h, key, n, params: optax.scale(jnp.nan * h["rate"]), {"rate": (0.1, 1.0)}),
}
SETTINGS = types.SimpleNamespace(num_trials=5, trial_seeds=2, num_seeds=3, seed=4)


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_search_finds_the_best_of_what_it_tried(lanes):
    row, found = _search.searched(parabola(lanes), METHODS, "sgd", 1, SETTINGS)
    rates = drawn(METHODS, "sgd", 5)["rate"]
    best = np.abs(1 - rates).argmin()
    assert row["validation"].argmin() == best
    assert row["chosen"] == {"rate": rates[best]}
    np.testing.assert_array_equal(row["tried"]["rate"], rates)
    starts = [
        jax.random.uniform(jax.random.split(jax.random.key(seed), 3)[0], (2,)) + 1
        for seed in (4000, 4001, 4002)
    ]
    np.testing.assert_allclose(found, (1 - rates[best]) * np.array(starts), rtol=1e-4, atol=1e-6)


def test_what_diverges_counts_for_the_worst():
    row, found = _search.searched(parabola(4), METHODS, "nan", 1, SETTINGS)
    assert (row["validation"] == 7).all()
    assert (found == 7).all()
