"""One table for a range of starts: the convex program that shares no code, the certificate, and what it is for."""

import cvxpy as cp
import numpy as np
import pytest
from scipy.stats import binom

from tests.amounts import some_of
from theory.quadrature import log_odds
from weightopt import GroupProblem, Problem, RangeProblem, solve
from weightopt.errors import ProblemError
from weightopt.groups.group import time_and_budget
from weightopt.table import WeightTable
from weightopt.verify import verify

CURVE = Problem(0.01, 0.9, "effective")


def least_excess(problem, ratio):
    """The least over tables of the largest V_s - r T*_s/T_s at budget 1, by cvxpy: negative if r can be attained."""
    group = problem.group
    size = group.group_size
    starts = problem.starts[::4]
    theta = np.unique(np.append(np.linspace(np.log(0.01 / 0.99), np.log(9), 801), log_odds(starts)[1:]))
    rho = 1 / (1 + np.exp(-(theta[1:] + theta[:-1]) / 2))  # midpoint rule in log-odds, second order
    measure = rho * (1 - rho) * np.diff(theta)
    k = np.arange(1, size)
    groups = np.array([binom.pmf(j, size, rho) for j in k]).T
    share = (k / size) * (1 - k / size) / (rho * (1 - rho))[:, None]
    w = cp.Variable(size - 1, nonneg=True)
    u = (groups * share) @ w
    cost = measure / (rho**2 * (1 - rho))
    excesses = []
    for start in starts:
        counts = rho > start
        own = solve(group.starting_at(float(start))).time
        harmonic = cp.pnorm(cp.multiply(1 / cost[counts], u[counts]), -1)  # 1/Σ cost/u, concave
        excesses.append(measure[counts] @ u[counts] - ratio * own * harmonic)
    constraints = [measure @ u == 1, cp.diff(w, 2) >= 0]
    program = cp.Problem(cp.Minimize(cp.maximum(*excesses)), constraints)
    program.solve(solver=cp.CLARABEL)
    assert isinstance(program.value, float | np.floating)
    return float(program.value)


@pytest.mark.slow
def test_the_convex_program_draws_the_line_at_the_same_ratio():
    problem = RangeProblem(GroupProblem(CURVE, 6, budget_kind="drift"), 0.1)
    found = solve(problem)
    # Its midpoint rule and its 5 of the 17 starts put the other road off by a few 1e-4.
    assert least_excess(problem, found.worst_ratio * 1.001) < 0
    assert least_excess(problem, found.worst_ratio * 0.999) > 0


@some_of(
    "kind",
    [
        {},
        {"shape": "free"},
        {"shape": "nonincreasing", "step_model": "outcome"},
        {"budget_kind": "drift"},
        {"budget_kind": "advantage-variance", "shape": "free", "centred": False},
    ],
    1,
    ids=str,
)
def test_certified_and_better_than_the_table_of_any_single_start(kind):
    problem = RangeProblem(GroupProblem(CURVE, 8, **kind), 0.1)
    found = solve(problem)
    assert found.gap <= 1e-7
    assert found.lower_bound <= found.worst_ratio
    own = {start: solve(problem.group.starting_at(float(start))) for start in problem.starts}
    for start in problem.starts[::4]:
        table = own[start]
        worst = 0.0
        for other in problem.starts:
            at = problem.group.starting_at(float(other))
            time, spent = time_and_budget(at, np.array(table.advantage_correct), np.array(table.advantage_wrong))
            worst = max(worst, time * spent / own[other].time)
        assert worst >= found.lower_bound * (1 - 1e-9)
    # Each stated ratio, by the function that measures any table.
    for start, ratio in zip(problem.starts, found.ratios, strict=True):
        at = problem.group.starting_at(float(start))
        time, spent = time_and_budget(at, np.array(found.advantage_correct), np.array(found.advantage_wrong))
        assert time * spent / own[start].time == pytest.approx(ratio, rel=1e-8)


@pytest.mark.slow
def test_a_range_of_nothing_costs_nothing_and_a_wider_one_more():
    group = GroupProblem(CURVE, 8)
    worst = [solve(RangeProblem(group, last)).worst_ratio for last in (0.010001, 0.03, 0.1, 0.5)]
    assert worst[0] == pytest.approx(1, abs=1e-6)
    assert worst == sorted(worst)


@pytest.mark.slow
def test_large_groups_have_one_table_for_every_start():
    # The curve's optimum does not depend on the start, so what a range costs vanishes as groups grow.
    groups = [GroupProblem(CURVE, size, budget_kind="drift") for size in (4, 8, 16)]
    worst = [solve(RangeProblem(group, 0.1)).worst_ratio - 1 for group in groups]
    assert worst[0] > worst[1] > worst[2]


@pytest.mark.slow
def test_its_table_can_be_checked(tmp_path):
    table = solve(RangeProblem(GroupProblem(CURVE, 5), 0.2)).table()
    table.save(tmp_path / "range.json")
    assert "proven again" in verify(WeightTable.load(tmp_path / "range.json"))
    assert "0.01 to 0.2" in table.label


@pytest.mark.parametrize("last", [0.01, 0.005, 0.9, 2.0, float("nan"), "0.1", True])
def test_what_is_no_range_is_refused(last):
    with pytest.raises(ProblemError) as caught:
        RangeProblem(GroupProblem(CURVE, 8), last)
    assert caught.value.field == "start_range"
