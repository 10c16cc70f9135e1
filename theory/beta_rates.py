"""Success probabilities of a population of prompts that follow a Beta distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from theory.special import betainc, betaincinv, betaln, gammaln

Array = NDArray[np.float64]
Counts = NDArray[np.float64] | NDArray[np.int64]


def beta_midpoints(a: float, b: float, count: int) -> Array:
    """The Beta(a, b) distribution as `count` equal prompts: its quantiles at (k+½)/count, increasing, (count,)."""
    return betaincinv(a, b, (np.arange(count) + 0.5) / count)


def beta_masses(a: float, b: float, edges: Array) -> Array:
    """What the Beta(a, b) distribution holds between 0, rising edges in (0, 1) of shape (k,), and 1; shape (k+1,)."""
    return np.diff(betainc(a, b, edges), prepend=0.0, append=1.0)


def beta_binomial_masses(a: float, b: float, responses: int) -> Array:
    """P(K) = C(M,K) B(K+a, M-K+b)/B(a, b) for K = 0..M of M responses to a prompt of ρ ~ Beta(a, b); shape (M+1,)."""
    correct = np.arange(responses + 1)
    return np.exp(_log_masses(a, b, correct, np.full(responses + 1, responses)))


def beta_binomial_log_likelihood(a: float, b: float, correct: Counts, responses: Counts, counts: Counts) -> float:
    """ln P of counts when ρ ~ Beta(a, b) and K ~ Bin(M, ρ), P(K) = C(M,K) B(K+a, M-K+b)/B(a, b).

    Parameters
    ----------
    a, b
        Positive.
    correct, responses, counts
        Of one shape. K, M, and how many prompts have them.
    """
    return float(counts @ _log_masses(a, b, correct, responses))


def _log_masses(a: float, b: float, correct: Counts, responses: Counts) -> Array:
    choose = gammaln(responses + 1) - gammaln(correct + 1) - gammaln(responses - correct + 1)
    return choose + betaln(correct + a, responses - correct + b) - betaln(a, b)
