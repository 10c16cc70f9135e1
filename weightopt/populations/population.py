"""The population kind: the search for the best shared weighting, its certificate, and how the named ones fare.

One ω(ρ) for all prompts is sought as ln ω piecewise linear in log-odds between a few tens of knots, which is how weight
tables are read. Unknown are the slopes, each within ±steepness, so that one can train with it; the level of ω does not
matter. The time is not convex in the slopes. L-BFGS-B follows its gradient (`passage.time_and_gradient`) from
several starts, and what it finds is a *local* optimum. What is certified is the distance to a bound that holds for all
weights, prompt by prompt and step by step: it contains the price of sharing one ω, and that of the steepness.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from theory import catalogue, clocks
from theory.log_linear import LogLinear
from theory.quadrature import log_odds
from weightopt.answer import Answer, Certificate, Promise, Status
from weightopt.errors import SolverError
from weightopt.populations.lower_bounds import shortest_time
from weightopt.populations.passage import Passage, tabulate, time_and_gradient, time_of
from weightopt.populations.problem import CLOCKS, PopulationProblem
from weightopt.table import TableError, WeightTable
from weightopt.tabulate import loop_stated
from weightopt.tabulate import tabulate as tabulate_weighting

Array = NDArray[np.float64]
NAMES = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r")
# Exponents (a, b) of ρ^-a (1-ρ)^-b: RLOO, GRPO, Linear-R, Sqrt-R, and one that favours the easy prompts.
STARTS = ((0.0, 0.0), (0.5, 0.5), (1.0, 0.0), (1.0, 0.5), (-1.0, 1.0))
STEEPNESS_ROUNDING = 1e-8
PROMISE = Promise(math.inf)
SEARCH_PIECES, LAST_PIECES = 48, 72  # of a path, during the search; for its last steps
SEARCH_PROMPTS = 40  # into which the population is gathered for it, but for the last steps
FIRST_STEPS, SEARCH_STEPS, LAST_STEPS = 5, 60, 40  # from all starts; from the best; with all prompts
FLAT, LAST_FLAT = 1e-7, 1e-8  # relative gains of a step, below which a search ends; and its last steps
BEST_STARTS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopulationCertificate(Certificate):
    """How far a shared weighting can be from the best weights of any kind, shared or by prompt and step.

    Attributes
    ----------
    time
        What it takes to the target.
    steepness
        Largest |d ln ω / d log-odds|; `violation` is what exceeds the problem's.
    """

    time: float
    steepness: float

    @property
    def objective(self) -> float:
        """The time."""
        return self.time


@dataclasses.dataclass(frozen=True)
class Row:
    """Time of a named weighting, its ratio to the lower bound, and its certified gap."""

    weighting: str
    label: str
    time: float
    ratio: float
    gap: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopulationAnswer(Answer):
    """Answer to a population problem; the gap contains the price of sharing one ω.

    Attributes
    ----------
    weighting
        Best shared ω found, scaled so that the first step spends the budget.
    rows
        The named ones; none where the answer is read from a file.
    schedule
        Time of the best known weights that may differ by prompt and step: the optimum over all weights is at most this.
    exact
        Whether the lower bound is the optimum over all weights if prompts may be split.
    """

    ROUNDING = 1e-8  # rounding enters a flow time relative to the longest one

    problem: PopulationProblem
    certificate: PopulationCertificate
    weighting: LogLinear
    rows: tuple[Row, ...] = ()
    schedule: float = math.inf
    exact: bool = False

    @property
    def status(self) -> Status:
        """Best found: the search is a local one, and how far off it can be is certified."""
        return Status.BEST_FOUND if all(check.passed for check in self.checks) else Status.UNCERTIFIED

    @property
    def time(self) -> float:
        """What the shared weighting takes to the target."""
        return self.certificate.time

    @property
    def best_named(self) -> Row:
        """The fastest of the named ones."""
        return min(self.rows, key=lambda row: row.time)

    @property
    def ratio(self) -> float:
        """Time of the best shared weighting found over the lower bound."""
        return self.certificate.time / self.certificate.lower_bound

    def table(
        self, group_size: int | None = None, all_wrong: float | None = None, all_right: float | None = None
    ) -> WeightTable:
        """The curve of the shared weighting, or with a group size its values at K/M; see `Answer.table`.

        Beyond its ends a curve keeps its weight, so that -ρω and (1-ρ)ω tend to 0: these are the advantages in
        all-wrong and all-right groups unless others are stated.
        """
        problem, weighting = self.problem, self.weighting
        curve = tabulate_weighting(
            weighting,
            weighting.rho,
            None,
            name="shared",
            label=f"Best shared weighting found, {problem.clock} clock, {problem.budget_kind} budget, "
            f"{problem.source} → {problem.target:g}",
            limits=(0.0, 0.0),
            given=(all_wrong, all_right),
            problem=problem.to_dict(),
            certificate=self.stated,
            # A table for groups, read off this curve, is checked from the knots.
            provenance={
                "method": self.method,
                "weighting": "shared",
                "knots": {"rho": list(weighting.rho), "weight": list(weighting.value)},
                **loop_stated(clocks.parse(problem.clock)),
            },
        )
        return curve if group_size is None else curve.for_group(group_size)

    def headline(self) -> str:
        """What was asked, in one line."""
        problem = self.problem
        return (
            f"Shared weighting for {problem.source}, mean success {problem.mean:.3g} → {problem.target:g}, "
            f"{problem.norm.reading} {problem.budget:g} a step"
        )

    def about(self) -> dict[str, str]:
        """The clock."""
        return {"clock": f"{self.problem.clock} ({CLOCKS[self.problem.clock]})"}

    def numbers(self) -> dict[str, Any]:
        """The shared weighting at its knots, the named ones, and what is known of the optimum over all weights."""
        return {
            **self.certificate.to_dict(),
            "ratio": self.ratio,
            "schedule": self.schedule,
            "bound_is_optimum_if_prompts_are_split": self.exact,
            "named": [dataclasses.asdict(row) for row in self.rows],
            "rho": list(self.weighting.rho),
            "weight": list(self.weighting.value),
        }


def solve(problem: PopulationProblem, *, throw: bool = True, names: Sequence[str] = NAMES) -> PopulationAnswer:
    """Bound, best shared weighting found, and the named ones.

    Parameters
    ----------
    problem
        Any population.
    throw
        Raise when the weighting found misses the budget or the steepness; a large gap is an answer.
    names
        Keys of `theory.catalogue.WEIGHTINGS`, at least one.

    Raises
    ------
    SolverError
        See `throw`; and where the search leaves the range of numbers.
    """
    bound = shortest_time(problem.norm, problem.theta, problem.share, problem.target, problem.clock)
    lower = bound.lower / problem.budget
    tables, rows = [], []
    for name in names:
        w = catalogue.WEIGHTINGS[name]
        tables.append(tabulate(problem, w, w.kinks))
        time, error = time_of(problem, tables[-1])
        rows.append(Row(name, w.label, time, time / lower, _gap(time, lower, error)))
    found, best = search(problem), min(range(len(rows)), key=lambda k: rows[k].time)
    method = f"L-BFGS-B from {len(STARTS)} starts, {len(found.rho)} knots"
    if rows[best].time <= time_of(problem, found)[0]:
        found, method = tables[best], f"no better one found than {rows[best].label}"
    found = normalised(problem, found)
    certificate = certify_weighting(problem, found, lower)
    answer = PopulationAnswer(
        problem=problem,
        certificate=certificate,
        method=method,
        promise=PROMISE,
        weighting=found,
        rows=tuple(rows),
        # A shared weighting is a schedule too.
        schedule=min(bound.schedule / problem.budget, certificate.time),
        exact=bound.exact,
    )
    answer.certified(throw)
    return answer


def certify(problem: PopulationProblem, table: WeightTable) -> PopulationAnswer:
    """The answer that a table states, certified from its knots and its problem alone; nothing is searched for.

    Raises
    ------
    TableError
        If the knots are no weighting for this problem.
    """
    knots, method = table.provenance.get("knots"), table.provenance.get("method")
    try:
        weighting = LogLinear(tuple(knots["rho"]), tuple(knots["weight"]))  # pyright: ignore[reportOptionalSubscript]
        certificate = certify_weighting(problem, weighting)
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"key 'provenance.knots' holds no weighting ({error}); build the table again.") from None
    if not isinstance(method, str):
        raise TableError("key 'provenance.method' must be text; build the table again.")
    return PopulationAnswer(
        problem=problem, certificate=certificate, method=method, promise=PROMISE, weighting=weighting
    )


def certify_weighting(
    problem: PopulationProblem, weighting: LogLinear, lower: float | None = None
) -> PopulationCertificate:
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
    steepness = float(np.max(np.abs(slope)))
    return PopulationCertificate(
        time=time,
        lower_bound=lower,
        gap=_gap(time, lower, error),
        quadrature_error=error,
        steepness=steepness,
        budget_error=1 / _factor(problem, weighting) - 1,
        # A search ends on the limit, so rounding is left out.
        violation=max(0.0, steepness / problem.steepness - 1 - STEEPNESS_ROUNDING),
    )


def _gap(time: float, lower: float, error: float) -> float:
    # A time below the bound by more than rounding would mean a wrong bound: it is charged, not called 0.
    return abs(time / lower - 1) + 2 * error


def normalised(problem: PopulationProblem, weighting: LogLinear) -> LogLinear:
    """The weighting times the factor with which the first step spends the budget."""
    factor = _factor(problem, weighting)
    try:
        return LogLinear(weighting.rho, tuple((factor * np.array(weighting.value)).tolist()))
    except ValueError:
        raise SolverError("the weights found leave the range of 1e-30 to 1e30; lower --steepness") from None


def search(problem: PopulationProblem) -> LogLinear:
    """The best shared weighting that a local search finds from any of its starts.

    It goes from all starts a little way and from the best of them on, with prompts gathered into a few tens; the last
    steps are those of the whole population, with more pieces of the path, evened out anew.
    """
    rho = problem.knots()
    knots, few = log_odds(rho), _gathered(problem)
    begun = [_descend(few, knots, -a * np.log(rho) - b * np.log1p(-rho), FIRST_STEPS) for a, b in STARTS]
    begun.sort(key=lambda pair: pair[1])
    found = [_descend(few, knots, log_weight, SEARCH_STEPS) for log_weight, _ in begun[:BEST_STARTS]]
    best = min(found, key=lambda pair: pair[1])[0]
    log_weight = _descend(problem, knots, best, LAST_STEPS, LAST_FLAT, LAST_PIECES)[0]
    return LogLinear(tuple(rho.tolist()), tuple(np.exp(log_weight - np.mean(log_weight)).tolist()))


def _gathered(problem: PopulationProblem) -> PopulationProblem:
    """The problem with neighbouring prompts at their mean success; the hardest, where the knots begin, stay."""
    if len(problem.rates) <= SEARCH_PROMPTS:
        return problem
    rates, counts = np.array(problem.rates), np.array(problem.counts)
    parts = [np.array([0]), *np.array_split(np.arange(1, rates.size), SEARCH_PROMPTS - 1)]
    return dataclasses.replace(
        problem,
        rates=tuple(float(rates[part] @ counts[part] / counts[part].sum()) for part in parts),
        counts=tuple(int(counts[part].sum()) for part in parts),
    )


def _descend(
    problem: PopulationProblem,
    knots: Array,
    log_weight: Array,
    steps: int,
    flat: float = FLAT,
    pieces: int = SEARCH_PIECES,
) -> tuple[Array, float]:
    """L-BFGS-B in the slopes; log-weights at the knots and the time they take."""
    width, limit = np.diff(knots), problem.steepness
    slope = np.clip(np.diff(log_weight) / width, -limit, limit)

    def at_knots(slope: Array) -> Array:
        return np.concatenate([[0.0], np.cumsum(slope * width)])

    share = None
    # A mean of weights makes the length of any path that of its ends.
    if problem.norm.exponent == 2 or problem.clock == "effective":
        passage = Passage(problem, knots, at_knots(slope))
        share = passage.spread(pieces) / passage.hitting
    slope = minimize(
        _objective(problem, knots, width, at_knots, share),
        slope,
        jac=True,
        method="L-BFGS-B",
        bounds=[(-limit, limit)] * slope.size,
        options={"maxiter": steps, "maxcor": 10, "ftol": flat},
    ).x
    passage = Passage(problem, knots, at_knots(slope))
    return at_knots(slope), passage.time(2 * pieces)[0]


def _objective(
    problem: PopulationProblem,
    knots: Array,
    width: Array,
    at_knots: Callable[[Array], Array],
    share: Array | None,
) -> Callable[[Array], tuple[float, Array]]:
    """Time and its gradient as functions of the slopes: ln ω at a knot is the sum of the rises before it."""

    near: float | None = None

    def function(slope: Array) -> tuple[float, Array]:
        nonlocal near
        time, gradient, near = time_and_gradient(problem, knots, at_knots(slope), share, near)
        if not math.isfinite(time):
            raise SolverError("the search for a shared weighting met a time that is no number")
        return time, width * np.cumsum(gradient[::-1])[::-1][1:]

    return function


def _factor(problem: PopulationProblem, weighting: LogLinear) -> float:
    """By what to multiply a weighting so that the first step with it spends the budget."""
    theta = problem.theta
    weight = np.where(np.array(problem.rates) < problem.solved, weighting(np.array(problem.rates)), 0.0)
    return problem.budget / float(problem.norm.norm(problem.norm.slope(theta) * weight, problem.share))
