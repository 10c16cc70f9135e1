"""From a table back to what it claims: every number computed again and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from theory import catalogue
from theory.log_linear import LogLinear
from weightopt.build import catalogue_table, group_solved_table, population_table, solved_table
from weightopt.curve import solve
from weightopt.errors import ProblemError, SolverError
from weightopt.finite_group import GroupProblem, solve_group
from weightopt.population import PopulationProblem
from weightopt.problem import LATER, Problem
from weightopt.shared import certify as certify_shared
from weightopt.shared import normalised
from weightopt.start_range import RangeProblem, solve_range
from weightopt.table import TableError, WeightTable

RANGE_NOISE = 1e-7  # the same for the gap of a range of starts, which adds up those of single starts
NOISE = 1e-8  # largest gap, quadrature or feasibility error that a table may state
RECHECK_TOLERANCE = 1e-9  # relative; versions of numpy and scipy differ in the last digits
# Where an interior-point method stopped, a time within 1e-9 of the best fixes weights to the root of that only.
ITERATIVE_WEIGHTS, ITERATIVE_TIMES = 1e-4, 1e-8


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
    later = {} if table.problem is None or "rates" in table.problem else LATER  # a population never was without these
    stated_problem = None if table.problem is None else {**later, **table.problem}
    for key in ("name", "label", "group_size", "problem"):
        claim = stated_problem if key == "problem" else getattr(table, key)
        if claim != getattr(rebuilt, key):
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
    iterative = any(word in str(rebuilt.provenance.get("method")) for word in ("interior point on", "Dinkelbach"))
    for key in keys:
        exact = key == "rho" or not iterative
        _compare(key, getattr(table, key), getattr(rebuilt, key), RECHECK_TOLERANCE if exact else ITERATIVE_WEIGHTS)
    if (table.certificate is None) != (rebuilt.certificate is None):
        raise TableError("key 'certificate' must be null exactly where 'problem' is; build the table again.")
    if table.certificate is None:
        return f"{len(table.weight)} weights recomputed from the formula of {table.label} and found equal"
    if "distance" in (rebuilt.certificate or {}):
        return _check_population(table, rebuilt)
    tolerance = ITERATIVE_TIMES if iterative else RECHECK_TOLERANCE
    gap = _check_certificate(table.certificate or {}, rebuilt.certificate or {}, tolerance)
    return (
        f"{len(table.weight)} weights recomputed and found equal; lower bound "
        f"{(rebuilt.certificate or {})['lower_bound']:.12g} proven again, certified gap {gap:.2e}"
    )


def _check_certificate(stated: Mapping[str, Any], proven: Mapping[str, Any], tolerance: float) -> float:
    """Compare a stated certificate with a proven one; the proven gap."""
    if stated.keys() != proven.keys():
        raise TableError("key 'certificate' must hold what a certificate holds, no more; build the table again.")
    for key in ("time", "worst_ratio", "worst_between", "lower_bound", "multiplier"):
        if key not in proven:
            continue
        # The multiplier, like the weights, is fixed only to the root of what the times are.
        loose = key == "multiplier" and tolerance > RECHECK_TOLERANCE
        _compare(f"certificate.{key}", stated[key], proven[key], ITERATIVE_WEIGHTS if loose else tolerance)
    # The rest is rounding noise, which differs between machines; only claims that are not borne out matter.
    for key in ("gap", "quadrature_error", "budget_error", "violation"):
        value = stated[key]
        largest = RANGE_NOISE if key == "gap" and "worst_ratio" in proven else NOISE
        if not isinstance(value, float) or not abs(value) <= largest or (key != "budget_error" and value < 0):
            raise TableError(
                f"key 'certificate.{key}' states {repr(value)[:40]} but at most {largest:g} is certified; "
                "build the table again."
            )
    return proven["gap"]


def _check_population(table: WeightTable, rebuilt: WeightTable) -> str:
    """Compare the stated certificate of a shared weighting with the one that its knots and its problem lead to."""
    stated, proven = table.certificate or {}, rebuilt.certificate or {}
    if stated.keys() != proven.keys():
        raise TableError("key 'certificate' must hold what a certificate holds, no more; build the table again.")
    for key, value in proven.items():
        # Rounding enters a flow time relative to the longest one, so less is reproduced than a formula gives.
        if not (type(stated[key]) is float and abs(stated[key] - value) <= NOISE * max(1.0, abs(value))):
            raise TableError(
                f"key 'certificate.{key}' is {repr(stated[key])[:40]} but {value!r} is computed; build the table again."
            )
    return (
        f"{len(table.weight)} weights found equal; time {proven['time']:.9g} and lower bound "
        f"{proven['lower_bound']:.9g} computed again: within {proven['distance']:.2%} of any weights by prompt and step"
    )


def _rebuild_population(table: WeightTable, all_wrong: float | None, all_right: float | None) -> WeightTable:
    """The curve of a shared weighting from the knots and the problem in a file, its certificate computed anew."""
    problem = PopulationProblem.from_dict(table.problem or {})
    knots, method = table.provenance.get("knots"), table.provenance.get("method")
    try:
        weighting = LogLinear(tuple(knots["rho"]), tuple(knots["weight"]))  # pyright: ignore[reportOptionalSubscript]
        level = normalised(problem, weighting)
        certificate = certify_shared(problem, weighting)
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"key 'provenance.knots' holds no weighting ({error}); build the table again.") from None
    if not isinstance(method, str):
        raise TableError("key 'provenance.method' must be text; build the table again.")
    if certificate.steepness > problem.steepness * (1 + NOISE):
        raise TableError(
            f"key 'provenance.knots' is steeper, {certificate.steepness:g}, than the problem's {problem.steepness:g}; "
            "build the table again."
        )
    _compare("provenance.knots.weight", weighting.value, level.value)
    return population_table(problem, weighting, certificate, method, all_wrong, all_right)


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
            if "rates" in table.problem:
                rebuilt = _rebuild_population(table, all_wrong, all_right)
                return rebuilt if table.group_size is None else rebuilt.for_group(table.group_size)
            if "last_start" in table.problem:
                return group_solved_table(solve_range(RangeProblem.from_dict(table.problem)), all_wrong, all_right)
            if "group_size" in table.problem:
                solved = solve_group(GroupProblem.from_dict(table.problem))
                return group_solved_table(solved, all_wrong, all_right)
            solution = solve(Problem.from_dict(table.problem))
        except ProblemError as error:
            raise TableError(f"key {'problem.' + error.field!r} {error.sentence}; build the table again.") from None
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


def _compare(key: str, stated: Any, computed: Any, tolerance: float = RECHECK_TOLERANCE) -> None:
    """Refuse numbers that differ by more than what other versions of numpy and scipy would change."""
    wanted = np.atleast_1d(computed)
    # A table's own numbers are floats already; those of its certificate may be anything that JSON can hold.
    values = list(stated) if isinstance(stated, tuple) else [stated]
    if len(values) != wanted.size or not all(type(value) is float for value in values):
        raise TableError(f"key '{key}' must be {wanted.size} number(s); build the table again.")
    scale = max(float(np.max(np.abs(wanted))), 1e-300)
    for at, (value, number) in enumerate(zip(values, wanted.tolist(), strict=True)):
        if not abs(value - number) <= tolerance * max(abs(number), 1e-6 * scale):
            where = f"[{at}]" if wanted.size > 1 else ""
            raise TableError(
                f"key '{key}{where}' is {str(value)[:40]} but {number!r} is computed; build the table again."
            )
