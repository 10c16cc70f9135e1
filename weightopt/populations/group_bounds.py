"""How cheap a population can be at best: lower bounds over tables that may differ by prompt and by step.

A group of M whose advantages are a weight times the centred reward has the speed u and the second moment

    E[A²] = (1-1/M) ρ(1-ρ) (w̄² + Var w),   u = (1-1/M) w̄,   w the weight at J+1, J ~ Bin(M-2, ρ),

because Bin(K; M, ρ) K(M-K)/M² = (1-1/M) ρ(1-ρ) Bin(K-1; M-2, ρ). So E[A²] ≥ M/(M-1) ρ(1-ρ) u², with equality for
equal weights: a step that spends E[A²] = 1 is at most √((M-1)/M) long in the angle 2 asin √ρ, in which the budget of
the KL is flat, and the distance L to {mean ρ ≥ target} (`lower_bounds.nearest`) takes √(M/(M-1)) L steps. With any
other advantages, those in uniform groups among them, E[A²] ≥ ρ(1-ρ)u² still, by Cauchy and Schwarz, since
ρ(1-ρ)u = E[A (r-ρ)]: then it takes L steps.

Costs. With C the mean cost of a response and Z the share of mixed groups, a way of length ℓ costs ∫ C/√Z dℓ where
every step spends 1. Steps that spend 1 on average, at a speed v of the way, cost ∫ (C/Z) dt; with a price μ of what is
spent this is ≥ ∫ min over v of (C + μ(v²-1)Z)/v dℓ = ∫ 2√(μ(C-μZ)) dℓ, for any μ up to the least C. After a way of
length ℓ the population is within ℓ of its start, so by duality, prompt by prompt, for every λ ≥ 0

    C ≥ mean min over φ of (c(φ) + λ(φ-φ₀)²) - λℓ²,     and -Z in the same way.

The minima are taken on a grid between whose points c is taken as linear, which lowers them by at most λ·width²/4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from theory.step_budgets import BUDGETS
from weightopt.populations.group_flow import GroupBudget
from weightopt.populations.lower_bounds import Crowd, nearest

Array = NDArray[np.float64]
GRID = 800  # angles
PRICES = 60  # λ, from a thousandth to a thousand times the cost over the square of the way
STEPS = 1000  # of the way: a sum of the smaller ends of each
SHADOW_PRICES = 40  # μ


def least_cost(
    theta: Array,
    share: Array,
    target: float,
    group_size: int,
    budget_kind: GroupBudget,
    cost: Callable[[Array], Array] | None = None,
    refilled: bool = False,
    uniform: bool = False,
) -> float:
    """No tables for groups of M, even by prompt and step, cost less.

    Parameters
    ----------
    theta, share
        Shape (n,). Log-odds at the start, rising, and shares; the mean success is below the target.
    target, group_size, budget_kind, cost, refilled
        As in `GroupFlow`.
    uniform
        Whether tables may have advantages in uniform groups.
    """
    budget = BUDGETS["kl"]
    crowd = Crowd(budget, budget.coordinate(theta), share)
    angle, _ = nearest(crowd, target)
    stretch = 1.0 if budget_kind == "kl" or uniform else np.sqrt(group_size / (group_size - 1))
    if cost is None and not refilled:
        return float(angle * stretch)
    way = np.linspace(0, angle, STEPS + 1)[1:]
    rho = np.clip(np.sin(np.linspace(0, np.pi, GRID) / 2) ** 2, 1e-12, 1 - 1e-12)
    least, floor = np.ones_like(way), 1.0
    if cost is not None:
        values = cost(rho)
        least = np.maximum(_least(crowd, values, way), float(np.min(values)))
        # Before the target is reached: C ≥ mean of c + κρ, minus κ times the target.
        floor = max(float(np.min(values + kappa * rho)) - kappa * target for kappa in np.ptp(values) * _KAPPAS)
        least = np.maximum(least, floor)
    mixed = np.ones_like(way)
    if refilled:
        mixed = np.minimum(1.0, -_least(crowd, rho**group_size + (1 - rho) ** group_size - 1, way))
    step = angle * stretch / STEPS
    if budget_kind != "constant-step":
        return float(np.sum(least / np.sqrt(mixed)) * step)
    prices = floor * np.linspace(0, 1, SHADOW_PRICES + 1)[1:-1]
    return float(max(np.sum(2 * np.sqrt(mu * np.maximum(least - mu * mixed, 0.0))) * step for mu in prices))


_KAPPAS = np.linspace(0, 4, 81)


def _least(crowd: Crowd, values: Array, way: Array) -> Array:
    """Lower bounds on the mean of a function of the angle within each length of the start; shape of `way`."""
    grid = np.linspace(0, np.pi, values.size)
    apart = (grid - crowd.start[:, None]) ** 2
    correction = (grid[1] - grid[0]) ** 2 / 4
    scale = float(np.ptp(values)) / way[-1] ** 2
    bound = np.full_like(way, float(np.min(values)))
    for price in scale * np.geomspace(1e-3, 1e3, PRICES) if scale > 0 else ():
        inner = crowd.share @ np.min(values + price * apart, axis=1) - price * correction
        np.maximum(bound, inner - price * way**2, out=bound)
    return bound
