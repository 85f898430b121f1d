"""Kinetics-inspired optimizers for JAX and Optax."""

__version__ = "0.1.0"
