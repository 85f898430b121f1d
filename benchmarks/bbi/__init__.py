"""Experiments of the Born-Infeld paper: energy-conserving descent."""
