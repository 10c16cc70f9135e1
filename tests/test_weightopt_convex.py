"""The direct solver against cvxpy: two roads that share no code must meet."""

import numpy as np
import pytest

from tests.amounts import some_of
from weightopt import Problem, solve
from weightopt.answer import Status
from weightopt.convex import solve_curve
from weightopt.curves.weighting import LinearWeighting

CASES = [
    {"clock": "regular"},
    {"clock": "effective"},
    {"clock": "failures", "mobility": "softmax-gradient"},
    {"clock": "mixed:8"},
    {"clock": "affine:1,0.5", "budget": 7.0},
    {"clock": "effective", "max_weight": 3.0},
    {"clock": "regular", "min_weight": 0.9},
    {"clock": "mixed:4", "min_weight": 0.6, "max_weight": 2.5},
    {"clock": "regular", "mobility": "softmax-gradient", "min_weight": 0.5, "max_weight": 2.0},
    {"clock": "regular", "monotone": "decreasing"},
    {"clock": "regular", "monotone": "increasing"},
    {"clock": "effective", "monotone": "decreasing"},
    {"clock": "effective", "monotone": "increasing"},
    {"clock": "mixed:16", "monotone": "decreasing"},
    {"clock": "mixed:8", "mobility": "softmax-gradient", "monotone": "increasing"},
    {"clock": "affine:1,0.1", "monotone": "decreasing", "min_weight": 0.8, "max_weight": 2.0},
    {"clock": "regular", "monotone": "increasing", "min_weight": 0.7, "max_weight": 1.6},
    {"clock": "effective", "mobility": "softmax-gradient", "monotone": "decreasing", "max_weight": 4.0},
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@some_of("span", [(0.02, 0.9), (0.38, 0.7)], 1, ids=str)
def test_direct_solver_and_convex_program_agree(case, span):
    scale = case.get("budget", 1.0) / (span[1] - span[0]) / (1 / 0.88)  # bounds in units of the mean weight
    case = {key: value * scale if key.endswith("weight") else value for key, value in case.items()}
    problem = Problem(*span, **case)
    direct, convex = solve(problem), solve(problem, "convex")
    assert convex.status is Status.OPTIMAL
    smooth = problem.monotone is None and problem.min_weight == 0 and problem.max_weight == np.inf
    # Linear pieces of width h cost h⁴/720, 1.3e-9, where the answer is smooth; a kink inside a piece costs more.
    assert convex.time == pytest.approx(direct.time, rel=1e-8 if smooth else 2e-5)
    assert direct.lower_bound <= convex.time * (1 + (1e-8 if smooth else 2e-5))
    knots = convex.weighting
    assert isinstance(knots, LinearWeighting)
    # The weight itself is where the time is flat: its error is the root of the time's.
    assert knots.weight == pytest.approx(direct.weighting(np.array(knots.rho)), rel=1e-3 if smooth else 2e-2)


def test_finer_knots_bring_the_convex_program_closer_to_the_direct_solver():
    """Linear between knots: the error is of second order in their distance, so a quarter of it leaves a sixteenth."""
    problem = Problem(0.02, 0.9, "effective", max_weight=3.0)
    direct = solve(problem).time
    errors = [abs(solve_curve(problem, spacing=apart, throw=False).time / direct - 1) for apart in (1.0, 0.25, 0.0625)]
    assert errors[1] < errors[0] / 16
    assert errors[2] < errors[1] / 16
    assert errors[2] < 1e-6
