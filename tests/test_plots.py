"""Pictures: they return axes, draw the right numbers, and leave Matplotlib alone."""

import inspect
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

import kinopt
from kinopt import plots


@pytest.fixture(autouse=True)
def _no_open_figures():
    yield
    pyplot.close("all")


def test_the_heat_map_shows_the_cosines():
    weights = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    axes = plots.similarity_heatmap(weights)
    expected = [[1, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 0]]
    image = axes.images[0]
    np.testing.assert_allclose(image.get_array(), expected, atol=1e-6)
    assert image.get_clim() == (-1, 1)
    assert len(axes.figure.axes) == 2  # the other is the scale


def test_the_heat_map_draws_where_it_is_told():
    axes = Figure().add_subplot()
    assert plots.similarity_heatmap(np.eye(3), axes, colorbar=False) is axes
    assert axes.figure.axes == [axes]


def test_sorted_neurons_stand_in_blocks():
    weights = np.array([[1, 0.1], [-1, 0.1], [1, -0.1], [-1, 0]])
    cosines = plots.similarity_heatmap(weights, sort=True, colorbar=False).images[0].get_array()
    assert (cosines[:2, :2] > 0.9).all()
    assert (cosines[2:, 2:] > 0.9).all()
    assert (cosines[:2, 2:] < -0.9).all()


def test_the_grid_has_a_map_for_each_pair_and_one_scale():
    maps = {name: {"tanh": np.eye(3), "relu": np.ones((3, 2))} for name in ("none", "soft")}
    grid = plots.similarity_heatmaps(maps)
    assert grid.shape == (2, 2)
    assert len(grid[0, 0].figure.axes) == 5
    np.testing.assert_allclose(grid[1, 1].images[0].get_array(), 1, atol=1e-6)
    assert grid[0, 1].get_title() == "relu\nmean |cos| 1.00"
    assert grid[1, 0].get_title() == "mean |cos| 0.00"
    assert [line[0].get_ylabel() for line in grid] == ["none", "soft"]
    figure = Figure()
    assert plots.similarity_heatmaps(maps, figure)[0, 0].figure is figure


@pytest.mark.parametrize("maps", [{}, {"none": {}}, {"a": {"x": np.eye(2)}, "b": {}}])
def test_the_grid_refuses_lines_of_different_columns(maps):
    with pytest.raises(ValueError, match="same columns"):
        plots.similarity_heatmaps(maps)


def test_the_heat_map_refuses_what_is_not_a_matrix():
    with pytest.raises(ValueError, match=r"got shape \(3, 3, 4, 8\)"):
        plots.similarity_heatmap(np.zeros((3, 3, 4, 8)))


def test_the_curves_are_means_with_a_band():
    three = np.array([[1, 2, 3], [3, 2, 1], [2, 2, 2]])
    axes = plots.training_curves([1, 2, 3], {"three": three, "one": [[1, 1, 0]]})
    first, second = axes.lines
    np.testing.assert_allclose(first.get_ydata(), [2, 2, 2])
    np.testing.assert_allclose(second.get_ydata(), [1, 1, 0])
    (band,) = axes.collections  # a single seed has no error
    heights = band.get_paths()[0].vertices[:, 1]
    error = 1 / np.sqrt(3)
    np.testing.assert_allclose([heights.min(), heights.max()], [2 - error, 2 + error])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["three", "one"]


def test_losses_are_medians_with_quartiles():
    five = np.array([[1.0], [2.0], [3.0], [4.0], [np.nan]]) * [1, 10]
    axes = plots.loss_curves([0, 1], {"five": five, "one": [1.0, 0.0]})
    first, second = axes.lines
    np.testing.assert_allclose(first.get_ydata(), [3, 30])
    np.testing.assert_allclose(second.get_ydata(), [1, 0])
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [2, 40])
    assert axes.get_yscale() == "log"
    axes.figure.canvas.draw()


def test_losses_that_diverged_are_drawn_without_complaint():
    axes = plots.loss_curves([0, 1], {"gone": np.full((4, 2), np.nan), "here": [1.0, 0.1]})
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    assert low < 0.1 < 1 < high < 10


def test_profiles_of_runs_under_the_exact_solutions():
    x = np.linspace(-1, 1, 5)
    axes = plots.solution_profiles(
        x, {"first": [x, 2 * x], "second": x**2}, exact={"exact": x**2, "other": 0 * x}
    )
    for line, expected in zip(axes.lines, [x, 2 * x, x**2, x**2, 0 * x], strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.stack([x, expected], axis=1))
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["first", "second", "exact", "other"]
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()


def bowl(x):
    return 0.5 * x[0] ** 2 + 2 * x[1] ** 2


def test_trajectories_have_a_start_an_end_and_outlines():
    paths = np.array([[[0.0, 0.0], [1.0, 2.0]], [[3.0, 0.0], [-1.0, 1.0]]])
    hessian = np.diag([1.0, 4.0])
    axes = plots.trajectories(bowl, paths, minimizers=[[1.0, 0.0]], hessians=[hessian])
    first, second, outline = axes.lines
    np.testing.assert_allclose(first.get_xydata(), paths[0])
    np.testing.assert_allclose(second.get_xydata(), paths[1])
    eta = outline.get_xydata() - [1.0, 0.0]
    np.testing.assert_allclose(np.einsum("ki,ij,kj->k", eta, hessian, eta), 1)
    offsets = [scatter.get_offsets() for scatter in axes.collections[-4:]]
    np.testing.assert_allclose(np.concatenate(offsets), np.concatenate(paths))
    assert axes.get_xlim()[0] < -1 < 3 < axes.get_xlim()[1]
    axes.figure.canvas.draw()


def test_one_path_and_paths_of_several_lengths():
    path = np.array([[0.0, 0.0], [1.0, 2.0]])
    (line,) = plots.trajectories(bowl, path, domain=[[-2, -2], [2, 3]]).lines
    np.testing.assert_allclose(line.get_xydata(), path)
    axes = plots.trajectories(bowl, [path, path[:1]])
    assert len(axes.lines) == 2
    assert plots.trajectories(bowl, path, Figure().add_subplot()).get_xlim()[1] > 1


def test_trajectories_refuse_what_is_not_in_the_plane():
    with pytest.raises(ValueError, match=r"got shape \(5, 3\)"):
        plots.trajectories(bowl, np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match="needs both"):
        plots.trajectories(bowl, np.zeros((5, 2)), minimizers=[[0.0, 0.0]])


def test_the_surface_is_the_landscape():
    axes = plots.landscape_surface(kinopt.landscapes.booth())
    assert axes.get_xlim()[0] < -9 < 9 < axes.get_xlim()[1]
    corner = float(kinopt.landscapes.booth()(np.array([-10.0, -10.0])))
    assert axes.get_zlim()[1] > 0.9 * corner
    assert plots.landscape_surface(bowl, axes, domain=[[-2, -2], [2, 3]]) is axes
    axes.figure.canvas.draw()


def test_the_surface_says_what_is_missing():
    with pytest.raises(ValueError, match="lower and upper corner"):
        plots.landscape_surface(bowl)
    with pytest.raises(ValueError, match="lower and upper corner"):
        plots.landscape_surface(kinopt.landscapes.zakharov(10))
    with pytest.raises(ValueError, match="projection='3d'"):
        plots.landscape_surface(bowl, Figure().add_subplot(), domain=[[-2, -2], [2, 3]])


def descended(optimizer, steps=30):
    def step(carry, _):
        x, state = carry
        value, grads = jax.value_and_grad(bowl)(x)
        updates, state = optimizer.update(grads, state, x, value=value)
        return (optax.apply_updates(x, updates), state), kinopt.ecd_stats(state)

    x = jnp.array([2.0, 1.0])
    return jax.lax.scan(step, (x, optimizer.init(x)), length=steps)[1]


def test_energy_and_speed_along_a_descent():
    stats = descended(kinopt.bbi(0.05, fixed_bounce_every=10, num_fixed_bounces=2))
    axes = plots.energy_curve(stats)
    potential, energy, *bounces = axes.lines
    np.testing.assert_allclose(potential.get_ydata(), stats.potential)
    np.testing.assert_allclose(energy.get_ydata(), 4.0, rtol=1e-6)
    assert [line.get_xdata()[0] for line in bounces] == [10, 21]  # a bounce takes a step
    axes.figure.canvas.draw()
    axes = plots.speed_curve(stats, steps=5 * np.arange(30))
    speed, limit, *bounces = axes.lines
    np.testing.assert_allclose(speed.get_ydata(), stats.speed)
    np.testing.assert_allclose(limit.get_ydata() ** 2, stats.potential, rtol=1e-5)
    assert [line.get_xdata()[0] for line in bounces] == [50, 105]
    axes.figure.canvas.draw()


def test_speed_without_a_limit_and_energy_without_a_sign():
    newton = kinopt.hamiltonians.Hamiltonian(lambda v, p2: v + p2 / 2, lambda v, e: 2 * (e - v))
    stats = descended(kinopt.ecd(0.01, newton))
    assert len(plots.speed_curve(stats).lines) == 1
    axes = plots.energy_curve(stats._replace(energy=-stats.energy))
    axes.figure.canvas.draw()
    assert axes.get_ylim()[0] < stats.potential.min() < axes.get_ylim()[1]


def test_the_running_ratio_of_many_runs_is_on_a_logarithmic_axis():
    runs = np.array([1, 10, 100, 1000, 10_000])
    ratio = [None, 9.0, 3.0, 1.5, 1.6]  # as rows hold it
    axes = plots.running_ratio(ratio, runs=runs, interval=[1.5, 1.7])
    np.testing.assert_allclose(axes.lines[0].get_xdata(), runs)
    assert axes.get_xscale() == "log"
    low, high = axes.get_ylim()
    assert low < 1.5 < 1.7 < high < 2
    assert plots.running_ratio(ratio[:4], runs=runs[:4]).get_xscale() == "linear"
    axes.figure.canvas.draw()


def test_the_running_ratio_has_its_interval_and_predictions():
    ratio = [np.inf, 1.0, 2.0, 1.5]
    axes = plots.running_ratio(ratio, interval=[1.2, 1.9], predictions={"volume": 1.93})
    line, prediction = axes.lines
    np.testing.assert_allclose(line.get_xydata(), np.stack([[1, 2, 3, 4], ratio], axis=1))
    assert prediction.get_ydata()[0] == 1.93
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [1.2, 1.9])
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["runs so far", "95 %", "volume"]
    each = np.array([[np.nan, np.nan], [0.5, 2], [1, 3], [1.2, 1.9]])
    axes = plots.running_ratio(ratio, interval=each)
    axes.figure.canvas.draw()
    assert len(axes.lines) == 1


@pytest.mark.parametrize("edges", [np.linspace(0, 2, 5), np.geomspace(1e-4, 1, 5)])
def test_the_histogram_has_the_area_of_the_prediction(edges):
    rng = np.random.default_rng(0)
    values = rng.uniform(-0.1, 3, (10, 100))
    axes = plots.potential_histogram(values, edges, [0.1, 0.2, 0.3, 0.4])
    widths = np.diff(np.log(edges) if axes.get_xscale() == "log" else edges)
    visited, predicted = axes.patches
    counts, _ = np.histogram(values, edges)
    np.testing.assert_allclose(visited.get_data().values * widths, counts / counts.sum())
    np.testing.assert_allclose(predicted.get_data().values * widths, [0.1, 0.2, 0.3, 0.4])
    assert len(plots.potential_histogram(values, edges).patches) == 1
    axes.figure.canvas.draw()


def test_the_backend_stays_as_it_was():
    before = matplotlib.get_backend()
    plots.similarity_heatmap(np.eye(2))
    assert matplotlib.get_backend() == before


def test_importing_does_not_load_pyplot():
    check = "import sys, kinopt.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_without_matplotlib_the_error_says_what_to_install():
    check = "import sys; sys.modules['matplotlib'] = None; import kinopt.plots"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert "pip install 'kinopt[plots]'" in result.stderr


def test_plots_are_found_when_they_are_asked_for():
    check = (
        "import sys, kinopt; assert 'matplotlib' not in sys.modules;"
        "kinopt.plots.PALETTE; assert 'matplotlib.figure' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
    check = "import sys; sys.modules['matplotlib'] = None; import kinopt; kinopt.plots"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert "pip install 'kinopt[plots]'" in result.stderr
    with pytest.raises(AttributeError, match="no attribute 'plot'"):
        kinopt.plot  # noqa: B018


def fake_stats(values):
    values = np.asarray(values, float)
    return SimpleNamespace(
        potential=values, energy=values, speed=values, speed_limit=values, num_bounces=0 * values
    )


DRAW = {  # name: a picture of so many numbers, whatever they are
    "heatmap": lambda x: plots.similarity_heatmap(np.reshape(x, (-1, 2)), sort=True),
    "heatmaps": lambda x: plots.similarity_heatmaps({"a": {"b": np.reshape(x, (-1, 2))}})[0, 0],
    "training": lambda x: plots.training_curves(np.arange(len(x)), {"a": x, "b": [x, x]}),
    "losses": lambda x: plots.loss_curves(np.arange(len(x)), {"a": x, "b": [x, x]}),
    "profiles": lambda x: plots.solution_profiles(np.arange(len(x)), {"a": x}, exact={"b": x}),
    "ratio": lambda x: plots.running_ratio(x, interval=[1.0, 2.0]),
    "histogram": lambda x: plots.potential_histogram(x, [0.5, 1, 2], [0.5, 0.5]),
    "paths": lambda x: plots.trajectories(
        bowl, [np.reshape(x, (-1, 2))], domain=[[-1, -1], [1, 1]]
    ),
    "energy": lambda x: plots.energy_curve(fake_stats(x)),
    "speed": lambda x: plots.speed_curve(fake_stats(x)),
}


@pytest.mark.parametrize("values", [[], [np.nan] * 4], ids=["empty", "nan"])
@pytest.mark.parametrize("name", DRAW)
def test_nothing_is_drawn_with_a_note(name, values):
    axes = DRAW[name](values)
    assert any("nothing to draw" in text.get_text() for text in axes.texts)
    axes.figure.canvas.draw()


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e-30])
@pytest.mark.parametrize("name", DRAW)
def test_constants_are_drawn(name, value):
    axes = DRAW[name]([value] * 4)
    noted = any("nothing to draw" in text.get_text() for text in axes.texts)
    assert noted == (name == "histogram" and value != 1.0)
    axes.figure.canvas.draw()


@pytest.mark.parametrize(
    "loss", [lambda x: 0 * x[0], lambda x: x[0] * np.nan, lambda x: 1e30 * x[0]]
)
def test_landscapes_without_contours_are_plains(loss):
    axes = plots.trajectories(loss, np.array([[0.0, 0.0], [1.0, 2.0]]))
    assert len(axes.lines) == 1
    axes.figure.canvas.draw()


def test_no_curves_at_all():
    for draw in (plots.training_curves, plots.loss_curves, plots.solution_profiles):
        axes = draw([0, 1], {})
        assert "nothing to draw" in axes.texts[0].get_text()
        axes.figure.canvas.draw()


WRONG = {
    "weights": lambda x: plots.similarity_heatmap(x),
    "weights ": lambda x: plots.similarity_heatmaps({"a": {"b": x}}),
    "curves": lambda x: plots.training_curves([1, 2], {"a": x}),
    "curves ": lambda x: plots.loss_curves([1, 2], {"a": x}),
    "profiles": lambda x: plots.solution_profiles([1, 2], {"a": x}),
    "x": lambda x: plots.solution_profiles(x, {"a": [1, 2]}),
    "exact": lambda x: plots.solution_profiles([1, 2], {"a": [1, 2]}, exact={"a": x}),
    "steps": lambda x: plots.training_curves(x, {"a": [1, 2]}),
    "ratio": lambda x: plots.running_ratio(x),
    "runs": lambda x: plots.running_ratio([1.0, 2.0], runs=x),
    "interval": lambda x: plots.running_ratio([1.0, 2.0], interval=x),
    "values": lambda x: plots.potential_histogram(x, [0, 1]),
    "edges": lambda x: plots.potential_histogram([1], x),
    "predicted": lambda x: plots.potential_histogram([1], [0, 1, 2], x),
    "paths": lambda x: plots.trajectories(bowl, [x]),
    "domain": lambda x: plots.trajectories(bowl, [[[0, 0], [1, 1]]], domain=x),
    "stats": lambda x: plots.energy_curve(SimpleNamespace(potential=x)),
    "stats ": lambda x: plots.speed_curve(SimpleNamespace(speed=x)),
}


@pytest.mark.parametrize("wrong", ["abc", [1j, 2.0], ["a", "b"], [[1.0], [1.0, 2.0]]], ids=str)
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_number_is_refused_by_name(name, wrong):
    with pytest.raises(TypeError, match=f"{name.strip()}.* must be an array of real numbers; got"):
        WRONG[name](wrong)


def test_lengths_that_do_not_fit_are_refused_by_name():
    for draw in (plots.training_curves, plots.loss_curves):
        with pytest.raises(ValueError, match=r"curves\['a'\] must have shape \[2\]"):
            draw([1, 2], {"a": [1, 2, 3]})
        with pytest.raises(TypeError, match="curves must be a mapping"):
            inspect.unwrap(draw)([1, 2], [1, 2])
    for wrong in ({"runs": [1]}, {"interval": [1, 2, 3]}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must have"):
            plots.running_ratio([1.0, 2.0], **wrong)
    with pytest.raises(ValueError, match="edges must increase"):
        plots.potential_histogram([1], [1, 0])
    with pytest.raises(ValueError, match="predicted must have a fraction"):
        plots.potential_histogram([1], [0, 1], [0.5, 0.5])
    with pytest.raises(ValueError, match="domain must be the lower and upper"):
        plots.trajectories(bowl, [[[0, 0]]], domain=[[1, 1], [0, 0]])
    for paths in ([], np.zeros((0, 2)), [[[np.nan, 0.0]]]):
        with pytest.raises(ValueError, match="paths has no finite point"):
            plots.trajectories(bowl, paths)
    for draw in (plots.energy_curve, plots.speed_curve):
        with pytest.raises(TypeError, match=r"stats must be a kinopt.ECDStats"):
            draw([1.0])
        with pytest.raises(ValueError, match="must have 1 axes"):
            draw(SimpleNamespace(potential=1.0, speed=1.0))
        with pytest.raises(ValueError, match="steps must have one entry"):
            draw(fake_stats([1.0, 2.0]), steps=[1])
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        inspect.unwrap(plots.landscape_surface)(3)
    with pytest.raises(ValueError, match="no finite value in the domain"):
        plots.landscape_surface(lambda x: x[0] * np.nan, domain=[[0, 0], [1, 1]])
