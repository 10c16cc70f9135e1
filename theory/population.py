"""Many prompts under one budget per step: path lengths, step budgets, and the flow of a shared weighting.

In log-odds θ a weight is a speed, dθ_i/dt = ω_i. A budget on each step bounds a norm of these speeds, so that the time
to go along a path, at unit budget, is the length of the path: mean|dx_i| or the root of mean dx_i² in the coordinate x
that makes the norm flat,

    weight   mean ω          x = θ             = ln(ρ/(1-ρ))
    kl       mean ρ(1-ρ)ω²   x = φ = 2 asin √ρ    because dφ = √(ρ(1-ρ)) dθ
    square   mean ω²         x = θ

No choice of weights, prompt by prompt and step by step, is faster than the straight distance from the start to the
nearest point at which mean ρ has reached its target; it is attained by going there straight. Derived; the accumulated
KL of a step of size η is η²/2 mean ρ(1-ρ)ω² to leading order.

A *shared* weighting ω(ρ) moves every prompt along one and the same curve: with H(θ) = ∫ dθ/ω, H(θ_i) grows by the same
amount τ for every prompt. For ln ω piecewise linear in θ, the interpolation of weight tables, H and its inverse are
elementary, so a population's path is exact and only its length needs quadrature.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import exprel

from theory.quadrature import log_odds

Array = NDArray[np.float64]
SERIES = 1e-9  # ln(1+z)/z is 1 to rounding below this


@dataclasses.dataclass(frozen=True)
class StepBudget:
    """A norm of the weights of all prompts in one step.

    Attributes
    ----------
    name : str
        What the command line calls it.
    reading : str
        One line for people.
    exponent : {1, 2}
        p of the norm (mean g ω^p)^(1/p).
    coordinate_name : {"log-odds", "angle"}
        x, in which the norm of the speeds is flat; "angle" is φ = 2 asin √ρ.
    """

    name: str
    reading: str
    exponent: Literal[1, 2]
    coordinate_name: Literal["log-odds", "angle"]

    def coordinate(self, rho: ArrayLike) -> Array:
        """x(ρ), any shape, ρ in (0, 1)."""
        rho = np.asarray(rho, dtype=np.float64)
        return log_odds(rho) if self.coordinate_name == "log-odds" else 2 * np.arcsin(np.sqrt(rho))

    def norm(self, change: Array) -> Array:
        """(mean |dx|^p)^(1/p) over the last axis, of changes or speeds of the coordinate."""
        if self.exponent == 1:
            return np.mean(np.abs(change), axis=-1)
        return np.sqrt(np.mean(change**2, axis=-1))

    def step(self, rho: Array, weight: Array) -> Array:
        """What weights of shape (..., n) at success ρ of the same shape spend per step; shape (...)."""
        return self.norm(np.sqrt(rho * (1 - rho)) * weight if self.coordinate_name == "angle" else weight)

    def length(self, start: ArrayLike, end: ArrayLike) -> float:
        """Straight distance between two populations of success probabilities, shape (n,): steps at unit budget."""
        return float(self.norm(self.coordinate(end) - self.coordinate(start)))


BUDGETS = {
    budget.name: budget
    for budget in (
        StepBudget("weight", "mean weight", 1, "log-odds"),
        StepBudget("kl", "mean ρ(1-ρ)ω², the KL of a step", 2, "angle"),
        StepBudget("square", "mean squared weight", 2, "log-odds"),
    )
}


class LogLinearFlow:
    """The flow dθ/dτ = ω(θ) of a weighting whose logarithm is linear in log-odds between knots, in closed form.

    On a piece ln ω = l + s(θ-θ_k): H - H_k = e^-l (1 - e^(-s(θ-θ_k)))/s and θ = θ_k - ln(1 - s e^l (H-H_k))/s.

    Parameters
    ----------
    theta : ndarray, shape (k,)
        Knots in log-odds, increasing, k ≥ 2. The flow is defined between the first and the last.
    log_weight : ndarray, shape (k,)
        ln ω there.
    """

    def __init__(self, theta: Array, log_weight: Array) -> None:
        self.theta, self.log_weight = theta, log_weight
        width = np.diff(theta)
        self.slope = np.diff(log_weight) / width
        pieces = np.exp(-log_weight[:-1]) * width * exprel(-self.slope * width)
        self.clock = np.concatenate([[0.0], np.cumsum(pieces)])  # H at the knots

    def arrival(self, theta: Array) -> Array:
        """H(θ): flow time from the first knot, for θ of any shape between the knots."""
        piece = np.clip(np.searchsorted(self.theta, theta, side="right") - 1, 0, self.slope.size - 1)
        ahead = theta - self.theta[piece]
        return self.clock[piece] + np.exp(-self.log_weight[piece]) * ahead * exprel(-self.slope[piece] * ahead)

    def position(self, arrival: Array) -> tuple[Array, Array]:
        """Log-odds, and ln ω there, at flow times between 0 and the last knot's, any shape."""
        piece = np.clip(np.searchsorted(self.clock, arrival, side="right") - 1, 0, self.slope.size - 1)
        slope = self.slope[piece]
        ahead = (arrival - self.clock[piece]) * np.exp(self.log_weight[piece])
        z = np.maximum(-slope * ahead, -1 + 1e-15)  # rounding must not step over the pole behind the last knot
        small = np.abs(z) < SERIES
        ahead = ahead * np.where(small, 1.0, np.log1p(z) / np.where(small, 1.0, z))
        return self.theta[piece] + ahead, self.log_weight[piece] + slope * ahead
