"""The differential-equation road: hitting times and trajectories of any weighting by an ODE solver.

In log-odds θ the dynamics is dθ/dt = κω/(ρ(1-ρ)); a clock c turns it into dθ/ds = κω/(ρ(1-ρ)c), because ds = c dt.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from scipy.special import expit

from theory import clocks, dynamics
from theory.quadrature import log_odds
from weightopt.errors import SolverError

Weight = Callable[[NDArray[np.float64]], NDArray[np.float64]]

RTOL, ATOL = 1e-12, 1e-13
HORIZON = 1e300  # a clock time by which everything that ever arrives has arrived
# 1-ρ is then 1e-8: a weighting that reaches ρ = 1 in finite time is taken to be there.
SATURATED = 18.5


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
    weighting : callable
        ω on arrays of success probabilities in (0, 1).
    clock : Clock
    start, target : float
        0 < start < target < 1.
    mobility : Mobility

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
    times : array_like, shape (n,)
        Non-decreasing clock times ≥ 0.

    Returns
    -------
    ndarray, shape (n,)
        Success probabilities, exactly 1 once ρ has come within 1e-8 of it.
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
