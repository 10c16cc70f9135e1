"""The group-population kind: one table for groups of M, many prompts, one budget for each step.

Sought is ln ω at K/M = 1/M..(M-1)/M, up to a constant, with slopes in log-odds within ±steepness. Groups all wrong or
all right have no advantage, or, if asked for, advantages ≤ 0 and ≥ 0 that are sought too. The cost is not convex.
L-BFGS-B follows the gradient of `GroupFlow` from several starts, and what it finds is a *local* optimum. What is
certified is the distance to a bound (`group_bounds`) that holds for all tables of this kind, even if they differ by
prompt and by step: it contains the price of sharing one table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from theory import catalogue
from theory.clocks import LOOPS
from theory.quadrature import log_odds
from weightopt.answer import Answer, Promise, Status
from weightopt.catalogue_tables import catalogue_table
from weightopt.errors import ProblemError, SolverError
from weightopt.fields import read_fields
from weightopt.populations.group_bounds import least_cost
from weightopt.populations.group_flow import GroupBudget, GroupFlow
from weightopt.populations.lengths import Lengths
from weightopt.populations.population import PopulationCertificate, Row
from weightopt.populations.problem import MARGIN, Population, check_numbers, check_scale, read_lists
from weightopt.table import TableError, WeightTable
from weightopt.tabulate import tabulate_advantages

Array = NDArray[np.float64]
LARGEST_GROUP = 256
BUDGETS: Mapping[GroupBudget, str] = {
    "advantage-variance": "root mean squared advantage of a step",
    "kl": "root mean ρ(1-ρ)u², the KL of the expected step",
    "constant-step": "root mean squared advantage over the run, steps of constant size",
}
NAMES = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r", "maxrl")
STARTS = ((0.0, 0.0), (0.5, 0.5), (1.0, 0.0))  # exponents (a, b) of ρ^-a (1-ρ)^-b
STEPS = 200  # of a search
FIRST_PUSH, HARDEST_PUSH = 0.2, 1e3  # advantages in uniform groups, over the geometric mean of the weights
STEEPNESS_ROUNDING = 1e-8
PROMISE = Promise(math.inf)


@dataclasses.dataclass(frozen=True)
class GroupPopulationProblem(Population):
    """Raise the mean success of a population to a target at least cost with one table for groups of M.

    The cost is that of the responses of a batch of fixed size, in units of one response a step: with lengths it is the
    steps times the mean tokens of a response, without them the steps. So costs compare between group sizes at equal
    responses a step.

    Parameters
    ----------
    source, rates, counts
        See `Population`.
    target
        Mean success to reach: above the mean of the start, below 1.
    group_size
        M, from 2 to 256.
    budget_kind
        What a step spends, see `group_flow`. "advantage-variance", "kl" or "constant-step".
    lengths
        Mean lengths of right and wrong answers; None where all responses cost the same.
    dynamic_sampling
        Whether groups that are all right or all wrong are dropped, and others drawn until the batch is full.
    uniform_groups
        Whether advantages in groups all right and all wrong are sought too. With two outcomes an all-wrong push raises
        success like one more response; with many wrong answers most of what it takes from one goes to others.
    budget
        b, 1e-6 to 1e6; costs are proportional to 1/b.
    steepness
        Largest |d ln ω / d log-odds| between neighbouring K/M, 1 to 2.5. No named weighting exceeds 1.

    Raises
    ------
    ProblemError
        If a parameter is out of range.

    Examples
    --------
    >>> from weightopt import GroupPopulationProblem, solve
    >>> answer = solve(GroupPopulationProblem("three kinds", (0.05, 0.3, 0.7), (5, 3, 2), target=0.6, group_size=8))
    >>> answer.lower_bound <= answer.time <= answer.best_named.time
    True
    """

    kind: ClassVar[str] = "group-population"
    target: float
    group_size: int
    budget_kind: GroupBudget = "advantage-variance"
    lengths: Lengths | None = None
    dynamic_sampling: bool = False
    uniform_groups: bool = False
    budget: float = 1.0
    steepness: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "target", "budget", "steepness")
        size = self.group_size
        if not isinstance(size, int) or isinstance(size, bool) or not 2 <= size <= LARGEST_GROUP:
            raise ProblemError("group_size", f"must be a whole number from 2 to {LARGEST_GROUP}, got {str(size)[:40]}")
        if self.budget_kind not in BUDGETS:
            raise ProblemError(
                "budget_kind",
                f"for groups must be one of {', '.join(BUDGETS)}, got {str(self.budget_kind)[:40]!r}",
            )
        if self.lengths is not None and not isinstance(self.lengths, Lengths):
            raise ProblemError("lengths", "must be lengths of right and wrong answers, or none")
        for field in ("dynamic_sampling", "uniform_groups"):
            if not isinstance(getattr(self, field), bool):
                raise ProblemError(field, "must be true or false")
        if self.dynamic_sampling and self.uniform_groups:
            raise ProblemError("uniform_groups", "are dropped with dynamic sampling, so they have no advantages")
        check_scale(self.budget, self.steepness)
        if not self.mean + MARGIN <= self.target <= 1 - 1e-4:
            raise ProblemError(
                "target",
                f"must lie above the mean success at the start, {self.mean:.6g}, by 1e-6 at least, and not above "
                f"0.9999; got {self.target!r}",
            )

    def flow(self, fineness: int = 1) -> GroupFlow:
        """What tables are measured by; see `GroupFlow`."""
        return GroupFlow(
            self.theta, self.group_size, self.budget_kind, self.lengths, self.dynamic_sampling, fineness=fineness
        )

    @property
    def bound(self) -> float:
        """No tables, even by prompt and by step, cost less."""
        args = self.group_size, self.budget_kind, self.lengths, self.dynamic_sampling, self.uniform_groups
        return least_cost(self.theta, self.share, self.target, *args) / self.budget

    @property
    def reading(self) -> str:
        """The budget in words."""
        return f"{BUDGETS[self.budget_kind]}: {self.budget:g}"

    @property
    def loop(self) -> str:
        """Which loop pays for it, see `theory.clocks.LOOPS`."""
        return "refill" if self.dynamic_sampling else "fixed-batch"

    @property
    def made_for(self) -> str:
        """The loop, what it pays and what a step spends, in one line."""
        return f"{LOOPS[self.loop]}, paid in {self.unit}; {BUDGETS[self.budget_kind]}"

    @property
    def unit(self) -> str:
        """What the cost counts."""
        what = "groups drawn" if self.dynamic_sampling else "steps"
        return f"{what} x tokens of a response" if self.lengths is not None else what

    def to_dict(self) -> dict[str, Any]:
        """The problem as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lengths = None if self.lengths is None else self.lengths.to_dict()
        return {
            "kind": self.kind,
            **values,
            "rates": list(self.rates),
            "counts": list(self.counts),
            "lengths": lengths,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GroupPopulationProblem:
        """The problem that `to_dict` described; raises ProblemError if a key is missing, unknown or out of range."""
        values = read_fields(cls.kind, values, (field.name for field in dataclasses.fields(cls)))
        lengths = None if values["lengths"] is None else Lengths.from_dict(values["lengths"])
        return cls(**{**values, **read_lists(values), "lengths": lengths})


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupPopulationAnswer(Answer):
    """Answer to a group-population problem; the gap contains the price of sharing one table.

    Attributes
    ----------
    weight
        Length M-1. ω at K/M; at the start a step of size 1 with it spends the budget.
    uniform
        Advantage in all-wrong groups, ≤ 0, and in all-right groups, ≥ 0.
    rows
        The named ones with their rules for uniform groups; none where the answer is read from a file.
    """

    ROUNDING = 1e-7  # knots and nodes of the flow

    problem: GroupPopulationProblem
    certificate: PopulationCertificate
    weight: tuple[float, ...]
    uniform: tuple[float, float] = (0.0, 0.0)
    rows: tuple[Row, ...] = ()

    @property
    def status(self) -> Status:
        """Best found: the search is a local one, and how far off it can be is certified."""
        return Status.BEST_FOUND if all(check.passed for check in self.checks) else Status.UNCERTIFIED

    @property
    def time(self) -> float:
        """What the table costs to the target."""
        return self.certificate.time

    @property
    def best_named(self) -> Row:
        """The cheapest of the named ones."""
        return min(self.rows, key=lambda row: row.time)

    @property
    def ratio(self) -> float:
        """Cost of the best table found over the lower bound."""
        return self.certificate.time / self.certificate.lower_bound

    @property
    def vector(self) -> Array:
        """The table as `GroupFlow` takes it."""
        return np.array([0.0 - self.uniform[0], *self.weight, self.uniform[1]])

    def table(
        self, group_size: int | None = None, all_wrong: float | None = None, all_right: float | None = None
    ) -> WeightTable:
        """The table; advantages in uniform groups are what was sought, or 0, unless stated. See `Answer.table`."""
        problem = self.problem
        if group_size not in (None, problem.group_size):
            raise TableError(
                f"the answer is for groups of {problem.group_size}, not of {group_size!r}; solve it again."
            )
        if problem.uniform_groups and (all_wrong, all_right) != (None, None):
            raise TableError("the advantages in uniform groups are solved for; state none with --all-wrong.")
        weight = np.array(self.weight)
        rho = np.arange(1, problem.group_size) / problem.group_size
        return tabulate_advantages(
            self.weight,
            (0.0, *(weight * (1 - rho)).tolist(), self.uniform[1]),
            (self.uniform[0], *(0.0 - weight * rho).tolist(), 0.0),
            given=(all_wrong, all_right),
            rule="solved",
            name="shared",
            label=f"Best shared table found, {problem.budget_kind} budget a step, {problem.source} → "
            f"{problem.target:g}, groups of {problem.group_size}",
            problem=problem.to_dict(),
            certificate=self.stated,
            provenance={
                "method": self.method,
                "weighting": "shared",
                "loops": [problem.loop],
                "made_for": problem.made_for,
            },
        )

    def headline(self) -> str:
        """What was asked, in one line."""
        problem = self.problem
        return (
            f"Shared table for groups of {problem.group_size}, {problem.source}, mean success {problem.mean:.3g} → "
            f"{problem.target:g}, {BUDGETS[problem.budget_kind]} {problem.budget:g}"
        )

    def about(self) -> dict[str, str]:
        """What the cost counts."""
        return {"cost": self.problem.unit}

    def numbers(self) -> dict[str, Any]:
        """The table and the named ones."""
        size = self.problem.group_size
        return {
            **self.certificate.to_dict(),
            "ratio": self.ratio,
            "unit": self.problem.unit,
            "named": [dataclasses.asdict(row) for row in self.rows],
            "group_size": size,
            "rho": [k / size for k in range(1, size)],
            "weight": list(self.weight),
            "uniform": list(self.uniform),
        }


def solve(
    problem: GroupPopulationProblem, *, throw: bool = True, names: Sequence[str] = NAMES
) -> GroupPopulationAnswer:
    """Bound, best table found, and the named ones.

    Parameters
    ----------
    problem
        Any.
    throw
        Raise when the table found misses the budget or the steepness; a large gap is an answer.
    names
        Keys of `theory.catalogue.EVERYTHING`; those that have no table for this group size are left out.

    Raises
    ------
    SolverError
        See `throw`.
    """
    flow, lower = problem.flow(), problem.bound
    named = named_tables(problem, names)
    rows = []
    for name, table in named.items():
        time = flow.time(table, problem.share, problem.target) / problem.budget
        rows.append(Row(name, catalogue.EVERYTHING[name].label, time, time / lower, abs(time / lower - 1)))
    found, cost = search(problem, flow)
    method = f"L-BFGS-B from {len(STARTS)} starts"
    # A named one may be a table of this kind.
    kin = [row for row in rows if _is_one(problem, named[row.weighting])]
    best = min(kin, key=lambda row: row.time, default=None)
    if best is not None and best.time * problem.budget <= cost:
        found, method = named[best.weighting], f"no better one found than {best.label}"
    found = found * problem.budget / flow.first_spent(found, problem.share)
    answer = _answer(problem, flow, found, method, lower)
    answer = dataclasses.replace(answer, rows=tuple(rows))
    answer.certified(throw)
    return answer


def certify(problem: GroupPopulationProblem, table: WeightTable) -> GroupPopulationAnswer:
    """The answer that a table states, certified from its weights and its problem alone; nothing is searched for.

    Raises
    ------
    TableError
        If the table is none for this problem.
    """
    method = table.provenance.get("method")
    if table.group_size != problem.group_size:
        raise TableError(f"key 'group_size' must be the problem's, {problem.group_size}; build the table again.")
    if not isinstance(method, str):
        raise TableError("key 'provenance.method' must be text; build the table again.")
    if not min(table.weight) > 0:
        raise TableError("key 'weight' must be positive; build the table again.")
    ends = 0.0 - table.all_wrong_advantage, table.all_right_advantage
    if problem.uniform_groups and min(ends) < 0:
        raise TableError("keys 'all_wrong_advantage' and 'all_right_advantage' must be ≤ 0 and ≥ 0; build it again.")
    wrong, right = ends if problem.uniform_groups else (0.0, 0.0)
    return _answer(problem, problem.flow(), np.array([wrong, *table.weight, right]), method, problem.bound)


def named_tables(problem: GroupPopulationProblem, names: Sequence[str] = NAMES) -> dict[str, Array]:
    """Named weightings read at K/M as `GroupFlow` takes them, with their rules for uniform groups.

    With dynamic sampling uniform groups are not trained on.
    """
    tables = {}
    for name in names:
        with contextlib.suppress(TableError):
            table = catalogue_table(catalogue.EVERYTHING[name], problem.group_size)
            ends = (-table.all_wrong_advantage, table.all_right_advantage)
            wrong, right = (0.0, 0.0) if problem.dynamic_sampling else ends
            tables[name] = np.array([wrong, *table.weight, right])
    return tables


def search(problem: GroupPopulationProblem, flow: GroupFlow) -> tuple[Array, float]:
    """The best table that a local search finds from any of its starts, and its cost at a budget of 1."""
    rho = np.arange(1, problem.group_size) / problem.group_size
    width, limit = np.diff(log_odds(rho)), problem.steepness

    ends = 2 if problem.uniform_groups else 0

    def table(x: Array) -> Array:
        rises = np.concatenate([[0.0], np.cumsum(x[ends:] * width)])
        wrong, right = x[:ends] if ends else (0.0, 0.0)
        return np.concatenate([[wrong], np.exp(rises - np.mean(rises)), [right]])

    def cost(x: Array) -> tuple[float, Array]:
        at = table(x)
        value, gradient = flow.time_and_gradient(at, problem.share, problem.target)
        if not math.isfinite(value):
            raise SolverError("the search for a shared table met a cost that is no number")
        # ln ω at K is the sum of the rises before it, less the mean of all.
        by_log = (gradient * at)[1:-1]
        by_slope = width * np.cumsum((by_log - np.mean(by_log))[::-1])[::-1][1:]
        return value, np.concatenate([gradient[[0, -1]][:ends], by_slope])

    bounds = [(0.0, HARDEST_PUSH)] * ends + [(-limit, limit)] * width.size
    if not bounds:
        return table(width), flow.time(table(width), problem.share, problem.target)
    found = []
    for a, b in STARTS:
        start = np.clip(np.diff(-a * np.log(rho) - b * np.log1p(-rho)) / width, -limit, limit)
        start = np.concatenate([np.full(ends, FIRST_PUSH), start])
        options = {"maxiter": STEPS, "maxcor": 10}
        found.append(minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options))
    best = min(found, key=lambda result: result.fun)
    return table(best.x), float(best.fun)


def _is_one(problem: GroupPopulationProblem, table: Array) -> bool:
    """Whether a table is one of those that are sought."""
    ends = table[[0, -1]]
    fits = np.all(ends >= 0) if problem.uniform_groups else not np.any(ends)
    return bool(fits) and _steepness(table) <= problem.steepness


def _answer(
    problem: GroupPopulationProblem, flow: GroupFlow, table: Array, method: str, lower: float
) -> GroupPopulationAnswer:
    times = (each.time(table, problem.share, problem.target) for each in (problem.flow(fineness=2), flow))
    time, rough = (time / problem.budget for time in times)
    error = 2 * abs(rough / time - 1)
    steepness = _steepness(table)
    certificate = PopulationCertificate(
        time=time,
        # Where one prompt is all there is the two are equal, and only the error of the cost lies between them.
        lower_bound=time if time < lower <= time * (1 + error) else lower,
        # A cost below the bound by more than rounding would mean a wrong bound: it is charged, not called 0.
        gap=abs(time / lower - 1) + error,
        quadrature_error=error,
        steepness=steepness,
        budget_error=flow.first_spent(table, problem.share) / problem.budget - 1,
        # A search ends on the limit, so rounding is left out.
        violation=max(0.0, steepness / problem.steepness - 1 - STEEPNESS_ROUNDING),
    )
    return GroupPopulationAnswer(
        problem=problem,
        certificate=certificate,
        method=method,
        promise=PROMISE,
        weight=tuple(table[1:-1].tolist()),
        uniform=(0.0 - float(table[0]), float(table[-1])),
    )


def _steepness(table: Array) -> float:
    """Largest |d ln ω / d log-odds| between neighbouring K/M."""
    weight = table[1:-1]
    if weight.size < 2 or np.min(weight) <= 0:
        return 0.0 if weight.size < 2 else math.inf
    rho = np.arange(1, weight.size + 1) / (weight.size + 1)
    return float(np.max(np.abs(np.diff(np.log(weight)) / np.diff(log_odds(rho)))))
