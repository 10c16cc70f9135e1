"""The differential-equation road: hitting times and trajectories of any weighting by an ODE solver.

In log-odds θ the dynamics is dθ/dt = κω/(ρ(1-ρ)); a clock c turns it into dθ/ds = κω/(ρ(1-ρ)c), because ds = c dt.

The method ``ode-check`` puts this road beside the direct one: the direct answer, with a check that the hitting time of
its weighting, or of the expected speed of its table, is the time that the certificate states.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from scipy.special import expit

from theory import clocks, dynamics
from theory.finite_group import speed
from theory.quadrature import log_odds
from weightopt.answer import Answer, Check
from weightopt.curves.curve import CurveAnswer
from weightopt.curves.curve import solve as direct_curve
from weightopt.curves.problem import Problem
from weightopt.errors import SolverError
from weightopt.groups.group import GroupAnswer, GroupProblem
from weightopt.groups.group import solve as direct_group

Weight = Callable[[NDArray[np.float64]], NDArray[np.float64]]

RTOL, ATOL = 1e-12, 1e-13
HORIZON = 1e300  # a clock time by which everything that ever arrives has arrived
# 1-ρ is then 1e-8: a weighting that reaches ρ = 1 in finite time is taken to be there.
SATURATED = 18.5
AGREEMENT = 1e-9  # relative difference of the two times: a kink of the weighting costs an integrator digits


def hitting_time(
    weighting: Weight,
    clock: clocks.Clock,
    start: float,
    target: float,
    mobility: dynamics.Mobility = dynamics.NATURAL,
) -> float:
    """Clock time at which ρ, started at `start`, reaches `target`.

    Parameters
    ----------
    weighting
        ω on arrays of success probabilities in (0, 1).
    clock
        What a unit of flow time costs.
    start, target
        0 < start < target < 1.
    mobility
        How fast log-odds move under a unit of weight; default ρ(1-ρ).

    Raises
    ------
    SolverError
        If the target is not reached (a weight that vanishes on the way).
    """
    goal = float(log_odds(target))
    result = _integrate(weighting, clock, mobility, start, goal, HORIZON)
    if result.t_events[0].size == 0:
        raise SolverError(f"the success probability never reaches {target!r} under this weighting")
    return float(result.t_events[0][0])


def trajectory(
    weighting: Weight,
    clock: clocks.Clock,
    start: float,
    times: ArrayLike,
    mobility: dynamics.Mobility = dynamics.NATURAL,
) -> NDArray[np.float64]:
    """ρ at the given clock times.

    Parameters
    ----------
    weighting, clock, start, mobility
        As in `hitting_time`.
    times
        Shape (n,). Non-decreasing clock times ≥ 0.

    Returns
    -------
    ndarray
        Shape (n,). Success probabilities, exactly 1 once ρ has come within 1e-8 of it.
    """
    times = np.asarray(times, dtype=np.float64)
    if times.ndim != 1 or not np.all(np.isfinite(times) & (times >= 0)) or np.any(np.diff(times) < 0):
        raise ValueError("times must be a list of finite, non-decreasing numbers from 0 up")
    if times.size == 0:
        return times
    result = _integrate(weighting, clock, mobility, start, SATURATED, float(times[-1]), dense=True)
    ended = result.t_events[0][0] if result.t_events[0].size else math.inf
    rho = np.ones_like(times)
    running = times < ended
    if np.any(running):
        rho[running] = expit(result.sol(times[running])[0])
    return rho


def _integrate(
    weighting: Weight,
    clock: clocks.Clock,
    mobility: dynamics.Mobility,
    start: float,
    goal: float,
    horizon: float,
    dense: bool = False,
):
    """Integrate θ from logit(start) until it reaches `goal` or the clock shows `horizon`."""

    def speed(_: float, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        rho = expit(np.minimum(theta, goal + 1))  # trial steps may look past the goal, where ρ would round to 1
        return mobility(rho) * weighting(rho) / (rho * (1 - rho) * clock(rho))

    def arrival(_: float, theta: NDArray[np.float64]) -> float:
        return float(theta[0]) - goal

    arrival.terminal = True  # pyright: ignore[reportFunctionMemberAccess]
    # Where the weight vanishes the step grows without bound, until the horizon ends it.
    with np.errstate(over="ignore"):
        result = solve_ivp(
            speed,
            (0.0, horizon),
            [float(log_odds(start))],
            method="DOP853",
            rtol=RTOL,
            atol=ATOL,
            events=arrival,
            dense_output=dense,
        )
    if result.status < 0:
        raise SolverError(f"the ODE solver stopped early: {result.message}")
    return result


def check_curve(problem: Problem, *, throw: bool = True) -> CurveAnswer:
    """The direct answer to a curve problem, with the check that its weighting arrives when the certificate says."""
    answer = direct_curve(problem, throw=throw)
    return _checked(answer, answer.weighting, problem, throw)


def check_group(problem: GroupProblem, *, throw: bool = True) -> GroupAnswer:
    """The direct answer to a group problem, with the check that the expected speed of its table arrives as stated."""
    answer = direct_group(problem, throw=throw)
    correct, wrong = np.array(answer.advantage_correct), np.array(answer.advantage_wrong)

    def expected(rho: NDArray[np.float64]) -> NDArray[np.float64]:
        return speed(np.atleast_1d(rho), correct, wrong, problem.step_model)

    return _checked(answer, expected, problem.curve, throw)


A = TypeVar("A", bound=Answer)


def _checked(answer: A, weighting: Weight, curve: Problem, throw: bool) -> A:
    """The answer with the check of its time by this module."""
    time = hitting_time(weighting, curve.clock, curve.start, curve.target, curve.mobility)
    check = Check("ode", abs(time / answer.objective - 1), AGREEMENT, f": it arrives at {time:.12g}")
    checked = dataclasses.replace(answer, cross_checks=(*answer.cross_checks, check))
    checked.certified(throw)
    return checked


SOLVERS = {"curve": check_curve, "group": check_group}
