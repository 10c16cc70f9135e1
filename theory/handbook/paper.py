"""The weightings of the paper (ICML 2026, PMLR 306, pages 42459 to 42480, arXiv 2602.11128) and its baselines.

The names Uniform-R and Plateau-R are the paper's; their forms are our reconstruction and are labelled so.
"""

from __future__ import annotations

import math

import numpy as np

from theory.handbook.notation import incomplete_beta
from theory.quadrature import log_odds
from theory.weighting import Formula, Weighting

PAPER = "Heckel, Soltanolkotabi, Thrampoulidis 2026, arXiv 2602.11128"
PLATEAU_THRESHOLD = 0.5

RLOO = Weighting(
    name="rloo",
    label="RLOO",
    weight=Formula("1  (× M/(M-1) in a group)", np.ones_like),
    effective_formula="ρ(1-ρ)",
    surrogate=Formula("ρ", lambda rho: rho),
    leave_one_out=True,
    source="Ahmadian et al. 2024, arXiv 2402.14740",
    note="Leave-one-out baselines multiply the advantage in a group by M/(M-1).",
)

REINFORCE = Weighting(
    name="reinforce",
    label="REINFORCE, mean baseline",
    weight=Formula("1", np.ones_like),
    effective_formula="ρ(1-ρ)",
    surrogate=Formula("ρ", lambda rho: rho),
    source="Williams 1992",
)

# The centred reward over its standard deviation. The surrogate is the Fisher-Rao angle.
GRPO = Weighting(
    name="grpo",
    label="GRPO",
    weight=Formula("1/√(ρ(1-ρ))", lambda rho: 1 / np.sqrt(rho * (1 - rho))),
    effective_formula="√(ρ(1-ρ))",
    surrogate=Formula("2 asin √ρ", lambda rho: 2 * np.arcsin(np.sqrt(rho))),
    source="Shao et al. 2024, arXiv 2402.03300",
    note="As libraries code it: grpo-trl and grpo-verl.",
)

# The surrogate is the log-likelihood of success.
LINEAR_R = Weighting(
    name="linear-r",
    label="Linear-R",
    weight=Formula("1/ρ", lambda rho: 1 / rho),
    effective_formula="1-ρ",
    surrogate=Formula("ln ρ", np.log),
    all_wrong_advantage=-1.0,
    source=PAPER,
    note="In groups of M its expectation is maxrl-order:M.",
)

# artanh √(1-ρ) = ln((1+√(1-ρ))²/ρ)/2: no cancellation where √(1-ρ) rounds to 1.
SQRT_R = Weighting(
    name="sqrt-r",
    label="Sqrt-R",
    weight=Formula("1/(ρ√(1-ρ))", lambda rho: 1 / (rho * np.sqrt(1 - rho))),
    effective_formula="√(1-ρ)",
    surrogate=Formula("-2 artanh √(1-ρ)", lambda rho: np.log(rho) - 2 * np.log1p(np.sqrt(1 - rho))),
    all_wrong_advantage=-1.0,
    source=f"{PAPER}; all-wrong rule derived",
)

UNIFORM_R = Weighting(
    name="uniform-r",
    label="Uniform-R (reconstruction)",
    weight=Formula("1/(ρ(1-ρ))", lambda rho: 1 / (rho * (1 - rho))),
    effective_formula="1",
    surrogate=Formula("ln(ρ/(1-ρ))", log_odds),
    all_wrong_advantage=-1.0,
    all_right_advantage=1.0,
    source=f"name: {PAPER}; form: reconstruction",
)

# With a threshold τ the effective weight is min(1, (1-ρ)/(1-τ)); here τ = 1/2. The surrogate is logit ρ up to τ and
# logit τ + ln(ρ/τ)/(1-τ) beyond.
PLATEAU_R = Weighting(
    name="plateau-r",
    label="Plateau-R (reconstruction)",
    weight=Formula(
        "min(1, 2(1-ρ))/(ρ(1-ρ))",
        lambda rho: np.minimum(1 / (rho * (1 - rho)), 1 / (rho * (1 - PLATEAU_THRESHOLD))),
    ),
    effective_formula="min(1, 2(1-ρ))",
    surrogate=Formula(
        "ln(ρ/(1-ρ)) up to ½, then 2 ln(2ρ)",
        lambda rho: np.where(
            rho <= PLATEAU_THRESHOLD,
            log_odds(rho),
            log_odds(PLATEAU_THRESHOLD) + np.log(rho / PLATEAU_THRESHOLD) / (1 - PLATEAU_THRESHOLD),
        ),
    ),
    all_wrong_advantage=-1.0,
    kinks=(PLATEAU_THRESHOLD,),
    source=f"name: {PAPER}; form: reconstruction",
)

PLAIN = (RLOO, REINFORCE, GRPO, LINEAR_R, SQRT_R, UNIFORM_R, PLATEAU_R)


def power(a: float, b: float) -> Weighting:
    """ω = ρ^-a (1-ρ)^-b, the two-parameter family that holds most weightings of this page; a and b from -20 to 20."""
    if not max(abs(a), abs(b)) <= 20:
        raise ValueError(f"weighting 'power:a,b' needs a and b from -20 to 20, got {a},{b}")
    closed_form = Formula(
        f"B(ρ; {1 - a:g}, {1 - b:g}), incomplete beta function", lambda rho: incomplete_beta(rho, a, b)
    )
    return Weighting(
        name=f"power:{a!r},{b!r}",
        label=f"power {a:g}, {b:g}",
        weight=Formula(f"ρ^-{a:g} (1-ρ)^-{b:g}", lambda rho: rho**-a * (1 - rho) ** -b),
        effective_formula=f"ρ^{1 - a:g} (1-ρ)^{1 - b:g}",
        surrogate=closed_form if max(a, b) < 1 else None,
        all_wrong_advantage=0.0 if a < 1 else -1.0 if a == 1 else -math.inf,
        all_right_advantage=0.0 if b < 1 else 1.0 if b == 1 else math.inf,
        source="derived",
        note="Holds RLOO (0, 0), GRPO (½, ½), Linear-R (1, 0), Sqrt-R (1, ½) and Uniform-R (1, 1).",
    )
