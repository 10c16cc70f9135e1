"""Weight curves as functions of the success probability, and as the few numbers that a file states them by."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.quadrature import log_odds
from weightopt.curves.monotone import Envelope, envelope
from weightopt.curves.problem import COORDINATES, Coordinate, Problem


@dataclasses.dataclass(frozen=True)
class SolvedWeighting:
    """ω(ρ) = clip(μ√f̂(ρ), low, high): the optimum in closed form up to the multiplier.

    Callable on success probabilities of any shape in (0, 1). Outside [start, target] the time does not see the weight:
    the formula is continued within the bounds, and a monotone weighting keeps its end value.

    Parameters
    ----------
    envelope
        f̂ of the problem.
    multiplier
        μ > 0.
    low, high
        The problem's bounds, or tighter ones where the ratio of largest to smallest weight is bounded.
    kinks
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

    def parameters(self) -> dict[str, Any]:
        """What states this weighting beside its problem, as JSON values: μ, and the bounds where they are tighter."""
        problem = self.envelope.problem
        bounds = {"low": (self.low, problem.min_weight), "high": (self.high, problem.max_weight)}
        return {"multiplier": self.multiplier, **{key: own for key, (own, given) in bounds.items() if own != given}}

    @property
    def all_wrong_advantage(self) -> float:
        """lim -ρω as ρ → 0, or -∞ where there is none."""
        problem = self.envelope.problem
        if problem.crowding is not None:
            if problem.crowding != 0:  # ρω ~ ρ^κ
                return 0.0 if problem.crowding > 0 else -math.inf
            return 0.0 - problem.start * float(self(np.asarray(problem.start)))
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
        if problem.pooled_on is not None or math.isfinite(self.high) or power > 0:
            return 0.0
        return self.multiplier * math.sqrt(coefficient) if power == 0 else math.inf


@dataclasses.dataclass(frozen=True)
class LinearWeighting:
    """ω through given weights at given success probabilities, linear in a coordinate between them.

    Callable on success probabilities of any shape in (0, 1); outside the first and last it keeps their weight, so that
    ρω and (1-ρ)ω go to 0 at the ends.

    Parameters
    ----------
    rho, weight
        Of the same length ≥ 2.
    coordinate
        "log-odds" or "rho".
    """

    rho: tuple[float, ...]
    weight: tuple[float, ...]
    coordinate: Coordinate
    all_wrong_advantage: float = 0.0
    all_right_advantage: float = 0.0

    def parameters(self) -> dict[str, Any]:
        """What states this weighting, as JSON values."""
        return {"rho": list(self.rho), "weight": list(self.weight), "coordinate": self.coordinate}

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
    """ω constant on right-open bins of success probability, or with a tilt m constant there times ρ^-m.

    Callable on success probabilities of any shape in (0, 1); the first and last bin reach to 0 and 1, so that ρω and
    (1-ρ)ω go to 0 at the ends.

    Parameters
    ----------
    edges
        Between the bins, increasing.
    weight
        One more than edges.
    tilt
        m.
    """

    edges: tuple[float, ...]
    weight: tuple[float, ...]
    tilt: float = 0.0
    all_wrong_advantage: float = 0.0
    all_right_advantage: float = 0.0

    def parameters(self) -> dict[str, Any]:
        """What states this weighting, as JSON values."""
        return {"edges": list(self.edges), "weight": list(self.weight), **({"tilt": self.tilt} if self.tilt else {})}

    @property
    def kinks(self) -> tuple[float, ...]:
        """At the edges."""
        return self.edges

    def __call__(self, rho: ArrayLike) -> NDArray[np.float64]:
        """ω(ρ)."""
        rho = np.asarray(rho, dtype=np.float64)
        weight = np.array(self.weight)[np.searchsorted(np.array(self.edges), rho, side="right")]
        return weight * rho**-self.tilt if self.tilt else weight


CurveWeighting = SolvedWeighting | LinearWeighting | StepWeighting


def formula_weighting(shape: Envelope, multiplier: float, low: float, high: float) -> SolvedWeighting:
    """clip(μ√f̂, low, high) with its kinks: where f̂ has one, and where it crosses (bound/μ)² and a bound binds."""
    bounds = [bound for bound in (low, high) if 0 < bound < math.inf]
    kinks = {*shape.breaks, *(x for bound in bounds for x in shape.crossings((bound / multiplier) ** 2))}
    return SolvedWeighting(shape, multiplier, low, high, tuple(sorted(kinks)))


def read_weighting(problem: Problem, parameters: Mapping[str, Any]) -> CurveWeighting:
    """The weighting that `parameters` states for a problem; the inverse of a weighting's ``parameters``.

    Raises
    ------
    ValueError
        With a sentence on what is wrong.
    """
    if "multiplier" in parameters:
        own = {"multiplier": math.nan, "low": problem.min_weight, "high": problem.max_weight}
        if not (parameters.keys() <= own.keys() and all(type(value) is float for value in parameters.values())):
            raise ValueError("must be numbers: multiplier, and low and high where a ratio sets them")
        multiplier, low, high = {**own, **parameters}.values()
        if not (1e-100 <= multiplier <= 1e100 and 0 <= low <= high and (high <= 1e100 or high == math.inf)):
            raise ValueError("must have a positive multiplier and 0 ≤ low ≤ high")
        return formula_weighting(envelope(problem), multiplier, low, high)
    lists = {key: parameters[key] for key in ("rho", "edges", "weight") if key in parameters}
    for values in lists.values():
        if not (isinstance(values, list) and all(type(value) is float and 0 <= value <= 1e100 for value in values)):
            raise ValueError("must list numbers")
    places = lists.get("rho", lists.get("edges", []))
    weight = lists.get("weight", [])
    if not (all(x < y for x, y in itertools.pairwise(places)) and all(value > 0 for value in weight)):
        raise ValueError("must have increasing success probabilities and positive weights")
    if parameters.keys() == {"rho", "weight", "coordinate"}:
        coordinate, ends = parameters["coordinate"], [problem.start, problem.target]
        if coordinate not in COORDINATES or len(places) != len(weight) or [*places[:1], *places[-1:]] != ends:
            raise ValueError("must have a weight for every rho from start to target, and a coordinate")
        return LinearWeighting(tuple(places), tuple(weight), coordinate)
    if parameters.keys() == {"edges", "weight"} and problem.crowding is None:
        if tuple(places) != problem.bins or len(weight) != len(places) + 1:
            raise ValueError("must have the problem's bins as edges, and a weight for every bin")
        return StepWeighting(tuple(places), tuple(weight))
    if problem.crowding is not None and parameters.keys() - {"tilt"} == {"edges", "weight"}:
        if parameters.get("tilt", 0.0) != problem.tilt or len(weight) != len(places) + 1:
            raise ValueError("must have the tilt of the crowding limit, and a weight for every bin")
        return StepWeighting(tuple(places), tuple(weight), problem.tilt)
    raise ValueError("must hold a multiplier, or rho, weight and coordinate, or edges and weight")
