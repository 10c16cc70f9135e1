"""Surrogates h(ρ), h' = ω: the objective whose gradient a weighting follows. Each is defined up to a constant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import beta as beta_function
from scipy.special import betainc, boxcox

from theory.published import any_success, failure_power, histogram_edges, reverse_hazard
from theory.quadrature import integrate, log_odds
from theory.weightings import PLATEAU_THRESHOLD, power


def rloo(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """h = ρ: the success probability itself."""
    return np.asarray(rho, dtype=np.float64)


def grpo(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """h = 2 asin √ρ: the Fisher-Rao angle."""
    return 2 * np.arcsin(np.sqrt(rho))


def linear_r(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """h = ln ρ: the log-likelihood of success."""
    return np.log(rho)


def sqrt_r(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """h = -2 artanh √(1-ρ)."""
    # artanh √(1-ρ) = ln((1+√(1-ρ))²/ρ)/2: no cancellation where √(1-ρ) rounds to 1.
    root = np.sqrt(1 - np.asarray(rho))
    return np.log(rho) - 2 * np.log1p(root)


def uniform_r(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """h = logit ρ (reconstruction)."""
    return log_odds(rho)


def plateau_r(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """h = logit ρ up to the threshold τ, then logit τ + ln(ρ/τ)/(1-τ) (reconstruction)."""
    tau = PLATEAU_THRESHOLD
    return np.where(rho <= tau, log_odds(rho), log_odds(tau) + np.log(rho / tau) / (1 - tau))


def grpo_stabilised(rho: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """h = asin((2ρ-1)/√(1+4ε)) + π/2, of ω = 1/√(ρ(1-ρ)+ε)."""
    # asin x + π/2 = 2 atan2(√(1+x), √(1-x)): no cancellation where x is near ±1.
    excess = 4 * epsilon / (np.sqrt(1 + 4 * epsilon) + 1)
    return 2 * np.arctan2(np.sqrt(excess + 2 * rho), np.sqrt(excess + 2 * (1 - rho)))


def grpo_epsilon(rho: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """h of ω = 1/(√(ρ(1-ρ))+ε), ε < 1/2; with ρ = sin²(ψ/2), a = 2ε and c = √(1-a²).

    h = ψ - a∫dψ/(sin ψ + a) = ψ - (a/c) ln((a t + 1 - c)/(a t + 1 + c)), t = tan(ψ/2) = √(ρ/(1-ρ)).
    """
    a = 2 * epsilon
    c = np.sqrt(1 - a**2)
    root = a * np.sqrt(rho), np.sqrt(1 - rho)
    ratio = (root[0] + root[1] * a**2 / (1 + c)) / (root[0] + root[1] * (1 + c))
    return grpo(rho) - a / c * np.log(ratio)


def dgpo(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """h = logit(ρ)/2, of ω = 1/(2ρ(1-ρ))."""
    return log_odds(rho) / 2


def tsallis(rho: NDArray[np.float64], q: float) -> NDArray[np.float64]:
    """h = (ρ^(1-q)-1)/(1-q), the Tsallis q-logarithm; ln ρ at q = 1."""
    return boxcox(rho, 1 - q)


def clipped_mean(rho: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """h = ρ/floor up to the floor, then 1 + ln(ρ/floor)."""
    return np.where(rho <= floor, rho / floor, 1 + np.log(np.maximum(rho, floor) / floor))


def f_grpo(rho: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """h = B(ρ; ½, γ+½), the incomplete beta function; 2 asin √ρ at γ = 0."""
    return power_surrogate(rho, 0.5, 0.5 - gamma)


def rs_grpo(rho: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """h = ln(1+ρ(e^β-1))/β = ln E[e^(βr)]/β."""
    return np.log1p(rho * np.expm1(beta)) / beta


def pass_at_k(rho: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """h = 1-(1-ρ)^k: pass@k."""
    return any_success(rho, k)


def pass_at_k_training(rho: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """h = (2/k) asin √(1-(1-ρ)^k): the Fisher-Rao angle of pass@k, over k."""
    return 2 / k * np.arctan2(np.sqrt(any_success(rho, k)), failure_power(rho, k / 2))


def maxrl_order(rho: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """h = Σ_{j=1..T} (1-(1-ρ)^j)/j: ln ρ truncated at order T, up to a constant."""
    return sum((any_success(rho, j) / j for j in range(1, order + 1)), start=np.zeros_like(rho))


def beta_normalised(rho: NDArray[np.float64], alpha: float, beta: float) -> NDArray[np.float64]:
    """h = B(α, β) B(ρ; 2-α, 2-β), the incomplete beta function; α < 2 and β < 2."""
    return beta_function(alpha, beta) * power_surrogate(rho, alpha - 1, beta - 1)


def curverl(rho: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """h of the step function f/F: piecewise linear, 0 at ρ = 0; counts as `theory.published.reverse_hazard`."""
    edges = np.concatenate([[0.0], histogram_edges(counts.size + 1), [1.0]])
    return np.interp(rho, edges, np.concatenate([[0.0], np.cumsum(reverse_hazard(counts) * np.diff(edges))]))


def power_surrogate(rho: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    """h = B(ρ; 1-a, 1-b), the incomplete beta function, of ω = ρ^-a (1-ρ)^-b with a < 1 and b < 1."""
    return beta_function(1 - a, 1 - b) * betainc(1 - a, 1 - b, rho)


def power_gain(a: float, b: float, start: float, target: float) -> float:
    """h(target) - h(start) of ω = ρ^-a (1-ρ)^-b, by quadrature (0 < start ≤ target < 1)."""
    return integrate(lambda rho: power(rho, a, b), start, target)


REGISTRY: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "rloo": rloo,
    "reinforce": rloo,
    "grpo": grpo,
    "linear-r": linear_r,
    "sqrt-r": sqrt_r,
    "uniform-r": uniform_r,
    "plateau-r": plateau_r,
}
