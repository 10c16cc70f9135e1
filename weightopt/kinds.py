"""The kinds of problem and the methods: one module each, found by name when it is needed.

A module of a kind holds its problem (with ``kind``, ``to_dict`` and ``from_dict``), ``solve(problem, throw=...)`` and
``certify(problem, table)``, both of which return an `Answer`. A module of a method holds ``SOLVERS``, its functions by
the kinds that it can do. A further kind is one module and one line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from weightopt.answer import Answer
from weightopt.errors import ProblemError
from weightopt.table import WeightTable

if TYPE_CHECKING:
    from weightopt.curves.curve import CurveAnswer
    from weightopt.curves.problem import Problem
    from weightopt.groups.group import GroupAnswer, GroupProblem
    from weightopt.groups.start_range import RangeAnswer, RangeProblem
    from weightopt.populations.group_population import GroupPopulationAnswer, GroupPopulationProblem
    from weightopt.populations.population import PopulationAnswer
    from weightopt.populations.problem import PopulationProblem

# The class of the problem in each kind's module.
KINDS: Mapping[str, tuple[str, str]] = {
    "curve": ("weightopt.curves.curve", "Problem"),
    "group": ("weightopt.groups.group", "GroupProblem"),
    "range": ("weightopt.groups.start_range", "RangeProblem"),
    "population": ("weightopt.populations.population", "PopulationProblem"),
    "group-population": ("weightopt.populations.group_population", "GroupPopulationProblem"),
}
Method = Literal["direct", "convex", "ode-check"]
# The module of each method, and the kinds that it can do: known without loading it, since cvxpy takes a second.
METHODS: Mapping[str, tuple[str | None, tuple[str, ...]]] = {
    "direct": (None, ()),  # every kind, by its own module
    "convex": ("weightopt.convex", ("curve", "group")),
    "ode-check": ("weightopt.ode", ("curve", "group")),
}
# Files of version 0.1 do not name their kind: it shows in a key that no other kind has.
TELLTALE = {"rates": "population", "last_start": "range", "group_size": "group"}


@overload
def solve(problem: Problem, method: Method = "direct", *, throw: bool = True) -> CurveAnswer: ...
@overload
def solve(problem: GroupProblem, method: Method = "direct", *, throw: bool = True) -> GroupAnswer: ...
@overload
def solve(problem: RangeProblem, method: Method = "direct", *, throw: bool = True) -> RangeAnswer: ...
@overload
def solve(problem: PopulationProblem, method: Method = "direct", *, throw: bool = True) -> PopulationAnswer: ...
@overload
def solve(
    problem: GroupPopulationProblem, method: Method = "direct", *, throw: bool = True
) -> GroupPopulationAnswer: ...
def solve(problem: Any, method: str = "direct", *, throw: bool = True) -> Answer:
    """The best weights for a problem of any kind, with their certificate.

    Parameters
    ----------
    problem
        Problem, GroupProblem, RangeProblem, PopulationProblem or GroupPopulationProblem.
    method
        ``direct``: the method made for the kind. ``convex``: an independent solver, cvxpy with Clarabel, for curves and
        centred group tables. ``ode-check``: the direct answer, whose time is computed once more by integrating the
        differential equation. "direct", "convex" or "ode-check".
    throw
        Raise when a check of the answer fails; otherwise its status says so.

    Returns
    -------
    Answer
        With status, time, lower bound, certified gap and checks; ``table()`` makes it a table, ``print`` shows it.

    Raises
    ------
    ProblemError
        If the method cannot do the problem; the message names those that can.
    SolverError
        See `throw`.

    Examples
    --------
    >>> from weightopt import Problem, solve
    >>> answer = solve(Problem(start=0.01, target=0.9, clock="effective", max_weight=3.0))
    >>> f"{answer.status.name}: time {answer.time:.4f}, gap below 1e-10: {answer.gap < 1e-10}"
    'OPTIMAL: time 42.9756, gap below 1e-10: True'
    """
    kind = str(getattr(problem, "kind", None))
    if kind not in KINDS:
        raise ProblemError("problem", f"must be of kind {', '.join(KINDS)}, got {type(problem).__name__}")
    able = [name for name, (module, kinds) in METHODS.items() if module is None or kind in kinds]
    if method not in able:
        raise ProblemError("method", f"of a {kind} problem must be {' or '.join(able)}, got {str(method)[:40]!r}")
    module = METHODS[method][0]
    solver = _module(kind).solve if module is None else importlib.import_module(module).SOLVERS[kind]
    return solver(problem, throw=throw)


def certify(problem: Any, table: WeightTable) -> Answer:
    """The answer that a table states, certified from problem and weights; raises TableError if it states none."""
    return _module(problem.kind).certify(problem, table)


def read_problem(values: Mapping[str, Any]) -> Any:
    """The problem that `to_dict` of its kind described.

    Raises
    ------
    ProblemError
        If the kind is unknown, or a key is missing, unknown or out of range.
    """
    kind = values.get("kind", next((kind for key, kind in TELLTALE.items() if key in values), "curve"))
    if not isinstance(kind, str) or kind not in KINDS:
        raise ProblemError("kind", f"must be {', '.join(KINDS)}, got {str(kind)[:40]!r}")
    return getattr(_module(kind), KINDS[kind][1]).from_dict(values)


def _module(kind: str) -> Any:
    return importlib.import_module(KINDS[kind][0])
