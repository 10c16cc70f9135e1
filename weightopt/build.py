"""From a weighting to a table, and from a table back to what it claims."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from theory import catalogue
from theory.dynamics import update_budget
from theory.group_schemes import GroupScheme
from theory.weightings import Weighting
from weightopt.curve import solve
from weightopt.errors import ProblemError, SolverError
from weightopt.finite_group import GroupProblem, GroupSolution, solve_group
from weightopt.problem import Problem
from weightopt.solution import Solution, even_grid, table_grid
from weightopt.table import MAX_GROUP_SIZE, TableError, WeightTable, group_table

NOISE = 1e-8  # largest gap, quadrature or feasibility error that a table may state
RECHECK_TOLERANCE = 1e-9  # relative; versions of numpy and scipy differ in the last digits


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
        table_grid(problem.start, problem.target),
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
    solution: GroupSolution, all_wrong: float | None = None, all_right: float | None = None
) -> WeightTable:
    """The table of a solved group problem, with problem and certificate inside.

    Parameters
    ----------
    solution : GroupSolution
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
    size = problem.group_size
    return WeightTable(
        name="optimal",
        label=f"{_label(problem.curve)}, groups of {size}",
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
    member: catalogue.Entry | GroupScheme,
    group_size: int | None = None,
    all_wrong: float | None = None,
    all_right: float | None = None,
    scale: float = 1.0,
) -> WeightTable:
    """`named_table` of a weighting or `scheme_table` of a scheme."""
    if isinstance(member, GroupScheme):
        return scheme_table(member, group_size, all_wrong, all_right, scale)
    return named_table(member.weighting, group_size, all_wrong, all_right, scale)


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


def verify(table: WeightTable) -> str:
    """Compute a table again from what it claims to be and compare every number.

    Returns
    -------
    str
        One sentence on what was verified.

    Raises
    ------
    TableError
        With one sentence on the first thing that is off.
    """
    rebuilt = _rebuild(table)
    for key in ("name", "label", "group_size", "problem"):
        if getattr(table, key) != getattr(rebuilt, key):
            raise TableError(f"key '{key}' does not follow from the table's provenance; build the table again.")
    stated, computed = dict(table.provenance), dict(rebuilt.provenance)
    for key in ("versions", "curve"):  # other versions, and another interpolation, may give other last digits
        stated.pop(key, None)
        computed.pop(key, None)
    if stated != computed:
        raise TableError("key 'provenance' does not describe how these numbers come about; build the table again.")
    keys = ["rho", "weight", "all_wrong_advantage", "all_right_advantage"]
    if table.group_size is not None:
        keys += ["advantage_correct", "advantage_wrong"]
    for key in keys:
        _compare(key, getattr(table, key), getattr(rebuilt, key))
    if (table.certificate is None) != (rebuilt.certificate is None):
        raise TableError("key 'certificate' must be null exactly where 'problem' is; build the table again.")
    if table.certificate is None:
        return f"{len(table.weight)} weights recomputed from the formula of {table.label} and found equal"
    gap = _check_certificate(table.certificate or {}, rebuilt.certificate or {})
    return (
        f"{len(table.weight)} weights recomputed and found equal; lower bound "
        f"{(rebuilt.certificate or {})['lower_bound']:.12g} proven again, certified gap {gap:.2e}"
    )


def _check_certificate(stated: Mapping[str, Any], proven: Mapping[str, Any]) -> float:
    """Compare a stated certificate with a proven one; the proven gap."""
    if stated.keys() != proven.keys():
        raise TableError("key 'certificate' must hold what a certificate holds, no more; build the table again.")
    for key in ("time", "lower_bound", "multiplier"):
        _compare(f"certificate.{key}", stated[key], proven[key])
    # The rest is rounding noise, which differs between machines; only claims that are not borne out matter.
    for key in ("gap", "quadrature_error", "budget_error", "violation"):
        value = stated[key]
        if not isinstance(value, float) or not abs(value) <= NOISE or (key != "budget_error" and value < 0):
            raise TableError(
                f"key 'certificate.{key}' states {str(value)[:40]} but at most {NOISE:g} is certified; "
                "build the table again."
            )
    return proven["gap"]


def _rebuild(table: WeightTable) -> WeightTable:
    """The table that the file's own problem or formula, group size and end rules lead to."""
    rules = table.provenance.get("end_rules")
    known = ("limit", "given", "solved", "published")
    if not (isinstance(rules, list) and len(rules) == 2 and all(rule in known for rule in rules)):
        raise TableError(f"key 'provenance.end_rules' must be two of {', '.join(known)}; build the table again.")
    all_wrong = table.all_wrong_advantage if rules[0] == "given" else None
    all_right = table.all_right_advantage if rules[1] == "given" else None
    # A group table read off a curve file has inherited that curve's interpolation.
    group_size = None if "curve" in table.provenance else table.group_size
    if table.problem is not None:
        try:
            if "group_size" in table.problem:
                solved = solve_group(GroupProblem.from_dict(table.problem))
                return group_solved_table(solved, all_wrong, all_right)
            solution = solve(Problem.from_dict(table.problem))
        except ProblemError as error:
            raise TableError(f"key 'problem.{error.field}' {error.sentence}; build the table again.") from None
        except SolverError as error:
            raise TableError(f"key 'problem' cannot be certified: {error}; build the table again.") from None
        rebuilt = solved_table(solution, group_size, all_wrong, all_right)
    else:
        scale = table.provenance.get("scale")
        if isinstance(scale, bool) or not isinstance(scale, float | int) or not 1e-60 <= scale <= 1e60:
            raise TableError("key 'provenance.scale' must be a positive number; build the table again.")
        try:
            member = catalogue.parse(str(table.provenance.get("weighting")))
        except ValueError as error:
            raise TableError(f"key 'provenance.weighting': {error}; build the table again.") from None
        rebuilt = catalogue_table(member, group_size, all_wrong, all_right, float(scale))
    return rebuilt if table.group_size is None else rebuilt.for_group(table.group_size)


def _compare(key: str, stated: Any, computed: Any) -> None:
    """Refuse numbers that differ by more than what other versions of numpy and scipy would change."""
    wanted = np.atleast_1d(computed)
    # A table's own numbers are floats already; those of its certificate may be anything that JSON can hold.
    values = list(stated) if isinstance(stated, tuple) else [stated]
    if len(values) != wanted.size or not all(type(value) is float for value in values):
        raise TableError(f"key '{key}' must be {wanted.size} number(s); build the table again.")
    scale = max(float(np.max(np.abs(wanted))), 1e-300)
    for at, (value, number) in enumerate(zip(values, wanted.tolist(), strict=True)):
        if not abs(value - number) <= RECHECK_TOLERANCE * max(abs(number), 1e-6 * scale):
            where = f"[{at}]" if wanted.size > 1 else ""
            raise TableError(
                f"key '{key}{where}' is {str(value)[:40]} but {number!r} is computed; build the table again."
            )
