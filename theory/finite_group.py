"""Exact expectations over the group: K ~ Bin(M, ρ) correct among M responses, two outcomes, log-odds θ.

With advantages A⁺_K of a correct and A⁻_K of a wrong response, one step of size η moves θ by

    ratio     η [(K/M) A⁺_K/ρ - (1-K/M) A⁻_K/(1-ρ)]      KL-proximal step on the importance-weighted surrogate: each
                                                          outcome's share of the group over its probability
    outcome   η [A⁺_K 1{K>0} - A⁻_K 1{K<M}]               the same step on the empirical distribution: each outcome
                                                          that was seen moves by its own advantage

so the expected speed u(ρ) = E[Δθ]/η is linear in the advantages. Centred advantages A⁺ = ω_K(1-K/M), A⁻ = -ω_K K/M
make it linear in the weights: under ``ratio`` u = (1-1/M) Σ_j Bin(j; M-2, ρ) ω_{j+1}, the Bernstein operator of degree
M-2 on the table, because Bin(K; M, ρ) K(M-K)/(M²ρ(1-ρ)) = (1-1/M) Bin(K-1; M-2, ρ); under ``outcome``
u = Σ Bin(K; M, ρ) ω_K over mixed groups. Derived; checked against enumeration of all groups and against simulation.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.special import gammaln, xlog1py, xlogy

StepModel = Literal["ratio", "outcome"]
STEP_MODELS: tuple[StepModel, ...] = ("ratio", "outcome")


def binomial(rho: ArrayLike, trials: int) -> NDArray[np.float64]:
    """Bin(k; n, ρ) for k = 0..n; ρ of shape (r,) in (0, 1) gives shape (r, n+1)."""
    rho = np.asarray(rho, dtype=np.float64)[:, None]
    k, log_count = _log_counts(trials)
    # One logarithm a probability; scipy's, since numpy's differs in the last digit between processors.
    logarithm = log_count + k * xlogy(1, rho)
    logarithm += (trials - k) * xlog1py(1, -rho)
    return np.exp(logarithm, out=logarithm)


@functools.lru_cache(maxsize=64)
def _log_counts(trials: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """k = 0..n, and the logarithms of how many ways there are to choose k of n; read-only."""
    k = np.arange(trials + 1, dtype=np.float64)
    log_count = gammaln(trials + 1) - gammaln(k + 1) - gammaln(trials - k + 1)
    for values in (k, log_count):
        values.flags.writeable = False
    return k, log_count


def weight_speeds(rho: ArrayLike, group_size: int, step_model: StepModel) -> NDArray[np.float64]:
    """Contribution of each weight to the expected speed: u = weight_speeds @ ω.

    Parameters
    ----------
    rho
        Shape (r,), in (0, 1).
    group_size
        M ≥ 2.
    step_model
        "ratio" or "outcome".

    Returns
    -------
    ndarray
        Shape (r, M-1). Column K-1 belongs to ω_K of groups with K = 1..M-1 correct.
    """
    if step_model == "ratio":
        return (1 - 1 / group_size) * binomial(rho, group_size - 2)
    return binomial(rho, group_size)[:, 1:-1]


def speed(rho: ArrayLike, correct: ArrayLike, wrong: ArrayLike, step_model: StepModel) -> NDArray[np.float64]:
    """Expected speed u(ρ) of a group table with any advantages.

    Parameters
    ----------
    rho
        Shape (r,), in (0, 1).
    correct, wrong
        Shape (M+1,). Advantage of a correct and of a wrong response by the number correct.
    step_model
        "ratio" or "outcome".

    Returns
    -------
    ndarray
        Shape (r,).
    """
    correct, wrong = np.asarray(correct, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    size = correct.size - 1
    if step_model == "ratio":
        # (K/M) Bin(K; M, ρ)/ρ = Bin(K-1; M-1, ρ): no division by a small ρ.
        others = binomial(rho, size - 1)
        return others @ correct[1:] - others @ wrong[:-1]
    groups = binomial(rho, size)
    return groups[:, 1:] @ correct[1:] - groups[:, :-1] @ wrong[:-1]


def second_moment(rho: ArrayLike, correct: ArrayLike, wrong: ArrayLike) -> NDArray[np.float64]:
    """E[A²] over groups and responses: Σ_K Bin(K; M, ρ) [(K/M) A⁺_K² + (1-K/M) A⁻_K²]; arguments as `speed`."""
    correct, wrong = np.asarray(correct, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    share = np.arange(correct.size) / (correct.size - 1)
    return binomial(rho, correct.size - 1) @ (share * correct**2 + (1 - share) * wrong**2)
