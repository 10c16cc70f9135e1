"""The catalogue: every named weighting, by name. Its pages are the modules of `theory.handbook`.

paper       RLOO, REINFORCE, GRPO, Linear-R, Sqrt-R, Uniform-R, Plateau-R, ρ^-a (1-ρ)^-b
published   weightings of others that need nothing but ρ
batches     weightings that need statistics of the batch
groups      advantages that exist for groups only
"""

from __future__ import annotations

import math

from theory.crowding import curve_elasticity, group_elasticity, member_advantages
from theory.handbook import batches, groups, paper, published
from theory.weighting import Family, GroupScheme, Weighting

Member = Weighting | GroupScheme
ORDERS = (1, 4096)
ELASTIC_AT = (0.1, 0.25, 0.4)  # where lists show an elasticity
ELASTIC_GROUP = 16  # and for which groups

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("power", "a,b", paper.power, example=(0.5, 0.25), bare=False),
        Family("grpo-stabilised", "E", published.grpo_stabilised, example=(1e-4,), span=(1e-12, 1)),
        Family("grpo-epsilon", "E", published.grpo_epsilon, example=(1e-4,), span=(1e-12, 0.49)),
        Family("clipped-mean", "C", published.clipped_mean, example=(0.125,), span=(1e-9, 0.999)),
        Family("tsallis", "Q", published.tsallis, example=(0.75,), span=(0, 1)),
        Family("f-grpo", "G", published.f_grpo, example=(1.0,), span=(0, 20)),
        Family("rs-grpo", "B", published.rs_grpo, example=(2.0,), span=(1e-3, 50)),
        Family("pass-at-k", "K", published.pass_at_k, example=(4,), span=ORDERS, whole=True),
        Family("pass-at-k-training", "K", published.pass_at_k_training, example=(4,), span=ORDERS, whole=True),
        Family("maxrl-order", "T", published.maxrl_order, example=(16,), span=ORDERS, whole=True),
        Family("bnpo", "mean,variance", batches.bnpo, example=(0.3, 0.06), batch=True, bare=False),
        Family(
            "curverl",
            "n1,n2,...",
            batches.curverl,
            example=(60.0, 45.0, 35.0, 30.0, 30.0, 25.0, 35.0),
            batch=True,
            bare=False,
        ),
        Family("batch-std", "mean", batches.batch_std, example=(0.3,), batch=True, bare=False),
        Family("w-reinforce", "L", groups.w_reinforce, example=(0.1,), span=(0, 1)),
        Family("pkpo", "K", groups.pkpo, example=(4,), span=ORDERS, whole=True),
        Family("pass-at-k-groups", "K", groups.pass_at_k_groups, example=(4,), span=ORDERS, whole=True),
    )
}
PLAIN: tuple[Member, ...] = (*paper.PLAIN, *published.PLAIN, *groups.PLAIN)
_SHOWN = (*PLAIN, *(family(*family.example) for family in FAMILIES.values() if not family.batch))
_OF_BATCHES = (family(*family.example) for family in FAMILIES.values() if family.batch)

# Weightings that need nothing but ρ, the paper's and its baselines first.
WEIGHTINGS = {member.name: member for member in _SHOWN if isinstance(member, Weighting)}
# Weightings of a batch, at statistics made up for illustration.
BATCH_EXAMPLES = {member.name: member for member in _OF_BATCHES if isinstance(member, Weighting)}
# Advantages that exist for groups only.
SCHEMES = {member.name: member for member in _SHOWN if isinstance(member, GroupScheme)}
EVERYTHING: dict[str, Member] = {**WEIGHTINGS, **BATCH_EXAMPLES, **SCHEMES}


def parse(text: str) -> Member:
    """The member of the catalogue with that name.

    Parameters
    ----------
    text
        A name of `EVERYTHING`; a family's name, for the member that the catalogue shows; or ``family:parameters``.

    Raises
    ------
    ValueError
        With one sentence if there is no such name, or a parameter is missing or out of range.
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
    if not colon and family.bare:
        return family(*family.example)
    return family.parse(arguments)


def elasticities(member: Member, group_size: int | None = None) -> tuple[float, ...]:
    """d ln φ/d ln ρ at `ELASTIC_AT`: how fast what a kind of prompts presses a shared habit with grows with success.

    Above 1 the successful kind drives the others out; the lower, the longer rare kinds stay (`theory.crowding`).

    Parameters
    ----------
    member
        A member of the catalogue.
    group_size
        M, with the rules for uniform groups; None for very large groups, where a rule for groups is the curve that it
        tends to.
    """
    if group_size is not None:
        return tuple(group_elasticity(ELASTIC_AT, *member_advantages(member, group_size)).tolist())
    return tuple(curve_elasticity(member.limit if isinstance(member, GroupScheme) else member, ELASTIC_AT).tolist())


def elasticity_text(member: Member, group_size: int | None = None) -> str:
    """The same for people, "–" where a rule for uniform groups is to be stated first."""
    values = elasticities(member, group_size)
    return " ".join(f"{value + 0.0:.2f}" if math.isfinite(value) else "–" for value in values).replace("-0.00", "0.00")


def describe(member: Member) -> dict[str, str]:
    """A member of the catalogue as text, for lists and pages."""
    curve = isinstance(member, Weighting)
    surrogate = ("none in closed form" if member.surrogate is None else member.surrogate.text) if curve else ""
    return {
        "name": member.name,
        "kind": "group" if not curve else "batch" if member.name in BATCH_EXAMPLES else "weighting",
        "label": member.label,
        "formula": member.formula,
        "effective": member.effective_formula if curve else "",
        "surrogate": surrogate,
        "all_wrong": member.all_wrong_rule,
        "all_right": member.all_right_rule,
        "elasticity": elasticity_text(member, ELASTIC_GROUP),
        "source": member.source,
        "note": member.note,
    }
