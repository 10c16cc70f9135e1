"""Budgets per step over many prompts: norms of their weights, under which time is the length of a path.

In log-odds θ a weight is a speed, dθ_i/dt = ω_i. A budget on each step bounds a norm of these speeds. At unit budget
the time along a path is therefore the length of the path: the integral of mean|dx_i|, or of the root of mean dx_i², in
the coordinate x that makes the norm flat,

    weight   mean ω          x = θ             = ln(ρ/(1-ρ))
    kl       mean ρ(1-ρ)ω²   x = φ = 2 asin √ρ    because dφ = √(ρ(1-ρ)) dθ
    square   mean ω²         x = θ

The least time, over all weights by prompt and step, is the straight distance from the start to the nearest point at
which mean ρ reaches its target; the straight path attains it. Derived. A step η moves a prompt by a KL of
η²/2 ρ(1-ρ)ω² to leading order, which is what the second budget counts.

A prompt with 1-ρ ≤ δ counts as *solved*: it has no weight, costs no budget, and stays where it is. Without this rule
the first and third budget would be spent on prompts that have nothing left to learn, because GRPO, Sqrt-R and Uniform-R
reach ρ = 1 in finite time, and in log-odds that point is infinitely far. Training does the same: a group whose M
responses are all right has no gradient, and that happens in at least (1-δ)^M of the groups of a solved prompt. A
weighting that is 0 beyond 1-δ is one of all weights, so the bound holds for it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.special import expit

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class StepBudget:
    """A norm of the weights of all prompts in one step.

    Attributes
    ----------
    name
        What the command line calls it.
    reading
        One line for people.
    exponent
        p of the norm (mean g ω^p)^(1/p): 1 or 2.
    coordinate_name
        The coordinate x in which the norm of the speeds is flat: "log-odds", or "angle" for φ = 2 asin √ρ.
    """

    name: str
    reading: str
    exponent: Literal[1, 2]
    coordinate_name: Literal["log-odds", "angle"]

    def coordinate(self, theta: ArrayLike) -> Array:
        """x of log-odds of any shape."""
        theta = np.asarray(theta, dtype=np.float64)
        # asin √ρ = atan e^(θ/2): no digits lost near ρ = 1.
        return theta if self.coordinate_name == "log-odds" else 2 * np.arctan(np.exp(theta / 2))

    def slope(self, theta: ArrayLike) -> Array:
        """dx/dθ at log-odds of any shape."""
        theta = np.asarray(theta, dtype=np.float64)
        return np.ones_like(theta) if self.coordinate_name == "log-odds" else np.sqrt(expit(theta) * expit(-theta))

    def success(self, x: ArrayLike) -> Array:
        """ρ at coordinates of any shape."""
        x = np.asarray(x, dtype=np.float64)
        return expit(x) if self.coordinate_name == "log-odds" else np.sin(x / 2) ** 2

    def norm(self, change: Array, share: Array) -> Array:
        """(Σ share |dx|^p)^(1/p) over the last axis.

        Parameters
        ----------
        change
            Shape (..., n). Changes or speeds of the coordinate.
        share
            Shape (n,). Share of each prompt in the population, sum 1.
        """
        if self.exponent == 1:
            return np.abs(change) @ share
        return np.sqrt(change**2 @ share)


BUDGETS = {
    budget.name: budget
    for budget in (
        StepBudget("weight", "mean weight ω", 1, "log-odds"),
        StepBudget("kl", "root mean ρ(1-ρ)ω², the KL of a step", 2, "angle"),
        StepBudget("square", "root mean squared weight ω²", 2, "log-odds"),
    )
}
