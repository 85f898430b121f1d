"""Kinetics-inspired optimizers for JAX and Optax.

Collisions change the gradients of neurons that are alike, before a base optimizer moves them:

    optax.chain(kinopt.soft_collision(), optax.adamw(1e-3))

Energy-conserving descent moves the parameters without friction, and closes a chain:

    optax.chain(kinopt.soft_collision(), kinopt.bbi(0.1))
"""

import importlib

from kinopt import basins, bounces, ensemble, hamiltonians, landscapes, lanes, metrics, theory
from kinopt.averages import Canonical, canonical
from kinopt.collisions import (
    CollisionState,
    CollisionStats,
    collision_stats,
    hard_collision,
    soft_collision,
)
from kinopt.descent import bbi, ecd, ecdsep
from kinopt.descent_state import ECDState
from kinopt.descent_stats import ECDStats, IsokineticStats, ecd_stats
from kinopt.diagonal_metric import MetricState, in_metric
from kinopt.hyperparameters import static_args
from kinopt.isokinetic import IsokineticState, isokinetic
from kinopt.layers import NeuronAxes, layer_mask
from kinopt.time_step import suggest_dt

__all__ = [
    "Canonical",
    "CollisionState",
    "CollisionStats",
    "ECDState",
    "ECDStats",
    "IsokineticState",
    "IsokineticStats",
    "MetricState",
    "NeuronAxes",
    "basins",
    "bbi",
    "bounces",
    "canonical",
    "collision_stats",
    "ecd",
    "ecd_stats",
    "ecdsep",
    "ensemble",
    "hamiltonians",
    "hard_collision",
    "in_metric",
    "isokinetic",
    "landscapes",
    "lanes",
    "layer_mask",
    "metrics",
    "soft_collision",
    "static_args",
    "suggest_dt",
    "theory",
]

__version__ = "0.1.0"


def __getattr__(name: str):
    """`kinopt.plots`, which needs Matplotlib, is imported when it is asked for."""
    if name == "plots":
        return importlib.import_module("kinopt.plots")
    raise AttributeError(f"module 'kinopt' has no attribute {name!r}")
