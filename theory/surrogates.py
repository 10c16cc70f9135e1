"""Surrogates h(ρ), h' = ω: the objective whose gradient a weighting follows. Each is defined up to a constant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

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
