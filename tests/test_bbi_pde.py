"""The nonlinear Poisson problem: its solutions, the network's Laplacian, the measure of errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.bbi import _poisson as poisson
from benchmarks.bbi import pde


@pytest.mark.slow
def test_the_laplacian_is_the_trace_of_the_hessian():
    with jax.enable_x64(True):
        params = poisson.initial(jax.random.key(0), 6, 2)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
        u, laplacian = poisson.fields(params, x)
        hessians = jax.vmap(jax.hessian(lambda x: poisson.values(params, x)))(x)
        np.testing.assert_allclose(u, poisson.values(params, x), atol=1e-12)
        np.testing.assert_allclose(laplacian, jnp.trace(hessians, axis1=1, axis2=2), atol=1e-10)


def test_the_source_is_that_of_the_paper():
    s = np.linspace(0, 1, 50)
    terms = 4 * (1 + 6400 * s) * np.cos(40 * s) + 640 * np.sin(40 * s)
    with jax.enable_x64(True):
        source = poisson.Poisson(20).source(jnp.asarray(s))
    np.testing.assert_allclose(source, (3 - terms + np.cos(80 * s)) / 8, atol=1e-9)
    assert poisson.Poisson(20).boundary == pytest.approx(0.833469, abs=1e-6)


@pytest.mark.parametrize(("shift", "center"), [(0.0, -9.298), (-2.0, -5.183)])
def test_shooting_finds_two_solutions_of_the_equation(shift, center):
    problem = poisson.Poisson(2, shift)
    known, other = poisson.solutions(problem, lowest=-20, highest=5, number=30)
    assert known == pytest.approx(shift, abs=1e-8)
    assert other == pytest.approx(center, abs=1e-3)
    r = np.linspace(0.2, 1, 1601)
    u, slope = problem.shoot(other, r)
    assert u[-1] == pytest.approx(problem.boundary, abs=1e-8)
    bend = np.gradient(slope, r)[1:-1]
    with jax.enable_x64(True):
        f = np.asarray(problem.source(jnp.asarray(r**2)))
    off = (-bend - slope[1:-1] / r[1:-1]) + (u**2 - f)[1:-1]
    assert np.abs(off).max() < 1e-3


def test_the_error_of_a_multiple_is_its_excess():
    problem, radii = poisson.Poisson(2, -2), poisson.midpoints(60)
    exact = np.stack([np.asarray(problem.known(radii**2)), np.ones(60)])
    errors = poisson.relative_errors(
        lambda x: 1.1 * problem.known(jnp.sum(x**2, axis=-1)), exact, angles=5
    )
    assert float(errors[0]) == pytest.approx(0.1, abs=1e-5)
    assert float(errors[1]) > 1


def test_a_run_that_fails_has_found_nothing():
    errors = np.array([[0.01, 0.7], [0.6, 0.04], [0.3, 0.4], [np.nan, np.nan]])
    assert pde.outcomes(errors, 0.05).tolist() == [0, 1, -1, -1]


def test_points_lie_in_the_disc_and_on_the_circle():
    settings = pde.Settings(num_points=4000, num_boundary=50)
    inside, boundary = pde.points(np.random.default_rng(0), settings)
    radius_sq = np.sum(inside**2, axis=1)
    assert radius_sq.max() <= 1
    assert radius_sq.mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(np.sum(boundary**2, axis=1), 1, rtol=1e-5)
