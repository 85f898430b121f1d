"""Averages at temperatures: against quadrature; and NaN with a reason where they would lie."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import kinopt
from kinopt.averages.doubts import doubts
from kinopt.averages.minima import Quench
from kinopt.averages.walk import Shell, begin, log_density, step, turned

TEMPERATURES = (0.5, 1.0, 4.0)


def quartic(x):
    return jnp.sum(x**4) / 4


def double_well(x):
    return 4 * (x[0] ** 2 - 1) ** 2 + x[0] / 2 + jnp.sum(x[1:] ** 2) / 2


def gaussians(x):
    """Widths 1 and 1/2, four apart, equal weights."""
    n = x.size
    parts = [
        -jnp.sum((x - jnp.zeros(n).at[0].set(centre)) ** 2) / (2 * width**2) - n * jnp.log(width)
        for centre, width in ((-2.0, 1.0), (2.0, 0.5))
    ]
    return n / 2 * jnp.log(2 * jnp.pi) + jnp.log(2) - jnp.logaddexp(*parts)


# The walk


@functools.partial(jax.jit, static_argnames=("loss_fn", "n", "tested", "num_steps", "chains"))
def walked(loss_fn, n, length, tested, num_steps, chains, energy):
    """Where independent walks are after so many steps, [chains, n]."""
    shell = Shell(jnp.array(-1.0), jnp.asarray(energy), jnp.asarray(length), jnp.array(5))

    def chain(key):
        walk = begin(loss_fn, jax.random.normal(key, (n,)), shell, n)
        return jax.lax.fori_loop(
            0,
            num_steps,
            lambda k, walk: step(loss_fn, walk, key, k, shell, (n, tested)),
            walk,
        ).x

    return jax.vmap(chain)(jax.random.split(jax.random.key(3), chains))


def ks_p(loss_fn, n, length, tested):
    """The p value of the first coordinate's distribution, by quadrature over the others."""
    energy = 6.0
    x = np.asarray(walked(loss_fn, n, length, tested, 400, 4000, energy))[:, 0]
    grid = np.linspace(-5, 5, 801)
    shell = Shell(-1.0, energy, None, None)
    points = np.stack(np.meshgrid(*[grid] * n, indexing="ij"), axis=-1).reshape(-1, n)
    losses = jax.jit(jax.vmap(loss_fn))(jnp.asarray(points, jnp.float32))
    density = np.exp(np.asarray(log_density(losses, shell, n), np.float64)).reshape([801] * n)
    density = density.reshape(801, -1).sum(axis=1)
    cumulative = integrate.cumulative_trapezoid(density, grid, initial=0)
    return stats.kstest(x, lambda v: np.interp(v, grid, cumulative / cumulative[-1])).pvalue


@pytest.mark.parametrize(
    ("loss_fn", "n", "length"),
    [
        pytest.param(quartic, 1, 1.5, marks=pytest.mark.slow),
        (quartic, 2, 5.0),
        pytest.param(double_well, 1, 0.5, marks=pytest.mark.slow),
        pytest.param(gaussians, 2, 3.5, marks=pytest.mark.slow),
    ],
)
def test_a_tested_step_leaves_the_density_as_it_is_at_any_length(loss_fn, n, length):
    assert ks_p(loss_fn, n, length, tested=True) > 1e-3


@pytest.mark.parametrize(("loss_fn", "length"), [(quartic, 5.0), (gaussians, 3.5)])
@pytest.mark.slow
def test_a_step_that_is_not_tested_does_not(loss_fn, length):
    assert ks_p(loss_fn, 2, length, tested=False) < 1e-3


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.slow
def test_the_turn_stretches_directions_by_the_factor_it_says(n):
    keys = jax.random.split(jax.random.key(n))
    u, force = (jax.random.normal(key, (n,)) for key in keys)
    u = u / jnp.linalg.norm(u)
    new, k = turned(u, force, jnp.array(0.7))
    turn = jax.jacobian(lambda u: turned(u / jnp.linalg.norm(u), force, jnp.array(0.7))[0])(u)
    # Bases of the two tangent planes.
    before, after = (np.linalg.svd(np.asarray(v)[None])[2][1:] for v in (u, new))
    factor = abs(np.linalg.det(after @ np.asarray(turn) @ before.T))
    np.testing.assert_allclose(factor, np.exp(-k), rtol=1e-4)
    back = turned(-new, force, jnp.array(0.7))[0]
    np.testing.assert_allclose(back, -u, atol=1e-4)


# The averages


def near(found, truth, error, most=4.5):
    away = np.abs(np.asarray(found) - np.asarray(truth)) / np.asarray(error)
    assert (away < most).all(), away


@pytest.mark.slow
def test_a_quartic_well_at_three_temperatures():
    found = kinopt.canonical(quartic, jnp.array([1.0]), TEMPERATURES, num_steps=4000, chains=32)
    t = np.array(TEMPERATURES)
    assert found.reasons == ()
    near(found.mean, t / 4, found.standard_error)
    exact = np.log(2 * (4 * t) ** 0.25 * special.gamma(1.25))
    near(found.log_evidence, exact, found.log_evidence_error)
    assert found.mean.dtype == np.float64
    assert (found.step_bias == 0).all()


@pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_wells_have_their_weights_free_energies_and_evidence(n):
    starts = jnp.zeros((2, n)).at[:, 0].set(jnp.array([-1.0, 1.0]))
    found = kinopt.canonical(
        double_well,
        starts,
        TEMPERATURES,
        num_steps=8000,
        chains=16,
        observables=lambda x: {"left": x[0] < 0, "square": x[:1] ** 2},
    )
    assert found.reasons == ()
    x = np.linspace(-4, 4, 8001)
    for k, t in enumerate(TEMPERATURES):
        p = np.exp(-(4 * (x**2 - 1) ** 2 + x / 2) / t)
        z, left = np.trapezoid(p, x), np.trapezoid(p * (x < 0), x)
        near(found.mean["left"][k], left / z, found.standard_error["left"][k])
        square = np.trapezoid(p * x**2, x) / z
        near(found.mean["square"][k, 0], square, found.standard_error["square"][k, 0])
        exact = np.log(z) + (n - 1) / 2 * np.log(2 * np.pi * t)
        near(found.log_evidence[k], exact, found.log_evidence_error[k])
    # The wells' quadratic models meet next to the barrier, where at low T nothing is.
    weights = found.mode_weights[0]
    near(weights[0], found.mean["left"][0], 0.01, most=1)
    np.testing.assert_allclose(
        found.free_energy[:, 1], -np.array(TEMPERATURES) * np.log(found.mode_weights[:, 1]
        / found.mode_weights[:, 0])
    )  # fmt: skip
    assert found.mean["square"].shape == (3, 1)
    assert found.minimizers.shape == (2, n)


def test_two_gaussians_are_told_apart():
    starts = jnp.array([[2.0, 0, 0], [-2.0, 0, 0]])
    found = kinopt.canonical(gaussians, starts, 1.0, num_steps=5000, chains=16)
    assert found.reasons == ()
    near(found.mode_weights[0, 0], 0.5, np.hypot(found.mode_weights_error[0, 0], 0.01))
    near(found.log_evidence, 0, found.log_evidence_error)


@pytest.mark.slow
def test_errors_between_chains_are_of_the_right_size():
    def loss(x):
        return jnp.sum(x**2) / 2

    settings = {"num_steps": 500, "refuse": False}
    runs = [kinopt.canonical(loss, jnp.ones(2), 1.0, key=key, **settings) for key in range(12)]
    means = np.array([found.mean[0] for found in runs])
    said = np.sqrt(np.mean([found.standard_error[0] ** 2 for found in runs]))
    # Of F with 11 and 12 x 7 degrees of freedom: single scores have the long tails of t with 7.
    low, high = np.sqrt(stats.f.ppf([5e-4, 1 - 5e-4], 11, 84))
    assert low < np.std(means, ddof=1) / said < high
    near(means.mean(), 1, said / np.sqrt(12))


@pytest.mark.slow
def test_the_surface_of_mueller_and_brown():
    from benchmarks.evidence._canonical_targets import target

    with jax.enable_x64(True):
        what = target("Mueller-Brown, n = 2")
    found = kinopt.canonical(
        what.loss,
        jnp.asarray(what.starts),
        what.temperature,
        num_steps=20_000,
        observables=lambda x: (what.side(x), what.loss(x)),
    )
    assert found.reasons == ()
    assert len(found.minima) == 3  # the third is not below the starts
    near([x[0] for x in found.mean], what.truth, [x[0] for x in found.standard_error])


# What makes it lie


@pytest.mark.slow
def test_the_bias_of_a_step_that_is_not_tested_is_measured():
    found = kinopt.canonical(
        quartic, jnp.ones(3), 1.0, num_steps=8000, dt=2.5, chains=16, adjust=False, refuse=False
    )
    off = abs(found.mean - 0.75)
    assert off > 4 * found.standard_error
    assert off < 3 * found.step_bias


def test_an_energy_below_the_barrier_is_refused():
    starts = jnp.array([[-1.0], [1.0]])

    def high(x):
        return 80 * (x[0] ** 2 - 1) ** 2 + x[0] / 4

    found = kinopt.canonical(high, starts, 1.0, num_steps=2000, energy=30.0)
    assert np.isnan(found.mean).all()
    assert np.isnan(found.mode_weights).all()
    assert np.isnan(found.log_evidence).all()
    assert any("0.0 crossings" in reason for reason in found.reasons)
    assert not found.crossings.any()
    told = kinopt.canonical(high, starts, 1.0, num_steps=2000, energy=30.0, refuse=False)
    assert np.isfinite(told.mean).all()
    assert told.reasons == found.reasons


@pytest.mark.slow
def test_an_energy_below_what_a_temperature_needs_is_refused():
    found = kinopt.canonical(
        lambda x: jnp.sum(x**2) / 2, jnp.ones(2), [0.1, 1.0], num_steps=2000, energy=2.0
    )
    assert np.isfinite(found.mean[0])
    assert np.isnan(found.mean[1])
    assert any("T = 1:" in reason and "higher energy" in reason for reason in found.reasons)


@pytest.mark.slow
def test_few_effective_samples_are_refused():
    found = kinopt.canonical(
        lambda x: jnp.sum(x**2) / 2, jnp.ones(40), 1.0, num_steps=500, hot=10.0
    )
    assert np.isnan(found.mean).all()
    assert any("independent samples" in reason for reason in found.reasons)
    assert found.ess < 50


@pytest.mark.slow
def test_a_deeper_minimum_that_is_met_becomes_the_new_start():
    def tilted(x):
        return (x[0] ** 2 - 1) ** 2 + x[0] + jnp.sum(x[1:] ** 2)

    found = kinopt.canonical(tilted, jnp.array([1.0, 0.0]), 0.3, num_steps=4000)
    assert found.minimizers[0, 0] < -1
    assert found.settings.f_min < found.minima[0] < -0.9
    assert found.num_gradients > 1.05 * 8 * 4000  # the first burn-in counts
    assert found.reasons == ()


@pytest.mark.slow
def test_f_min_above_a_deeper_minimum_is_told():
    def tilted(x):
        return (x[0] ** 2 - 1) ** 2 + x[0] + jnp.sum(x[1:] ** 2)

    found = kinopt.canonical(tilted, jnp.array([1.0, 0.0]), 0.3, num_steps=4000, f_min=0.5)
    assert np.isnan(found.mean).all()
    assert "f_min must leave room" in found.reasons[0]
    with pytest.raises(ValueError, match="f_min must leave room"):
        kinopt.canonical(tilted, jnp.array([-1.0, 0.0]), 0.3, num_steps=40, f_min=0.5)


@pytest.mark.slow
def test_a_wall_of_nan_is_a_wall():
    def half(x):
        return jnp.where(x[0] > 0.0, (x[0] - 0.5) ** 2 / 2, jnp.nan) + jnp.sum(x[1:] ** 2) / 2

    found = kinopt.canonical(
        half, jnp.ones(2), 1.0, num_steps=8000, chains=16, observables=lambda x: x[0]
    )
    exact = 0.5 + stats.norm.pdf(0.5) / stats.norm.cdf(0.5)
    near(found.mean, exact, found.standard_error)
    assert found.num_skipped.all()
    assert not found.num_halted.any()


@pytest.mark.slow
def test_flat_directions_have_no_evidence_and_no_modes():
    def ring(x):
        return 5 * (jnp.sum(x**2) - 1) ** 2

    found = kinopt.canonical(ring, jnp.eye(2), 1.0, num_steps=4000, chains=16)
    r = np.linspace(0, 4, 4001)
    p = r * np.exp(-5 * (r**2 - 1) ** 2)
    near(found.mean, (p * 5 * (r**2 - 1) ** 2).sum() / p.sum(), found.standard_error)
    assert np.isnan(found.log_evidence).all()
    assert any("flat directions" in reason for reason in found.reasons)
    assert len(found.minima) == 1


def test_a_mode_that_is_not_visited_matters_where_it_is_low():
    ts, ones = np.array([0.1, 1.0]), np.ones(2)
    reasons, refused = doubts(
        ts, 100 * ones, np.array([50, 50]), np.array([True, False]), np.array([0.0, 2.0]), 0 * ones
    )
    assert refused.tolist() == [False, True]
    assert "mode 2" in reasons[0]


# Arguments


@pytest.mark.slow
def test_parameters_and_observables_are_trees():
    starts = {"a": jnp.ones((2, 2)), "b": jnp.zeros((), jnp.float16)}

    def loss(p):
        return jnp.sum(p["a"] ** 2) / 2 + p["b"] ** 2 / 2

    found = kinopt.canonical(
        loss, starts, 1.0, num_steps=1000, observables=lambda p: {"norm": p["a"] ** 2}
    )
    assert found.mean["norm"].shape == (1, 2, 2)
    assert found.minimizers["a"].shape == (1, 2, 2)
    near(found.mean["norm"], 1, found.standard_error["norm"])
    many = jax.tree.map(lambda x: jnp.stack([x, x]), starts)
    again = kinopt.canonical(
        loss, many, 1.0, num_steps=1000, observables=lambda p: p["b"], stacked=True, refuse=False
    )
    assert again.mean.shape == (1,)


@pytest.mark.slow
def test_it_is_the_same_for_all_kinds_of_key_and_another_for_another():
    def mean(key):
        settings = {"num_steps": 10, "chains": 2, "refuse": False}
        return kinopt.canonical(quartic, jnp.ones(2), 1.0, key=key, **settings).mean[0]

    assert mean(jax.random.key(3)) == mean(3) != mean(4)


LOSS, START = (lambda x: jnp.sum(x**2)), np.ones(2)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"loss_fn": 3}, TypeError, "loss_fn must be a function"),
        ({"loss_fn": lambda x: x}, TypeError, "scalar loss"),
        ({"starts": np.arange(2)}, TypeError, "floating arrays"),
        ({"starts": {}}, ValueError, "starts must be"),
        ({"starts": np.ones((0, 2))}, ValueError, "at least one"),
        ({"temperatures": 0.0}, ValueError, "temperatures must be"),
        ({"temperatures": "cold"}, TypeError, "temperatures must be"),
        ({"temperatures": np.ones((2, 2))}, ValueError, "temperatures must be a number"),
        ({"num_steps": 5}, ValueError, "num_steps"),
        ({"num_steps": 10.5}, TypeError, "num_steps"),
        ({"chains": 1}, ValueError, "chains"),
        ({"observables": 3}, TypeError, "observables must be a function"),
        ({"modes": 3}, TypeError, "modes must be a function"),
        ({"dt": 0.0}, ValueError, "dt must be"),
        ({"hot": -1.0}, ValueError, "hot must be"),
        ({"energy": 0.1}, ValueError, "energy must leave room"),
        ({"bounce_every": 0}, ValueError, "bounce_every"),
        ({"key": 0.5}, TypeError, "key must be"),
        ({"adjust": "no"}, TypeError, "adjust must be True or False"),
        ({"loss_fn": lambda x: -jnp.sum(x**2)}, ValueError, "no start leads to a minimum"),
        ({"loss_fn": lambda x: jnp.sum(x) * jnp.nan}, ValueError, "no start leads to a minimum"),
    ],
)
def test_what_makes_no_sense_is_refused(changed, error, words):
    arguments = {"loss_fn": LOSS, "starts": START, "temperatures": 1.0, "num_steps": 10} | changed
    with pytest.raises(error, match=words):
        inspect.unwrap(kinopt.canonical)(**arguments)  # what a user calls, without type checks


def test_it_cannot_be_traced():
    with pytest.raises(TypeError, match="jit"):
        jax.jit(lambda x: kinopt.canonical(LOSS, x, 1.0, num_steps=10).mean)(START)


def test_quenches_end_in_the_minima_and_not_on_saddles():
    with jax.enable_x64(True):
        search = Quench(kinopt.landscapes.himmelblau().fn, 1.0, 8)
        points = jax.random.uniform(jax.random.key(0), (40, 2), minval=-5.0, maxval=5.0)
        found = search(jnp.concatenate([points, jnp.array([[-0.270845, -0.923039]])]))
    known = kinopt.landscapes.himmelblau().minimizers
    away = np.abs(np.asarray(found.x)[:, None] - known).max(axis=-1)
    assert len(found.x) == 4
    assert (away.min(axis=0) < 1e-7).all()
