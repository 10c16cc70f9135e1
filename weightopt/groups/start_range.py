"""The range kind: one table for a range of starts, of the least worst ratio to the table of each start alone.

Let T_s and V_s be the time and the budget of a table on the way from start s to the target and T*_s the least time of a
table with budget B on that way. A prompt that starts at s is slower than it could be by the ratio T_s V_s/(T*_s B),
which does not depend on the table's scale; the table sought minimises the largest of these ratios over the starts.

1/T_s is concave and V_s convex along the rays, both of degree 1, so this is a fractional program, quasi-convex, and
Dinkelbach's method solves it: for a ratio r minimise the largest V_s - r T*_s B/T_s, which is convex, and take the
ratio of the answer as the next r (quadratic convergence; Dinkelbach 1967, Crouzeix and Ferland 1991).

Certificate: with G_s = -∇T_s and b_s = ∇V_s at a table, every table y' of that shape has T_s(y') ≥ T_s²/(G_s·y') and
V_s(y') ≥ b_s·y', so its largest ratio is, for any prices π ≥ 0, at least

    max over s of T_s² b_s·y'/(T*_s B G_s·y') ≥ min over rays k of Σ_s π_s b_sk / Σ_s π_s (T*_s B/T_s²) G_sk.

The prices travel with the table, so that whoever certifies it has no fractional program to solve; the least times T*_s
are the yardstick of the problem and are computed, each with a certificate of its own.

For curves there is nothing to do: ω ∝ √(c/κ) is best for every start at once.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import log_odds
from weightopt.answer import Answer, Certificate, Promise, promised
from weightopt.curves.interior_point import reach
from weightopt.errors import ProblemError
from weightopt.fields import read_fields
from weightopt.groups.group import (
    TOLERANCE,
    Advantages,
    Design,
    GroupProblem,
    State,
    curvature,
    design_of,
    evaluate,
    least_time_rays,
    packed,
    rounding,
    shape_violation,
    time_and_budget,
    unpack,
)
from weightopt.groups.group import solve as solve_group
from weightopt.table import TableError, WeightTable
from weightopt.tabulate import even_grid

Array = NDArray[np.float64]
STARTS = 17  # even in log-odds, both ends included
BETWEEN = 4  # pieces that each of their intervals is cut into to see what happens between them
METHOD = "Dinkelbach's method with interior-point steps on the table"
PROMISE = Promise(10 * TOLERANCE)
AIM = 1e-10
ROUNDS, ITERATIONS = 30, 100
CENTRING, STEP_BACK = 0.1, 0.99
MIXED = 0.05  # share of the constant x in a first iterate
CLOSED = 1e-14  # complementarity and infeasibility at which a subproblem is solved


@dataclasses.dataclass(frozen=True)
class RangeProblem:
    """Which table of a group serves every start from the group problem's to `last_start` best?

    Parameters
    ----------
    group
        Its start is the first of the range, and the way from there spends its budget.
    last_start
        Above the start and below the target.

    Raises
    ------
    ProblemError
        If the range is not one.

    Examples
    --------
    >>> from weightopt import GroupProblem, Problem, RangeProblem, solve
    >>> group = GroupProblem(Problem(start=0.01, target=0.9, clock="effective"), group_size=4)
    >>> answer = solve(RangeProblem(group, last_start=0.1))
    >>> f"at most {answer.worst_ratio - 1:.1%} slower than the best table for a start"
    'at most 2.4% slower than the best table for a start'
    """

    kind: ClassVar[str] = "range"
    group: GroupProblem
    last_start: float

    def __post_init__(self) -> None:
        curve = self.group.curve
        if self.group.crowding is not None:
            raise ProblemError("crowding", "holds for a table of one start, not for a range of starts")
        last = self.last_start
        number = isinstance(last, int | float | np.floating) and not isinstance(last, bool)
        if not (number and curve.start < last < curve.target):
            raise ProblemError(
                "start_range",
                f"must be two starts, the second above the first, {curve.start:g}, and below the target, "
                f"{curve.target:g}; got {last!r}",
            )

    @property
    def starts(self) -> Array:
        """The starts that the worst ratio is taken over, shape (17,)."""
        return even_grid(self.group.curve.start, float(self.last_start), STARTS)

    def to_dict(self) -> dict[str, Any]:
        """The problem as JSON values."""
        return {**self.group.to_dict(), "last_start": self.last_start, "kind": self.kind}

    @classmethod
    def from_dict(cls, values: Any) -> RangeProblem:
        """The problem that `to_dict` described; raises `ProblemError` as the constructor does."""
        own = {key: value for key, value in values.items() if key in ("kind", "last_start")}
        group = {key: value for key, value in values.items() if key not in own}
        return cls(GroupProblem.from_dict(group), **read_fields(cls.kind, own, ["last_start"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RangeCertificate(Certificate):
    """Proof of how good a table is for a range of starts; the gap includes those of single starts.

    Attributes
    ----------
    worst_ratio
        Largest time over the 17 starts relative to the best table for that start, ≥ 1.
    worst_between
        The same ratio at three more starts in each interval: what the 17 do not see.
    """

    worst_ratio: float
    worst_between: float

    @property
    def objective(self) -> float:
        """The worst ratio."""
        return self.worst_ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class RangeAnswer(Answer, Advantages):
    """Answer to a range problem: an `Answer` with its `Advantages`.

    Attributes
    ----------
    ratios
        Length 17. Time relative to the best table for that start, by start.
    prices
        Length 17. π ≥ 0, what the lower bound is made from.
    """

    ROUNDING = 1e-7  # measured by single starts, each of which is certified to 1e-8 only

    problem: RangeProblem
    certificate: RangeCertificate
    ratios: tuple[float, ...]
    prices: tuple[float, ...]

    @property
    def worst_ratio(self) -> float:
        """Largest ratio over the 17 starts."""
        return self.certificate.worst_ratio

    def table(
        self, group_size: int | None = None, all_wrong: float | None = None, all_right: float | None = None
    ) -> WeightTable:
        """The table; see `Answer.table`. The default advantages in uniform groups are 0 for a centred table."""
        group = self.problem.group
        label = group.curve.label.replace(" →", f" to {self.problem.last_start:g} →")
        return self.advantages_table(self, group, label, group_size, (all_wrong, all_right), prices=list(self.prices))

    def headline(self) -> str:
        """What was asked, in one line."""
        group = self.problem.group
        return (
            f"Table for groups of {group.group_size} and any start from {group.curve.start:g} to "
            f"{self.problem.last_start:g}, target {group.curve.target:g}, {group.budget_in_words}"
        )

    def about(self) -> dict[str, str]:
        """The clock, the mobility, and what the table had to be."""
        return self.problem.group.about

    def measures(self) -> dict[str, str]:
        """The worst ratio, its bound, and the ratios of some starts."""
        shown = ", ".join(f"{self.problem.starts[k]:.3g}: {self.ratios[k]:.3f}" for k in range(0, STARTS, 4))
        return {
            "worst ratio": f"{self.worst_ratio:.10g} to the best table for a start, over {STARTS} starts "
            f"({self.certificate.worst_between:.6g} between them)",
            "lower bound": f"{self.lower_bound:.10g}",
            "by start": shown,
        }

    def numbers(self) -> dict[str, Any]:
        """The table, and the ratio of every start."""
        return {"starts": self.problem.starts.tolist(), "ratios": list(self.ratios), **self.advantage_numbers()}

    def to_dict(self) -> dict[str, Any]:
        """The whole answer as JSON values."""
        document = super().to_dict()
        document["worst_ratio"] = document.pop("time")
        return document


def solve(problem: RangeProblem, *, throw: bool = True) -> RangeAnswer:
    """The table of least worst ratio, with its certificate.

    Parameters
    ----------
    problem
        Any range of starts.
    throw
        Raise when the certified gap exceeds 1e-7, each start bringing up to 1e-8; otherwise the status says so.

    Raises
    ------
    SolverError
        See `throw`; and whatever a single start raises.
    """
    group = problem.group
    yardstick = _yardstick(problem)
    best, _ = yardstick
    designs = _designs(problem)
    table, prices = _dinkelbach(designs, best * group.curve.budget)
    table = table * (group.curve.budget / evaluate(designs[0], table).spent)
    answer = _answered(problem, table, prices, yardstick)
    answer.certified(throw)
    return answer


def certify(problem: RangeProblem, table: WeightTable) -> RangeAnswer:
    """The answer that a table's advantages are, certified from them, its prices and the problem.

    No table is solved for but those of single starts, whose times are what the problem measures by. A file of version
    0.1 has no prices: they are then solved for.

    Raises
    ------
    TableError
        If the table has another group size, or its prices are none.
    """
    stated = (table.certificate or {}).get("prices")
    if stated is None and "prices" not in (table.certificate or {}):
        stated = list(solve(problem).prices)
    if not (
        isinstance(stated, list)
        and len(stated) == STARTS
        and all(type(price) is float and 0 <= price <= 1e100 for price in stated)
        and sum(stated) > 0
    ):
        raise TableError(f"key 'certificate.prices' must be {STARTS} numbers from 0 up; build the table again.")
    promised({METHOD: PROMISE}, table)
    return _answered(problem, packed(problem.group, table), np.array(stated), _yardstick(problem))


def _yardstick(problem: RangeProblem) -> tuple[Array, float]:
    """T*_s of every start, shape (17,), and the largest of their gaps."""
    own = [solve_group(problem.group.starting_at(float(start))) for start in problem.starts]
    return np.array([answer.time for answer in own]), max(answer.gap for answer in own)


@np.errstate(all="ignore")  # a table that overflows proves nothing
def _answered(problem: RangeProblem, table: Array, prices: Array, yardstick: tuple[Array, float]) -> RangeAnswer:
    """The answer that a table is, certified from table, prices and problem."""
    group = problem.group
    best, single = yardstick
    designs = [_designs(problem, pieces) for pieces in (1, 2)]
    found = [_bound(one, table, best * group.curve.budget, prices) for one in designs]
    (coarse_ratios, coarse_bound), (ratios, bound) = found
    worst = float(np.max(ratios))
    proven = bound > 0
    moved = max(abs(float(np.max(coarse_ratios)) / worst - 1), abs(coarse_bound / bound - 1) if proven else 0.0)
    error = 2 * moved + 4 * rounding(group)
    weight, correct, wrong = unpack(group, table)
    spent = evaluate(designs[0][0], table).spent
    negative = max(0.0, -float(np.min(table)) / float(np.max(table)))
    certificate = RangeCertificate(
        worst_ratio=worst,
        lower_bound=max(0.0, bound * (1 - error)),
        gap=abs(worst - bound) / bound + 2 * error + single if proven else float("inf"),
        quadrature_error=error,
        worst_between=_between(problem, np.array(correct), np.array(wrong)),
        budget_error=spent / group.curve.budget - 1,
        violation=max(negative, shape_violation(group, table)),
    )
    return RangeAnswer(
        problem=problem,
        certificate=certificate,
        method=METHOD,
        promise=PROMISE,
        weight=weight,
        advantage_correct=correct,
        advantage_wrong=wrong,
        ratios=tuple(ratios.tolist()),
        prices=tuple(prices.tolist()),
    )


def _designs(problem: RangeProblem, pieces: int = 1) -> list[Design]:
    """One design a start: the same nodes, those before the start without measure."""
    starts = problem.starts
    whole = design_of(problem.group, tuple(starts[1:].tolist()), pieces)
    theta, ends = log_odds(whole.rho), log_odds(starts)
    designs = []
    for end in ends:
        counts = theta > end
        measure = whole.measure * counts
        designs.append(
            whole._replace(
                measure=measure,
                cost=whole.cost * counts,
                per_time=whole.per_time * counts,
                drift=measure @ whole.along,
            )
        )
    return designs


def _bound(designs: list[Design], table: Array, scale: Array, prices: Array) -> tuple[Array, float]:
    """Ratio of every start, and the lower bound that the prices prove; ``scale`` is T*_s B."""
    states = [evaluate(design, table) for design in designs]
    time, spent = np.array([s.time for s in states]), np.array([s.spent for s in states])
    above = prices @ np.array([s.price for s in states])
    below = (prices * scale / time**2) @ np.array([s.saving for s in states])
    return time * spent / scale, float(np.min(above / below))


def _between(problem: RangeProblem, correct: Array, wrong: Array) -> float:
    """Largest ratio at starts between the 17."""
    group = problem.group
    starts = even_grid(group.curve.start, float(problem.last_start), (STARTS - 1) * BETWEEN + 1)
    worst = 0.0
    for start in np.delete(starts, np.arange(0, starts.size, BETWEEN)):
        at_start = group.starting_at(float(start))
        time, spent = time_and_budget(at_start, correct, wrong)
        worst = max(worst, time * spent / group.curve.budget / solve_group(at_start).time)
    return worst


@np.errstate(all="ignore")  # an iterate that overflows proves nothing, and the certificate will say so
def _dinkelbach(designs: list[Design], scale: Array) -> tuple[Array, Array]:
    """The table, shape (n,), and the prices of the starts, shape (17,), of the least worst ratio."""
    rays = designs[0].rays
    unit = 1 / designs[0].drift
    x = least_time_rays(designs[STARTS // 2]) / unit
    x = x / x.sum()
    prices = np.full(scale.size, 1 / scale.size)
    best: tuple[float, Array, Array] | None = None
    for _ in range(ROUNDS):
        ratios, bound = _bound(designs, rays @ (unit * x), scale, prices)
        worst = float(np.max(ratios))
        gap = worst / bound - 1 if bound > 0 else np.inf
        if best is None or gap < best[0]:
            best = gap, x, prices
        elif gap >= best[0] and best[0] < TOLERANCE:
            break
        if best[0] < AIM:
            break
        x, prices = _least_excess(designs, scale, unit, worst, best[1])
    assert best is not None
    return rays @ (unit * best[1]), best[2]


def _least_excess(designs: list[Design], scale: Array, unit: Array, ratio: float, x: Array) -> tuple[Array, Array]:
    """Minimise τ over x ≥ 0 with Σx = 1 and V_s - r T*_s B/T_s ≤ τ at every start, by a primal-dual interior point.

    Returns x, shape (k,), and the prices of the starts.
    """
    rays = designs[0].rays
    k, starts = x.size, scale.size
    x = (1 - MIXED) * x + MIXED / k
    states = [evaluate(design, rays @ (unit * x)) for design in designs]
    # A start close to the target spends little: every excess is counted in what the first table spends from there.
    share = 1 / np.array([state.spent for state in states])
    value = _excess(states, scale, ratio)[0] * share
    spread = max(float(np.ptp(value)), MIXED)
    level, slack = float(np.max(value)), np.max(value) - value + spread
    price = np.full(starts, 1 / starts)
    dual = spread / (k * x)
    for _ in range(ITERATIONS):
        table = rays @ (unit * x)
        states = [evaluate(design, table) for design in designs]
        value, slope = _excess(states, scale, ratio)
        value, slope = value * share, slope * np.outer(share, unit)
        open_by = value + slack - level
        gap = float(price @ slack + dual @ x)
        residual = price @ slope - dual
        residual -= residual @ x / x.sum()  # the multiplier of Σx = 1, which homogeneity makes 0 at the solution
        if gap < CLOSED and np.max(np.abs(open_by)) < CLOSED:
            break
        target = CENTRING * gap / (starts + k)
        bend = _curvature(designs, table, states, price * share, ratio * scale) * np.outer(unit, unit)
        stiff = price / slack
        matrix = np.zeros((k + 2, k + 2))
        matrix[:k, :k] = bend + (slope.T * stiff) @ slope + np.diag(dual / x)
        matrix[:k, k] = matrix[k, :k] = -(stiff @ slope)
        matrix[k, k] = stiff.sum()
        matrix[:k, k + 1] = matrix[k + 1, :k] = 1
        right = np.concatenate(
            [
                -residual - slope.T @ ((target + price * open_by) / slack - price) + (target / x - dual),
                [np.sum((target + price * open_by) / slack) - 1, 1 - x.sum()],
            ]
        )
        norm = 1 / np.sqrt(np.maximum(np.abs(np.diag(matrix)), 1e-12))
        norm[k + 1] = 1.0
        try:
            step = norm * np.linalg.solve(matrix * np.outer(norm, norm), norm * right)
        except np.linalg.LinAlgError:
            break
        dx, dlevel = step[:k], float(step[k])
        dslack = dlevel - slope @ dx - open_by
        dprice = target / slack - price - stiff * dslack
        ddual = target / x - dual - dual * dx / x
        primal = min(reach(x, dx, STEP_BACK), reach(slack, dslack, STEP_BACK))
        both = min(reach(price, dprice, STEP_BACK), reach(dual, ddual, STEP_BACK))
        x, level, slack = x + primal * dx, level + primal * dlevel, slack + primal * dslack
        price, dual = price + both * dprice, dual + both * ddual
    return x / x.sum(), price * share


def _curvature(designs: list[Design], table: Array, states: list[State], price: Array, scale: Array) -> Array:
    """Second derivative of Σ price (V_s - scale/T_s) along the rays: one pass over the nodes serves all starts."""
    time, saving = np.array([s.time for s in states]), np.array([s.saving for s in states])
    weight = price * scale / time**2
    pooled = designs[0]._replace(
        cost=weight @ np.array([design.cost for design in designs]),
        per_time=price @ np.array([design.per_time for design in designs]),
    )
    return (
        curvature(pooled, table, states[0].u, pooled.cost / states[0].u ** 2)
        - 2 * (saving.T * (weight / time)) @ saving
    )


def _excess(states: list[State], scale: Array, ratio: float) -> tuple[Array, Array]:
    """V_s - r T*_s B/T_s at every start, shape (17,), and its derivative along the rays, shape (17, k)."""
    time, spent = np.array([s.time for s in states]), np.array([s.spent for s in states])
    price, saving = np.array([s.price for s in states]), np.array([s.saving for s in states])
    return spent - ratio * scale / time, price - (ratio * scale / time**2)[:, None] * saving
