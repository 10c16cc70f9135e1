"""From a table back to what it claims: certified from its problem and its weights, or compared with its formula.

A table of a solved problem is never solved again: where an interior-point method stopped, weights differ between
processors in digits that the time does not see. Its weights are certified as they stand: are they feasible, is this
their time, is the lower bound proven, is the gap what the file states and within the tolerance?

A group table holds every number that is to be certified. A curve is a function, of which a file shows a grid, or the
values at K/M. What is certified is the weighting that its parameters state (a multiplier, knots or steps); the numbers
on the grid must be this weighting's, and what reading linearly between them costs in time is computed and said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from theory import catalogue
from weightopt import kinds
from weightopt.answer import Answer
from weightopt.catalogue_tables import catalogue_table
from weightopt.curves.problem import LATER
from weightopt.errors import ProblemError, SolverError
from weightopt.groups.group import LATER_LIMITS
from weightopt.table import SEARCHED, TableError, WeightTable

RECHECK = 1e-9  # relative; versions of numpy and scipy, and other processors, differ in the last digits
SMALL = 1e-8  # largest quadrature or feasibility error that a file may state
# Weights and times of an iterative curve in a file of version 0.1, which has no parameters: they are solved for again.
UNSTATED_WEIGHTS, UNSTATED_TIMES = 1e-4, 1e-8
RENAMED = {"distance": "gap"}  # in certificates of version 0.1


def verify(table: WeightTable) -> str:
    """Certify a solved table from its problem and its weights, or compare a named one with its formula.

    Of a table that was searched for in a simulated world only the form can be verified, which is what is said then.

    Returns
    -------
    str
        One sentence on what was verified.

    Raises
    ------
    TableError
        With one sentence on the first thing that is off.
    """
    all_wrong, all_right = _given_rules(table)
    # A group table read off a curve file has inherited that curve's interpolation.
    read_off = "curve" in table.provenance
    group_size = None if read_off else table.group_size
    if table.problem is None:
        if table.provenance.get("method") == SEARCHED:
            return _searched(table)
        rebuilt = _from_formula(table, group_size, all_wrong, all_right)
        if read_off:
            rebuilt = rebuilt.for_group(_size(table))
        _compare_tables(table, rebuilt)
        if table.certificate is not None:
            raise TableError("key 'certificate' must be null exactly where 'problem' is; build the table again.")
        return f"{len(table.weight)} weights recomputed from the formula of {table.label} and found equal"
    answer = _answer(table)
    rebuilt = answer.table(group_size, all_wrong, all_right)
    curve = rebuilt if rebuilt.group_size is None else None
    if read_off:
        rebuilt = rebuilt.for_group(_size(table))
    _compare_tables(table, rebuilt)
    _check_certificate(table.certificate, answer, rebuilt.certificate or {})
    return _sentence(table, answer, curve)


@np.errstate(all="ignore")  # numbers that overflow prove nothing, and the comparison will say so
def _answer(table: WeightTable) -> Answer:
    """The answer that the file states, certified anew."""
    try:
        return kinds.certify(kinds.read_problem(table.problem or {}), table)
    except ProblemError as error:
        raise TableError(f"key {'problem.' + error.field!r} {error.sentence}; build the table again.") from None
    except SolverError as error:
        raise TableError(f"key 'problem' cannot be certified: {error}; build the table again.") from None
    except ArithmeticError:
        raise TableError("key 'weight' holds numbers too large or small to certify; build the table again.") from None


def _searched(table: WeightTable) -> str:
    """Verify that the advantages are those of the weights; where the weights come from is not in the file."""
    size = table.group_size
    if size is None:
        raise TableError(f"key 'provenance.method' cannot be {SEARCHED!r} in a curve; build the table again.")
    if table.certificate is not None:
        raise TableError("key 'certificate' must be null exactly where 'problem' is; build the table again.")
    rho, weight = np.arange(1, size) / size, np.array(table.weight)
    _compare("advantage_correct", table.advantage_correct, [0.0, *(weight * (1 - rho)), table.all_right_advantage])
    _compare("advantage_wrong", table.advantage_wrong, [table.all_wrong_advantage, *(-weight * rho), 0.0])
    return f"advantages follow from {len(weight)} weights, which a {SEARCHED}, found: nothing about them is certified"


def _from_formula(
    table: WeightTable, group_size: int | None, all_wrong: float | None, all_right: float | None
) -> WeightTable:
    """The table that the file's formula, scale and end rules lead to."""
    scale = table.provenance.get("scale")
    if isinstance(scale, bool) or not isinstance(scale, float | int) or not 1e-60 <= scale <= 1e60:
        raise TableError("key 'provenance.scale' must be a positive number; build the table again.")
    try:
        member = catalogue.parse(str(table.provenance.get("weighting")))
    except ValueError as error:
        raise TableError(f"key 'provenance.weighting': {error}; build the table again.") from None
    return catalogue_table(member, group_size, all_wrong, all_right, float(scale))


def _given_rules(table: WeightTable) -> tuple[float | None, float | None]:
    """The advantages in uniform groups that a user stated; None where they follow from the weights."""
    rules = table.provenance.get("end_rules")
    known = ("limit", "given", "solved", "published")
    if not (isinstance(rules, list) and len(rules) == 2 and all(rule in known for rule in rules)):
        raise TableError(f"key 'provenance.end_rules' must be two of {', '.join(known)}; build the table again.")
    return (
        table.all_wrong_advantage if rules[0] == "given" else None,
        table.all_right_advantage if rules[1] == "given" else None,
    )


def _size(table: WeightTable) -> int:
    if table.group_size is None:
        raise TableError("key 'provenance.curve' stands in a table for groups only; build the table again.")
    return table.group_size


def _compare_tables(table: WeightTable, rebuilt: WeightTable) -> None:
    """Refuse a table whose words or weights are not those of the rebuilt one."""
    stated_problem, wanted_problem = table.problem, rebuilt.problem
    if stated_problem is not None and wanted_problem is not None:
        later = {
            key: value
            for key, value in {**LATER, **LATER_LIMITS, "kind": wanted_problem["kind"]}.items()
            if key in wanted_problem
        }
        stated_problem = {**later, **stated_problem}
    for key in ("name", "label", "group_size"):
        if getattr(table, key) != getattr(rebuilt, key):
            raise TableError(f"key '{key}' does not follow from the table's provenance; build the table again.")
    if stated_problem != wanted_problem:
        raise TableError("key 'problem' does not follow from the table's provenance; build the table again.")
    stated, computed = dict(table.provenance), dict(rebuilt.provenance)
    unstated = "parameters" in computed and "parameters" not in stated
    for key in ("loops", "made_for"):  # files of version 0.1 do not say for which loop they are made
        if key not in stated:
            computed.pop(key, None)
    for key in ("versions", "curve"):  # other versions, and another interpolation, may give other last digits
        stated.pop(key, None)
        computed.pop(key, None)
    if unstated:
        computed.pop("parameters")
    if stated != computed:
        raise TableError("key 'provenance' does not describe how these numbers come about; build the table again.")
    loose = unstated and str(computed.get("method")).startswith("interior point on")
    _compare("rho", table.rho, rebuilt.rho)
    keys = ["weight", "all_wrong_advantage", "all_right_advantage"]
    if table.group_size is not None:
        keys += ["advantage_correct", "advantage_wrong"]
    for key in keys:
        _compare(key, getattr(table, key), getattr(rebuilt, key), UNSTATED_WEIGHTS if loose else RECHECK)


def _check_certificate(claim: Mapping[str, Any] | None, answer: Answer, proven: Mapping[str, Any]) -> None:
    """Compare a stated certificate with the one that the weights lead to, and hold both to what the method promises."""
    claim = claim or {}
    stated = {RENAMED.get(key, key): value for key, value in claim.items()}
    rounding = {"gap", "quadrature_error", "budget_error", "violation"}
    keys, unstated = set(proven), "prices" in proven and "prices" not in stated
    # A file of version 0.1 has no checks, no prices, and for a population no feasibility.
    keys -= {"checks", "prices"} - stated.keys()
    keys -= {"budget_error", "violation"} if claim.keys() & RENAMED.keys() else set()
    if stated.keys() != keys:
        raise TableError("key 'certificate' must hold what a certificate holds, no more; build the table again.")
    if stated.get("checks", proven["checks"]) != proven["checks"]:
        raise TableError("key 'certificate.checks' does not state what the method promises; build the table again.")
    for key in sorted(keys - rounding - {"checks", "prices"}):
        # Of prices that are solved for again: the multiplier, like the weights, is fixed only to the root of the times.
        again = UNSTATED_WEIGHTS if key == "multiplier" else UNSTATED_TIMES
        _compare(f"certificate.{key}", stated[key], proven[key], max(answer.ROUNDING, again if unstated else 0.0))
    # The rest is rounding noise, which differs between machines; only claims that are not borne out matter.
    largest = dict.fromkeys(rounding, max(SMALL, answer.promise.feasible)) | {"gap": answer.promise.gap}
    if math.isinf(answer.promise.gap):
        largest["quadrature_error"] = proven["quadrature_error"] + SMALL
    for key in sorted(keys & rounding):
        value = stated[key]
        if not (type(value) is float and abs(value) <= largest[key] and (key == "budget_error" or value >= 0)):
            raise TableError(
                f"key 'certificate.{key}' states {repr(value)[:40]} but at most {largest[key]:g} is certified; "
                "build the table again."
            )
    if not proven["gap"] <= stated["gap"] + answer.ROUNDING:
        raise TableError(
            f"key 'certificate.gap' states {stated['gap']:.2e} but these weights are certified within "
            f"{proven['gap']:.2e} only; build the table again."
        )
    for check in answer.checks:
        if check.name != "gap" and not check.passed:
            raise TableError(
                f"key 'weight' fails the check '{check.name}': {check.value:.1e}, at most {check.limit:g}; "
                "build the table again."
            )


def _sentence(table: WeightTable, answer: Answer, curve: WeightTable | None) -> str:
    """What was verified."""
    proof = (
        f"{len(table.weight)} weights certified: feasible, objective {answer.objective:.12g}, lower bound "
        f"{answer.lower_bound:.12g} proven again, certified gap {answer.gap:.2e}"
    )
    cost = None if curve is None else answer.reading_cost(curve)
    return proof if cost is None else f"{proof}; read between the points of the curve it takes {cost:.1e} longer"


def _compare(key: str, stated: Any, computed: Any, tolerance: float = RECHECK) -> None:
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
