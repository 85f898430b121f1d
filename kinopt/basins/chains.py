"""What several chains say of their own mixing: split R-hat, effective numbers, crossings.

References: Gelman, Rubin, Statistical Science 7 (1992) 457; Geyer, "Practical Markov chain Monte
Carlo", Statistical Science 7 (1992) 473; Vehtari, Gelman, Simpson, Carpenter, Bürkner, Bayesian
Analysis 16 (2021) 667.
"""

import numpy as np

__all__ = ["crossings", "effective_number", "split_rhat", "start_dependence"]

NUM_PERMUTATIONS = 999


def split_rhat(x: np.ndarray) -> float:
    """Split R-hat of x [chains, times]: how much wider all halves of chains are than each.

    $$
    R^2 = (n - 1)/n + B/(n W)
    $$

    W is the mean variance within the halves, of n entries each, and B/n the variance of their
    means. 1 where nothing ever changes, infinite where only the chains differ.

    >>> split_rhat(np.array([[0.0, 1, 0, 1], [0, 1, 0, 1]])) < 1
    True
    >>> split_rhat(np.array([[0.0, 0, 0, 0], [1, 1, 1, 1]]))
    inf
    """
    n = x.shape[1] // 2
    halves = np.concatenate([x[:, :n], x[:, -n:]])
    within, between = halves.var(axis=1, ddof=1).mean(), halves.mean(axis=1).var(ddof=1)
    if within == 0:
        return 1.0 if between == 0 else np.inf
    return float(np.sqrt((n - 1) / n + between / within))


def effective_number(x: np.ndarray) -> float:
    """How many independent samples x [chains, times] is worth for its mean; NaN for a constant.

    $$
    N_eff = M N / (-1 + 2 sum_t P_t),    P_t = rho_2t + rho_(2t+1)
    $$

    for M chains of N, with autocorrelations rho of all chains together, that know of differences
    between them. The sum ends before the first P_t <= 0 (Geyer's initial positive sequence), and no
    P_t counts for more than the one before it (monotone). At most M N log10(M N).

    >>> white = np.random.default_rng(0).normal(size=(4, 1000))
    >>> 3000 < effective_number(white) < 5500
    True
    """
    number, n = x.shape
    away = x - x.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(away, 2 * n, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :n].mean(axis=0) / n
    within = covariance[0] * n / (n - 1)
    between = x.mean(axis=1).var(ddof=1) if number > 1 else 0.0
    total = covariance[0] + between
    if total == 0:
        return float("nan")
    rho = 1 - (within - covariance) / total
    rho[0] = 1
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: ends[0] if len(ends) else None])
    samples = number * n
    time = max(2 * pairs.sum() - 1, 1 / np.log10(max(samples, 10)))
    return float(samples / time)


def crossings(labels: np.ndarray) -> np.ndarray:
    """How often each chain [chains, times] went from one basin to another, int [chains].

    Times at label 0 are on the way: 1 0 0 1 is no crossing, 1 0 2 is one.

    >>> crossings(np.array([[1, 0, 0, 1, 0, 2], [0, 0, 0, 2, 2, 2]]))
    array([1, 0])
    """
    kept = (row[row > 0] for row in labels)
    return np.array([np.count_nonzero(row[1:] != row[:-1]) for row in kept])


def start_dependence(shares: np.ndarray, starts: np.ndarray) -> float:
    """The p value of "chains that began elsewhere ended alike"; 1 where all began in one basin.

    A permutation test, exact at any size: the spread between the mean shares [chains, basins] of
    those that began in one basin, against that for exchanged beginnings [chains].

    >>> shares = np.repeat(np.eye(2), 6, axis=0)
    >>> start_dependence(shares, np.repeat([1, 2], 6)) < 0.02
    True
    """
    groups = np.unique(starts)
    if len(groups) < 2:
        return 1.0

    # Sums of squared group means, of the chains as they are and in 999 random orders.
    member = np.equal.outer(groups, starts).astype(float)
    member /= np.sqrt(member.sum(axis=1, keepdims=True))
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.arange(len(starts)), (NUM_PERMUTATIONS, 1)), axis=1)
    spread = np.sum((member @ shares) ** 2)
    spreads = np.sum((member @ shares[orders]) ** 2, axis=(1, 2))
    as_far = np.sum(spreads >= spread * (1 - 1e-12))
    return float((1 + as_far) / (1 + NUM_PERMUTATIONS))
