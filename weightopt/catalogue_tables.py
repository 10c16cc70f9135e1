"""Tables of the catalogue: named weightings and rules for groups, as formulas are tabulated."""

from __future__ import annotations

from theory.dynamics import update_budget
from theory.weighting import GroupScheme, Weighting
from weightopt.curves.problem import Problem
from weightopt.table import MAX_GROUP_SIZE, TableError, WeightTable
from weightopt.tabulate import GRID_EDGE, even_grid, tabulate, tabulate_advantages


def named_table(
    weighting: Weighting,
    group_size: int | None = None,
    all_wrong: float | None = None,
    all_right: float | None = None,
    scale: float = 1.0,
) -> WeightTable:
    """The table of a named weighting, times `scale`.

    In a group table a leave-one-out weighting carries its factor M/(M-1).

    Parameters
    ----------
    weighting
        A member of the catalogue that is a function of ρ.
    group_size
        M; without it the table is a curve that fits any group size.
    all_wrong, all_right
        Advantage in all-wrong and all-right groups; default what is published, or the limits of -ρω and (1-ρ)ω.
    scale
        Positive factor of every weight and advantage.

    Raises
    ------
    TableError
        If a limit is infinite and not overridden, or the group size is out of range.
    """
    factor = scale * (weighting.group_factor(group_size) if group_size is not None and group_size >= 2 else 1.0)
    return tabulate(
        lambda rho: factor * weighting(rho),
        even_grid(GRID_EDGE, 1 - GRID_EDGE),
        group_size,
        name=weighting.name,
        label=weighting.label,
        limits=(scale * weighting.all_wrong_advantage, scale * weighting.all_right_advantage),
        given=(all_wrong, all_right),
        problem=None,
        certificate=None,
        provenance={
            "method": "formula",
            "weighting": weighting.name,
            "formula": weighting.formula,
            "source": weighting.source,
            "scale": scale,
        },
        rule="published" if weighting.published_rules else "limit",
    )


def scheme_table(
    scheme: GroupScheme,
    group_size: int | None,
    all_wrong: float | None = None,
    all_right: float | None = None,
    scale: float = 1.0,
) -> WeightTable:
    """The table of advantages that no curve expresses, times `scale`; its weights are A⁺-A⁻.

    Raises
    ------
    TableError
        Without a group size, or with one that is out of range.
    """
    if group_size is None:
        raise TableError(f"weighting {scheme.name!r} is a rule for groups, not a curve; add --group-size M.")
    if not isinstance(group_size, int) or isinstance(group_size, bool) or not 2 <= group_size <= MAX_GROUP_SIZE:
        raise TableError(f"group size must be a whole number from 2 to {MAX_GROUP_SIZE}, got {group_size!r}.")
    try:
        correct, wrong = (scale * advantages for advantages in scheme(group_size))
    except ValueError as error:
        raise TableError(f"{error}; raise --group-size.") from None
    return tabulate_advantages(
        (correct - wrong)[1:-1].tolist(),
        correct.tolist(),
        wrong.tolist(),
        given=(all_wrong, all_right),
        rule="published",
        name=scheme.name,
        label=scheme.label,
        provenance={
            "method": "formula",
            "weighting": scheme.name,
            "formula": scheme.formula,
            "source": scheme.source,
            "scale": scale,
        },
    )


def catalogue_table(
    member: Weighting | GroupScheme,
    group_size: int | None = None,
    all_wrong: float | None = None,
    all_right: float | None = None,
    scale: float = 1.0,
) -> WeightTable:
    """`named_table` of a weighting or `scheme_table` of a scheme."""
    if isinstance(member, GroupScheme):
        return scheme_table(member, group_size, all_wrong, all_right, scale)
    return named_table(member, group_size, all_wrong, all_right, scale)


def budget_scale(weighting: Weighting, start: float, target: float, budget: float) -> float:
    """The factor that makes ∫ω dρ from `start` to `target` equal to `budget`.

    Raises
    ------
    ProblemError
        If start, target or budget are out of range.
    """
    Problem(start, target, "regular", budget=budget)  # validates the three
    return budget / update_budget(weighting, start, target, weighting.kinks)
