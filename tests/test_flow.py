"""Points assigned by the gradient flow, and barriers between minima, against closed forms."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from kinopt import basins, landscapes, plots
from kinopt.basins.passes import lowest_passes

HIMMELBLAU = landscapes.himmelblau()
RASTRIGIN = landscapes.rastrigin(3)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _four():
    return basins.discover(HIMMELBLAU, jnp.asarray(HIMMELBLAU.minimizers))


@pytest.mark.slow
def test_himmelblau_flows_as_a_fine_integration_does():
    """By LSODA with tolerances of 1e-10; a quench leads elsewhere from some of the points."""
    points = np.random.default_rng(0).uniform(-5, 5, (40, 2))
    found = _four()
    slope = jax.jit(jax.grad(HIMMELBLAU.fn))
    truth = []
    for x in points:
        path = scipy.integrate.solve_ivp(
            lambda t, x: -np.asarray(slope(x)), (0, 3), x, method="LSODA", rtol=1e-10, atol=1e-10
        )
        away = np.abs(np.asarray(found.minimizers) - path.y[:, -1]).max(axis=1)
        assert away.min() < 1e-3
        truth.append(1 + int(np.argmin(away)))
    quenched = basins.discover(HIMMELBLAU, jnp.asarray(points))
    order = [int(np.argmin(np.abs(found.minimizers - x).sum(axis=1))) + 1
             for x in np.asarray(quenched.minimizers)]  # fmt: skip
    others = np.array([0, *order])[np.asarray(quenched.label)]
    assigned = basins.assign(HIMMELBLAU, jnp.asarray(points), found, labels=others)
    assert assigned.label.tolist() == truth
    assert int(assigned.num_lost) == 0
    assert float(assigned.differs_labels) == np.mean(others != truth)
    away = np.linalg.norm(points[:, None] - np.asarray(found.minimizers), axis=2)
    assert assigned.nearest.tolist() == (1 + away.argmin(axis=1)).tolist()
    assert float(assigned.differs_nearest) == np.mean(away.argmin(axis=1) + 1 != truth)
    assert 0 < float(assigned.differs_nearest) < 0.2


def _rastrigin(shift: float) -> np.ndarray:
    """Where the slope in one coordinate is zero, next to whole numbers with this shift.

    At 0 these are the minima, and at 1/2 the maxima, between which the basins lie.
    """

    def slope(x):
        return 2 * x + 20 * np.pi * np.sin(2 * np.pi * x)

    places = np.arange(-3, 3) + shift
    return np.array([scipy.optimize.brentq(slope, x - 0.2, x + 0.2) for x in places])


@pytest.mark.slow
def test_rastrigins_basins_are_boxes():
    """Coordinates flow by themselves: what is within 1e-5 of a side is left out."""
    holes, tops = _rastrigin(0.0), _rastrigin(0.5)
    rng = np.random.default_rng(1)
    points = rng.uniform(-1.4, 1.4, (300, 3))
    near = tops[rng.integers(2, 4, (60, 3))] + rng.choice([-1, 1], (60, 3)) * 1e-5
    points = np.concatenate([points, near])
    whole = np.searchsorted(tops, points) - 3
    found = basins.discover(RASTRIGIN, jnp.asarray(holes[np.unique(whole, axis=0) + 3]))
    place = {
        tuple(np.round(x).astype(int)): k for k, x in enumerate(np.asarray(found.minimizers), 1)
    }
    assigned = basins.assign(RASTRIGIN, jnp.asarray(points), found)
    assert assigned.label.tolist() == [place[tuple(x)] for x in whole]


def _two(x):
    """Minima at -+1 and a maximum at 0."""
    return jnp.sum((x**2 - 1) ** 2)


@pytest.mark.slow
def test_a_double_well_and_what_does_not_arrive():
    """A start at the maximum, not finite, at a minimum that is not known; too few steps."""
    found = basins.discover(_two, jnp.array([[-1.1], [1.1]]))
    left = 1 + int(found.minimizers[1, 0] < 0)
    points = jnp.array([[-3.0], [-1e-9], [0.0], [1e-9], [40.0], [jnp.nan], [jnp.inf]])
    right = 3 - left
    others = np.array([right, left, left, right, right, left, left])
    assigned = basins.assign(_two, points, found, labels=others)
    assert assigned.differs_labels == 0.25
    assert assigned.label.tolist() == [left, left, -1, right, right, -1, -1]
    assert int(assigned.num_lost) == 3
    assert assigned.nearest[5:].tolist() == [-1, -1]
    one = basins.discover(_two, jnp.array([[1.1]]))
    assert basins.assign(_two, points, one).label.tolist() == [-1, -1, -1, 1, 1, -1, -1]
    short = basins.assign(_two, points, found, num_steps=1)
    assert short.label.tolist() == [-1] * 7
    assert np.isnan(short.differs_nearest)
    both = basins.discover(_two, jnp.array([[-1.1], [1.1]]), symmetry=jnp.abs)
    folded = basins.assign(_two, points, both, symmetry=jnp.abs)
    assert folded.label.tolist() == [1, 1, -1, 1, 1, -1, -1]
    none = basins.discover(_two, jnp.array([[0.0]]))
    assert basins.assign(_two, points, none).label.tolist() == [-1] * 7


@pytest.mark.slow
def test_trees_flow_too():
    points = {"a": jnp.array([0.2, -0.2]), "b": jnp.ones((2, 2))}
    loss = lambda p: (p["a"] ** 2 - 1) ** 2 + p["a"] / 10 + jnp.sum(p["b"] ** 2)  # noqa: E731
    found = basins.discover(loss, points)
    assert basins.assign(loss, points, found).label.tolist() == [2, 1]


def _saddles() -> dict[tuple[int, int], float]:
    """Himmelblau's, by Newton's method, under the minima (in `minimizers`' order) they lie between.

    Each is known by the minima to which the flow leads on both of its sides.
    """
    slope, bend = jax.grad(HIMMELBLAU.fn), jax.hessian(HIMMELBLAU.fn)
    starts = jnp.array([[-3.07, -0.08], [-0.13, -1.95], [0.09, 2.88], [3.39, 0.07]])
    heights = {}
    for x in starts:
        for _ in range(8):
            x = x - jnp.linalg.solve(bend(x), slope(x))
        sizes, modes = np.linalg.eigh(bend(x))
        assert sizes[0] < 0 < sizes[1]
        sides = jnp.stack([x + 1e-4 * modes[:, 0], x - 1e-4 * modes[:, 0]])
        ends = basins.assign(HIMMELBLAU, sides, _four()).label
        heights[tuple(sorted(ends.tolist()))] = float(HIMMELBLAU(x))
    assert len(heights) == 4
    return heights


@pytest.mark.slow
def test_nudged_paths_reach_himmelblaus_saddles():
    """And straight ones, along which the highest loss is also that of a fine grid, do not."""
    found, heights = _four(), _saddles()
    nudged = basins.barriers(HIMMELBLAU, found, path="nudged")
    straight = basins.barriers(HIMMELBLAU, found)
    assert nudged.at_rest.all()
    assert straight.at_rest.all()
    exact = np.full((4, 4), np.inf)
    for (a, b), height in heights.items():
        np.testing.assert_allclose(nudged.heights[a - 1, b - 1], height, rtol=1e-6)
        exact[a - 1, b - 1] = exact[b - 1, a - 1] = height
    np.fill_diagonal(exact, found.values)
    np.testing.assert_allclose(nudged.passes, lowest_passes(exact), rtol=1e-6, atol=1e-9)
    assert (nudged.heights >= lowest_passes(exact) * (1 - 1e-9) - 1e-9).all(), "upper bounds"
    assert (straight.heights >= nudged.heights - 1e-9).all()
    for a, b in heights:
        ends = found.minimizers[a - 1], found.minimizers[b - 1]
        line = jnp.linspace(0, 1, 20_001)[:, None]
        grid = jax.vmap(HIMMELBLAU.fn)(ends[0] * (1 - line) + ends[1] * line).max()
        np.testing.assert_allclose(straight.heights[a - 1, b - 1], grid, rtol=1e-7)


@pytest.mark.slow
def test_a_double_well_in_five_dimensions():
    """(x^2 - 1)^2 + x/5 in the first, which a shear bends into all others: its top is known."""
    top = np.sort(np.roots([4, 0, -4, 0.2]).real)[1]
    shear = np.arange(1, 5) / 2

    def loss(x):
        valley = jnp.sum((x[1:] - shear * x[0] ** 2) ** 2)
        return (x[0] ** 2 - 1) ** 2 + x[0] / 5 + 3 * valley

    ends = jnp.asarray([[side, *shear] for side in (-1.0, 1.0)])
    found = basins.discover(loss, ends)
    result = basins.barriers(loss, found, path="nudged", tolerance=1e-5)
    assert result.at_rest.all()
    height = (top**2 - 1) ** 2 + top / 5
    np.testing.assert_allclose(result.heights[0, 1], height, rtol=1e-6)
    assert float(result.heights[0, 1]) >= height - 1e-12


@pytest.mark.slow
def test_pairs_that_are_asked_for_and_losses_that_are_not_finite():
    found = _four()
    some = basins.barriers(HIMMELBLAU, found, pairs=np.array([[2, 1], [1, 2], [3, 4], [1, 1]]))
    assert np.isfinite(some.heights).sum() == 4 + 4
    assert np.isinf(some.passes[0, 2])
    walled = lambda x: _two(x) + jnp.where(jnp.abs(x[0]) < 0.2, jnp.nan, 0.0)  # noqa: E731
    apart = basins.discover(walled, jnp.array([[-1.1], [1.1]]))
    for path in ("straight", "nudged"):
        result = basins.barriers(walled, apart, path=path)
        assert np.isinf(result.heights[0, 1])
    assert not result.at_rest[0, 1]


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(1, 8))
def test_passes_are_an_ultrametric_and_the_lowest_chains(seed, number):
    rng = np.random.default_rng(seed)
    heights = rng.integers(0, 20, (number, number)).astype(float)
    heights = np.maximum(heights, heights.T)
    heights[rng.random(heights.shape) < 0.2] = np.inf
    heights = np.maximum(heights, heights.T)
    np.fill_diagonal(heights, 0)
    passes = lowest_passes(heights)
    three = np.maximum(passes[:, :, None], passes[None])  # a, b, c
    assert (passes[:, None] <= three).all()
    assert (passes <= heights).all()
    # At each height, what can be reached below it is a component of the graph.
    for level in np.unique(heights):
        reach = np.linalg.matrix_power((heights <= level).astype(int), number) > 0
        np.testing.assert_array_equal(reach, passes <= level)


def test_the_tree_joins_at_the_passes():
    values = [0.0, 1.0, 2.0, 0.5]
    heights = np.array(
        [[0, 9, 4, np.inf], [9, 1, 5, np.inf], [4, 5, 2, np.inf], [np.inf] * 3 + [0.5]]
    )
    ax = plots.disconnectivity(values, heights, names=["a", "b", "c", "d"])
    lines = [np.asarray(line.get_xydata()) for line in ax.lines]
    assert [line[0, 1] for line in lines[:4]] == values
    assert [line[1, 1] for line in lines[:3]] == [4, 5, 4]
    assert lines[3][1, 1] > 9, "nothing joins the fourth"
    flat = [line for line in lines[4:] if line[0, 1] == line[1, 1]]
    assert [line[0, 1] for line in flat] == [4, 5]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "c", "b", "d"]
    # Each joint begins where the branch below it ends.
    assert {flat[0][:, 0].mean()} <= set(flat[1][:, 0])
    for bad in ([[0, 1], [2, 0]], [[0, -1], [-1, 0]], [[0.0]]):
        with pytest.raises(ValueError, match="heights must"):
            plots.disconnectivity([0.0, 0.0], bad)


def test_arguments_that_make_no_sense():
    found = _four()
    points = jnp.zeros((2, 2))
    assign, barriers = (inspect.unwrap(f) for f in (basins.assign, basins.barriers))
    for arguments, message in [
        ((HIMMELBLAU, points, 3), "found must be what"),
        ((HIMMELBLAU, jnp.zeros((2, 3)), found), "like found.minimizers"),
        ((3, points, found), "loss_fn must be a function"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            assign(*arguments)
    with pytest.raises(ValueError, match="one for each of 2 points"):
        assign(HIMMELBLAU, points, found, labels=np.array([1]))
    with pytest.raises(ValueError, match="accuracy must be"):
        assign(HIMMELBLAU, points, found, accuracy=0.0)
    with pytest.raises(TypeError, match=r"under jax\.jit"):
        jax.jit(lambda p: assign(HIMMELBLAU, p, found).label)(points)
    with pytest.raises(TypeError, match="found must be what"):
        barriers(HIMMELBLAU, points)
    with pytest.raises(ValueError, match="path must be"):
        barriers(HIMMELBLAU, found, path="bent")
    with pytest.raises(ValueError, match="from 1 to 4"):
        barriers(HIMMELBLAU, found, pairs=np.array([[0, 1]]))
