"""Published prompt weightings ω(ρ) beyond those of the paper, one function per formula.

All act on the centred reward, A = ω(ρ̂)(r - ρ̂). Arguments: success probabilities in (0, 1), any shape, and the method's
parameters. `theory.catalogue` adds names, rules at the ends, surrogates and valid ranges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln


def failure_power(rho: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """(1-ρ)^exponent, without rounding 1-ρ: all of `exponent` responses fail."""
    return np.exp(exponent * np.log1p(-rho))


def any_success(rho: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """1-(1-ρ)^draws, without cancellation where ρ is small: pass@draws."""
    return -np.expm1(draws * np.log1p(-rho))


def grpo_stabilised(rho: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """ω = 1/√(ρ(1-ρ)+ε). Mroueh 2025, arXiv 2503.06639."""
    return 1 / np.sqrt(rho * (1 - rho) + epsilon)


def grpo_epsilon(rho: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """ω = 1/(√(ρ(1-ρ))+ε): GRPO as coded, for large groups."""
    return 1 / (np.sqrt(rho * (1 - rho)) + epsilon)


def dgpo(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω = 1/(2ρ(1-ρ)): the centred reward over its mean absolute deviation. Dai et al. 2026, arXiv 2601.20614."""
    return 1 / (2 * rho * (1 - rho))


def tsallis(rho: NDArray[np.float64], q: float) -> NDArray[np.float64]:
    """ω = ρ^-q, the derivative of the Tsallis q-logarithm. Lin and Ie 2026, arXiv 2604.25907."""
    return rho**-q


def clipped_mean(rho: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """ω = 1/max(ρ, floor): Linear-R, bounded where successes are rare."""
    return 1 / np.maximum(rho, floor)


def f_grpo(rho: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """ω = (1-ρ)^γ/√(ρ(1-ρ)): GRPO with a focal factor. Plyusov et al. 2026, arXiv 2602.06717."""
    return failure_power(rho, gamma - 0.5) / np.sqrt(rho)


def rs_grpo(rho: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """ω = (e^β-1)/(β(1+ρ(e^β-1))): the derivative of ln E[e^(βr)]/β. Jiang et al. 2025, arXiv 2509.24261."""
    return np.expm1(beta) / (beta * (1 + rho * np.expm1(beta)))


def pass_at_k(rho: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """ω = k(1-ρ)^(k-1): the gradient of pass@k. Walder and Karkhanis 2025, arXiv 2505.15201."""
    return k * failure_power(rho, k - 1)


def pass_at_k_training(rho: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """ω = (1-ρ)^(k/2-1)/√(1-(1-ρ)^k): GRPO on the reward of k draws. Chen et al. 2025, arXiv 2508.10751."""
    return failure_power(rho, k / 2 - 1) / np.sqrt(any_success(rho, k))


def maxrl_order(rho: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """ω = (1-(1-ρ)^T)/ρ = Σ_{j<T} (1-ρ)^j: ln ρ truncated at order T. Tajwar et al. 2026, arXiv 2602.02710."""
    return any_success(rho, order) / rho


def beta_normalised(rho: NDArray[np.float64], alpha: float, beta: float) -> NDArray[np.float64]:
    """ω = 1/BetaPDF(ρ; α, β) = B(α, β) ρ^(1-α) (1-ρ)^(1-β). Xiao et al. 2025, arXiv 2506.02864 (BNPO)."""
    return np.exp(betaln(alpha, beta) + (1 - alpha) * np.log(rho) + (1 - beta) * np.log1p(-rho))


def beta_shape(mean: float, variance: float) -> tuple[float, float]:
    """α = 1+a/3 and β = 1+b/3 of BNPO, with Beta(a, b) fitted to the batch's success rates by moments.

    These two minimise ∫ p(1-p)/BetaPDF(p; α, β)² Beta(p; a, b) dp, the variance of the normalised advantage: with the
    integral equal to B(α, β)² B(a-2α+3, b-2β+3)/B(a, b), the condition is α = a-2α+3 and β = b-2β+3.

    Parameters
    ----------
    mean, variance : float
        Of the success rates, 0 < variance < mean(1-mean).
    """
    concentration = mean * (1 - mean) / variance - 1
    return 1 + mean * concentration / 3, 1 + (1 - mean) * concentration / 3


def reverse_hazard(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each bin among the bins up to it: f/F of a histogram, as CurveRL's code has it.

    Sun et al. 2026, arXiv 2605.24331.

    Parameters
    ----------
    counts : ndarray, shape (M-1,), positive
        Groups of the last batches with K = 1..M-1 of M correct.

    Returns
    -------
    ndarray, shape (M-1,)
        In (0, 1], the first always 1.
    """
    return counts / np.cumsum(counts)


def histogram_edges(group_size: int) -> NDArray[np.float64]:
    """Inner edges K/(M+1), K = 2..M-1, shape (M-2,), between the bins of K = 1..M-1: M+1 bins cover [0, 1]."""
    return np.arange(2, group_size) / (group_size + 1)


def curverl(rho: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω = f/F of the bin of ρ, the bins of uniform groups joined to their neighbours; counts as `reverse_hazard`."""
    edges = histogram_edges(counts.size + 1)
    return reverse_hazard(counts)[np.searchsorted(edges, rho, side="right")]
