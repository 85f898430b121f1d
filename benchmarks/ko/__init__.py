"""Experiments of the kinetics-inspired neural optimizer paper: collisions."""
