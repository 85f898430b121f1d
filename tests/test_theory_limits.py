"""The theory where it has no answer, arguments that make no sense, and small closed forms."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinopt import hamiltonians, landscapes, theory

BI = hamiltonians.born_infeld()
# As users call them, without the type checker of these tests.
raw = {name: inspect.unwrap(getattr(theory, name)) for name in theory.__all__}


# Compiled once a shape: one call by one primitive takes longer than the whole.
basin_volume = jax.jit(theory.basin_volume, static_argnames="log")
basin_ratio = jax.jit(theory.basin_ratio)
_region = functools.partial(jax.jit, static_argnums=0)
entry_flux, region_volume = _region(theory.entry_flux), _region(theory.region_volume)
entry_flux_ratio = _region(theory.entry_flux_ratio)
occupancy_ratio = _region(theory.occupancy_ratio)


def bowl(x):
    return jnp.sum(x**2) / 2


def raised(x):
    return 0.1 + bowl(x)


SINGULAR = {
    "zero eigenvalue": jnp.array([1.0, 0.0]),
    "negative eigenvalue": jnp.array([1.0, -1.0]),
    "zero": jnp.zeros((2, 2)),
    "rank one": jnp.ones((2, 2)),
    "rank one, rounded": jnp.array([[1 / 9, 1 / 3], [1 / 3, 1.0]]),
    "indefinite": jnp.diag(jnp.array([1.0, -1.0])),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_a_singular_hessian_has_no_volume_and_no_ratio(name):
    hessian, good = SINGULAR[name], jnp.eye(2)
    assert np.isnan(basin_volume(0.1, hessian, 1.0))
    assert np.isnan(basin_volume(0.1, hessian, 1.0, log=False))
    for v_min in (0.0, 0.1):
        assert np.isnan(basin_ratio(hessian, good, v_min, v_min))
        assert np.isnan(basin_ratio(good, hessian, v_min, v_min))
        assert np.isnan(basin_ratio(hessian, hessian, v_min, v_min))
    if hessian.ndim == 2:
        for measure in (entry_flux, region_volume):
            assert np.isnan(measure(raised, jnp.zeros(2), hessian, 2.0))
        for ratio in (entry_flux_ratio, occupancy_ratio):
            hessians = jnp.stack([good, hessian])
            assert np.isnan(ratio(raised, jnp.zeros((2, 2)), hessians, 2.0))


def test_directions_of_very_different_scale_are_not_singular():
    scales = jnp.array([1e-8, 1.0, 1e8])
    matrix = jnp.sqrt(scales)[:, None] * jnp.array([[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])
    matrix = matrix * jnp.sqrt(scales)
    np.testing.assert_allclose(theory.basin_ratio(matrix, jnp.eye(3)), math.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(theory.basin_ratio(scales, jnp.ones(3)), 1, rtol=1e-5)


def test_depths_that_have_no_volume():
    for v_min in (0.0, -0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="v_min must be a number above 0"):
            theory.basin_volume(v_min, jnp.eye(2), 1.0)
        assert jnp.isnan(jax.jit(theory.basin_volume)(v_min, jnp.eye(2), 1.0)) or v_min == np.inf
    for pair in ((-0.1, 0.1), (0.1, -0.1), (-0.1, -0.1)):
        with pytest.raises(ValueError, match=r"v_min_[12] must be a number at least 0"):
            theory.basin_ratio(jnp.eye(2), jnp.eye(2), *pair)
        assert jnp.isnan(jax.jit(theory.basin_ratio)(jnp.eye(2), jnp.eye(2), *pair))
    for pair in ((0.0, 0.1), (0.1, 0.0)):
        with pytest.raises(ValueError, match="both be above 0, or both 0"):
            theory.basin_ratio(jnp.eye(2), jnp.eye(2), *pair)
        assert jnp.isnan(jax.jit(theory.basin_ratio)(jnp.eye(2), jnp.eye(2), *pair))
    assert theory.basin_ratio(jnp.eye(2), jnp.eye(2)) == 1


def test_dimensions_must_agree():
    for one, two in (
        (jnp.eye(2), jnp.eye(3)),
        (jnp.ones(2), jnp.ones(3)),
        (jnp.eye(2), np.ones(3)),
    ):
        with pytest.raises(ValueError, match=r"same n.*got \d and \d"):
            theory.basin_ratio(one, two)
    for hessian in (jnp.ones((2, 3)), jnp.ones(()), jnp.ones((1, 2, 2)), jnp.ones((0, 0))):
        with pytest.raises(ValueError, match="hessian must be a Hessian"):
            theory.basin_volume(0.1, hessian, 1.0)
    with pytest.raises(ValueError, match=r"hessian must be real numbers of shape \[2, 2\]"):
        theory.entry_flux(bowl, jnp.zeros(2), jnp.eye(3), 1.0)
    np.testing.assert_allclose(theory.basin_ratio(jnp.eye(2), jnp.array([4.0, 9.0])), 6)


def test_regions_that_touch_or_leave_the_positive_potential():
    """f_min too high: V <= 0 at the centre, or on part of the surface."""
    for f_min in (0.0, 0.2, 0.6):
        assert np.isnan(region_volume(bowl, jnp.zeros(2), jnp.eye(2), 2.0, f_min))
    tilted = lambda x: 1.0 + 1.5 * x[0]  # noqa: E731
    assert np.isnan(entry_flux(tilted, jnp.zeros(2), jnp.eye(2), 2.0))
    assert np.isnan(region_volume(tilted, jnp.zeros(2), jnp.eye(2), 2.0))
    nowhere = jnp.array([[0.0, 0.0], [9.0, 9.0]])
    hessians = jnp.stack([jnp.eye(2)] * 2)
    flux = entry_flux_ratio(bowl, nowhere, hessians, 1.0)
    assert np.isnan(flux), "the second cannot be entered"
    assert entry_flux_ratio(bowl, nowhere[::-1], hessians, 1.0) == 0


def test_the_ratio_of_entries_is_the_first_to_the_second():
    """Balls of radius 1 and 2 in a flat potential: circumferences 1 : 2, volumes 1 : 4."""
    flat = lambda x: 0.5 + 0 * jnp.sum(x)  # noqa: E731
    hessians = jnp.stack([jnp.eye(2), jnp.eye(2) / 4])
    ratio = entry_flux_ratio(flat, jnp.zeros((2, 2)), hessians, 2.0)
    np.testing.assert_allclose(ratio, 0.5, rtol=1e-5)
    ratio = occupancy_ratio(flat, jnp.zeros((2, 2)), hessians, 2.0)
    np.testing.assert_allclose(ratio, 0.25, rtol=1e-5)


NUMBERS = {
    "basin_volume": (0.1, np.eye(2), 1.0),
    "basin_ratio": (np.eye(2), np.eye(2), 0.1, 0.1, 1.0),
    "phase_space_density": (BI, 0.5, 1.0, 2),
    "potential_density": (BI, 0.5, 1.0, 2, 0.1),
    "potential_fractions": (BI, np.array([0.1, 0.2]), 1.0, 2, 0.05),
    "pac_bayes_bound": (0.1, 1.0, 100, 0.05),
    "correlation_kl": (0.1, 3, 4),
    "gradient_descent_rate": (1.0, 1.0),
    "born_infeld_rate": (1.0,),
    "entry_flux": (bowl, np.zeros(2), np.eye(2), 2.0, -0.1),
    "region_volume": (bowl, np.zeros(2), np.eye(2), 2.0, -0.1),
    "entry_flux_ratio": (bowl, np.zeros((2, 2)), np.stack([np.eye(2)] * 2), 2.0, -0.1),
    "occupancy_ratio": (bowl, np.zeros((2, 2)), np.stack([np.eye(2)] * 2), 2.0, -0.1),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("wrong", ["1", None, True, 1j, [[1.0], [1.0, 2.0]]], ids=repr)
def test_what_is_no_number_is_refused_by_name(name, wrong):
    given = NUMBERS[name]
    names = list(inspect.signature(raw[name]).parameters)
    for place, argument in enumerate(names[: len(given)]):
        handed_on = name.endswith("_flux_ratio") or name == "occupancy_ratio"
        if argument == "loss_fn" or (handed_on and argument in ("energy", "f_min")):
            continue  # the type checker of these tests is quicker
        changed = [*given[:place], wrong, *given[place + 1 :]]
        with pytest.raises((TypeError, ValueError), match=f"{argument[:-1]}.* (must|is a) "):
            raw[name](*changed)


def test_every_function_of_the_theory_is_here():
    assert set(NUMBERS) == set(theory.__all__)


@pytest.mark.parametrize("name", NUMBERS)
def test_it_traces_under_strict_promotion(name):
    """To the same program."""

    def value():
        return getattr(theory, name)(*NUMBERS[name])

    assert np.isfinite(jax.jit(value)()).all()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        strict = str(jax.make_jaxpr(lambda: value())())
    assert strict == str(jax.make_jaxpr(lambda: value())())


@pytest.mark.parametrize(
    ("name", "place", "wrong"),
    [
        ("phase_space_density", 3, 0),
        ("potential_density", 3, 2.5),
        ("potential_fractions", 1, [0.2, 0.1]),
        ("potential_fractions", 1, [0.0, 0.1]),
        ("potential_fractions", 1, [0.01, 0.1]),
        ("potential_fractions", 1, [0.1]),
        ("pac_bayes_bound", 0, 1.5),
        ("pac_bayes_bound", 1, -1.0),
        ("pac_bayes_bound", 2, 1),
        ("pac_bayes_bound", 3, 0.0),
        ("pac_bayes_bound", 3, 1.0),
        ("correlation_kl", 0, 1.1),
        ("correlation_kl", 0, -0.1),
        ("correlation_kl", 1, 0),
        ("correlation_kl", 2, 0),
        ("gradient_descent_rate", 0, -1.0),
        ("gradient_descent_rate", 1, 0.0),
        ("born_infeld_rate", 0, -1.0),
        ("basin_volume", 2, 0.0),
        ("basin_ratio", 4, -1.0),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name, place, wrong):
    given = NUMBERS[name]
    argument = list(inspect.signature(raw[name]).parameters)[place]
    with pytest.raises((TypeError, ValueError), match=f"{argument} (must|is)"):
        raw[name](*given[:place], wrong, *given[place + 1 :])


def test_closed_forms():
    np.testing.assert_allclose(theory.gradient_descent_rate(3.0, 2.0), 1.5)
    np.testing.assert_allclose(theory.born_infeld_rate(8.0), 2.0)
    bound = theory.pac_bayes_bound(0.25, 3.0, 101, 0.1)
    np.testing.assert_allclose(bound, 0.25 + math.sqrt((3 + math.log(1010)) / 200), rtol=1e-6)
    two = theory.correlation_kl(0.5, 2, 3)  # -3/2 log((1 - 1/2)(1 + 1/2))
    np.testing.assert_allclose(two, -1.5 * math.log(0.75), rtol=1e-6)
    # n = 2: Omega E / V; n = 3: 4 pi (E / V) sqrt(E^2 / V - V)
    np.testing.assert_allclose(
        theory.phase_space_density(BI, 0.5, 2.0, 3, log=False),
        4 * math.pi * 4 * math.sqrt(7.5),
        rtol=1e-6,
    )
    # n = 1: Vol = 4 / m int_0^1 d eta / sqrt(V_I + eta^2/2) = 4 sqrt(2) / m asinh(1 / sqrt(2 V_I))
    volume = theory.basin_volume(0.5, jnp.array([4.0]), 7.0, log=False)
    np.testing.assert_allclose(volume, 4 * math.sqrt(2) / 2 * math.asinh(1.0), rtol=1e-6)


LANDSCAPES = [name for name in landscapes.__all__ if name != "Landscape"]


@pytest.mark.parametrize("name", LANDSCAPES)
def test_landscapes_under_strict_promotion_and_with_whole_numbers(name):
    landscape = getattr(landscapes, name)()
    point = np.arange(1, 1 + landscape.n)
    x = jnp.asarray(point, jnp.float32)

    def program():
        return str(jax.make_jaxpr(lambda x: jax.value_and_grad(landscape)(x))(x))

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        strict = program()
    assert strict == program()
    np.testing.assert_allclose(jax.jit(landscape)(point), jax.jit(landscape)(x), rtol=1e-6)
    for wrong in (1j * point, "x", None, [True] * landscape.n):
        with pytest.raises(TypeError, match="x must be real numbers; got"):
            inspect.unwrap(landscapes.Landscape.__call__)(landscape, wrong)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "2", None, True, np.nan], ids=repr)
def test_landscapes_refuse_what_is_no_number_of_coordinates(wrong):
    for name in LANDSCAPES:
        factory = inspect.unwrap(getattr(landscapes, name))
        if "n" in inspect.signature(factory).parameters:
            with pytest.raises((TypeError, ValueError), match="n, the number of coordinates, must"):
                factory(wrong)
    for factory, name in ((landscapes.ackley, "decay"), (landscapes.two_basins, "epsilon")):
        if not isinstance(wrong, int) or wrong < 0 or wrong is True:
            with pytest.raises((TypeError, ValueError), match=f"{name} must be a number"):
                inspect.unwrap(factory)(**{name: wrong if wrong != 2.5 else -2.5})
    assert landscapes.ackley(np.int64(3), np.float32(0.2)).n == 3
