"""Powers and integrals that several formulas share, written so that no digits are lost near ρ = 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from theory.special import beta, betainc


def failure_power(rho: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """(1-ρ)^exponent, without rounding 1-ρ: the probability that `exponent` responses all fail."""
    return np.exp(exponent * np.log1p(-rho))


def any_success(rho: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """1-(1-ρ)^draws, without cancellation where ρ is small: pass@draws."""
    return -np.expm1(draws * np.log1p(-rho))


def incomplete_beta(rho: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    """B(ρ; 1-a, 1-b), the integral of ρ^-a (1-ρ)^-b from 0 to ρ, for a < 1 and b < 1."""
    return beta(1 - a, 1 - b) * betainc(1 - a, 1 - b, rho)
