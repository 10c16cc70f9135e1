"""Solutions: a weighting with its status and its proof."""

from __future__ import annotations

import dataclasses
import enum
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from theory.quadrature import log_odds
from weightopt.curves.certificate import Certificate
from weightopt.curves.monotone import Envelope
from weightopt.curves.problem import Coordinate, Problem

GRID_POINTS = 1025
GRID_EDGE = 1 / 1024


class Status(enum.Enum):
    """How a solve ended; the value is the sentence for the user."""

    OPTIMAL = "optimal: proven within the certified gap of the best possible time"
    UNCERTIFIED = "not certified: the gap exceeds the tolerance, so the weighting may not be the best"


@dataclasses.dataclass(frozen=True)
class SolvedWeighting:
    """ω(ρ) = clip(μ√f̂(ρ), low, high): the optimum in closed form up to the multiplier.

    Callable on success probabilities of any shape in (0, 1). Outside [start, target] the time does not see the weight:
    the formula is continued within the bounds, and a monotone weighting keeps its end value.

    Parameters
    ----------
    envelope : Envelope
        f̂ of the problem.
    multiplier : float
        μ > 0.
    low, high : float
        The problem's bounds, or tighter ones where the ratio of largest to smallest weight is bounded.
    kinks : tuple of float
        Success probabilities where ω is not smooth.
    """

    envelope: Envelope
    multiplier: float
    low: float = 0.0
    high: float = math.inf
    kinks: tuple[float, ...] = ()

    def __call__(self, rho: ArrayLike) -> NDArray[np.float64]:
        """ω(ρ)."""
        root = self.multiplier * np.sqrt(self.envelope(np.asarray(rho, dtype=np.float64)))
        return np.clip(root, self.low, self.high)

    @property
    def all_wrong_advantage(self) -> float:
        """lim -ρω as ρ → 0, or -∞ where there is none."""
        problem = self.envelope.problem
        return 0.0 - self._end_limit(*problem.clock.at_zero)

    @property
    def all_right_advantage(self) -> float:
        """lim (1-ρ)ω as ρ → 1, or ∞ where there is none."""
        problem = self.envelope.problem
        return self._end_limit(*problem.clock.at_one)

    def _end_limit(self, coefficient: float, exponent: float) -> float:
        """lim x·μ√(C x^p / x^q) as the distance x to the end goes to 0, q being the mobility's exponent."""
        problem = self.envelope.problem
        power = 1 + (exponent - problem.mobility.exponent) / 2
        if problem.monotone is not None or math.isfinite(self.high) or power > 0:
            return 0.0
        return self.multiplier * math.sqrt(coefficient) if power == 0 else math.inf


@dataclasses.dataclass(frozen=True)
class LinearWeighting:
    """ω through given weights at given success probabilities, linear in a coordinate between them.

    Callable on success probabilities of any shape in (0, 1); outside the first and last it keeps their weight, so that
    ρω and (1-ρ)ω go to 0 at the ends.

    Parameters
    ----------
    rho, weight : tuple of float, same length ≥ 2
    coordinate : {"log-odds", "rho"}
    """

    rho: tuple[float, ...]
    weight: tuple[float, ...]
    coordinate: Coordinate
    all_wrong_advantage: float = 0.0
    all_right_advantage: float = 0.0

    @property
    def kinks(self) -> tuple[float, ...]:
        """At the knots."""
        return self.rho

    def __call__(self, rho: ArrayLike) -> NDArray[np.float64]:
        """ω(ρ)."""
        at, knots = np.asarray(rho, dtype=np.float64), np.array(self.rho)
        if self.coordinate == "log-odds":
            at, knots = log_odds(at), log_odds(knots)
        return np.interp(at, knots, self.weight)


@dataclasses.dataclass(frozen=True)
class StepWeighting:
    """ω constant on right-open bins of success probability.

    Callable on success probabilities of any shape in (0, 1); the first and last bin reach to 0 and 1, so that ρω and
    (1-ρ)ω go to 0 at the ends.

    Parameters
    ----------
    edges : tuple of float
        Between the bins, increasing.
    weight : tuple of float
        One more than edges.
    """

    edges: tuple[float, ...]
    weight: tuple[float, ...]
    all_wrong_advantage: float = 0.0
    all_right_advantage: float = 0.0

    @property
    def kinks(self) -> tuple[float, ...]:
        """At the edges."""
        return self.edges

    def __call__(self, rho: ArrayLike) -> NDArray[np.float64]:
        """ω(ρ)."""
        bins = np.searchsorted(np.array(self.edges), np.asarray(rho, dtype=np.float64), side="right")
        return np.array(self.weight)[bins]


@dataclasses.dataclass(frozen=True)
class Solution:
    """Answer to a problem.

    Attributes
    ----------
    problem : Problem
    status : Status
    weighting : SolvedWeighting, LinearWeighting or StepWeighting
        ω, callable on success probabilities.
    certificate : Certificate
    method : str
        How it was found.
    """

    problem: Problem
    status: Status
    weighting: SolvedWeighting | LinearWeighting | StepWeighting
    certificate: Certificate
    method: str

    @property
    def time(self) -> float:
        """T[ω], in units of the clock."""
        return self.certificate.time

    @property
    def lower_bound(self) -> float:
        """No feasible weighting is faster than this."""
        return self.certificate.lower_bound

    @property
    def gap(self) -> float:
        """Certified relative gap (time - lower_bound)/lower_bound."""
        return self.certificate.gap

    def grid(self, points: int = GRID_POINTS) -> NDArray[np.float64]:
        """Success probabilities from start to target, even in log-odds, both ends exact."""
        return even_grid(self.problem.start, self.problem.target, points)

    def __str__(self) -> str:
        problem = self.problem
        shape = [f"budget {problem.budget:g}", *problem.constraints]
        return "\n".join(
            [
                f"Time-optimal weighting, success {problem.start:g} → {problem.target:g}, {', '.join(shape)}",
                f"  clock        {problem.clock.name} ({problem.clock.reading}); mobility {problem.mobility.name}",
                f"  status       {self.status.value}",
                f"  time         {self.time:.12g}",
                f"  lower bound  {self.lower_bound:.12g}",
                f"  gap          {self.gap:.2e} (certified, relative)",
                f"  method       {self.method}",
            ]
        )


def table_grid(solution: Solution) -> NDArray[np.float64]:
    """Grid of a curve table: even in log-odds from 1/1024 to 1 - 1/1024, widened to start and target and holding both.

    Every k/M with M ≤ 1024 lies inside it. A weighting with steps has both sides of each step in it.
    """
    start, target = solution.problem.start, solution.problem.target
    grid = even_grid(min(start, GRID_EDGE), max(target, 1 - GRID_EDGE))
    edges = np.array(solution.weighting.kinks if isinstance(solution.weighting, StepWeighting) else ())
    return np.unique(np.concatenate([grid, [start, target], edges, np.nextafter(edges, 0)]))


def even_grid(low: float, high: float, points: int = GRID_POINTS) -> NDArray[np.float64]:
    """Success probabilities from `low` to `high`, both exact, evenly spaced in log-odds; shape (points,)."""
    theta = np.linspace(log_odds(low), log_odds(high), points)
    rho = expit(theta)
    rho[0], rho[-1] = low, high
    return rho
