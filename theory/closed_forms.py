"""Closed forms under the natural mobility ρ(1-ρ): times, trajectories and optimal times.

For ω = C·ω0 divide times by C. Derived from dρ/dt = ρ(1-ρ) ω0(ρ) and, for the effective clock, ds = dt/ρ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.clocks import Affine, Clock, parse
from theory.quadrature import log_odds
from theory.special import expit, wrightomega

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Path = Callable[[float, NDArray[np.float64]], NDArray[np.float64]]


def _artanh_root(rho: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Artanh √(1-ρ), accurate where √(1-ρ) rounds to 1."""
    return np.log1p(np.sqrt(1 - np.asarray(rho))) - np.log(rho) / 2


# Antiderivatives of c/(ρ(1-ρ) ω0): the time from ρ0 to ρ1 is the difference.
ANTIDERIVATIVES: dict[tuple[str, str], Curve] = {
    ("rloo", "regular"): log_odds,
    ("grpo", "regular"): lambda rho: 2 * np.arcsin(np.sqrt(rho)),
    ("linear-r", "regular"): lambda rho: -np.log1p(-rho),
    ("sqrt-r", "regular"): lambda rho: -2 * np.sqrt(1 - rho),
    ("uniform-r", "regular"): lambda rho: rho,
    ("rloo", "effective"): lambda rho: log_odds(rho) - 1 / rho,
    ("grpo", "effective"): lambda rho: -2 * np.sqrt((1 - rho) / rho),
    ("linear-r", "effective"): log_odds,
    ("sqrt-r", "effective"): lambda rho: -2 * _artanh_root(rho),
    ("uniform-r", "effective"): np.log,
}


def _rloo_effective(start: float, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """With x = (1-ρ)/ρ the law logit ρ - 1/ρ = s + const reads x + ln x = const - s: Wright's omega function."""
    odds_against = (1 - start) / start
    return 1 / (1 + wrightomega(odds_against + np.log(odds_against) - times).real)


# ρ(t) from ρ(0) = start. GRPO, Sqrt-R and Uniform-R reach ρ = 1 in finite time and stay there.
TRAJECTORIES: dict[tuple[str, str], Path] = {
    ("rloo", "regular"): lambda start, t: expit(log_odds(start) + t),
    ("grpo", "regular"): lambda start, t: np.sin(np.minimum(np.arcsin(np.sqrt(start)) + t / 2, np.pi / 2)) ** 2,
    ("linear-r", "regular"): lambda start, t: 1 - (1 - start) * np.exp(-t),
    ("sqrt-r", "regular"): lambda start, t: 1 - np.maximum(np.sqrt(1 - start) - t / 2, 0) ** 2,
    ("uniform-r", "regular"): lambda start, t: np.minimum(start + t, 1),
    ("rloo", "effective"): _rloo_effective,
    ("grpo", "effective"): lambda start, s: 1 / (1 + np.maximum(np.sqrt((1 - start) / start) - s / 2, 0) ** 2),
    ("linear-r", "effective"): lambda start, s: expit(log_odds(start) + s),
    ("sqrt-r", "effective"): lambda start, s: np.cosh(np.maximum(_artanh_root(start) - s / 2, 0)) ** -2.0,
    ("uniform-r", "effective"): lambda start, s: np.exp(np.minimum(np.log(start) + s, 0)),
}

# Antiderivatives of √(c/(ρ(1-ρ))): the optimal time at budget B is (difference)²/B, and ∫ω0 dρ of the optimal ω0.
OPTIMAL: dict[str, Curve] = {
    "regular": lambda rho: 2 * np.arcsin(np.sqrt(rho)),
    "effective": lambda rho: -2 * _artanh_root(rho),
    "failures": np.log,
    "both": log_odds,
    "variance": lambda rho: rho,
}


def affine_optimal(rho: NDArray[np.float64], update: float, response: float) -> NDArray[np.float64]:
    """Antiderivative of √((a + b/ρ)/(ρ(1-ρ))): 2√a atan(u/√a) - 2√b artanh(√b/u) with u = √((aρ+b)/(1-ρ)).

    Derived. It interpolates between GRPO's 2 asin √ρ (b = 0) and Sqrt-R's -2 artanh √(1-ρ) (a = 0). With z = √b/u the
    artanh is computed as ln(1+z) - ln(1-z²)/2, 1-z² = (a+b)ρ/(aρ+b), which does not cancel where u is close to √b.

    Parameters
    ----------
    rho
        Any shape, in (0, 1).
    update, response
        a, b ≥ 0, not both 0.
    """
    linear = update * rho + response
    u = np.sqrt(linear / (1 - rho))
    along = 2 * np.sqrt(update) * np.arctan(u / np.sqrt(update)) if update > 0 else np.zeros_like(u)
    if response == 0:
        return along
    artanh = np.log1p(np.sqrt(response) / u) - (np.log(rho) + np.log((update + response) / linear)) / 2
    return along - 2 * np.sqrt(response) * artanh


def optimal_antiderivative(clock: Clock) -> Curve | None:
    """Antiderivative of √(c/(ρ(1-ρ))) for that clock, or None where it is not elementary."""
    if isinstance(clock, Affine):
        return lambda rho: affine_optimal(rho, clock.update, clock.response)
    return OPTIMAL.get(clock.name)


def crossing_time(weighting: str, clock: str, start: float, target: float) -> float:
    """Time from `start` to `target` under the named weighting at scale 1.

    Parameters
    ----------
    weighting
        "rloo", "grpo", "linear-r", "sqrt-r" or "uniform-r".
    clock
        "regular" or "effective".
    start, target
        0 < start ≤ target < 1.

    Raises
    ------
    KeyError
        If the pair has no closed form.
    """
    primitive = ANTIDERIVATIVES[weighting, clock]
    return float(primitive(np.asarray(target)) - primitive(np.asarray(start)))


def trajectory(weighting: str, clock: str, start: float, times: ArrayLike) -> NDArray[np.float64]:
    """ρ at clock times ≥ 0 (any shape) under the named weighting at scale 1; arguments as `crossing_time`."""
    return TRAJECTORIES[weighting, clock](start, np.asarray(times, dtype=np.float64))


def optimal_time(clock: str, start: float, target: float, budget: float = 1.0) -> float:
    """T* = (∫√(c/(ρ(1-ρ))) dρ)²/B for the clocks of `OPTIMAL` and "affine:a,b".

    Raises
    ------
    ValueError
        If there is no closed form for the clock.
    """
    primitive = optimal_antiderivative(parse(clock))
    if primitive is None:
        raise ValueError(f"no closed form for clock {clock!r}")
    return float(primitive(np.asarray(target)) - primitive(np.asarray(start))) ** 2 / budget
