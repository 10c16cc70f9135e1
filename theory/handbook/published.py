"""Weightings that others published: each acts on the centred reward, A = ω(ρ̂)(r - ρ̂)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from theory.handbook.notation import any_success, failure_power, incomplete_beta
from theory.handbook.paper import GRPO, LINEAR_R, REINFORCE
from theory.quadrature import log_odds
from theory.special import boxcox
from theory.weighting import Formula, Weighting

DR_GRPO = dataclasses.replace(
    REINFORCE,
    name="dr-grpo",
    label="Dr. GRPO",
    source="Liu et al. 2025, arXiv 2503.20783",
    note="GRPO without its standard deviation, and with another length normaliser.",
)

DAPO = dataclasses.replace(
    GRPO,
    name="dapo",
    label="DAPO",
    draws_again=True,
    source="Yu et al. 2025, arXiv 2503.14476",
    note="Groups are drawn until they are mixed. A kept one moves further by as much as it costs more draws: in groups "
    "drawn the clock is regular, and refill:M,a,b where updates cost something too.",
)

MAXRL = dataclasses.replace(
    LINEAR_R,
    name="maxrl",
    label="MaxRL",
    all_wrong_advantage=0.0,
    published_rules=True,
    source="Tajwar et al. 2026, arXiv 2602.02710",
    note="Linear-R with 0 instead of its limit -1 on all-wrong groups.",
)

# The centred reward over its mean absolute deviation.
DGPO = Weighting(
    name="dgpo",
    label="DGPO (MathForge)",
    weight=Formula("1/(2ρ(1-ρ))", lambda rho: 1 / (2 * rho * (1 - rho))),
    effective_formula="1/2",
    surrogate=Formula("ln(ρ/(1-ρ))/2", lambda rho: log_odds(rho) / 2),
    published_rules=True,
    source="Dai et al. 2026, arXiv 2601.20614",
    note="Division by the mean absolute deviation; its further weighting of questions across a batch is left out.",
)

ONE_SIDED_GRPO = Weighting(
    name="one-sided-grpo",
    label="One-sided GRPO",
    weight=Formula("1/√ρ", lambda rho: rho**-0.5),
    effective_formula="√ρ (1-ρ)",
    surrogate=Formula("2(√ρ-1)", lambda rho: boxcox(rho, 0.5)),
    source="no publication known to us",
    note="The same as tsallis:0.5.",
)

PLAIN = (DR_GRPO, DAPO, MAXRL, DGPO, ONE_SIDED_GRPO)


def grpo_stabilised(epsilon: float) -> Weighting:
    """GRPO with ε under the root. asin x + π/2 = 2 atan2(√(1+x), √(1-x)): no cancellation where x is near ±1."""
    excess = 4 * epsilon / (np.sqrt(1 + 4 * epsilon) + 1)
    return Weighting(
        name=f"grpo-stabilised:{epsilon!r}",
        label=f"Stabilised GRPO, ε = {epsilon:g}",
        weight=Formula(f"1/√(ρ(1-ρ)+{epsilon:g})", lambda rho: 1 / np.sqrt(rho * (1 - rho) + epsilon)),
        effective_formula=f"ρ(1-ρ)/√(ρ(1-ρ)+{epsilon:g})",
        surrogate=Formula(
            f"asin((2ρ-1)/√(1+4·{epsilon:g})) + π/2",
            lambda rho: 2 * np.arctan2(np.sqrt(excess + 2 * rho), np.sqrt(excess + 2 * (1 - rho))),
        ),
        source="Mroueh 2025, arXiv 2503.06639",
        note="The value of ε shown here is ours.",
    )


def grpo_epsilon(epsilon: float) -> Weighting:
    """GRPO as coded, for large groups: ε beside the root.

    With ρ = sin²(ψ/2), h = ψ - a∫dψ/(sin ψ + a) = ψ - (a/c) ln((a t + 1 - c)/(a t + 1 + c)), t = tan(ψ/2) = √(ρ/(1-ρ)).
    """
    a = 2 * epsilon
    c = np.sqrt(1 - a**2)

    def surrogate(rho: NDArray[np.float64]) -> NDArray[np.float64]:
        sine, cosine = a * np.sqrt(rho), np.sqrt(1 - rho)
        ratio = (sine + cosine * a**2 / (1 + c)) / (sine + cosine * (1 + c))  # 1-c = a²/(1+c)
        return 2 * np.arcsin(np.sqrt(rho)) - a / c * np.log(ratio)

    return Weighting(
        name=f"grpo-epsilon:{epsilon!r}",
        label=f"GRPO with ε = {epsilon:g} in its denominator",
        weight=Formula(f"1/(√(ρ(1-ρ))+{epsilon:g})", lambda rho: 1 / (np.sqrt(rho * (1 - rho)) + epsilon)),
        effective_formula=f"ρ(1-ρ)/(√(ρ(1-ρ))+{epsilon:g})",
        surrogate=Formula(
            f"2 asin √ρ - (a/c) ln((a t+1-c)/(a t+1+c)), t = √(ρ/(1-ρ)), a = {a:g}, c = √(1-a²)", surrogate
        ),
        source="Shao et al. 2024, arXiv 2402.03300; ε of the code",
        note="The large-group limit of GRPO as coded in TRL (ε = 1e-4) and verl (1e-6); groups: grpo-trl, grpo-verl.",
    )


def clipped_mean(floor: float) -> Weighting:
    """Linear-R, bounded where successes are rare."""
    return Weighting(
        name=f"clipped-mean:{floor!r}",
        label=f"Clipped mean, {floor:g}",
        weight=Formula(f"1/max(ρ, {floor:g})", lambda rho: 1 / np.maximum(rho, floor)),
        effective_formula=f"ρ(1-ρ)/max(ρ, {floor:g})",
        surrogate=Formula(
            f"ρ/{floor:g} up to {floor:g}, then 1+ln(ρ/{floor:g})",
            lambda rho: np.where(rho <= floor, rho / floor, 1 + np.log(np.maximum(rho, floor) / floor)),
        ),
        kinks=(floor,),
        source="no publication known to us",
        note="Linear-R, or MaxRL, with its weight bounded; 0.125 is one success in a group of 8.",
    )


def tsallis(q: float) -> Weighting:
    """The surrogate is the Tsallis q-logarithm."""
    return Weighting(
        name=f"tsallis:{q!r}",
        label=f"Tsallis (GARL), q = {q:g}",
        weight=Formula(f"ρ^-{q:g}", lambda rho: rho**-q),
        effective_formula=f"ρ^{1 - q:g} (1-ρ)",
        surrogate=Formula("ln ρ" if q == 1 else f"(ρ^{1 - q:g}-1)/{1 - q:g}", lambda rho: boxcox(rho, 1 - q)),
        all_wrong_advantage=-1.0 if q == 1 else 0.0,
        source="Lin and Ie 2026, arXiv 2604.25907",
        note="From RLOO at q = 0 to Linear-R at q = 1; GARL estimates the factor ρ^-q from the group.",
    )


def f_grpo(gamma: float) -> Weighting:
    """GRPO with a focal factor (1-ρ)^γ."""
    return Weighting(
        name=f"f-grpo:{gamma!r}",
        label=f"F-GRPO, γ = {gamma:g}",
        weight=Formula(f"(1-ρ)^{gamma:g}/√(ρ(1-ρ))", lambda rho: failure_power(rho, gamma - 0.5) / np.sqrt(rho)),
        effective_formula=f"√ρ (1-ρ)^{gamma + 0.5:g}",
        surrogate=Formula(
            f"B(ρ; 0.5, {gamma + 0.5:g}), incomplete beta function",
            lambda rho: incomplete_beta(rho, 0.5, 0.5 - gamma),
        ),
        source="Plyusov et al. 2026, arXiv 2602.06717",
        note="The value of γ shown here is ours.",
    )


def rs_grpo(beta: float) -> Weighting:
    """The surrogate is ln E[e^(βr)]/β, a mean that seeks risk."""
    return Weighting(
        name=f"rs-grpo:{beta!r}",
        label=f"RS-GRPO, β = {beta:g}",
        weight=Formula(
            f"(e^{beta:g}-1)/({beta:g}(1+ρ(e^{beta:g}-1)))",
            lambda rho: np.expm1(beta) / (beta * (1 + rho * np.expm1(beta))),
        ),
        effective_formula=f"ρ(1-ρ)(e^{beta:g}-1)/({beta:g}(1+ρ(e^{beta:g}-1)))",
        surrogate=Formula(f"ln(1+ρ(e^{beta:g}-1))/{beta:g}", lambda rho: np.log1p(rho * np.expm1(beta)) / beta),
        source="Jiang et al. 2025, arXiv 2509.24261",
        note="β = 2 is the default of its code.",
    )


def pass_at_k(k: int) -> Weighting:
    """The surrogate is pass@k."""
    return Weighting(
        name=f"pass-at-k:{k}",
        label=f"Pass@k policy optimisation, k = {k}",
        weight=Formula(f"{k}(1-ρ)^{k - 1}", lambda rho: k * failure_power(rho, k - 1)),
        effective_formula=f"{k}ρ(1-ρ)^{k}",
        surrogate=Formula(f"1-(1-ρ)^{k}", lambda rho: any_success(rho, k)),
        source="Walder and Karkhanis 2025, arXiv 2505.15201",
        note=f"The published estimator in groups is pkpo:{k}: unbiased, and 0 for every wrong response.",
    )


def pass_at_k_training(k: int) -> Weighting:
    """GRPO on the reward of k draws. The surrogate is the Fisher-Rao angle of pass@k, over k."""
    return Weighting(
        name=f"pass-at-k-training:{k}",
        label=f"Pass@k training, k = {k}",
        weight=Formula(
            f"(1-ρ)^{k / 2 - 1:g}/√(1-(1-ρ)^{k})",
            lambda rho: failure_power(rho, k / 2 - 1) / np.sqrt(any_success(rho, k)),
        ),
        effective_formula=f"ρ(1-ρ)^{k / 2:g}/√(1-(1-ρ)^{k})",
        surrogate=Formula(
            f"{2 / k:g} asin √(1-(1-ρ)^{k})",
            lambda rho: 2 / k * np.arctan2(np.sqrt(any_success(rho, k)), failure_power(rho, k / 2)),
        ),
        source="Chen et al. 2025, arXiv 2508.10751",
        note=f"GRPO at k = 1. The published estimator in groups is pass-at-k-groups:{k}: subsets without replacement.",
    )


def maxrl_order(order: int) -> Weighting:
    """ω = Σ (1-ρ)^j over j < T: the surrogate is ln ρ truncated at order T, up to a constant."""
    return Weighting(
        name=f"maxrl-order:{order}",
        label=f"MaxRL of order {order}",
        weight=Formula(f"(1-(1-ρ)^{order})/ρ", lambda rho: any_success(rho, order) / rho),
        effective_formula=f"(1-ρ)(1-(1-ρ)^{order})",
        surrogate=Formula(
            f"Σ (1-(1-ρ)^j)/j, j = 1..{order}",
            lambda rho: sum((any_success(rho, j) / j for j in range(1, order + 1)), start=np.zeros_like(rho)),
        ),
        source="Tajwar et al. 2026, arXiv 2602.02710",
        note="What 1/ρ becomes in expectation over groups of M: order M with -1 on all-wrong groups (Linear-R), order "
        "M-1 with 0 there (MaxRL).",
    )
