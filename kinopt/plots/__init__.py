"""Pictures of neurons, training and motion; needs Matplotlib (`pip install 'kinopt[plots]'`).

Every function draws on the axes it is given, or on a new figure, and returns the axes. None shows
a window or changes Matplotlib's settings. The figures of both papers:

    KO,  Figs. 2, 4   cosines of neurons                         similarity_heatmap, _heatmaps
    KO,  Fig. 3       accuracy and similarity while training     training_curves
    BBI, Fig. 1       test functions                             landscape_surface
    BBI, Figs. 2, 5   ways across a landscape                    trajectories
    BBI, Figs. 3, 4   losses of optimizers                       loss_curves
    BBI, Fig. 6       ratio of two basins as runs accumulate     running_ratio
    BBI, Fig. 7       solutions of a differential equation       solution_profiles

(KO's Fig. 1 is a diagram.) Beside them: energy and speed of a descent, which the BBI paper has in
equations (`energy_curve`, `speed_curve`), and how often each potential was visited
(`potential_histogram`), and which minima can reach each other below a height (`disconnectivity`).
"""

from kinopt.plots._axes import PALETTE
from kinopt.plots.basins import potential_histogram, running_ratio
from kinopt.plots.curves import loss_curves, solution_profiles, training_curves
from kinopt.plots.minima import disconnectivity
from kinopt.plots.motion import energy_curve, landscape_surface, speed_curve, trajectories
from kinopt.plots.neurons import similarity_heatmap, similarity_heatmaps

__all__ = [
    "PALETTE",
    "disconnectivity",
    "energy_curve",
    "landscape_surface",
    "loss_curves",
    "potential_histogram",
    "running_ratio",
    "similarity_heatmap",
    "similarity_heatmaps",
    "solution_profiles",
    "speed_curve",
    "training_curves",
    "trajectories",
]
