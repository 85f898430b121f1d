"""The hard collision with which committed rows were made."""

import functools

import kinopt

__all__ = ["SUM", "summed_collision"]

SUM = {"combine": "sum", "scatter": "pairs"}
"""Eq. 8 of the KO paper: all partners are added up, each with a direction of its own."""

summed_collision = functools.partial(kinopt.hard_collision, **SUM)
"""`kinopt.hard_collision` as the paper combines collisions, and not by the library's defaults."""
