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
