"""The curve kind: the direct solver for weight curves, their certificate from a file, and their table.

For minimising ∫ f/ω under ∫ω = B the optimum is ω = clip(μ√f̂, a, b), where f̂ is f or, for a monotone ω, its isotonic
regression (bounds and monotonicity together: the clipped monotone optimum). Only the multiplier μ has to be found.
Constraints that have no such form go to the solvers that have a method for them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.clocks import made_for
from theory.closed_forms import optimal_antiderivative
from theory.dynamics import NATURAL
from theory.quadrature import log_odds_distance
from weightopt.answer import CONVEX, Answer, Check, Promise, TimeCertificate, promised
from weightopt.curves import certificate as proof
from weightopt.curves.bins import bin_program
from weightopt.curves.cell_program import rising_root, solve_cells, water_level
from weightopt.curves.certificate import CHECK_WIDTH, SlopePrices, violation
from weightopt.curves.interior_point import Prices
from weightopt.curves.lipschitz import solve_slopes
from weightopt.curves.monotone import Envelope, envelope, find_root
from weightopt.curves.problem import Problem
from weightopt.curves.weighting import (
    CurveWeighting,
    LinearWeighting,
    SolvedWeighting,
    StepWeighting,
    formula_weighting,
    read_weighting,
)
from weightopt.table import TableError, WeightTable
from weightopt.tabulate import GRID_EDGE, GRID_POINTS, even_grid, loop_stated, tabulate

CONVEX_METHOD = "convex program on knots (Clarabel)"
CELL_METHODS = ("constant", "formula", "water-filling", "isotonic regression", "isotonic regression and water-filling")
BIN_METHODS = tuple(f"{method} on bins" for method in (*CELL_METHODS, "interior point"))
KNOT_METHOD = "interior point on knots"
TOLERANCE = 1e-10
ITERATIVE = 1e-9
WIDE = 1.0  # log-odds between start and target from where an antiderivative's difference is as good as quadrature
SLOPE_NOISE = 1e-12  # violation of a Lipschitz bound, relative to the largest weight, that is rounding


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveAnswer(Answer):
    """Answer to a curve problem: an `Answer` with its curve.

    Attributes
    ----------
    weighting
        LinearWeighting or StepWeighting. ω, callable on success probabilities.
    prices
        SlopePrices or None. What the lower bound is made from, where the weighting alone does not tell.
    """

    problem: Problem
    certificate: TimeCertificate
    weighting: CurveWeighting
    prices: Prices | SlopePrices | None = None

    @property
    def time(self) -> float:
        """T[ω], in units of the clock."""
        return self.certificate.time

    def grid(self, points: int = GRID_POINTS) -> NDArray[np.float64]:
        """Success probabilities from start to target, even in log-odds, both ends exact."""
        return even_grid(self.problem.start, self.problem.target, points)

    def table(
        self, group_size: int | None = None, all_wrong: float | None = None, all_right: float | None = None
    ) -> WeightTable:
        """The curve, or with a group size its values at K/M; see `Answer.table`."""
        problem, weighting = self.problem, self.weighting
        prices = {} if self.prices is None else {"prices": _listed(self.prices)}
        return tabulate(
            weighting,
            self._table_grid(),
            group_size,
            name="optimal",
            label=problem.label,
            limits=(weighting.all_wrong_advantage, weighting.all_right_advantage),
            given=(all_wrong, all_right),
            problem=problem.to_dict(),
            certificate={**self.stated, **prices},
            # A curve is its parameters; what a table reads off it is checked from them.
            provenance={
                "method": self.method,
                "weighting": "optimal",
                "parameters": weighting.parameters(),
                **loop_stated(problem.clock),
            },
        )

    def _table_grid(self) -> NDArray[np.float64]:
        """Even in log-odds from 1/1024 to 1 - 1/1024, widened to start and target and holding both.

        Every k/M with M ≤ 1024 lies inside it. A weighting with steps has both sides of each step in it, and so has one
        under a crowding limit, which may jump where the limit's range ends.
        """
        start, target = self.problem.start, self.problem.target
        grid = even_grid(min(start, GRID_EDGE), max(target, 1 - GRID_EDGE))
        steps = isinstance(self.weighting, StepWeighting) or self.problem.crowding is not None
        edges = np.array(self.weighting.kinks if steps else ())
        sides = (
            [np.nextafter(edges, 0), np.nextafter(edges, 1)]
            if self.problem.crowding is not None
            else [np.nextafter(edges, 0)]
        )
        return np.unique(np.concatenate([grid, [start, target], edges, *sides]))

    def reading_cost(self, curve: WeightTable) -> float:
        """By what the time of the curve read between its points exceeds the answer's, relatively, at equal budget."""
        problem = self.problem
        points = problem.panels((*problem.kinks, *curve.rho))
        weight = curve(points.rho)
        spent = float(np.sum(points.weight * weight))
        time = float(np.sum(points.weight * problem.cost_density(points.rho) / weight))
        return time * spent / problem.budget / self.time - 1

    def headline(self) -> str:
        """What was asked, in one line."""
        problem = self.problem
        shape = [f"budget {problem.budget:g}", *problem.constraints]
        return f"Time-optimal weighting, success {problem.start:g} → {problem.target:g}, {', '.join(shape)}"

    def about(self) -> dict[str, str]:
        """The clock, the loop that pays it, and the mobility."""
        return {"clock": self.problem.movement, "made for": made_for(self.problem.clock)[1]}

    def numbers(self) -> dict[str, Any]:
        """ω on an even grid from start to target."""
        rho = self.grid()
        return {"rho": rho.tolist(), "weight": self.weighting(rho).tolist()}


def solve(problem: Problem, *, throw: bool = True) -> CurveAnswer:
    """The time-optimal weighting of a problem, with its certificate.

    Unconstrained: ω = B√f/∫√f. Bounds: water-filling, the multiplier exact to rounding; a bound on the ratio of weights
    is bounds whose level is solved for. Monotone: the monotone envelope of f in place of f. Integrals are by
    Gauss-Legendre panels split at every kink, so nothing depends on a grid. Constant on bins: a finite program
    (`weightopt.curves.cell_program`). A Lipschitz bound: knots and the interior-point method
    (`weightopt.curves.lipschitz`).

    Parameters
    ----------
    problem
        Any curve problem.
    throw
        Raise when the certified gap exceeds `tolerance` or a constraint is violated by more than 1e-9; otherwise the
        status says so.

    Raises
    ------
    SolverError
        See `throw`.
    """
    found = _solve(problem)
    answer = CurveAnswer(
        problem=problem,
        certificate=found.certificate,
        method=found.method,
        promise=Promise(tolerance(problem)),
        weighting=found.weighting,
        prices=found.prices,
    )
    cause = "; 1-ρ has too few digits so close to 1, lower the target" if problem.target > 1 - 1e-6 else ""
    answer.certified(throw, cause)
    return answer


def answered(
    problem: Problem,
    weighting: CurveWeighting,
    prices: Prices | SlopePrices | None,
    method: str,
    promise: Promise,
) -> CurveAnswer:
    """The answer that a weighting is, whoever found it, certified from problem and weighting.

    A Lipschitz bound without prices is left out of the lower bound, which then holds for more weightings than need be,
    and is checked by itself.
    """
    relaxed, extra = problem, ()
    if math.isfinite(problem.lipschitz) and problem.bins is None and prices is None:
        relaxed = problem.without_slopes
        extra = (Check("slope", _steepness(problem, weighting), SLOPE_NOISE),)
    certificate = proof.certify(relaxed, weighting, weighting.kinks, prices)
    return CurveAnswer(
        problem=problem,
        certificate=certificate,
        method=method,
        promise=promise,
        weighting=weighting,
        prices=prices,
        cross_checks=extra,
    )


def certify(problem: Problem, table: WeightTable) -> CurveAnswer:
    """The answer that a table states, certified anew; nothing is solved.

    What is certified is the weighting of the table's parameters: a multiplier, knots or steps. That the numbers of the
    table are this weighting's is for the caller to compare. A file of version 0.1 has no parameters: they are then
    solved for.

    Raises
    ------
    TableError
        If the parameters or the prices are none.
    """
    parameters = table.provenance.get("parameters")
    if parameters is None and "parameters" not in table.provenance:
        return solve(problem)
    certificate = table.certificate or {}
    try:
        if not isinstance(parameters, Mapping):
            raise ValueError("must be a JSON object")
        weighting = read_weighting(problem, parameters)
    except (ValueError, TypeError) as error:
        raise TableError(f"key 'provenance.parameters' {error}; build the table again.") from None
    known = {
        SolvedWeighting: (_formula_method(problem),),
        LinearWeighting: (KNOT_METHOD, CONVEX_METHOD),
        StepWeighting: (CONVEX_METHOD,) if problem.crowding is not None else (*BIN_METHODS, CONVEX_METHOD),
    }[type(weighting)]
    own = Promise(tolerance(problem))
    method, promise = promised({name: CONVEX if name == CONVEX_METHOD else own for name in known}, table)
    try:
        prices = _read_prices(problem, certificate["prices"]) if "prices" in certificate else None
        return answered(problem, weighting, prices, method, promise)
    except (ValueError, TypeError, AssertionError) as error:
        raise TableError(f"key 'certificate.prices' proves nothing ({error}); build the table again.") from None


def tolerance(problem: Problem) -> float:
    """The certified gap that `solve` promises: 1e-10, and 1e-9 where the interior-point method is needed."""
    return ITERATIVE if math.isfinite(problem.lipschitz) or problem.bins is not None else TOLERANCE


class _Found(NamedTuple):
    weighting: CurveWeighting
    certificate: TimeCertificate
    prices: Prices | SlopePrices | None
    method: str


def _solve(problem: Problem) -> _Found:
    if problem.bins is not None:
        found = solve_cells(bin_program(problem))
        weighting = StepWeighting(problem.bins, tuple(found.weight.tolist()))
        certificate = proof.certify(problem, weighting, weighting.kinks, found.prices)
        return _Found(weighting, certificate, found.prices, f"{found.method} on bins")
    if math.isfinite(problem.lipschitz):
        # Where the bound does not bind, the answer without it is the answer, and its certificate the certificate.
        free = _solve(problem.without_slopes)
        if _steepness(problem, free.weighting) <= SLOPE_NOISE:
            return free
        return _Found(*solve_slopes(problem), KNOT_METHOD)
    shape = envelope(problem)
    weighting = _within_ratio(shape) if math.isfinite(problem.max_ratio) else _water_fill(shape)
    return _Found(weighting, proof.certify(problem, weighting, weighting.kinks), None, _formula_method(problem))


def _formula_method(problem: Problem) -> str:
    """How the multiplier of a formula is found."""
    method = "isotonic regression" if problem.pooled_on else "quadrature"
    if problem.bounded or math.isfinite(problem.max_ratio):
        return "water-filling" if problem.monotone is None else f"{method} and water-filling"
    return method


def _steepness(problem: Problem, weighting: CurveWeighting) -> float:
    """Largest violation by a weighting of what the problem asks for, its slope among it."""
    return violation(problem, problem.panels(weighting.kinks, CHECK_WIDTH).rho, weighting)


def _closed_form(problem: Problem) -> float | None:
    """∫√f from its antiderivative where that is elementary and a difference of it keeps its digits."""
    plain = problem.mobility == NATURAL and problem.budget_density is None and problem.pooled_on is None
    primitive = optimal_antiderivative(problem.clock) if plain else None
    if primitive is None or log_odds_distance(problem.start, problem.target) < WIDE:
        return None
    start, target = primitive(np.array([problem.start, problem.target]))
    return float(target - start)


def _within_ratio(shape: Envelope) -> SolvedWeighting:
    """Bounds s and R s with the s at which raising it neither gains nor loses time: ∫α = R ∫β (see `certificate`)."""
    problem = shape.problem
    ratio, mean = problem.max_ratio, problem.budget / problem.extent
    free = _water_fill(shape)
    ends = free(np.array([problem.start, *shape.turns, *free.kinks, problem.target]))
    if float(np.max(ends)) <= ratio * float(np.min(ends)):
        return free

    def filled(share: float) -> SolvedWeighting:
        least = mean * ratio**-share
        return _water_fill(shape, max(problem.min_weight, least), min(problem.max_weight, ratio * least))

    def gain(share: float) -> float:
        least, weighting = mean * ratio**-share, filled(share)
        points = problem.panels((*shape.breaks, *weighting.kinks))
        level = shape(points.rho)
        price = 1 / weighting.multiplier**2
        low = np.maximum(price - level / least**2, 0) if least > problem.min_weight else 0.0
        top = ratio * least
        high = np.maximum(level / top**2 - price, 0) if top < problem.max_weight else 0.0
        return float(np.sum(points.weight * (ratio * high - low))) / price

    left, right = 1e-9, 1 - 1e-9
    if ratio == 1 or gain(left) >= 0:
        return filled(left)
    if gain(right) <= 0:
        return filled(right)
    # The time is flat at the best s.
    return filled(find_root(gain, left, right, 1e-13))


def _water_fill(shape: Envelope, low: float | None = None, high: float | None = None) -> SolvedWeighting:
    """Find μ with ∫ clip(μ√f̂, a, b) dρ = B: Newton on a rising function, kept inside a bracket.

    First on points that stay as they are, which is cheap, then with panels split where a bound starts to bind.
    """
    problem = shape.problem
    a = problem.min_weight if low is None else low
    b = problem.max_weight if high is None else high
    points = problem.panels(shape.breaks)
    root, measure = np.sqrt(shape(points.rho)).ravel(), points.weight.ravel()
    if a == 0 and math.isinf(b):
        total = _closed_form(problem) or float(measure @ root)
        return SolvedWeighting(shape, problem.budget / total, a, b, shape.breaks)

    def excess(mu: float) -> tuple[float, float]:
        # Splitting the panels where a bound starts to bind keeps the integrals exact.
        points = problem.panels(formula_weighting(shape, mu, a, b).kinks)
        root = np.sqrt(shape(points.rho))
        weight = np.clip(mu * root, a, b)
        slope = float(np.sum(points.weight * root * ((weight > a) & (weight < b))))
        return float(np.sum(points.weight * weight)) - problem.budget, slope

    mu = rising_root(excess, water_level(root, measure, problem.budget, a, b), 2e-15 * problem.budget)
    return formula_weighting(shape, mu, a, b)


def _listed(prices: Prices | SlopePrices) -> dict[str, Any]:
    """Prices as JSON values; the prices of bounds are not needed for the lower bound."""
    return {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in prices._asdict().items()
        if key != "box"
    }


def _read_prices(problem: Problem, values: Any) -> Prices | SlopePrices:
    """Prices from JSON values. Any that have these signs and shapes are admissible: wrong ones make the bound weak."""
    keys = {"budget", "runs"} if problem.bins is None else {"budget", "difference", "ratio_low", "ratio_high"}
    if not isinstance(values, Mapping) or values.keys() != keys:
        raise ValueError(f"must hold {', '.join(sorted(keys))}")
    budget = values["budget"]
    arrays = {
        key: np.array(value, dtype=np.float64) for key, value in values.items() if key != "budget" and value is not None
    }
    if not (type(budget) is float and 0 <= budget < math.inf and all(np.all(np.isfinite(x)) for x in arrays.values())):
        raise ValueError("must be finite numbers, and the price of the budget positive")
    if problem.bins is None:
        runs = arrays["runs"].reshape(-1, 2)
        ends = runs.ravel()
        if ends.size and not (problem.start <= ends[0] and ends[-1] <= problem.target and np.all(np.diff(ends) >= 0)):
            raise ValueError("must have runs in order between start and target")
        return SlopePrices(budget, runs)
    cells = len(problem.bins) + 1
    shapes = {"difference": (cells - 1,), "ratio_low": (cells,), "ratio_high": (cells,)}
    if any(value.shape != shapes[key] for key, value in arrays.items()):
        raise ValueError("must have a price for every bin, or for every pair of neighbours")
    if any(np.any(arrays[key] < 0) for key in ("ratio_low", "ratio_high") if key in arrays):
        raise ValueError("must not be negative for a ratio")
    return Prices(
        budget, arrays.get("difference"), ratio_low=arrays.get("ratio_low"), ratio_high=arrays.get("ratio_high")
    )
