"""Weightings that depend on the batch: its statistics stand in the name, as in ``bnpo:0.3,0.05``."""

from __future__ import annotations

import math

import numpy as np

from theory.handbook.notation import incomplete_beta
from theory.special import beta as beta_function
from theory.special import betaln
from theory.weighting import Formula, Weighting


def beta_shape(mean: float, variance: float) -> tuple[float, float]:
    """α = 1+a/3 and β = 1+b/3 of BNPO, with Beta(a, b) fitted to the batch's success rates by moments.

    These two minimise ∫ p(1-p)/BetaPDF(p; α, β)² Beta(p; a, b) dp, the variance of the normalised advantage: the
    integral equals B(α, β)² B(a-2α+3, b-2β+3)/B(a, b), and the condition is α = a-2α+3 and β = b-2β+3.
    """
    concentration = mean * (1 - mean) / variance - 1
    return 1 + mean * concentration / 3, 1 + (1 - mean) * concentration / 3


def bnpo(mean: float, variance: float) -> Weighting:
    """BNPO: ω = B(α, β) ρ^(1-α) (1-ρ)^(1-β), for 0 < variance < mean(1-mean) with α and β at most 21."""
    if not (0 < mean < 1 and 0 < variance < mean * (1 - mean)):
        raise ValueError(
            "weighting 'bnpo:mean,variance' needs a mean in (0, 1) and a variance in (0, mean(1-mean)), "
            f"got {mean:g},{variance:g}"
        )
    alpha, beta = beta_shape(mean, variance)
    if max(alpha, beta) > 21:
        raise ValueError(
            f"weighting 'bnpo:mean,variance' needs a larger variance: α = {alpha:.3g} and β = {beta:.3g} must be at "
            "most 21"
        )
    closed_form = Formula(
        f"B({alpha:.4g}, {beta:.4g}) B(ρ; {2 - alpha:.4g}, {2 - beta:.4g}), incomplete beta function",
        lambda rho: beta_function(alpha, beta) * incomplete_beta(rho, alpha - 1, beta - 1),
    )
    return Weighting(
        name=f"bnpo:{mean!r},{variance!r}",
        label=f"BNPO, batch mean {mean:g}, variance {variance:g}",
        weight=Formula(
            f"1/BetaPDF(ρ; {alpha:.4g}, {beta:.4g})",
            lambda rho: np.exp(betaln(alpha, beta) + (1 - alpha) * np.log(rho) + (1 - beta) * np.log1p(-rho)),
        ),
        effective_formula=f"B({alpha:.4g}, {beta:.4g}) ρ^{2 - alpha:.4g} (1-ρ)^{2 - beta:.4g}",
        surrogate=closed_form if max(alpha, beta) < 2 else None,
        published_rules=True,
        source="Xiao et al. 2025, arXiv 2506.02864",
        note="α = 1+a/3 and β = 1+b/3 with Beta(a, b) fitted by moments to the batch's success rates; RLOO and GRPO "
        "are α = β = 1 and 3/2. In uniform groups the centred reward is 0, whatever the limit.",
    )


def curverl(*counts: float) -> Weighting:
    """CurveRL for a window of batches with that many groups of K = 1..M-1 correct, so that M is their number plus 1.

    The bins of uniform groups are joined to their neighbours. A count of 0 would be a weight of 0, under which no
    prompt of that success rate ever moves, and is refused.
    """
    if not (1 <= len(counts) <= 65535 and all(1e-9 <= count <= 1e12 for count in counts)):
        raise ValueError(
            "weighting 'curverl:n1,n2,...' needs the positive number of groups with 1, 2, ... M-1 correct, each from "
            f"1e-9 to 1e12, got {','.join(f'{count:g}' for count in counts)[:40]}"
        )
    window = np.array(counts, dtype=np.float64)
    size = window.size + 1
    inner = np.arange(2, size) / (size + 1)  # M+1 bins cover [0, 1]
    edges = np.concatenate([[0.0], inner, [1.0]])
    share = window / np.cumsum(window)  # of each bin among the bins up to it
    gain = np.concatenate([[0.0], np.cumsum(share * np.diff(edges))])
    return Weighting(
        name="curverl:" + ",".join(repr(int(count) if count == int(count) else count) for count in counts),
        label=f"CurveRL, window of {window.sum():g} groups of {size}",
        weight=Formula(
            "f(ρ)/F(ρ), share of ρ's bin among the bins up to it",
            lambda rho: share[np.searchsorted(inner, rho, side="right")],
        ),
        effective_formula="ρ(1-ρ) f(ρ)/F(ρ)",
        surrogate=Formula("piecewise linear", lambda rho: np.interp(rho, edges, gain)),
        kinks=tuple(inner.tolist()),
        source="Sun et al. 2026, arXiv 2605.24331",
        note="f and F are the pass-rate histogram of the last 10 batches, mixed groups only, M+1 bins; "
        "all else gets 0.",
    )


def batch_std(mean: float) -> Weighting:
    """The centred reward over the standard deviation of all rewards of a batch with that mean reward in (0, 1)."""
    if not 1e-12 <= mean <= 1 - 1e-12:
        raise ValueError(f"weighting 'batch-std:mean' needs a mean reward in (0, 1), got {mean:g}")
    deviation = math.sqrt(mean * (1 - mean))
    return Weighting(
        name=f"batch-std:{mean!r}",
        label=f"Batch standard deviation, mean reward {mean:g}",
        weight=Formula(
            f"1/√({mean:g}·{1 - mean:g}) = {1 / deviation:.4g}", lambda rho: np.full_like(rho, 1 / deviation)
        ),
        effective_formula=f"ρ(1-ρ)/{deviation:.4g}",
        surrogate=Formula(f"ρ/{deviation:.4g}", lambda rho: rho / deviation),
        source="Liu et al. 2025 (Lite PPO), arXiv 2508.08221",
        note="RLOO's law up to a factor that is the same for all prompts of a batch and changes as training goes on.",
    )
