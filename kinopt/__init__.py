"""Kinetics-inspired optimizers for JAX and Optax."""

__version__ = "0.1.0"

from kinopt import bounces, hamiltonians
from kinopt.descent import ECDState, ECDStats, bbi, ecd, ecd_stats, ecdsep

__all__ = [
    "ECDState",
    "ECDStats",
    "bbi",
    "bounces",
    "ecd",
    "ecd_stats",
    "ecdsep",
    "hamiltonians",
]
