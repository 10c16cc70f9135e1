"""Success probabilities of a population of prompts that follow a Beta distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from theory.special import betaincinv, betaln, gammaln

Array = NDArray[np.float64]


def beta_midpoints(a: float, b: float, count: int) -> Array:
    """The Beta(a, b) distribution as `count` equal prompts: its quantiles at (k+½)/count, increasing, (count,)."""
    return betaincinv(a, b, (np.arange(count) + 0.5) / count)


def beta_binomial_log_likelihood(a: float, b: float, counts: Array) -> float:
    """ln P of a histogram of successes when ρ ~ Beta(a, b) and K ~ Bin(M, ρ), P(K) = C(M,K) B(K+a, M-K+b)/B(a, b).

    Parameters
    ----------
    a, b
        Positive.
    counts
        Shape (M+1,). Groups with K correct, K = 0..M.
    """
    size = counts.size - 1
    k = np.arange(size + 1)
    choose = gammaln(size + 1) - gammaln(k + 1) - gammaln(size - k + 1)
    return float(counts @ (choose + betaln(k + a, size - k + b) - betaln(a, b)))
