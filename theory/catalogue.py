"""The catalogue: every named weighting with its surrogate, its rules at the ends and its source, by name.

Three kinds. Weightings ω(ρ), fixed or with a parameter in the name (``tsallis:0.75``). Weightings that depend on the
batch, with its statistics in the name (``bnpo:0.3,0.05``): the same interface once the statistics are given. Schemes,
which exist for groups only (`theory.group_schemes`). `parse` turns a name into what it names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from theory import group_schemes, published, surrogates, weightings
from theory.group_schemes import GroupScheme
from theory.weightings import Weighting

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]
NO_SURROGATE = "none in closed form"
LARGEST_ORDER = 4096


@dataclasses.dataclass(frozen=True)
class Entry:
    """A weighting and what the catalogue knows of it.

    Parameters
    ----------
    weighting : Weighting
    effective_formula : str
        e(ρ) = ρ(1-ρ) ω(ρ) for people.
    surrogate : callable or None
        h with h' = ω on arrays of success probabilities in (0, 1); None where there is no closed form.
    surrogate_formula : str
        h for people.
    note : str
        What the published method does besides, or how its code differs.
    uniform_groups : str
        What happens to all-wrong and all-right groups where that is no advantage at all; "" otherwise.
    """

    weighting: Weighting
    effective_formula: str
    surrogate: Curve | None
    surrogate_formula: str
    note: str = ""
    uniform_groups: str = ""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return self.weighting.name

    @property
    def label(self) -> str:
        """What figures and tables call it."""
        return self.weighting.label

    @property
    def formula(self) -> str:
        """ω(ρ) for people."""
        return self.weighting.formula

    @property
    def source(self) -> str:
        """Citation."""
        return self.weighting.source

    @property
    def all_wrong_rule(self) -> str:
        """Advantage of a response in an all-wrong group, and where that number comes from."""
        return self._rule(self.weighting.all_wrong_advantage)

    @property
    def all_right_rule(self) -> str:
        """Advantage of a response in an all-right group, and where that number comes from."""
        return self._rule(self.weighting.all_right_advantage)

    def _rule(self, advantage: float) -> str:
        if self.uniform_groups:
            return self.uniform_groups
        if not math.isfinite(advantage):
            return "no finite limit: to be stated"
        return f"{advantage:g} ({'published' if self.weighting.published_rules else 'limit'})"


@dataclasses.dataclass(frozen=True)
class Family:
    """Weightings with parameters in their name.

    Parameters
    ----------
    name : str
        What stands before the colon.
    parameters : str
        What stands behind it, for people.
    build : callable
        From the numbers to an `Entry` or a `GroupScheme`; raises ValueError with one sentence if one is out of range.
    example : tuple of float
        Parameters of the member that the catalogue shows.
    batch : bool
        Whether the parameters are statistics of a batch, for which no value stands by itself.
    whole : bool
        Whether the parameters are whole numbers.
    """

    name: str
    parameters: str
    build: Callable[..., Entry | GroupScheme]
    example: tuple[float, ...]
    batch: bool = False
    whole: bool = False

    def parse(self, arguments: str) -> Entry | GroupScheme:
        """The member of those parameters, as written behind the colon."""
        try:
            numbers = [int(word) if self.whole else float(word) for word in arguments.split(",")]
        except ValueError:
            numbers = []
        if not numbers or (self.name != "curverl" and len(numbers) != len(self.example)):
            kind = "whole number" if self.whole else "number"
            count = "numbers" if len(self.example) > 1 else f"one {kind}"
            raise ValueError(f"weighting '{self.name}:{self.parameters}' needs {count}, got {arguments[:40]!r}")
        return self.build(*numbers)


def _within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a parameter outside [low, high], not-a-number included."""
    if not low <= value <= high:
        parameter = name.partition(":")[2]
        given = str(value)[:40] if isinstance(value, int) else f"{value:g}"  # :g fails for very long whole numbers
        raise ValueError(f"weighting '{name}' needs {parameter} from {low:g} to {high:g}, got {given}")


def _grpo_stabilised(epsilon: float) -> Entry:
    _within("grpo-stabilised:E", epsilon, 1e-12, 1)
    weighting = Weighting(
        f"grpo-stabilised:{epsilon!r}",
        f"Stabilised GRPO, ε = {epsilon:g}",
        f"1/√(ρ(1-ρ)+{epsilon:g})",
        lambda rho: published.grpo_stabilised(rho, epsilon),
        0.0,
        0.0,
        "Mroueh 2025, arXiv 2503.06639",
    )
    surrogate = f"asin((2ρ-1)/√(1+4·{epsilon:g})) + π/2"
    effective = f"ρ(1-ρ)/√(ρ(1-ρ)+{epsilon:g})"
    note = "The value of ε shown here is ours."
    return Entry(weighting, effective, lambda rho: surrogates.grpo_stabilised(rho, epsilon), surrogate, note)


def _grpo_epsilon(epsilon: float) -> Entry:
    _within("grpo-epsilon:E", epsilon, 1e-12, 0.49)
    weighting = Weighting(
        f"grpo-epsilon:{epsilon!r}",
        f"GRPO with ε = {epsilon:g} in its denominator",
        f"1/(√(ρ(1-ρ))+{epsilon:g})",
        lambda rho: published.grpo_epsilon(rho, epsilon),
        0.0,
        0.0,
        "Shao et al. 2024, arXiv 2402.03300; ε of the code",
    )
    a = 2 * epsilon
    formula = f"2 asin √ρ - (a/c) ln((a t+1-c)/(a t+1+c)), t = √(ρ/(1-ρ)), a = {a:g}, c = √(1-a²)"
    note = "The large-group limit of GRPO as coded in TRL (ε = 1e-4) and verl (1e-6); groups: grpo-trl, grpo-verl."
    effective = f"ρ(1-ρ)/(√(ρ(1-ρ))+{epsilon:g})"
    return Entry(weighting, effective, lambda rho: surrogates.grpo_epsilon(rho, epsilon), formula, note)


def _clipped_mean(floor: float) -> Entry:
    _within("clipped-mean:C", floor, 1e-9, 0.999)
    weighting = Weighting(
        f"clipped-mean:{floor!r}",
        f"Clipped mean, {floor:g}",
        f"1/max(ρ, {floor:g})",
        lambda rho: published.clipped_mean(rho, floor),
        0.0,
        0.0,
        "no publication known to us",
        kinks=(floor,),
    )
    formula = f"ρ/{floor:g} up to {floor:g}, then 1+ln(ρ/{floor:g})"
    note = "Linear-R, or MaxRL, with its weight bounded; 0.125 is one success in a group of 8."
    effective = f"ρ(1-ρ)/max(ρ, {floor:g})"
    return Entry(weighting, effective, lambda rho: surrogates.clipped_mean(rho, floor), formula, note)


def _tsallis(q: float) -> Entry:
    _within("tsallis:Q", q, 0, 1)
    weighting = Weighting(
        f"tsallis:{q!r}",
        f"Tsallis (GARL), q = {q:g}",
        f"ρ^-{q:g}",
        lambda rho: published.tsallis(rho, q),
        -1.0 if q == 1 else 0.0,
        0.0,
        "Lin and Ie 2026, arXiv 2604.25907",
    )
    formula = "ln ρ" if q == 1 else f"(ρ^{1 - q:g}-1)/{1 - q:g}"
    note = "From RLOO at q = 0 to Linear-R at q = 1; GARL estimates the factor ρ^-q from the group."
    return Entry(weighting, f"ρ^{1 - q:g} (1-ρ)", lambda rho: surrogates.tsallis(rho, q), formula, note)


def _f_grpo(gamma: float) -> Entry:
    _within("f-grpo:G", gamma, 0, 20)
    weighting = Weighting(
        f"f-grpo:{gamma!r}",
        f"F-GRPO, γ = {gamma:g}",
        f"(1-ρ)^{gamma:g}/√(ρ(1-ρ))",
        lambda rho: published.f_grpo(rho, gamma),
        0.0,
        0.0,
        "Plyusov et al. 2026, arXiv 2602.06717",
    )
    formula = f"B(ρ; 0.5, {gamma + 0.5:g}), incomplete beta function"
    note = "The value of γ shown here is ours."
    return Entry(weighting, f"√ρ (1-ρ)^{gamma + 0.5:g}", lambda rho: surrogates.f_grpo(rho, gamma), formula, note)


def _rs_grpo(beta: float) -> Entry:
    _within("rs-grpo:B", beta, 1e-3, 50)
    weighting = Weighting(
        f"rs-grpo:{beta!r}",
        f"RS-GRPO, β = {beta:g}",
        f"(e^{beta:g}-1)/({beta:g}(1+ρ(e^{beta:g}-1)))",
        lambda rho: published.rs_grpo(rho, beta),
        0.0,
        0.0,
        "Jiang et al. 2025, arXiv 2509.24261",
    )
    formula = f"ln(1+ρ(e^{beta:g}-1))/{beta:g}"
    effective = f"ρ(1-ρ)(e^{beta:g}-1)/({beta:g}(1+ρ(e^{beta:g}-1)))"
    note = "β = 2 is the default of its code."
    return Entry(weighting, effective, lambda rho: surrogates.rs_grpo(rho, beta), formula, note)


def _pass_at_k(k: int) -> Entry:
    _within("pass-at-k:K", k, 1, LARGEST_ORDER)
    weighting = Weighting(
        f"pass-at-k:{k}",
        f"Pass@k policy optimisation, k = {k}",
        f"{k}(1-ρ)^{k - 1}",
        lambda rho: published.pass_at_k(rho, k),
        0.0,
        0.0,
        "Walder and Karkhanis 2025, arXiv 2505.15201",
    )
    note = f"The published estimator in groups is pkpo:{k}: unbiased, and 0 for every wrong response."
    return Entry(weighting, f"{k}ρ(1-ρ)^{k}", lambda rho: surrogates.pass_at_k(rho, k), f"1-(1-ρ)^{k}", note)


def _pass_at_k_training(k: int) -> Entry:
    _within("pass-at-k-training:K", k, 1, LARGEST_ORDER)
    weighting = Weighting(
        f"pass-at-k-training:{k}",
        f"Pass@k training, k = {k}",
        f"(1-ρ)^{k / 2 - 1:g}/√(1-(1-ρ)^{k})",
        lambda rho: published.pass_at_k_training(rho, k),
        0.0,
        0.0,
        "Chen et al. 2025, arXiv 2508.10751",
    )
    formula = f"{2 / k:g} asin √(1-(1-ρ)^{k})"
    note = f"GRPO at k = 1. The published estimator in groups is pass-at-k-groups:{k}: subsets without replacement."
    effective = f"ρ(1-ρ)^{k / 2:g}/√(1-(1-ρ)^{k})"
    return Entry(weighting, effective, lambda rho: surrogates.pass_at_k_training(rho, k), formula, note)


def _maxrl_order(order: int) -> Entry:
    _within("maxrl-order:T", order, 1, LARGEST_ORDER)
    weighting = Weighting(
        f"maxrl-order:{order}",
        f"MaxRL of order {order}",
        f"(1-(1-ρ)^{order})/ρ",
        lambda rho: published.maxrl_order(rho, order),
        0.0,
        0.0,
        "Tajwar et al. 2026, arXiv 2602.02710",
    )
    note = (
        "What 1/ρ becomes in expectation over groups of M: order M with -1 on all-wrong groups (Linear-R), order M-1 "
        "with 0 there (MaxRL)."
    )
    formula = f"Σ (1-(1-ρ)^j)/j, j = 1..{order}"
    effective = f"(1-ρ)(1-(1-ρ)^{order})"
    return Entry(weighting, effective, lambda rho: surrogates.maxrl_order(rho, order), formula, note)


def bnpo(mean: float, variance: float) -> Entry:
    """BNPO for a batch whose success rates have that mean and variance.

    Parameters
    ----------
    mean, variance : float
        0 < variance < mean(1-mean), and not so small that α or β exceeds 21.

    Raises
    ------
    ValueError
        If a statistic is out of range.
    """
    if not (0 < mean < 1 and 0 < variance < mean * (1 - mean)):
        raise ValueError(
            "weighting 'bnpo:mean,variance' needs a mean in (0, 1) and a variance in (0, mean(1-mean)), "
            f"got {mean:g},{variance:g}"
        )
    alpha, beta = published.beta_shape(mean, variance)
    if max(alpha, beta) > 21:
        raise ValueError(
            f"weighting 'bnpo:mean,variance' needs a larger variance: α = {alpha:.3g} and β = {beta:.3g} must be at "
            "most 21"
        )
    weighting = Weighting(
        f"bnpo:{mean!r},{variance!r}",
        f"BNPO, batch mean {mean:g}, variance {variance:g}",
        f"1/BetaPDF(ρ; {alpha:.4g}, {beta:.4g})",
        lambda rho: published.beta_normalised(rho, alpha, beta),
        0.0,
        0.0,
        "Xiao et al. 2025, arXiv 2506.02864",
        published_rules=True,
    )
    note = (
        "α = 1+a/3 and β = 1+b/3 with Beta(a, b) fitted by moments to the batch's success rates; RLOO and GRPO are "
        "α = β = 1 and 3/2. In uniform groups the centred reward is 0, whatever the limit."
    )
    effective = f"B({alpha:.4g}, {beta:.4g}) ρ^{2 - alpha:.4g} (1-ρ)^{2 - beta:.4g}"
    if max(alpha, beta) >= 2:
        return Entry(weighting, effective, None, NO_SURROGATE, note)
    formula = f"B({alpha:.4g}, {beta:.4g}) B(ρ; {2 - alpha:.4g}, {2 - beta:.4g}), incomplete beta function"
    return Entry(weighting, effective, lambda rho: surrogates.beta_normalised(rho, alpha, beta), formula, note)


def curverl(*counts: float) -> Entry:
    """CurveRL for a window of batches with that many groups of K = 1..M-1 correct.

    Parameters
    ----------
    *counts : float
        One a K, 1 to 65535 of them, each from 1e-9 to 1e12; M is their number plus 1. A count of 0 would be a weight
        of 0, under which no prompt of that success rate ever moves.

    Raises
    ------
    ValueError
        If a count is out of range.
    """
    if not (1 <= len(counts) <= 65535 and all(1e-9 <= count <= 1e12 for count in counts)):
        raise ValueError(
            "weighting 'curverl:n1,n2,...' needs the positive number of groups with 1, 2, ... M-1 correct, each from "
            f"1e-9 to 1e12, got {','.join(f'{count:g}' for count in counts)[:40]}"
        )
    array = np.array(counts, dtype=np.float64)
    size = array.size + 1
    weighting = Weighting(
        "curverl:" + ",".join(repr(int(count) if count == int(count) else count) for count in counts),
        f"CurveRL, window of {array.sum():g} groups of {size}",
        "f(ρ)/F(ρ), share of ρ's bin among the bins up to it",
        lambda rho: published.curverl(rho, array),
        0.0,
        0.0,
        "Sun et al. 2026, arXiv 2605.24331",
        kinks=tuple(published.histogram_edges(size).tolist()),
    )
    note = "f and F are the pass-rate histogram of the last 10 batches, mixed groups only, M+1 bins; all else gets 0."
    return Entry(weighting, "ρ(1-ρ) f(ρ)/F(ρ)", lambda rho: surrogates.curverl(rho, array), "piecewise linear", note)


def batch_std(mean: float) -> Entry:
    """The centred reward over the standard deviation of all rewards of a batch with that mean reward in (0, 1).

    Raises
    ------
    ValueError
        If the mean is out of range.
    """
    if not 1e-12 <= mean <= 1 - 1e-12:
        raise ValueError(f"weighting 'batch-std:mean' needs a mean reward in (0, 1), got {mean:g}")
    deviation = math.sqrt(mean * (1 - mean))
    weighting = Weighting(
        f"batch-std:{mean!r}",
        f"Batch standard deviation, mean reward {mean:g}",
        f"1/√({mean:g}·{1 - mean:g}) = {1 / deviation:.4g}",
        lambda rho: np.full_like(rho, 1 / deviation),
        0.0,
        0.0,
        "Liu et al. 2025 (Lite PPO), arXiv 2508.08221",
    )
    note = "RLOO's law up to a factor that is the same for all prompts of a batch and changes as training goes on."
    return Entry(weighting, f"ρ(1-ρ)/{deviation:.4g}", lambda rho: rho / deviation, f"ρ/{deviation:.4g}", note)


def _power(a: float, b: float) -> Entry:
    weighting = weightings.power_weighting(a, b)
    effective = f"ρ^{1 - a:g} (1-ρ)^{1 - b:g}"
    note = "Holds RLOO (0, 0), GRPO (½, ½), Linear-R (1, 0), Sqrt-R (1, ½) and Uniform-R (1, 1)."
    if max(a, b) >= 1:
        return Entry(weighting, effective, None, NO_SURROGATE, note)
    formula = f"B(ρ; {1 - a:g}, {1 - b:g}), incomplete beta function"
    return Entry(weighting, effective, lambda rho: surrogates.power_surrogate(rho, a, b), formula, note)


def _w_reinforce(positive: float) -> GroupScheme:
    _within("w-reinforce:L", positive, 0, 1)
    return GroupScheme(
        f"w-reinforce:{positive!r}",
        f"W-REINFORCE, λ = {positive:g}",
        f"A⁺ = {positive:g}, A⁻ = -1",
        lambda size: group_schemes.constant(size, positive, -1.0),
        _flat(1 + positive),
        "-1",
        f"{positive:g}",
        "Zhu et al. 2025, arXiv 2506.01347",
        f"In expectation {1 + positive:g} times RLOO; another variance.",
    )


def _pkpo(k: int) -> GroupScheme:
    _within("pkpo:K", k, 1, LARGEST_ORDER)
    return GroupScheme(
        f"pkpo:{k}",
        f"PKPO, k = {k}",
        f"A⁺ = {k} C(M-K, {k - 1})/C(M-1, {k - 1}), A⁻ = 0",
        lambda size: group_schemes.pass_at_k_unbiased(size, k),
        _pass_at_k(k).weighting,
        "0",
        "1" if k == 1 else "0",
        "Walder and Karkhanis 2025, arXiv 2505.15201",
        f"Unbiased for pass-at-k:{k} at every group size; the leave-one-out-minus-one estimator.",
        minimum_size=max(2, k),
    )


def _pass_at_k_groups(k: int) -> GroupScheme:
    _within("pass-at-k-groups:K", k, 1, LARGEST_ORDER)
    return GroupScheme(
        f"pass-at-k-groups:{k}",
        f"Pass@k training in groups, k = {k}",
        f"A⁺ = (1-R)/σ, A⁻ = (1-R-C(M-K-1, {k - 1})/C(M-1, {k - 1}))/σ, R = 1-C(M-K, {k})/C(M, {k}), σ = √(R(1-R))",
        lambda size: group_schemes.pass_at_k_standardised(size, k),
        _pass_at_k_training(k).weighting,
        "0",
        "0",
        "Chen et al. 2025, arXiv 2508.10751",
        f"0 also in every group with fewer than {k} wrong responses. Tends to pass-at-k-training:{k}.",
        minimum_size=max(2, k),
    )


def _flat(weight: float) -> Weighting:
    """RLOO's law at another scale: the large-group limit of advantages that do not depend on the group."""
    return Weighting(
        f"flat:{weight!r}",
        f"constant {weight:g}",
        f"{weight:g}",
        lambda rho: np.full_like(rho, weight),
        0.0,
        0.0,
        "derived",
    )


def _as_coded(name: str, library: str, epsilon: float) -> GroupScheme:
    return GroupScheme(
        name,
        f"GRPO as coded in {library}",
        f"(r-K/M)/(s+{epsilon:g}), s = √(K(M-K)/(M(M-1)))",
        lambda size: group_schemes.sample_standardised(size, epsilon),
        _grpo_epsilon(epsilon).weighting,
        "0",
        "0",
        "Shao et al. 2024, arXiv 2402.03300; code of " + library,
        "Sample standard deviation (ddof = 1), so about √((M-1)/M) of GRPO's formula, plus ε.",
    )


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("power", "a,b", _power, (0.5, 0.25)),
        Family("grpo-stabilised", "E", _grpo_stabilised, (1e-4,)),
        Family("grpo-epsilon", "E", _grpo_epsilon, (1e-4,)),
        Family("clipped-mean", "C", _clipped_mean, (0.125,)),
        Family("tsallis", "Q", _tsallis, (0.75,)),
        Family("f-grpo", "G", _f_grpo, (1.0,)),
        Family("rs-grpo", "B", _rs_grpo, (2.0,)),
        Family("pass-at-k", "K", _pass_at_k, (4,), whole=True),
        Family("pass-at-k-training", "K", _pass_at_k_training, (4,), whole=True),
        Family("maxrl-order", "T", _maxrl_order, (16,), whole=True),
        Family("bnpo", "mean,variance", bnpo, (0.3, 0.06), batch=True),
        Family("curverl", "n1,n2,...", curverl, (60.0, 45.0, 35.0, 30.0, 30.0, 25.0, 35.0), batch=True),
        Family("batch-std", "mean", batch_std, (0.3,), batch=True),
        Family("w-reinforce", "L", _w_reinforce, (0.1,)),
        Family("pkpo", "K", _pkpo, (4,), whole=True),
        Family("pass-at-k-groups", "K", _pass_at_k_groups, (4,), whole=True),
    )
}


def _paper(name: str, effective: str, surrogate: Curve, formula: str, note: str = "") -> Entry:
    return Entry(weightings.REGISTRY[name], effective, surrogate, formula, note)


_LEAVE_ONE_OUT = "Leave-one-out baselines multiply the advantage in a group by M/(M-1)."
_PLAIN = (
    _paper("rloo", "ρ(1-ρ)", surrogates.rloo, "ρ", _LEAVE_ONE_OUT),
    _paper("reinforce", "ρ(1-ρ)", surrogates.rloo, "ρ"),
    _paper("grpo", "√(ρ(1-ρ))", surrogates.grpo, "2 asin √ρ", "As libraries code it: grpo-trl and grpo-verl."),
    _paper("linear-r", "1-ρ", surrogates.linear_r, "ln ρ", "In groups of M its expectation is maxrl-order:M."),
    _paper("sqrt-r", "√(1-ρ)", surrogates.sqrt_r, "-2 artanh √(1-ρ)"),
    _paper("uniform-r", "1", surrogates.uniform_r, "ln(ρ/(1-ρ))"),
    _paper("plateau-r", "min(1, 2(1-ρ))", surrogates.plateau_r, "ln(ρ/(1-ρ)) up to ½, then 2 ln(2ρ)"),
    Entry(
        Weighting("dr-grpo", "Dr. GRPO", "1", weightings.rloo, 0.0, 0.0, "Liu et al. 2025, arXiv 2503.20783"),
        "ρ(1-ρ)",
        surrogates.rloo,
        "ρ",
        "GRPO without its standard deviation, and with another length normaliser.",
    ),
    Entry(
        Weighting("dapo", "DAPO", "1/√(ρ(1-ρ))", weightings.grpo, 0.0, 0.0, "Yu et al. 2025, arXiv 2503.14476"),
        "√(ρ(1-ρ))",
        surrogates.grpo,
        "2 asin √ρ",
        "Groups are drawn until they are mixed: the clock mixed:M counts those draws.",
        "group is drawn again",
    ),
    Entry(
        Weighting(
            "maxrl",
            "MaxRL",
            "1/ρ",
            weightings.linear_r,
            0.0,
            0.0,
            "Tajwar et al. 2026, arXiv 2602.02710",
            published_rules=True,
        ),
        "1-ρ",
        surrogates.linear_r,
        "ln ρ",
        "Linear-R with 0 instead of its limit -1 on all-wrong groups.",
    ),
    Entry(
        Weighting(
            "dgpo",
            "DGPO (MathForge)",
            "1/(2ρ(1-ρ))",
            published.dgpo,
            0.0,
            0.0,
            "Dai et al. 2026, arXiv 2601.20614",
            published_rules=True,
        ),
        "1/2",
        surrogates.dgpo,
        "ln(ρ/(1-ρ))/2",
        "Division by the mean absolute deviation; its further weighting of questions across a batch is left out.",
    ),
    Entry(
        Weighting(
            "one-sided-grpo",
            "One-sided GRPO",
            "1/√ρ",
            lambda rho: published.tsallis(rho, 0.5),
            0.0,
            0.0,
            "no publication known to us",
        ),
        "√ρ (1-ρ)",
        lambda rho: surrogates.tsallis(rho, 0.5),
        "2(√ρ-1)",
        "The same as tsallis:0.5.",
    ),
)


def _examples(batch: bool) -> list[Entry | GroupScheme]:
    return [family.build(*family.example) for family in FAMILIES.values() if family.batch == batch]


# Weightings that need nothing but ρ, the paper's and its baselines first.
WEIGHTINGS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        *_PLAIN,
        *(member for member in _examples(batch=False) if isinstance(member, Entry)),
    )
}
# Weightings of a batch, at statistics made up for illustration.
BATCH_EXAMPLES: dict[str, Entry] = {
    member.name: member for member in _examples(batch=True) if isinstance(member, Entry)
}
# Advantages that exist for groups only.
SCHEMES: dict[str, GroupScheme] = {
    scheme.name: scheme
    for scheme in (
        _as_coded("grpo-trl", "TRL", 1e-4),
        _as_coded("grpo-verl", "verl", 1e-6),
        GroupScheme(
            "ngrpo",
            "NGRPO",
            "(r-m)/s, m = (K+1)/(M+1), s = √((K+1)(M-K)/(M(M+1)))",
            group_schemes.virtual_success,
            weightings.REGISTRY["grpo"],
            "-1/√(M+1)",
            "0",
            "Nan et al. 2025, arXiv 2509.18851",
            "A virtual correct response joins mean and sample standard deviation; the code's ε = 1e-6 is left out.",
        ),
        GroupScheme(
            "psr",
            "PSR",
            "A⁺ = 1, A⁻ = 0",
            lambda size: group_schemes.constant(size, 1.0, 0.0),
            weightings.REGISTRY["reinforce"],
            "0",
            "1",
            "Zhu et al. 2025, arXiv 2506.01347",
            "In expectation RLOO; another variance.",
        ),
        GroupScheme(
            "nsr",
            "NSR",
            "A⁺ = 0, A⁻ = -1",
            lambda size: group_schemes.constant(size, 0.0, -1.0),
            weightings.REGISTRY["reinforce"],
            "-1",
            "0",
            "Zhu et al. 2025, arXiv 2506.01347",
            "In expectation RLOO; another variance.",
        ),
        *(member for member in _examples(batch=False) if isinstance(member, GroupScheme)),
    )
}
EVERYTHING: dict[str, Entry | GroupScheme] = {**WEIGHTINGS, **BATCH_EXAMPLES, **SCHEMES}


def parse(text: str) -> Entry | GroupScheme:
    """What a name names: one of the catalogue, a family's name (its member shown there), or ``family:parameters``.

    Raises
    ------
    ValueError
        With one sentence.
    """
    if text in EVERYTHING:
        return EVERYTHING[text]
    name, colon, arguments = text.partition(":")
    family = FAMILIES.get(name)
    if family is None:
        raise ValueError(
            f"unknown weighting {text[:40]!r}; choose one that `weightopt list` prints, such as grpo, linear-r, "
            "tsallis:Q or power:a,b"
        )
    if not colon and not family.batch and name != "power":
        return family.build(*family.example)
    return family.parse(arguments)


def describe(member: Entry | GroupScheme) -> dict[str, str]:
    """A member of the catalogue as text, for lists and pages."""
    is_entry = isinstance(member, Entry)
    kind = "group" if not is_entry else "batch" if member.name in BATCH_EXAMPLES else "weighting"
    return {
        "name": member.name,
        "kind": kind,
        "label": member.label,
        "formula": member.formula,
        "effective": member.effective_formula if is_entry else "",
        "surrogate": member.surrogate_formula if is_entry else "",
        "all_wrong": member.all_wrong_rule,
        "all_right": member.all_right_rule,
        "source": member.source,
        "note": member.note,
    }
