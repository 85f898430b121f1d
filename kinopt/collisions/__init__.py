"""Collisions between the neurons of a layer: a law, its partners, and how it is carried out."""

from kinopt.collisions.stats import CollisionState, CollisionStats, collision_stats
from kinopt.collisions.transform import hard_collision, soft_collision

__all__ = [
    "CollisionState",
    "CollisionStats",
    "collision_stats",
    "hard_collision",
    "soft_collision",
]
