"""Hitting times and trajectories by an ODE solver against quadrature and the closed forms of solved problems."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import some_of
from theory import catalogue, clocks, dynamics
from weightopt import Problem, ode, solve
from weightopt.errors import SolverError

REGULAR = clocks.REGULAR


@pytest.mark.slow
@pytest.mark.parametrize("mobility", list(dynamics.MOBILITIES.values()), ids=lambda m: m.name)
@pytest.mark.parametrize("clock", ["regular", "effective", "failures", "mixed:8", "affine:1,0.5"])
@some_of("name", ["rloo", "grpo", "linear-r", "sqrt-r", "uniform-r"], 2)
def test_hitting_time_agrees_with_quadrature(name, clock, mobility):
    weighting, clock = catalogue.WEIGHTINGS[name], clocks.parse(clock)
    by_quadrature = dynamics.crossing_time(weighting, clock, mobility, 0.02, 0.9)
    assert ode.hitting_time(weighting, clock, 0.02, 0.9, mobility) == pytest.approx(by_quadrature, rel=1e-9)


@some_of(
    "extra",
    [
        {},
        {"max_weight": 3.0},
        {"min_weight": 0.9},
        {"monotone": "decreasing"},
        {"monotone": "increasing", "max_weight": 2.0},
    ],
    1,
    ids=str,
)
@pytest.mark.parametrize("clock", ["regular", "effective", "mixed:8"])
def test_a_solved_weighting_takes_the_time_it_states(clock, extra):
    problem = Problem(0.02, 0.9, clock, **extra)
    solution = solve(problem)
    time = ode.hitting_time(solution.weighting, problem.clock, 0.02, 0.9)
    assert time == pytest.approx(solution.time, rel=1e-9)  # the solver's step control finds the kinks


def test_solving_time_of_plateau_with_its_kink():
    plateau = catalogue.WEIGHTINGS["plateau-r"]
    by_quadrature = dynamics.crossing_time(plateau, REGULAR, dynamics.NATURAL, 0.02, 0.9, plateau.kinks)
    assert ode.hitting_time(plateau, REGULAR, 0.02, 0.9) == pytest.approx(by_quadrature, rel=1e-9)


@given(start=st.floats(0.001, 0.5), gap=st.floats(1e-6, 0.4), name=st.sampled_from(["rloo", "grpo", "sqrt-r"]))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_the_trajectory_is_at_the_target_at_the_hitting_time(start, gap, name):
    weighting, clock = catalogue.WEIGHTINGS[name], clocks.EFFECTIVE
    time = ode.hitting_time(weighting, clock, start, start + gap)
    reached = ode.trajectory(weighting, clock, start, [0.0, time])
    # Both runs have 1e-12 per step, in log-odds of size up to 7.
    assert reached == pytest.approx([start, start + gap], rel=1e-10)


def test_trajectory_of_the_optimum_passes_through_the_crossing_times():
    problem = Problem(0.02, 0.9, "effective", max_weight=3.0)
    solution = solve(problem)
    marks = np.array([0.02, 0.05, 0.2, 0.6, 0.9])
    times = [
        dynamics.crossing_time(
            solution.weighting, problem.clock, problem.mobility, 0.02, mark, solution.weighting.kinks
        )
        for mark in marks
    ]
    assert ode.trajectory(solution.weighting, problem.clock, 0.02, times) == pytest.approx(marks, rel=1e-9)


def test_a_faster_weighting_is_ahead_at_every_time():
    times = np.linspace(0, 3, 7)
    slow = ode.trajectory(lambda rho: np.ones_like(rho), REGULAR, 0.1, times)
    fast = ode.trajectory(lambda rho: 2 * np.ones_like(rho), REGULAR, 0.1, times)
    assert fast == pytest.approx(ode.trajectory(lambda rho: np.ones_like(rho), REGULAR, 0.1, 2 * times), rel=1e-10)
    assert np.all(fast[1:] > slow[1:])


def test_times_may_be_empty_or_a_single_zero():
    assert ode.trajectory(catalogue.WEIGHTINGS["grpo"], REGULAR, 0.1, []).shape == (0,)
    assert ode.trajectory(catalogue.WEIGHTINGS["grpo"], REGULAR, 0.1, [0.0]) == pytest.approx([0.1], rel=1e-14)


@pytest.mark.parametrize("times", [[-1.0], [0.0, 2.0, 1.0], [[0.0, 1.0]], 1.0], ids=str)
def test_times_that_make_no_sense_are_refused(times):
    with pytest.raises(ValueError, match="times"):
        ode.trajectory(catalogue.WEIGHTINGS["grpo"], REGULAR, 0.1, times)


def test_a_weight_that_vanishes_on_the_way_never_arrives():
    with pytest.raises(SolverError, match=r"never reaches 0\.6"):
        ode.hitting_time(lambda rho: np.maximum(0.0, 0.5 - rho), REGULAR, 0.1, 0.6)
