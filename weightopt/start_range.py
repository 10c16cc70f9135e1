"""One table for a range of starts: the least worst ratio to the table that each start would have had for itself.

Let T_s and V_s be the time and the budget of a table on the way from start s to the target and T*_s the least time of a
table with budget B on that way. A prompt that starts at s is slower than it could be by the ratio T_s V_s/(T*_s B),
which does not depend on the table's scale; the table sought minimises the largest of these ratios over the starts.

1/T_s is concave and V_s convex along the rays, both of degree 1, so this is a fractional program, quasi-convex, and
Dinkelbach's method solves it: for a ratio r minimise the largest V_s - r T*_s B/T_s, which is convex, and take the
ratio of the answer as the next r (quadratic convergence; Dinkelbach 1967, Crouzeix and Ferland 1991).

Certificate: with G_s = -∇T_s and b_s = ∇V_s at a table, every table y' of that shape has T_s(y') ≥ T_s²/(G_s·y') and
V_s(y') ≥ b_s·y', so its largest ratio is, for any prices π ≥ 0, at least

    max over s of T_s² b_s·y'/(T*_s B G_s·y') ≥ min over rays k of Σ_s π_s b_sk / Σ_s π_s (T*_s B/T_s²) G_sk.

For curves there is nothing to do: ω ∝ √(c/κ) is best for every start at once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import log_odds
from weightopt.errors import ProblemError, SolverError
from weightopt.finite_group import (
    TOLERANCE,
    Design,
    GroupProblem,
    State,
    curvatures,
    design_of,
    evaluate,
    least_time_rays,
    rounding,
    solve_group,
    time_and_budget,
    unpack,
)
from weightopt.interior import reach
from weightopt.solution import Status, even_grid

Array = NDArray[np.float64]
STARTS = 17  # even in log-odds, both ends included
BETWEEN = 4  # pieces that each of their intervals is cut into to see what happens between them
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
    group : GroupProblem
        Its start is the first of the range, and the way from there spends its budget.
    last_start : float
        Above the start and below the target.

    Raises
    ------
    ProblemError
        If the range is not one.
    """

    group: GroupProblem
    last_start: float

    def __post_init__(self) -> None:
        curve = self.group.curve
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
        return {**self.group.to_dict(), "last_start": self.last_start}

    @classmethod
    def from_dict(cls, values: Any) -> RangeProblem:
        """The problem that `to_dict` described; raises `ProblemError` as the constructor does."""
        group = {key: value for key, value in values.items() if key != "last_start"}
        return cls(GroupProblem.from_dict(group), values["last_start"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class RangeCertificate:
    """Proof of how good a table is for a range of starts.

    Attributes
    ----------
    worst_ratio : float
        Largest time over the 17 starts relative to the best table for that start, ≥ 1.
    lower_bound : float
        No table of this shape has a smaller one.
    gap : float
        (worst_ratio - lower_bound)/lower_bound, with the quadrature errors and the gaps of the single starts charged.
    quadrature_error : float
        Relative error charged to either: twice what halving every panel changes, and rounding.
    worst_between : float
        The same ratio at three more starts in each interval: what the 17 do not see.
    budget_error : float
        Budget spent from the first start over the budget, minus 1.
    violation : float
        Largest negative advantage of a correct response relative to the largest.
    """

    worst_ratio: float
    lower_bound: float
    gap: float
    quadrature_error: float
    worst_between: float
    budget_error: float
    violation: float

    def to_dict(self) -> dict[str, float]:
        """The certificate as JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class RangeSolution:
    """Answer to a range problem; attributes as `GroupSolution`, and the ratio of each of the 17 starts."""

    problem: RangeProblem
    status: Status
    weight: tuple[float, ...]
    advantage_correct: tuple[float, ...]
    advantage_wrong: tuple[float, ...]
    certificate: RangeCertificate
    ratios: tuple[float, ...]
    method: str = "Dinkelbach's method with interior-point steps on the table"

    @property
    def worst_ratio(self) -> float:
        """Largest ratio over the 17 starts."""
        return self.certificate.worst_ratio

    @property
    def lower_bound(self) -> float:
        """No table of this shape has a smaller worst ratio."""
        return self.certificate.lower_bound

    @property
    def gap(self) -> float:
        """Certified relative gap."""
        return self.certificate.gap

    def __str__(self) -> str:
        group = self.problem.group
        curve = group.curve
        starts = self.problem.starts
        shown = ", ".join(f"{starts[k]:.3g}: {self.ratios[k]:.3f}" for k in range(0, STARTS, 4))
        kind = group.shape if group.centred else "uncentred"
        return "\n".join(
            [
                f"Table for groups of {group.group_size} and any start from {curve.start:g} to "
                f"{self.problem.last_start:g}, target {curve.target:g}, budget {curve.budget:g} ({group.budget_kind})",
                f"  clock        {curve.clock.name} ({curve.clock.reading}); mobility {curve.mobility.name}",
                f"  table        {kind}; step model {group.step_model}",
                f"  status       {self.status.value}",
                f"  worst ratio  {self.worst_ratio:.10g} to the best table for a start, over {STARTS} starts "
                f"({self.certificate.worst_between:.6g} between them)",
                f"  lower bound  {self.lower_bound:.10g}",
                f"  gap          {self.gap:.2e} (certified, relative)",
                f"  by start     {shown}",
                f"  method       {self.method}",
            ]
        )


def solve_range(problem: RangeProblem, *, throw: bool = True) -> RangeSolution:
    """The table of least worst ratio, with its certificate.

    Parameters
    ----------
    problem : RangeProblem
    throw : bool
        Raise when the certified gap exceeds 1e-7, each start bringing up to 1e-8; otherwise the status says so.

    Raises
    ------
    SolverError
        See `throw`; and whatever `solve_group` raises for a single start.
    """
    group = problem.group
    own = [solve_group(group.starting_at(float(start))) for start in problem.starts]
    best = np.array([solution.time for solution in own])
    designs = _designs(problem)
    table, prices = _dinkelbach(designs, best * group.curve.budget)
    table = table * (group.curve.budget / evaluate(designs[0], table).spent)
    found = [_bound(_designs(problem, pieces), table, best * group.curve.budget, prices) for pieces in (1, 2)]
    (coarse_ratios, coarse_bound), (ratios, bound) = found
    worst = float(np.max(ratios))
    noise = 4 * rounding(group)
    error = 2 * max(abs(float(np.max(coarse_ratios)) / worst - 1), abs(coarse_bound / bound - 1)) + noise
    weight, correct, wrong = unpack(group, table)
    certificate = RangeCertificate(
        worst_ratio=worst,
        lower_bound=bound * (1 - error),
        gap=abs(worst - bound) / bound + 2 * error + max(solution.gap for solution in own),
        quadrature_error=error,
        worst_between=_between(problem, np.array(correct), np.array(wrong)),
        budget_error=evaluate(designs[0], table).spent / group.curve.budget - 1,
        violation=max(0.0, -float(np.min(table)) / float(np.max(table))),
    )
    status = Status.OPTIMAL if certificate.gap <= 10 * TOLERANCE else Status.UNCERTIFIED
    if throw and status is not Status.OPTIMAL:
        raise SolverError(f"{status.value} (gap {certificate.gap:.1e}, tolerance {10 * TOLERANCE:g})")
    return RangeSolution(problem, status, weight, correct, wrong, certificate, tuple(ratios.tolist()))


def _designs(problem: RangeProblem, pieces: int = 1) -> list[Design]:
    """One design a start: the same nodes, those before the start without measure."""
    starts = problem.starts
    whole = design_of(problem.group, tuple(starts[1:].tolist()), pieces)
    theta, ends = log_odds(whole.rho), log_odds(starts)
    designs = []
    for end in ends:
        counts = theta > end
        designs.append(
            whole._replace(measure=whole.measure * counts, cost=whole.cost * counts, per_time=whole.per_time * counts)
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
    unit = 1 / ((designs[0].measure @ designs[0].speeds) @ rays)
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
        curvature = _curvature(designs, table, states, price * share, ratio * scale) * np.outer(unit, unit)
        stiff = price / slack
        matrix = np.zeros((k + 2, k + 2))
        matrix[:k, :k] = curvature + (slope.T * stiff) @ slope + np.diag(dual / x)
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
    of_time, of_budget = curvatures(pooled, table)
    return of_time + of_budget - 2 * (saving.T * (weight / time)) @ saving


def _excess(states: list[State], scale: Array, ratio: float) -> tuple[Array, Array]:
    """V_s - r T*_s B/T_s at every start, shape (17,), and its derivative along the rays, shape (17, k)."""
    time, spent = np.array([s.time for s in states]), np.array([s.spent for s in states])
    price, saving = np.array([s.price for s in states]), np.array([s.saving for s in states])
    return spent - ratio * scale / time, price - (ratio * scale / time**2)[:, None] * saving
