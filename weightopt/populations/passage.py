"""How a population passes under one shared weighting, and the time that it takes.

Every prompt moves by dθ/dt = C(t) ω(ρ), the factor C(t) set in each step so that the step spends its budget: only the
shape of ω matters, and b·T is the length of the path (`theory.step_budgets`). Under the effective clock a step costs
mean 1/ρ over all prompts: each is drawn until it succeeds once, also those that then get no weight, because one must
have drawn to know.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from theory.log_linear import LogLinear, LogLinearFlow
from theory.quadrature import log_odds
from weightopt.errors import SolverError
from weightopt.populations.problem import PopulationProblem

Array = NDArray[np.float64]
FINE = 1 / 128  # log-odds between the points at which a formula is read: relative error of ω at most 2e-6 (named ones)
PIECES = 256  # of a path, to measure it
_APART = np.array([0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3])
AROUND = np.concatenate([[0.25, 0.5], 1 - _APART[::-1], [1.0], 1 + _APART, [1.6, 2.5, 4.0]])  # times a flow time
NEWTON = 200  # steps to the arrival, halves of an interval among them
ROUNDS, EVENED = 3, 64  # of evening out the pieces, and how many there are while it lasts


class Path(NamedTuple):
    """A population on its way, at k points in time.

    ``theta`` and ``weight`` have shape (k, n), ``tau`` shape (k,): flow times of the shared weighting, 0 to arrival.
    """

    tau: Array
    theta: Array
    weight: Array


class Passage:
    """How a population passes under one shared weighting, to be asked for its time.

    Parameters
    ----------
    problem
        Shares, starts and target.
    knots
        Shape (k,). Log-odds, from the hardest prompt to where prompts are solved.
    log_weight
        Shape (k,). ln ω there, linear between.
    near
        About the flow time of the arrival, if it is known: it spares a search from far away.
    """

    def __init__(self, problem: PopulationProblem, knots: Array, log_weight: Array, near: float | None = None) -> None:
        self.problem = problem
        self.flow = LogLinearFlow(knots, log_weight, np.minimum(problem.theta, knots[-1]))
        self.moving = problem.theta < knots[-1]
        self.hitting = self._hitting(near)

    def at(self, tau: Array) -> Path:
        """The population at flow times of shape (k,)."""
        theta, weight = self.flow.position(tau)
        return Path(tau, np.maximum(theta, self.problem.theta), weight)

    def _hitting(self, near: float | None) -> float:
        """Flow time at which the mean success reaches the target."""
        low, high = 0.0, math.inf
        if near is None:
            low, high = self._bracket()
            near = (low + high) / 2
        else:
            near, low, high = self._nearer(near)
        at = near
        # Newton's method; where it leaves what is known halves of an interval, or a factor of 4 where there is none.
        for _ in range(NEWTON):
            over, speed = (float(values[0]) for values in self._excess(np.array([at])))
            low, high = (low, at) if over >= 0 else (at, high)
            ahead = at - over / speed if speed > 0 else math.inf
            newton = low < ahead < high
            if not newton:
                ahead = at / 4 if low == 0 else at * 4 if high == math.inf else (low + high) / 2
            before, at = at, ahead
            # The error of a step is about the square of the one before.
            if abs(at - before) <= (1e-10 if newton else 1e-15) * at:
                break
        return at

    def _nearer(self, near: float) -> tuple[float, float, float]:
        """The arrival to about six digits from flow times around one that is near it, and those on both sides of it."""
        tau = near * AROUND
        over, speed = self._excess(tau)
        first = int(np.searchsorted(over, 0.0))
        if first == 0:
            return float(tau[0]), 0.0, float(tau[0])
        if first == tau.size:
            return float(tau[-1]), float(tau[-1]), math.inf
        low, high = float(tau[first - 1]), float(tau[first])
        # Cubic Hermite interpolation between the two, of the flow time as a function of the mean success.
        rise = over[first] - over[first - 1]
        share = float(-over[first - 1] / rise)
        with np.errstate(divide="ignore"):
            slopes = rise / speed[first - 1 : first + 1]
        if not np.all(slopes < 3 * (high - low)):  # else it might turn back
            return (low + high) / 2, low, high
        smooth = share * share * (3 - 2 * share)
        bent = share * (1 - share) ** 2 * slopes[0] - share * share * (1 - share) * slopes[1]
        return low + smooth * (high - low) + float(bent), low, high

    def _excess(self, tau: Array) -> tuple[Array, Array]:
        """Mean success beyond the target at flow times of shape (m,), and its speed, each of shape (m,)."""
        theta, weight = self.flow.position(tau)
        rho = expit(np.maximum(theta, self.problem.theta))
        return rho @ self.problem.share - self.problem.target, (rho * (1 - rho) * weight) @ self.problem.share

    def _bracket(self) -> tuple[float, float]:
        """Flow times around the arrival, close to it: flow times span many powers of ten."""
        problem = self.problem
        tau = np.concatenate([[0.0], np.geomspace(1e-30, 1.0, 41) * np.max(self.flow.stop)])
        for _ in range(2):
            above = expit(self.at(tau).theta) @ problem.share - problem.target >= 0
            if not above[-1]:
                raise SolverError(f"the target {problem.target:g} is not reached before every prompt is solved")
            first = max(int(np.argmax(above)), 1)
            tau = np.linspace(tau[first - 1], tau[first], 24)
        return float(tau[0]), float(tau[-1])

    def walk(self, theta: Array) -> Array:
        """Times of the pieces of a path through log-odds of shape (k, n), at unit budget; shape (k-1,)."""
        return _walk(self.problem, *_along(self.problem, theta))[0]

    def spread(self, pieces: int) -> Array:
        """Flow times from 0 to arrival between which the path takes about equal time; shape (pieces + 1,)."""
        # At first geometric, back from the end and forth from the start: whatever happens happens near one of them.
        ramp = np.geomspace(1e-8, 1, EVENED // 2 + 1)
        tau = self.hitting * np.unique(np.concatenate([[0.0], ramp / 2, 1 - ramp / 2, [1.0]]))
        for count in (EVENED,) * (ROUNDS - 1) + (pieces,):
            done = np.concatenate([[0.0], np.cumsum(self.walk(self.at(tau).theta))])
            even = np.linspace(0, 1, tau.size)
            tau = np.interp(np.linspace(0, 1, count + 1), (done / done[-1] + even) / 2, tau)
        return tau

    def time(self, pieces: int = PIECES) -> tuple[float, float]:
        """Time at the problem's budget, and its relative quadrature error: the change when pieces are halved."""
        # Where a prompt is solved the speed jumps.
        stops = np.unique(self.flow.stop[self.moving])
        tau = np.union1d(self.spread(pieces), stops[stops < self.hitting][:pieces])
        halves = np.sort(np.concatenate([tau, (tau[1:] + tau[:-1]) / 2]))
        x, cost = _along(self.problem, self.at(halves).theta)
        fine, coarse = (float(np.sum(_walk(self.problem, x[::step], cost[::step])[0])) for step in (1, 2))
        # Chords and trapezoids are of second order in the width.
        return (4 * fine - coarse) / 3 / self.problem.budget, abs(coarse / fine - 1)


def _along(problem: PopulationProblem, theta: Array) -> tuple[Array, Array]:
    """Coordinates of the points of a path, shape (k, n), and what a step costs there, shape (k,)."""
    cost = np.ones(theta.shape[0]) if problem.clock == "regular" else (1 + np.exp(-theta)) @ problem.share
    return problem.norm.coordinate(theta), cost


def _walk(problem: PopulationProblem, x: Array, cost: Array) -> tuple[Array, Array]:
    """Times of the pieces of a path at unit budget, chord by chord, and their lengths."""
    length = problem.norm.norm(np.diff(x, axis=0), problem.share)
    return length * (cost[1:] + cost[:-1]) / 2, length


def time_and_gradient(
    problem: PopulationProblem, knots: Array, log_weight: Array, share: Array | None, near: float | None = None
) -> tuple[float, Array, float]:
    """Time at unit budget of a shared weighting and its gradient with respect to ln ω at the knots.

    The path is taken at fixed shares f_j of the flow time τ to arrival. With H = ∫ dθ/ω, a_i = H(θ_i) and Θ = H⁻¹ a
    point of it is θ_ij = Θ(a_i + f_j τ), so that dθ_ij = ω(θ_ij)(da_i + f_j dτ - ∂H(θ_ij)) where ∂ changes the weights
    and not the point. The same at the end, weighted with dρ/dθ, must sum to 0: that gives dτ.

    Parameters
    ----------
    share
        Shape (k,). f_j, from 0 to 1; None needs the two ends only, which is enough where the length is that of any
        path.
    near
        See `Passage`.

    Returns
    -------
    time : float
    gradient : ndarray
        Shape (k,).
    hitting : float
        Flow time of the arrival.
    """
    passage = Passage(problem, knots, log_weight, near)
    share = np.array([0.0, 1.0]) if share is None else share
    path = passage.at(passage.hitting * share)
    x, cost = _along(problem, path.theta)
    time, length = _walk(problem, x, cost)
    norm, change, middle = problem.norm, np.diff(x, axis=0), (cost[1:] + cost[:-1]) / 2
    if norm.exponent == 1:
        pull = middle[:, None] * problem.share * np.sign(change)
    else:
        pull = (middle / np.where(length > 0, length, 1.0))[:, None] * problem.share * change
    force = np.zeros_like(x)
    force[1:] += pull
    force[:-1] -= pull
    force *= norm.slope(path.theta)
    if problem.clock == "effective":
        turn = np.zeros_like(cost)
        turn[1:] += length / 2
        turn[:-1] += length / 2
        force -= turn[:, None] * np.exp(-path.theta) * problem.share
    value = force * path.weight
    end = path.theta[-1]
    reach = problem.share * expit(end) * expit(-end) * path.weight[-1]
    total = float(np.sum(reach))
    late = float(np.sum(value, axis=1) @ share) / total if total > 0 else 0.0
    # ∂H at the starts, at the ends and on the way, in one pass.
    places = np.vstack([problem.theta, end, path.theta])
    gradient = passage.flow.pull_back(
        np.minimum(places, knots[-1]), np.vstack([np.sum(value, axis=0) - late * reach, late * reach, -value])
    )
    return float(np.sum(time)), gradient, passage.hitting


def tabulate(
    problem: PopulationProblem, weighting: Callable[[Array], Array], kinks: tuple[float, ...] = ()
) -> LogLinear:
    """A formula read at close points, kinks among them, from the hardest prompt to where prompts are solved."""
    low, high = problem.rates[0], problem.solved
    rho = np.unique(np.concatenate([problem.knots(FINE), [kink for kink in kinks if low < kink < high]]))
    return LogLinear(tuple(rho.tolist()), tuple(weighting(rho).tolist()))


def time_of(problem: PopulationProblem, weighting: LogLinear) -> tuple[float, float]:
    """Time that a shared weighting takes, and its relative quadrature error."""
    return Passage(problem, log_odds(np.array(weighting.rho)), np.log(weighting.value)).time()
