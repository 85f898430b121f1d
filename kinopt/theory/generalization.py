"""Why neurons that differ should generalize better (KO paper, section 3.4)."""

from typing import SupportsFloat, SupportsIndex

import jax
import jax.numpy as jnp
from jax.scipy.special import xlog1py
from jax.typing import ArrayLike

from kinopt._checks import check_count, check_number, check_numbers, is_plain
from kinopt.theory._numerics import floating

__all__ = ["correlation_kl", "pac_bayes_bound"]


def pac_bayes_bound(
    empirical_loss: ArrayLike,
    kl: ArrayLike,
    num_samples: SupportsIndex,
    delta: SupportsFloat = 0.05,
) -> jax.Array:
    """A bound on the expected loss (KO paper, Theorem 3.1, Eq. 9).

    $$
    E_Q[L_D] <= E_Q[L_S] + sqrt((KL(Q || P) + log(m / delta)) / (2 m - 2))
    $$

    with probability 1 - delta over the draw of m training samples, for a loss in [0, 1].

    Args:
      empirical_loss: E_Q[L_S] in [0, 1], the training loss averaged over the posterior Q.
      kl: KL(Q || P) >= 0 in nats, of the posterior from a prior chosen before the data were seen.
      num_samples: m >= 2.
      delta: in (0, 1).

    Returns:
      The right-hand side.

    Raises:
      TypeError: if an argument is no number.
      ValueError: if one is out of range.

    >>> round(float(pac_bayes_bound(0.02, kl=500.0, num_samples=60_000)), 4)
    0.0854
    """
    samples = check_count("num_samples", num_samples, least=2, optional=False)
    check_number("delta", delta, above=0)
    if is_plain(delta) and float(delta) >= 1:
        raise ValueError(f"delta is a probability between 0 and 1; got {delta}.")
    check_numbers("empirical_loss", empirical_loss, least=0, most=1)
    check_numbers("kl", kl, least=0)
    empirical_loss, kl = floating(empirical_loss, kl)
    return empirical_loss + jnp.sqrt((kl + jnp.log(samples / delta)) / (2 * samples - 2))


def correlation_kl(
    weight_correlation: ArrayLike, neurons: SupportsIndex, features: SupportsIndex
) -> jax.Array:
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
      features: weights of a neuron, >= 1.

    Returns:
      The second line of the equation, in nats; for a network, add up its layers.

    Raises:
      TypeError: if an argument is no number.
      ValueError: if one is out of range.

    Reference: Jin et al., "How does Weight Correlation Affect the Generalisation Ability of Deep
    Neural Networks?", NeurIPS 2020, where Theorem 3.2 comes from.

    >>> [round(correlation_kl(rho, neurons=10, features=64).item()) for rho in (0.0, 0.1, 0.3)]
    [0, 10, 61]
    """
    check_numbers("weight_correlation", weight_correlation, least=0, most=1)
    others = check_count("neurons", neurons, optional=False) - 1
    size = check_count("features", features, optional=False)
    (rho,) = floating(weight_correlation)
    return -size / 2 * (xlog1py(others, -rho) + jnp.log1p(others * rho))
