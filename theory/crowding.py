"""Crowding: kinds of prompts that compete for a habit they share, and the elasticity that decides which of them stay.

The model. A prompt is of kind j with share q_j. The policy first picks an act from its habit π = softmax(b), which all
prompts share, and then executes it right with probability r_j. Only act j solves a prompt of kind j, so ρ_j = π_j r_j.
An act that solves nothing is a kind of share 0.

**Replicator form.** The mean gradient of a prompt is u(ρ)∇ρ: u is the speed of `theory.finite_group` under the ratio
step, and ω for large groups. With ∂ρ_j/∂b_a = ρ_j (1[a = j] - π_a) and φ(ρ) = ρ u(ρ),

    db_a/dt = f_a = q_a φ(ρ_a) - π_a Φ,   Φ = Σ_j q_j φ(ρ_j),   d ln π_a/dt = f_a - Σ_c π_c f_c:

a weighting is a fitness that depends on how frequent an act is.

**Equilibrium.** At rest f_a is the same for all acts in use, and it is 0: Σ_a f_a = Φ - Φ = 0. So q_a r_a u(ρ_a) = Φ
for all kinds alike. For ω = ρ^-m this is π_a ∝ (q_a r_a^(1-m))^(1/m): in proportion to share alone for m = 1, nearly
all to the best executed kind as m → 0.

**Stability.** Let J kinds of equal share and execution share the habit evenly, π_a = 1/J + ε_a. To first order Φ does
not change, f_a = -ε_a φ(ρ)(1 - E) with the elasticity E = d ln φ/d ln ρ, and the logarithm of a ratio of two
propensities, J(ε_a - ε_c), shrinks at the rate

    (φ(ρ)/J)(1 - E):

sharing is stable if and only if E < 1, that is, if the speed u falls with success where the kinds meet.

**Invasion.** For two kinds g and h, d ln(π_g/π_h)/dt = q_g φ(ρ_g) - q_h φ(ρ_h) - (π_g - π_h) Φ. With g rare and h at
π_h,

    g gains on h   if and only if   (1 + π_h) q_g φ(ρ_g) > (1 - π_h) q_h φ(ρ_h)   (but for terms in π_g).

Early, when most of the habit is on acts that solve nothing, π_h is small, and the kind with the larger φ gains: with
E = κ a kind that is x times as successful is pressed x^κ times as hard. So a *crowding limit*, E ≤ κ, bounds how fast
the successful get ahead, and below 1 it also brings shares back.

**Groups.** For M responses φ(ρ) = ρ Σ_k Bin(k; M-1, ρ)(A⁺_(k+1) - A⁻_k). Its elasticity is at least 1 - (M-1)ρ/(1-ρ)
for every table with A⁺ ≥ 0 ≥ A⁻, attained by one that pushes all-wrong groups alone: the elasticity of Bin(k; M-1, ρ)
is (k - (M-1)ρ)/(1-ρ), that of u a mean of these. Below ρ = 1/M no table holds a limit κ near 0.

For centred advantages φ(ρ) = E[-A⁻_K] with K ~ Bin(M-1, ρ): the mean *push* on a wrong response. With a push a on
all-wrong groups the two differ by the mean advantage, φ = E[-A⁻_K] - a(1-ρ)^M: pushing every response of a group down
alike is a baseline, and the gradient keeps only what correlates with success, a ρ(1-ρ)^(M-1). So an all-wrong rule
makes the push on wrong responses of a rare kind large and leaves its mean gradient as small as it was.

Derived; checked against a softmax network whose groups are enumerated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.bernstein import scaled_slope
from theory.finite_group import binomial
from theory.special import brentq
from theory.weighting import Advantages, GroupScheme, Weighting

Array = NDArray[np.float64]
Measure = Literal["gradient", "push"]
MEASURES: tuple[Measure, ...] = ("gradient", "push")
STENCIL = 1e-3  # of ln ρ: 4th order, so that its error and rounding are both near 1e-13


def habit_speed(share: ArrayLike, propensity: ArrayLike, execution: ArrayLike, phi: Callable[[Array], Array]) -> Array:
    """db/dt of the habit's logits.

    Parameters
    ----------
    share, propensity, execution
        q, π and r, shape (J,): shares and propensities each of sum 1, r in (0, 1].
    phi
        φ, from success probabilities to the same shape.

    Returns
    -------
    ndarray
        Shape (J,), of sum 0.
    """
    share, propensity = np.asarray(share, dtype=np.float64), np.asarray(propensity, dtype=np.float64)
    force = share * phi(propensity * np.asarray(execution, dtype=np.float64))
    return force - propensity * force.sum()


def growth(share: ArrayLike, propensity: ArrayLike, execution: ArrayLike, phi: Callable[[Array], Array]) -> Array:
    """d ln π/dt, shape (J,): the replicator equation; arguments as `habit_speed`."""
    speed = habit_speed(share, propensity, execution, phi)
    return speed - np.asarray(propensity, dtype=np.float64) @ speed


def invasion(
    share: tuple[float, float], resident: float, success: tuple[float, float], phi: Callable[[Array], Array]
) -> float:
    """d ln(π_g/π_h)/dt of a rare kind g over a resident kind h, but for terms in π_g.

    Parameters
    ----------
    share
        q_g and q_h.
    resident
        π_h.
    success
        ρ_g and ρ_h.
    phi
        φ.

    Returns
    -------
    float
        Positive if g gains.
    """
    rare, common = (q * float(phi(np.asarray(rho))) for q, rho in zip(share, success, strict=True))
    return (1 + resident) * rare - (1 - resident) * common


def return_rate(rho: float, kinds: int, phi: Callable[[Array], Array], elasticity: float) -> float:
    """Rate at which a small difference between two of J equal kinds shrinks, (φ/J)(1 - E); negative: it grows."""
    return float(phi(np.asarray(rho))) / kinds * (1 - elasticity)


def equilibrium(share: ArrayLike, execution: ArrayLike, speed: Callable[[Array], Array]) -> Array:
    """Propensities at rest of kinds that all stay, for a speed u that falls with success.

    Parameters
    ----------
    share, execution
        q and r, shape (J,), positive.
    speed
        u, decreasing: then each kind's q r u(π r) falls with π, and one level makes the π add up to 1.

    Returns
    -------
    ndarray
        π, shape (J,).

    Raises
    ------
    ValueError
        If no such level lies between propensities of 1e-12 and 1.
    """
    share, execution = np.asarray(share, dtype=np.float64), np.asarray(execution, dtype=np.float64)

    def return_of(at: Array) -> Array:
        return np.log(share * execution * speed(at * execution))

    least, edge = 1e-12, 1 - 1e-12
    ends = return_of(np.full_like(share, least)), return_of(np.full_like(share, edge))

    def propensity(level: float) -> Array:
        found = np.empty_like(share)
        for j in range(share.size):
            if level >= ends[0][j]:
                found[j] = least
            elif level <= ends[1][j]:
                found[j] = edge
            else:
                one = np.zeros_like(share)

                def excess(x: float, j: int = j, one: Array = one) -> float:
                    one[:] = np.exp(x)
                    return float(return_of(one)[j]) - level

                found[j] = np.exp(brentq(excess, np.log(least), np.log(edge), xtol=1e-15))
        return found

    def surplus(level: float) -> float:
        return float(propensity(level).sum()) - 1

    low, high = float(np.min(ends[1])), float(np.max(ends[0]))
    if not surplus(low) >= 0 >= surplus(high):
        raise ValueError("the speed must fall with success, so that every kind has a propensity at rest")
    found = propensity(brentq(surplus, low, high, xtol=1e-14))
    return found / found.sum()


def power_equilibrium(share: ArrayLike, execution: ArrayLike, m: float) -> Array:
    """Propensities at rest for ω = ρ^-m, m > 0, in closed form: π ∝ (q r^(1-m))^(1/m); arguments as `equilibrium`."""
    log = (np.log(np.asarray(share)) + (1 - m) * np.log(np.asarray(execution))) / m
    weight = np.exp(log - np.max(log))
    return weight / weight.sum()


def force(correct: ArrayLike, wrong: ArrayLike, measure: Measure = "gradient") -> Array:
    """What a table for groups of M presses with, in Bernstein form of degree M-1.

    Parameters
    ----------
    correct, wrong
        Shape (M+1,). Advantage of a correct and of a wrong response by the number correct.
    measure
        "gradient": u, so that φ = ρu has 1 plus its elasticity. "push": E[-A⁻_K], which is φ itself for centred
        advantages.

    Returns
    -------
    ndarray
        Shape (M,), coefficients k = 0..M-1.
    """
    correct, wrong = np.asarray(correct, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    return correct[1:] - wrong[:-1] if measure == "gradient" else 0.0 - wrong[:-1]


def group_phi(rho: ArrayLike, correct: ArrayLike, wrong: ArrayLike) -> Array:
    """φ(ρ) = ρ u(ρ) of a table; ρ of shape (r,) in (0, 1), tables as `force`."""
    pressed = force(correct, wrong)
    return np.asarray(rho, dtype=np.float64) * (binomial(rho, pressed.size - 1) @ pressed)


def group_elasticity(rho: ArrayLike, correct: ArrayLike, wrong: ArrayLike, measure: Measure = "gradient") -> Array:
    """d ln φ/d ln ρ of a table at ρ of shape (r,); with "push" that of E[-A⁻_K]. Not finite where φ is 0."""
    pressed = force(correct, wrong, measure)
    basis = binomial(rho, pressed.size - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (basis @ scaled_slope(pressed)) / (basis @ pressed) + (1.0 if measure == "gradient" else 0.0)


def curve_elasticity(weighting: Callable[[Array], Array], rho: ArrayLike) -> Array:
    """d ln φ/d ln ρ = 1 + d ln ω/d ln ρ of a curve at ρ of shape (r,), by differences in ln ρ.

    Accurate to 1e-10 for the catalogue's formulas, except closer than 0.2 % to one of their kinks.
    """
    rho = np.asarray(rho, dtype=np.float64)
    near, far = (
        np.log(weighting(rho * np.exp(step))) - np.log(weighting(rho * np.exp(-step)))
        for step in (STENCIL, 2 * STENCIL)
    )
    return 1 + (8 * near - far) / (12 * STENCIL)


def smallest_limit(group_size: int, rho: float) -> float:
    """1 - (M-1)ρ/(1-ρ): no table has a φ of smaller elasticity at ρ, nor, below it, on a range that begins there."""
    return 1 - (group_size - 1) * rho / (1 - rho)


def member_advantages(member: Weighting | GroupScheme, group_size: int) -> Advantages:
    """Advantages of a member of the catalogue in groups of M, by the number correct, with its rules for uniform groups.

    What draws uniform groups again has no advantage in them.
    """
    if isinstance(member, GroupScheme):
        return member(group_size)
    rho = np.arange(1, group_size) / group_size
    weight = member.group_factor(group_size) * member(rho)
    correct = np.array([0.0, *(weight * (1 - rho)), member.all_right_advantage])
    wrong = np.array([member.all_wrong_advantage, *(0.0 - weight * rho), 0.0])
    return correct, wrong
