"""Rules for groups that no weighting ω(K/M) expresses: advantages by sign of the reward, or as a library codes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from theory.handbook.paper import GRPO, REINFORCE
from theory.handbook.published import grpo_epsilon, pass_at_k, pass_at_k_training
from theory.weighting import Advantages, Formula, GroupScheme, Weighting


def _grpo_as_coded(name: str, *, library: str, epsilon: float) -> GroupScheme:
    def advantages(size: int) -> Advantages:
        share = np.arange(size + 1) / size
        scale = 1 / (np.sqrt(share * (1 - share) * size / (size - 1)) + epsilon)
        return scale * (1 - share), 0.0 - scale * share  # 0.0 - x: no negative zero

    return GroupScheme(
        name=name,
        label=f"GRPO as coded in {library}",
        formula=f"(r-K/M)/(s+{epsilon:g}), s = √(K(M-K)/(M(M-1)))",
        function=advantages,
        limit=grpo_epsilon(epsilon),
        all_wrong_rule="0",
        all_right_rule="0",
        source=f"Shao et al. 2024, arXiv 2402.03300; code of {library}",
        note="Sample standard deviation (ddof = 1), so about √((M-1)/M) of GRPO's formula, plus ε.",
    )


GRPO_TRL = _grpo_as_coded("grpo-trl", library="TRL", epsilon=1e-4)
GRPO_VERL = _grpo_as_coded("grpo-verl", library="verl", epsilon=1e-6)


def _virtual_success(size: int) -> Advantages:
    correct = np.arange(size + 1)
    mean = (correct + 1) / (size + 1)
    deviation = np.sqrt((correct + 1) * (size - correct) / (size * (size + 1)))
    deviation[-1] = np.inf  # an all-right group gets 0
    return (1 - mean) / deviation, -mean / deviation


NGRPO = GroupScheme(
    name="ngrpo",
    label="NGRPO",
    formula="(r-m)/s, m = (K+1)/(M+1), s = √((K+1)(M-K)/(M(M+1)))",
    function=_virtual_success,
    limit=GRPO,
    all_wrong_rule="-1/√(M+1)",
    all_right_rule="0",
    source="Nan et al. 2025, arXiv 2509.18851",
    note="A virtual correct response joins mean and sample standard deviation; the code's ε = 1e-6 is left out.",
)


PSR = GroupScheme(
    name="psr",
    label="PSR",
    formula="A⁺ = 1, A⁻ = 0",
    function=lambda size: (np.ones(size + 1), np.zeros(size + 1)),
    limit=REINFORCE,
    all_wrong_rule="0",
    all_right_rule="1",
    source="Zhu et al. 2025, arXiv 2506.01347",
    note="In expectation RLOO; another variance.",
)

NSR = GroupScheme(
    name="nsr",
    label="NSR",
    formula="A⁺ = 0, A⁻ = -1",
    function=lambda size: (np.zeros(size + 1), -np.ones(size + 1)),
    limit=REINFORCE,
    all_wrong_rule="-1",
    all_right_rule="0",
    source="Zhu et al. 2025, arXiv 2506.01347",
    note="In expectation RLOO; another variance.",
)

PLAIN = (GRPO_TRL, GRPO_VERL, NGRPO, PSR, NSR)


def w_reinforce(positive: float) -> GroupScheme:
    """PSR and NSR together, with λ in front of PSR."""
    weight = 1 + positive
    return GroupScheme(
        name=f"w-reinforce:{positive!r}",
        label=f"W-REINFORCE, λ = {positive:g}",
        formula=f"A⁺ = {positive:g}, A⁻ = -1",
        function=lambda size: (np.full(size + 1, positive), -np.ones(size + 1)),
        limit=Weighting(
            name=f"flat:{weight!r}",
            label=f"constant {weight:g}",
            weight=Formula(f"{weight:g}", lambda rho: np.full_like(rho, weight)),
            effective_formula=f"{weight:g}ρ(1-ρ)",
            surrogate=Formula(f"{weight:g}ρ", lambda rho: weight * rho),
            source="derived",
        ),
        all_wrong_rule="-1",
        all_right_rule=f"{positive:g}",
        source="Zhu et al. 2025, arXiv 2506.01347",
        note=f"In expectation {weight:g} times RLOO; another variance.",
    )


def _none_correct(wrong: NDArray[np.float64], size: int, draws: int) -> NDArray[np.float64]:
    """C(wrong, draws)/C(size, draws): no correct one among `draws` of `size` responses, `wrong` of them wrong."""
    product = np.ones_like(wrong)
    for taken in range(draws):
        product *= np.maximum(wrong - taken, 0) / (size - taken)
    return product


def pkpo(k: int) -> GroupScheme:
    """Pass@k policy optimisation, the estimator "leave one out minus one": what each response adds to the best others.

    A⁺ is k times the chance that k-1 others all fail; a wrong response adds nothing. The expectation is k(1-ρ)^(k-1)
    exactly, for every M ≥ k.
    """

    def advantages(size: int) -> Advantages:
        wrong = np.arange(size, -1, -1, dtype=np.float64)
        return k * _none_correct(wrong, size - 1, k - 1), np.zeros(size + 1)

    return GroupScheme(
        name=f"pkpo:{k}",
        label=f"PKPO, k = {k}",
        formula=f"A⁺ = {k} C(M-K, {k - 1})/C(M-1, {k - 1}), A⁻ = 0",
        function=advantages,
        limit=pass_at_k(k),
        all_wrong_rule="0",
        all_right_rule="1" if k == 1 else "0",
        minimum_size=max(2, k),
        source="Walder and Karkhanis 2025, arXiv 2505.15201",
        note=f"Unbiased for pass-at-k:{k} at every group size; the leave-one-out-minus-one estimator.",
    )


def pass_at_k_groups(k: int) -> GroupScheme:
    """Pass@k training, analytic form: pass@k of all k-subsets, centred and divided by its standard deviation σ.

    The advantages are 0 where σ = 0, which includes every group with fewer than k wrong responses.
    """

    def advantages(size: int) -> Advantages:
        wrong = np.arange(size, -1, -1, dtype=np.float64)
        failed = _none_correct(wrong, size, k)
        deviation = np.sqrt(failed * (1 - failed))
        deviation[deviation == 0] = np.inf
        return failed / deviation, (failed - _none_correct(wrong - 1, size - 1, k - 1)) / deviation

    return GroupScheme(
        name=f"pass-at-k-groups:{k}",
        label=f"Pass@k training in groups, k = {k}",
        formula=f"A⁺ = (1-R)/σ, A⁻ = (1-R-C(M-K-1, {k - 1})/C(M-1, {k - 1}))/σ, "
        f"R = 1-C(M-K, {k})/C(M, {k}), σ = √(R(1-R))",
        function=advantages,
        limit=pass_at_k_training(k),
        all_wrong_rule="0",
        all_right_rule="0",
        minimum_size=max(2, k),
        source="Chen et al. 2025, arXiv 2508.10751",
        note=f"0 also in every group with fewer than {k} wrong responses. Tends to pass-at-k-training:{k}.",
    )
