"""The collision laws as plain float64 loops over neurons, written from the paper.

Nothing of the library is used here, nothing is vectorized over neurons: each loop can be read next
to Algorithm 1 (Eqs. 5 to 8) or Algorithm 2 of the KO paper. Where the paper is ambiguous:

- Algorithm 2 multiplies the two cosine matrices elementwise, then applies the product to g;
- its diagonal i = j belongs to the product, unless `self_term` is False;
- cosines are signed, and 0 where a row is zero;
- Eq. 7 compares strictly, by product instead of division, with the maximum over all candidates;
- Eq. 8 sums over all partners, each term computed from the old g.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["hard", "similarity_products", "soft"]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """cos(a, b) = <a, b> / (|a| |b|), 0 for a zero vector."""
    largest_a, largest_b = np.max(np.abs(a)), np.max(np.abs(b))
    if largest_a == 0 or largest_b == 0:
        return 0.0
    a, b = a / largest_a, b / largest_b
    return float(np.dot(a, b) / (math.sqrt(np.dot(a, a)) * math.sqrt(np.dot(b, b))))


def similarity_products(w: np.ndarray, g: np.ndarray, self_term: bool = True) -> np.ndarray:
    """M_ij = cos(w_i, w_j) cos(g_i, g_j), the coefficients of Algorithm 2, line 3."""
    neurons = len(w)
    matrix = np.zeros((neurons, neurons))
    for i in range(neurons):
        for j in range(neurons):
            if i != j or self_term:
                matrix[i, j] = cosine(w[i], w[j]) * cosine(g[i], g[j])
    return matrix


def soft(
    w: np.ndarray, g: np.ndarray, c: float, self_term: bool = True, normalize: bool = False
) -> np.ndarray:
    """Algorithm 2: g_i' = g_i - c sum_j M_ij g_j; `normalize` divides M by its largest row sum."""
    w, g = np.asarray(w, np.float64), np.asarray(g, np.float64)
    matrix = similarity_products(w, g, self_term)
    if normalize:
        largest_row_sum = max((sum(abs(entry) for entry in row) for row in matrix), default=0.0)
        if largest_row_sum > 0:
            matrix = matrix / largest_row_sum
    result = g.copy()
    for i in range(len(w)):
        for j in range(len(w)):
            result[i] -= c * matrix[i, j] * g[j]
    return result


def hard(
    w: np.ndarray,
    g: np.ndarray,
    c: float,
    directions: Callable[[int, int], np.ndarray],
    distance: str = "l2",
    approaching_only: bool = False,
    combine: str = "sum",
    restitution: float = 1.0,
    partners: Sequence[int] | None = None,
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Algorithm 1 with the options of the library.

    Args:
        w: positions, [N, D].
        g: velocities, [N, D].
        c: the paper's coll_coef.
        directions: (i, j) with i < j -> unit vector n_ij, [D].
        distance: "l2", |w_i - w_j| as in Eq. 5, or "rms", the same over sqrt(D).
        approaching_only: also ask for (w_i - w_j) . (v_i - v_j) < 0 with v = -g (Appendix A).
        combine: "sum" (Eq. 8), "metropolis" (weights 1 / max of the two accepted degrees), or
            "matching" (only the pairs i, partners[i] are candidates).
        restitution: e in g_cm + e g_r n / 2.
        partners: for "matching": partners[i] = j and partners[j] = i; i itself when left over.

    Returns:
        g' [N, D], and the accepted pairs (i, j), i < j.
    """
    w, g = np.asarray(w, np.float64), np.asarray(g, np.float64)
    neurons, features = w.shape
    candidates = [(i, j) for i in range(neurons) for j in range(i + 1, neurons)]
    if combine == "matching":
        assert partners is not None
        candidates = [(i, j) for i, j in candidates if partners[i] == j]

    # Eq. 5: relative distances and relative velocities
    w_r, g_r = {}, {}
    for i, j in candidates:
        w_r[i, j] = math.sqrt(sum((w[i] - w[j]) ** 2))
        g_r[i, j] = math.sqrt(sum((g[i] - g[j]) ** 2))
        if distance == "rms":
            w_r[i, j] /= math.sqrt(features)

    # Eq. 7: who collides
    g_r_max = max(g_r.values(), default=0.0)
    accepted = []
    for i, j in candidates:
        fast_enough = g_r[i, j] * math.exp(-w_r[i, j]) > (1 - c) * g_r_max
        approaching = sum((w[i] - w[j]) * (-g[i] + g[j])) < 0
        if fast_enough and (approaching or not approaching_only):
            accepted.append((i, j))
    degree = [sum(i in pair for pair in accepted) for i in range(neurons)]

    # Eqs. 6 and 8: what each collision adds
    result = g.copy()
    for i, j in accepted:
        weight = 1.0 / max(degree[i], degree[j]) if combine == "metropolis" else 1.0
        n_ij = np.asarray(directions(i, j), np.float64)
        g_cm = (g[i] + g[j]) / 2
        result[i] += weight * (g_cm + restitution * g_r[i, j] * n_ij / 2 - g[i])
        result[j] += weight * (g_cm - restitution * g_r[i, j] * n_ij / 2 - g[j])
    return result, accepted
