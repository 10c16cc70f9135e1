"""From a weighting to a table."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from typing import Any

import numpy as np
import scipy

from theory.dynamics import update_budget
from theory.log_linear import LogLinear
from theory.weighting import GroupScheme, Weighting
from weightopt.finite_group import GroupSolution
from weightopt.population import PopulationProblem
from weightopt.problem import Problem
from weightopt.shared import Certificate as PopulationCertificate
from weightopt.solution import Solution, even_grid, table_grid
from weightopt.start_range import RangeProblem, RangeSolution
from weightopt.table import MAX_GROUP_SIZE, TableError, WeightTable, group_table


def solved_table(
    solution: Solution,
    group_size: int | None = None,
    all_wrong: float | None = None,
    all_right: float | None = None,
) -> WeightTable:
    """The table of a solved curve, with problem and certificate inside.

    Parameters
    ----------
    solution : Solution
    group_size : int, optional
        M; without it the table is a curve that fits any group size.
    all_wrong, all_right : float, optional
        Advantage in all-wrong and all-right groups; default the limits of -ρω and (1-ρ)ω.

    Raises
    ------
    TableError
        If a limit is infinite and not overridden, or the group size is out of range.
    """
    problem = solution.problem
    return _tabulate(
        solution.weighting,
        table_grid(solution),
        group_size,
        name="optimal",
        label=_label(problem),
        limits=(solution.weighting.all_wrong_advantage, solution.weighting.all_right_advantage),
        given=(all_wrong, all_right),
        problem=problem.to_dict(),
        certificate=solution.certificate.to_dict(),
        provenance={"method": solution.method, "weighting": "optimal"},
    )


def group_solved_table(
    solution: GroupSolution | RangeSolution, all_wrong: float | None = None, all_right: float | None = None
) -> WeightTable:
    """The table of a solved group problem, with problem and certificate inside.

    Parameters
    ----------
    solution : GroupSolution or RangeSolution
    all_wrong, all_right : float, optional
        Advantage in all-wrong and all-right groups; default what was solved for, which is 0 for centred tables: their
        reward differs from its mean in no such group.
    """
    problem = solution.problem
    correct, wrong = list(solution.advantage_correct), list(solution.advantage_wrong)
    wrong[0] = wrong[0] if all_wrong is None else float(all_wrong)
    correct[-1] = correct[-1] if all_right is None else float(all_right)
    if not (math.isfinite(wrong[0]) and math.isfinite(correct[-1])):
        raise TableError("the all-wrong and all-right advantages must be finite numbers.")
    group = problem.group if isinstance(problem, RangeProblem) else problem
    size, label = group.group_size, _label(group.curve)
    if isinstance(problem, RangeProblem):
        label = label.replace(" →", f" to {problem.last_start:g} →")
    return WeightTable(
        name="optimal",
        label=f"{label}, groups of {size}",
        group_size=size,
        rho=tuple((np.arange(1, size) / size).tolist()),
        weight=solution.weight,
        all_wrong_advantage=wrong[0],
        all_right_advantage=correct[-1],
        advantage_correct=tuple(correct),
        advantage_wrong=tuple(wrong),
        problem=problem.to_dict(),
        certificate=solution.certificate.to_dict(),
        provenance={
            "method": solution.method,
            "weighting": "optimal",
            "end_rules": ["solved" if rule is None else "given" for rule in (all_wrong, all_right)],
            "versions": versions(),
        },
    )


def _label(problem: Problem) -> str:
    return f"Time-optimal, {problem.clock.name} clock, {problem.start:g} → {problem.target:g}"


def population_table(
    problem: PopulationProblem,
    weighting: LogLinear,
    certificate: PopulationCertificate,
    method: str,
    all_wrong: float | None = None,
    all_right: float | None = None,
) -> WeightTable:
    """The curve of a shared weighting for a population, with problem and certificate inside.

    Beyond its ends a curve keeps its weight, so that -ρω and (1-ρ)ω tend to 0: these are the advantages in all-wrong
    and all-right groups unless others are stated.
    """
    knots = {"rho": list(weighting.rho), "weight": list(weighting.value)}
    return _tabulate(
        weighting,
        weighting.rho,
        None,
        name="shared",
        label=f"Best shared weighting found, {problem.clock} clock, {problem.budget_kind} budget, "
        f"{problem.source} → {problem.target:g}",
        limits=(0.0, 0.0),
        given=(all_wrong, all_right),
        problem=problem.to_dict(),
        certificate=dataclasses.asdict(certificate),
        # A table for groups, read off this curve, is checked from the knots.
        provenance={"method": method, "weighting": "shared", "knots": knots},
    )


def named_table(
    weighting: Weighting,
    group_size: int | None = None,
    all_wrong: float | None = None,
    all_right: float | None = None,
    scale: float = 1.0,
) -> WeightTable:
    """The table of a named weighting, times `scale`; arguments and errors as `solved_table`.

    In a group table a leave-one-out weighting carries its factor M/(M-1).
    """
    factor = scale * (weighting.group_factor(group_size) if group_size is not None and group_size >= 2 else 1.0)
    return _tabulate(
        lambda rho: factor * weighting(rho),
        even_grid(1 / 1024, 1 - 1 / 1024),
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
    wrong[0] = wrong[0] if all_wrong is None else float(all_wrong)
    correct[-1] = correct[-1] if all_right is None else float(all_right)
    for side, advantage in (("wrong", wrong[0]), ("right", correct[-1])):
        if not math.isfinite(advantage):
            raise TableError(f"--all-{side} must be a finite number, got {advantage}.")
    return WeightTable(
        name=scheme.name,
        label=scheme.label,
        group_size=group_size,
        rho=tuple((np.arange(1, group_size) / group_size).tolist()),
        weight=tuple((correct - wrong)[1:-1].tolist()),
        all_wrong_advantage=float(wrong[0]),
        all_right_advantage=float(correct[-1]),
        advantage_correct=tuple(correct.tolist()),
        advantage_wrong=tuple(wrong.tolist()),
        provenance={
            "method": "formula",
            "weighting": scheme.name,
            "formula": scheme.formula,
            "source": scheme.source,
            "scale": scale,
            "end_rules": ["published" if rule is None else "given" for rule in (all_wrong, all_right)],
            "versions": versions(),
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


def _tabulate(
    weighting: Any, grid: Any, group_size: int | None, *, limits, given, rule: str = "limit", **fields: Any
) -> WeightTable:
    rules = []
    for side, limit, stated in zip(("wrong", "right"), limits, given, strict=True):
        advantage = limit if stated is None else stated
        if stated is not None and not math.isfinite(stated):
            raise TableError(f"--all-{side} must be a finite number, got {stated}.")
        if not math.isfinite(advantage):
            limit_of = "-ρω at ρ = 0" if side == "wrong" else "(1-ρ)ω at ρ = 1"
            raise TableError(
                f"the all-{side} advantage has no finite limit (that of {limit_of}); state one with --all-{side}, "
                "any finite number."
            )
        rules.append(float(advantage))
    fields["provenance"] = {
        **fields["provenance"],
        "end_rules": [rule if stated is None else "given" for stated in given],
        "versions": versions(),
    }
    fields["all_wrong_advantage"], fields["all_right_advantage"] = rules
    if group_size is not None:
        return group_table(weighting, group_size, **fields)
    rho = np.asarray(grid)
    weight = weighting(rho)
    if not np.all(weight > 0):
        at = float(rho[np.argmin(weight)])
        raise TableError(
            f"the weight of {fields['name']} rounds to 0 at ρ = {at:.3g}, where a curve must be positive; "
            "choose milder parameters, or tabulate it with --group-size."
        )
    return WeightTable(group_size=None, rho=tuple(rho.tolist()), weight=tuple(weight.tolist()), **fields)


def versions() -> dict[str, str]:
    """Versions that a table's numbers depend on."""
    try:
        ours = importlib.metadata.version("weightopt")
    except importlib.metadata.PackageNotFoundError:
        ours = "not installed"
    return {"weightopt": ours, "numpy": np.__version__, "scipy": scipy.__version__}
