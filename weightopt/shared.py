"""The best shared weighting of a population: the search, its certificate, and how the named ones fare.

One ω(ρ) for all prompts is sought as ln ω piecewise linear in log-odds between a few tens of knots, which is how weight
tables are read. Unknown are the slopes, each within ±steepness, so that one can train with it; the level of ω does not
matter. The time is not convex in the slopes. L-BFGS-B follows its gradient (`population.time_and_gradient`) from
several starts, and what it finds is a *local* optimum. What is certified is the distance to a bound that holds for all
weights, prompt by prompt and step by step: it contains the price of sharing one ω, and that of the steepness.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from theory import catalogue
from theory.log_linear import LogLinear
from theory.quadrature import log_odds
from weightopt.distance import shortest_time
from weightopt.errors import SolverError
from weightopt.population import Passage, PopulationProblem, tabulate, time_and_gradient, time_of

Array = NDArray[np.float64]
NAMES = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r")
SYMMETRIC, ASYMMETRIC = ("rloo", "grpo"), ("linear-r", "sqrt-r")
WHAT = {"regular": "steps", "effective": "draws"}
# Exponents (a, b) of ρ^-a (1-ρ)^-b: RLOO, GRPO, Linear-R, Sqrt-R, and one that favours the easy prompts.
STARTS = ((0.0, 0.0), (0.5, 0.5), (1.0, 0.0), (1.0, 0.5), (-1.0, 1.0))
NEGLIGIBLE = 0.02  # share of a time that no training run would show
SEARCH_PIECES = 48  # of a path, during the search
SEARCH_ROUNDS, SEARCH_STEPS = 2, 60  # the pieces are evened out anew in each round


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
    """How far a shared weighting can be from the best weights of any kind.

    Attributes
    ----------
    time : float
        What it takes to the target.
    lower_bound : float
        No weights, whether shared or by prompt and step, are faster.
    distance : float
        time/lower_bound - 1, twice the quadrature error charged; ≥ 0.
    quadrature_error : float
        Relative change of the time when the pieces of the path are halved.
    steepness : float
        Largest |d ln ω / d log-odds|.
    """

    time: float
    lower_bound: float
    distance: float
    quadrature_error: float
    steepness: float


@dataclasses.dataclass(frozen=True)
class Row:
    """Time of a named weighting, its ratio to the lower bound, and its certified distance as in `Certificate`."""

    weighting: str
    label: str
    time: float
    ratio: float
    distance: float


@dataclasses.dataclass(frozen=True)
class PopulationSolution:
    """Answer to a population problem.

    Attributes
    ----------
    problem : PopulationProblem
    weighting : LogLinear
        Best shared ω found; at the start a step with it spends the budget.
    certificate : Certificate
    rows : tuple of Row
        The named ones.
    schedule : float
        Time of weights by prompt and step that are known, so that the optimum over all weights is at most this.
    exact : bool
        Whether the lower bound is the optimum over all weights if prompts may be split.
    method : str
    """

    problem: PopulationProblem
    weighting: LogLinear
    certificate: Certificate
    rows: tuple[Row, ...]
    schedule: float
    exact: bool
    method: str

    @property
    def best_named(self) -> Row:
        """The fastest of the named ones."""
        return min(self.rows, key=lambda row: row.time)

    @property
    def ratio(self) -> float:
        """Time of the best shared weighting found over the lower bound."""
        return self.certificate.time / self.certificate.lower_bound


def solve_population(problem: PopulationProblem, names: Sequence[str] = NAMES) -> PopulationSolution:
    """Bound, best shared weighting found, and the named ones.

    Parameters
    ----------
    problem : PopulationProblem
    names : sequence of str
        Keys of `theory.catalogue.WEIGHTINGS`, at least one.
    """
    bound = shortest_time(problem.norm, problem.theta, problem.share, problem.target, problem.clock)
    lower = bound.lower / problem.budget
    tables, rows = [], []
    for name in names:
        w = catalogue.WEIGHTINGS[name]
        tables.append(tabulate(problem, w, w.kinks))
        time, error = time_of(problem, tables[-1])
        rows.append(Row(name, w.label, time, time / lower, _distance(time, lower, error)))
    found, best = search(problem), min(range(len(rows)), key=lambda k: rows[k].time)
    method = f"L-BFGS-B from {len(STARTS)} starts, {len(found.rho)} knots"
    if rows[best].time <= time_of(problem, found)[0]:
        found, method = tables[best], f"no better one found than {rows[best].label}"
    found = normalised(problem, found)
    certificate = certify(problem, found, lower)
    # A shared weighting is a schedule too.
    schedule = min(bound.schedule / problem.budget, certificate.time)
    return PopulationSolution(problem, found, certificate, tuple(rows), schedule, bound.exact, method)


def certify(problem: PopulationProblem, weighting: LogLinear, lower: float | None = None) -> Certificate:
    """Certify a shared weighting from the problem and the weighting alone; `lower` spares computing the bound again.

    Raises
    ------
    ValueError
        If the weighting does not run from the hardest prompt to where prompts are solved.
    """
    if (weighting.rho[0], weighting.rho[-1]) != (problem.rates[0], problem.solved):
        raise ValueError("the weighting must run from the hardest prompt to where prompts are solved")
    if lower is None:
        bound = shortest_time(
            problem.norm, problem.theta, problem.share, problem.target, problem.clock, scheduled=False
        )
        lower = bound.lower / problem.budget
    time, error = time_of(problem, weighting)
    slope = np.diff(np.log(weighting.value)) / np.diff(log_odds(np.array(weighting.rho)))
    return Certificate(
        time=time,
        lower_bound=lower,
        distance=_distance(time, lower, error),
        quadrature_error=error,
        steepness=float(np.max(np.abs(slope))),
    )


def _distance(time: float, lower: float, error: float) -> float:
    # A time below the bound by more than rounding would mean a wrong bound: it is charged, not called 0.
    return abs(time / lower - 1) + 2 * error


def normalised(problem: PopulationProblem, weighting: LogLinear) -> LogLinear:
    """The weighting times the factor with which the first step spends the budget."""
    theta = problem.theta
    weight = np.where(np.array(problem.rates) < problem.solved, weighting(np.array(problem.rates)), 0.0)
    factor = problem.budget / float(problem.norm.norm(problem.norm.slope(theta) * weight, problem.share))
    try:
        return LogLinear(weighting.rho, tuple((factor * np.array(weighting.value)).tolist()))
    except ValueError:
        raise SolverError("the weights found leave the range of 1e-30 to 1e30; lower --steepness") from None


def search(problem: PopulationProblem) -> LogLinear:
    """The best shared weighting that a local search finds from any of its starts."""
    rho = problem.knots()
    knots = log_odds(rho)
    found = []
    for a, b in STARTS:
        log_weight, time = _descend(problem, knots, -a * np.log(rho) - b * np.log1p(-rho))
        found.append((time, log_weight))
    log_weight = min(found, key=lambda pair: pair[0])[1]
    return LogLinear(tuple(rho.tolist()), tuple(np.exp(log_weight - np.mean(log_weight)).tolist()))


def _descend(problem: PopulationProblem, knots: Array, log_weight: Array) -> tuple[Array, float]:
    """L-BFGS-B in the slopes; log-weights at the knots and the time they take."""
    width, limit = np.diff(knots), problem.steepness
    slope = np.clip(np.diff(log_weight) / width, -limit, limit)

    def at_knots(slope: Array) -> Array:
        return np.concatenate([[0.0], np.cumsum(slope * width)])

    # A mean of weights makes the length of any path that of its ends.
    ends_alone = problem.norm.exponent == 1 and problem.clock == "regular"
    for _ in range(1 if ends_alone else SEARCH_ROUNDS):
        passage = Passage(problem, knots, at_knots(slope))
        share = None if ends_alone else passage.spread(SEARCH_PIECES) / passage.hitting
        slope = minimize(
            _objective(problem, knots, width, at_knots, share),
            slope,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-limit, limit)] * slope.size,
            options={"maxiter": SEARCH_STEPS, "maxcor": 10},
        ).x
    passage = Passage(problem, knots, at_knots(slope))
    return at_knots(slope), passage.time(2 * SEARCH_PIECES)[0]


def _objective(
    problem: PopulationProblem,
    knots: Array,
    width: Array,
    at_knots: Callable[[Array], Array],
    share: Array | None,
) -> Callable[[Array], tuple[float, Array]]:
    """Time and its gradient as functions of the slopes: ln ω at a knot is the sum of the rises before it."""

    def function(slope: Array) -> tuple[float, Array]:
        time, gradient = time_and_gradient(problem, knots, at_knots(slope), share)
        if not math.isfinite(time):
            raise SolverError("the search for a shared weighting met a time that is no number")
        return time, width * np.cumsum(gradient[::-1])[::-1][1:]

    return function


def advise(solutions: Sequence[PopulationSolution]) -> list[str]:
    """What to use for which target, in sentences made from the numbers alone.

    One sentence for each problem: the best named weighting, which others take no more than 2 % longer, and what the
    best shared one found would save. One more over all of them: whether favouring hard prompts pays (Linear-R and
    Sqrt-R against RLOO and GRPO), which is what separates the two regimes.
    """
    parts: dict[str, list[str]] = {"save": [], "cost": [], "make less than 2% of difference for": []}
    for solution in solutions:
        gain, where = _asymmetric_gain(solution), _where(solution)
        if gain > NEGLIGIBLE:
            parts["save"].append(f"{gain:.1%} of the {where}")
        elif gain < -NEGLIGIBLE:
            parts["cost"].append(f"{-gain:.1%} more {where}")
        else:
            parts["make less than 2% of difference for"].append(where)
    said = "; ".join(f"{verb} {_list(what)}" for verb, what in parts.items() if what)
    return [
        *(_advise_one(solution) for solution in solutions),
        f"From mean success {solutions[0].problem.mean:.2g}, against the better of RLOO and GRPO, weights that favour "
        f"hard prompts (the better of Linear-R and Sqrt-R) {said}.",
    ]


def _where(solution: PopulationSolution) -> str:
    return f"{WHAT[solution.problem.clock]} to {solution.problem.target:.3g}"


def _asymmetric_gain(solution: PopulationSolution) -> float:
    """Share of the time that the better of Linear-R and Sqrt-R saves against the better of RLOO and GRPO."""
    times = {row.weighting: row.time for row in solution.rows}
    symmetric, asymmetric = (min(times[name] for name in names) for names in (SYMMETRIC, ASYMMETRIC))
    return 1 - asymmetric / symmetric


def _advise_one(solution: PopulationSolution) -> str:
    best = solution.best_named
    near = [row.label for row in solution.rows if row is not best and row.time <= best.time * (1 + NEGLIGIBLE)]
    worst = max(solution.rows, key=lambda row: row.time)
    where = f"For {_where(solution)}"
    if len(near) == len(solution.rows) - 1:
        sentence = f"{where} the choice hardly matters: {best.label} is best and no named weighting takes more than "
        sentence += f"{NEGLIGIBLE:.0%} longer"
    else:
        alike = f"; {_list(near)} within {NEGLIGIBLE:.0%} of {best.label}" if near else ""
        sentence = f"{where} use {best.label}, at most {best.distance:.1%} above the optimum{alike}; "
        sentence += f"{worst.label} takes {worst.time / best.time - 1:.0%} longer"
    saved = max(0.0, 1 - solution.certificate.time / best.time)
    if saved > NEGLIGIBLE:
        return f"{sentence}; the shared weighting found saves another {saved:.1%}."
    return f"{sentence}; the shared weighting found saves {saved:.1%}, which is negligible."


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
