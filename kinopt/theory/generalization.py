"""Why neurons that differ should generalize better (KO paper, section 3.4)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlog1py
from jax.typing import ArrayLike

from kinopt.theory._numerics import floating

__all__ = ["correlation_kl", "pac_bayes_bound"]


def pac_bayes_bound(
    empirical_loss: ArrayLike, kl: ArrayLike, num_samples: int, delta: float = 0.05
) -> jax.Array:
    """A bound on the expected loss (KO paper, Theorem 3.1, Eq. 9).

    $$
    E_Q[L_D] <= E_Q[L_S] + sqrt((KL(Q || P) + log(m / delta)) / (2 m - 2))
    $$

    with probability 1 - delta over the draw of m training samples, for a loss in [0, 1].

    Args:
      empirical_loss: E_Q[L_S], the training loss averaged over the posterior Q.
      kl: KL(Q || P) in nats, of the posterior from a prior chosen before the data were seen.
      num_samples: m >= 2.
      delta: in (0, 1).

    Returns:
      The right-hand side.

    Raises:
      ValueError: if `num_samples` or `delta` is out of range.

    >>> round(float(pac_bayes_bound(0.02, kl=500.0, num_samples=60_000)), 4)
    0.0854
    """
    if num_samples < 2:
        raise ValueError(f"the bound needs num_samples of at least 2, got {num_samples}")
    if not 0 < delta < 1:
        raise ValueError(f"delta is a probability between 0 and 1, got {delta}")
    empirical_loss, kl = floating(empirical_loss, kl)
    return empirical_loss + jnp.sqrt((kl + np.log(num_samples / delta)) / (2 * num_samples - 2))


def correlation_kl(weight_correlation: ArrayLike, neurons: int, features: int) -> jax.Array:
    """The part of KL(Q || P) that falls with the weight correlation (KO paper, Theorem 3.2).

    $$
    KL(Q || P) = |W - W_0|^2 / (2 sigma^2)
    - features/2 [(neurons - 1) log(1 - rho) + log(1 + (neurons - 1) rho)]
    $$

    for a layer with prior P = Normal(W_0, sigma^2) of independent weights, and a posterior Q of the
    same variance around the trained weights W, in which each two neurons have correlation rho in
    every feature: covariance sigma^2 R, R_ij = rho for i != j and R_ii = 1. The trace of R is that
    of the identity and det R = (1 - rho)^(neurons-1) (1 + (neurons-1) rho), which leaves the second
    line: 0 at rho = 0, infinite at rho = 1, and growing in between. Collisions lower rho.

    Args:
      weight_correlation: rho in [0, 1], as `kinopt.metrics.weight_correlation` measures it.
      neurons: rows of the layer, >= 1.
      features: weights of a neuron.

    Returns:
      The second line of the equation, in nats; for a network, add up its layers.

    Reference: Jin et al., "How does Weight Correlation Affect the Generalisation Ability of Deep
    Neural Networks?", NeurIPS 2020, where Theorem 3.2 comes from.

    >>> [round(correlation_kl(rho, neurons=10, features=64).item()) for rho in (0.0, 0.1, 0.3)]
    [0, 10, 61]
    """
    (rho,) = floating(weight_correlation)
    others = neurons - 1
    return -features / 2 * (xlog1py(others, -rho) + jnp.log1p(others * rho))
