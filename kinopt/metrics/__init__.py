"""How condensed a layer is: similarity, correlation and entropy of its neurons.

Neurons condense when the rows of a layer w [N, D] gather on a few directions (KO paper, sections
3.3 and 4.1). Every measure here starts from the neurons' unit vectors u_i = w_i / |w_i|:

$$
C_ij = <u_i, u_j>           `cosine_similarity`, the matrix drawn in Figs. 2 and 4
max_{i != j} |C_ij|         `neuron_similarity`, the curves of Fig. 3
mean_{i != j} |C_ij|        `weight_correlation`, what Theorem 3.3 is about
S = -sum_k p_k log p_k      `entropy`, with p_k = sigma_k(u) / sum_l sigma_l(u)
exp(S)                      `effective_rank`
$$

The last two make the paper's section 3.5 a number: S = 0 when all neurons are alike, and its
largest value log N when they point in independent directions. The maximum saturates early, since
one pair of twins is enough; the mean and the entropy tell layers apart (report both).

A neuron of weight zero has no direction: its cosines are 0. All measures are invariant to the
lengths and the signs of the neurons except `cosine_similarity`, which keeps the sign. For complex
neurons <a, b> = sum_k conj(a_k) b_k, and a phase is to them what a sign is to real ones. They work
under `jax.jit` and `jax.vmap`, in float32 or wider; `report` is for people.
"""

from kinopt.metrics.neurons import (
    cosine_similarity,
    effective_rank,
    entropy,
    neuron_similarity,
    weight_correlation,
)
from kinopt.metrics.table import NeuronReport, Report, report

__all__ = [
    "NeuronReport",
    "Report",
    "cosine_similarity",
    "effective_rank",
    "entropy",
    "neuron_similarity",
    "report",
    "weight_correlation",
]
