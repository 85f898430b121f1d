"""Pictures: they return axes, draw the right numbers, and leave Matplotlib alone."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

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
