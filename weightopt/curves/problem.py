"""The problem: raise the success probability from a start to a target in least time under an update budget.

With a budget density p the budget is ∫ p ω dρ. In the measure dm = p dρ the problem is then ∫ f/ω dm → min under
∫ ω dm = B with f = c/(κ p): the same as without p, which is why solvers see only `panels`, `extent` and `cost_density`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from theory import clocks, dynamics, quadrature
from theory.log_linear import LogLinear
from weightopt.errors import ProblemError
from weightopt.fields import read_fields

Monotone = Literal["decreasing", "increasing"]
Coordinate = Literal["log-odds", "rho"]
COORDINATES: tuple[Coordinate, ...] = ("log-odds", "rho")
MOST_BINS = 10_000

# Closer to 1 than this there are hardly any floats left between start and target.
EDGE = 1e-12
# Budgets and bounds beyond this only shift the decimal point, until they overflow.
LARGEST, SMALLEST = 1e30, 1e-30
NARROWEST = 1e-9  # from start to target in log-odds, below which the digits of their difference run out
LARGEST_CHANGE = 6.0  # of the logarithm of a measured quantity over a panel, which 16 nodes integrate to rounding
# Parameters that came after the first table files, with the value that such a file means.
LATER = {
    "lipschitz": None,
    "lipschitz_in": "log-odds",
    "max_ratio": None,
    "bins": None,
    "crowding": None,
    "crowding_range": None,
}
LARGEST_CROWDING = 10.0  # of either sign: ω ρ^(1-κ) still has digits


@dataclasses.dataclass(frozen=True, init=False)
class Problem:
    """Minimise ∫ c/(κ ω) dρ over weightings ω with ∫ p ω dρ = B, both integrals from start to target.

    A problem holds no arrays: it compares, hashes and serialises.

    Parameters
    ----------
    start, target
        Success probabilities, 1e-12 ≤ start < target ≤ 1 - 1e-12, taken as exactly the floats that they are. Close to 1
        floats are few: where there are too few between start and target, or between two places where the answer bends,
        the problem ends uncertified, and says so.
    clock
        c(ρ), or its name (see `theory.clocks.parse`).
    mobility
        κ(ρ), default the natural ρ(1-ρ) of a KL-proximal step; or its name.
    budget
        B, the update budget, from 1e-30 to 1e30.
    min_weight, max_weight
        Bounds on ω: min_weight from 0 to 1e30, max_weight from 1e-30 to 1e30 or ∞. Some weighting between them must
        spend the budget.
    monotone
        Require ω to be non-increasing, or non-decreasing, in ρ. None, "decreasing" or "increasing".
    budget_density
        p(ρ), how much of the budget a unit of weight costs at ρ; default 1 everywhere.
    lipschitz
        Largest |dω/dx|, from 0 to 1e30 or ∞, in units of weight per unit of x.
    lipschitz_in
        The coordinate x. "log-odds" or "rho".
    max_ratio
        Largest over smallest weight between start and target, from 1 to 1e30 or ∞.
    bins
        Edges inside (start, target), increasing, at most 10 000: ω is constant between neighbouring edges (right-open
        bins); no edge means a constant weight. The Lipschitz bound then holds between the middles of neighbouring bins:
        half-way between the edges in the coordinate x, start and target being the outer edges.
    crowding
        κ, from -10 to 10: the elasticity of φ(ρ) = ρω(ρ) must not exceed it on a range (`theory.crowding`), that is,
        ωρ^(1-κ) must not increase there. Stands for itself: with no other constraint but the budget. None: no limit.
    crowding_range
        The range, two success probabilities from start to target; None: all the way.

    Raises
    ------
    ProblemError
        A ValueError that names the parameter and its valid range.

    Examples
    --------
    >>> from weightopt import Problem
    >>> problem = Problem(start=0.01, target=0.9, clock="effective", max_weight=3.0)
    >>> problem.constraints
    ['weights in [0, 3]']
    >>> Problem(start=0.9, target=0.1, clock="effective")
    Traceback (most recent call last):
    weightopt.errors.ProblemError: start must be below the target 0.1, got 0.9
    """

    kind: ClassVar[str] = "curve"
    start: float
    target: float
    clock: clocks.Clock
    mobility: dynamics.Mobility
    budget: float
    min_weight: float
    max_weight: float
    monotone: Monotone | None
    budget_density: LogLinear | None
    lipschitz: float
    lipschitz_in: Coordinate
    max_ratio: float
    bins: tuple[float, ...] | None
    crowding: float | None
    crowding_range: tuple[float, float] | None

    def __init__(
        self,
        start: float,
        target: float,
        clock: clocks.Clock | str,
        mobility: dynamics.Mobility | str = dynamics.NATURAL,
        budget: float = 1.0,
        min_weight: float = 0.0,
        max_weight: float = math.inf,
        monotone: Monotone | None = None,
        budget_density: LogLinear | None = None,
        lipschitz: float = math.inf,
        lipschitz_in: Coordinate = "log-odds",
        max_ratio: float = math.inf,
        bins: Iterable[float] | None = None,
        crowding: float | None = None,
        crowding_range: Iterable[float] | None = None,
    ) -> None:
        values = {
            "start": number("start", start),
            "target": number("target", target),
            "clock": _clock(clock),
            "mobility": _mobility(mobility),
            "budget": number("budget", budget),
            "min_weight": number("min_weight", min_weight),
            "max_weight": number("max_weight", max_weight),
            "monotone": monotone,
            "budget_density": budget_density,
            "lipschitz": number("lipschitz", lipschitz),
            "lipschitz_in": lipschitz_in,
            "max_ratio": number("max_ratio", max_ratio),
            "bins": None if bins is None else _edges(bins),
            "crowding": None if crowding is None else number("crowding", crowding),
            "crowding_range": crowding_range,
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)
        self._check()

    def _check(self) -> None:
        for field in ("start", "target"):
            value = getattr(self, field)
            if not EDGE <= value <= 1 - EDGE:
                raise ProblemError(field, f"must be a probability in (0, 1), from 1e-12 to 1 - 1e-12, got {value:g}")
        if not self.start < self.target:
            raise ProblemError("start", f"must be below the target {self.target!r}, got {self.start!r}")
        if quadrature.log_odds_distance(self.start, self.target) < NARROWEST:
            raise ProblemError(
                "start", f"must be below the target {self.target!r} by 1e-9 in log-odds at least, got {self.start!r}"
            )
        if not SMALLEST <= self.budget <= LARGEST:
            raise ProblemError("budget", f"must be a positive number, from 1e-30 to 1e30, got {self.budget:g}")
        if not 0 <= self.min_weight <= LARGEST:
            raise ProblemError("min_weight", f"must be a number from 0 to 1e30, got {self.min_weight:g}")
        if not (SMALLEST <= self.max_weight <= LARGEST or self.max_weight == math.inf):
            raise ProblemError("max_weight", f"must be a positive number, from 1e-30 to 1e30, got {self.max_weight:g}")
        if self.monotone not in (None, "decreasing", "increasing"):
            raise ProblemError("monotone", f"must be decreasing or increasing, got {self.monotone!r}")
        if not (self.budget_density is None or isinstance(self.budget_density, LogLinear)):
            raise ProblemError("budget_density", "must be measured values of the budget density, or absent")
        if not (0 <= self.lipschitz <= LARGEST or self.lipschitz == math.inf):
            raise ProblemError("lipschitz", f"must be a number from 0 to 1e30, got {self.lipschitz:g}")
        if self.lipschitz_in not in COORDINATES:
            raise ProblemError("lipschitz_in", f"must be log-odds or rho, got {str(self.lipschitz_in)[:40]!r}")
        if not (1 <= self.max_ratio <= LARGEST or self.max_ratio == math.inf):
            raise ProblemError("max_ratio", f"must be a number from 1 to 1e30, got {self.max_ratio:g}")
        self._check_bins()
        self._check_crowding()
        if self.min_weight > self.max_weight:
            raise ProblemError(
                "min_weight", f"must be at most max_weight, which is {self.max_weight:g}; got {self.min_weight:g}"
            )
        # The constant weight meets every constraint but the bounds, so these are all that can contradict the budget.
        # Equality is allowed: the one feasible weighting is then the bound itself.
        mean_weight = self.budget / self.extent
        if self.min_weight > mean_weight:
            raise ProblemError(
                "min_weight",
                f"must be at most {mean_weight:.6g}, the mean weight that spends the budget, or no weighting meets "
                f"the budget; got {self.min_weight:g}",
            )
        if self.max_weight < mean_weight:
            raise ProblemError(
                "max_weight",
                f"must be at least {mean_weight:.6g}, the mean weight that spends the budget, or no weighting spends "
                f"the budget; got {self.max_weight:g}",
            )

    def _check_bins(self) -> None:
        if self.bins is None:
            return
        if len(self.bins) > MOST_BINS:
            raise ProblemError("bins", f"must have at most {MOST_BINS} edges, has {len(self.bins)}")
        ends = (self.start, *self.bins, self.target)
        for left, right in itertools.pairwise(ends):
            if not left < right:
                raise ProblemError(
                    "bins",
                    f"must be edges that increase strictly between start {self.start!r} and target {self.target!r}; "
                    f"{right!r} follows {left!r}",
                )

    def _check_crowding(self) -> None:
        if self.crowding_range is not None:
            if self.crowding is None:
                raise ProblemError("crowding_range", "needs --crowding, the limit that it is about")
            object.__setattr__(self, "crowding_range", read_range(self.crowding_range, self.start, self.target))
        if self.crowding is None:
            return
        if not abs(self.crowding) <= LARGEST_CROWDING:
            raise ProblemError("crowding", f"of a curve must be a number from -10 to 10, got {self.crowding:g}")
        others = self._replace(crowding=None, crowding_range=None)
        if others != self.unconstrained:
            raise ProblemError("crowding", "of a curve must be its only constraint besides the budget")

    @property
    def pooled_on(self) -> tuple[float, float] | None:
        """Where ω times ρ^`tilt` must be monotone: all the way, on the range of a crowding limit, or nowhere."""
        if self.crowding is not None:
            return self.crowding_range or (self.start, self.target)
        return None if self.monotone is None else (self.start, self.target)

    @property
    def tilt(self) -> float:
        """1-κ under a crowding limit, else 0."""
        return 0.0 if self.crowding is None else 1 - self.crowding

    @property
    def bounded(self) -> bool:
        """Whether a bound on the weight could bind."""
        return self.min_weight > 0 or math.isfinite(self.max_weight)

    @property
    def only_budget(self) -> bool:
        """Whether the budget is the only constraint on the weight."""
        free = not self.bounded and math.isinf(self.lipschitz) and math.isinf(self.max_ratio)
        free = free and self.monotone is None and self.bins is None and self.crowding is None
        return free and self.lipschitz_in == "log-odds"

    @property
    def unconstrained(self) -> Problem:
        """The same problem without any constraint on the weight but the budget."""
        return self._replace(
            min_weight=0.0,
            max_weight=math.inf,
            monotone=None,
            max_ratio=math.inf,
            bins=None,
            crowding=None,
            crowding_range=None,
        ).without_slopes

    @property
    def without_slopes(self) -> Problem:
        """The same problem without its Lipschitz bound."""
        return self._replace(lipschitz=math.inf, lipschitz_in="log-odds")

    def starting_at(self, start: float) -> Problem:
        """The same problem from another start."""
        return self._replace(start=number("start", start))

    def _replace(self, **changed: Any) -> Problem:
        """A copy with other numbers; what is copied has been read, and is checked against them once more."""
        copy = object.__new__(Problem)
        for field in dataclasses.fields(self):
            object.__setattr__(copy, field.name, changed.get(field.name, getattr(self, field.name)))
        copy._check()
        return copy

    @property
    def label(self) -> str:
        """What a table of the answer is called."""
        limit = "" if self.crowding is None else f", crowding at most {self.crowding:g}"
        return f"Time-optimal, {self.clock.name} clock, {self.start:g} → {self.target:g}{limit}"

    @property
    def movement(self) -> str:
        """Clock and mobility in words."""
        return f"{self.clock.name} ({self.clock.reading}); mobility {self.mobility.name}"

    @property
    def bounds(self) -> tuple[float, float]:
        """(min_weight, max_weight)."""
        return self.min_weight, self.max_weight

    @property
    def slopes(self) -> tuple[float, float]:
        """Bounds on dω/dx: the Lipschitz bound, and 0 on the side that a monotone weighting excludes."""
        low = 0.0 if self.monotone == "increasing" else -self.lipschitz
        return low, 0.0 if self.monotone == "decreasing" else self.lipschitz

    def coordinate(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """x(ρ), in which the Lipschitz bound is stated; any shape."""
        return np.asarray(rho, dtype=np.float64) if self.lipschitz_in == "rho" else quadrature.log_odds(rho)

    @property
    def constraints(self) -> list[str]:
        """What the weight must satisfy besides the budget, in words."""
        words = []
        if self.bounded:
            words.append(f"weights in [{self.min_weight:g}, {self.max_weight:g}]")
        if self.monotone:
            words.append(self.monotone)
        if math.isfinite(self.lipschitz):
            words.append(f"Lipschitz {self.lipschitz:g} in {'ρ' if self.lipschitz_in == 'rho' else 'log-odds'}")
        if math.isfinite(self.max_ratio):
            words.append(f"largest over smallest at most {self.max_ratio:g}")
        if self.bins is not None:
            words.append(f"constant on {len(self.bins) + 1} bin{'s' if self.bins else ''}")
        if self.crowding is not None:
            low, high = self.crowding_range or (self.start, self.target)
            words.append(f"elasticity of ρω at most {self.crowding:g} from {low:.4g} to {high:.4g}")
        return words

    def cost_density(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """f = c/(κ p) at success probabilities of any shape: time per budget at unit weight."""
        density = dynamics.cost_density(rho, self.clock, self.mobility)
        return density if self.budget_density is None else density / self.budget_density(rho)

    @cached_property
    def extent(self) -> float:
        """∫ dm from start to target: the budget that weight 1 spends."""
        if self.budget_density is None:
            return self.target - self.start
        return float(np.sum(self.panels().weight))

    @cached_property
    def kinks(self) -> tuple[float, ...]:
        """Success probabilities inside (start, target) where a measured quantity has a kink."""
        measured = (self.clock, self.mobility, self.budget_density)
        kinks = {kink for function in measured if function is not None for kink in function.kinks}
        return tuple(sorted(kink for kink in kinks if self.start < kink < self.target))

    @cached_property
    def measured(self) -> tuple[LogLinear, ...]:
        """The measured functions among clock, mobility and budget density."""
        tables = (getattr(self.clock, "measured", None), self.mobility.measured, self.budget_density)
        return tuple(table for table in tables if table is not None)

    @cached_property
    def _steep(self) -> tuple[float, tuple[float, ...]]:
        """The largest slope of a measured logarithm over log-odds, and breaks where it changes too much for a panel."""
        steepest, breaks = 0.0, []
        if not self.measured:
            return steepest, ()
        ends = np.array([self.start, *self.kinks, self.target])
        change = np.sum([np.abs(np.diff(np.log(table(ends)))) for table in self.measured], axis=0)
        distance = np.log1p(np.diff(ends) / (ends[:-1] * (1 - ends[1:])))
        steepest = float(np.max(change / distance))
        for k in np.flatnonzero(change > LARGEST_CHANGE):
            pieces = math.ceil(float(change[k]) / LARGEST_CHANGE)
            rise = np.expm1(distance[k] * np.arange(1, pieces) / pieces)
            left = ends[k]  # as a difference to the left end a short way keeps its digits
            breaks += (left + left * (1 - left) * rise / (1 + left * rise)).tolist()
        return steepest, tuple(breaks)

    @property
    def rounding(self) -> float:
        """Relative error of f, of a weight and of a sum of them that rounding explains, generously."""
        edge = max(-math.log(self.start), -math.log1p(-self.target))
        logarithm = sum(2 * max(abs(math.log(value)) for value in table.value) for table in self.measured)
        # Weights between knots in log-odds lose what the log-odds lose.
        bent = self._steep[0] if math.isfinite(self.lipschitz) else 0.0
        return quadrature.EPS * (8 + edge * (1 + bent) + 2 * logarithm)

    def panels(
        self,
        breaks: Iterable[float] = (),
        width: float = quadrature.PANEL_WIDTH,
        between: tuple[float, float] | None = None,
        pieces: int = 1,
    ) -> quadrature.Panels:
        """Quadrature in the measure dm, from start to target or `between` two points; arguments as `panels`."""
        left, right = between or (self.start, self.target)
        steepest, steps = self._steep
        points = quadrature.panels(left, right, (*self.kinks, *steps, *breaks), width, pieces, 1 + steepest)
        if self.budget_density is None:
            return points
        return points._replace(weight=points.weight * self.budget_density(points.rho))

    def to_dict(self) -> dict[str, Any]:
        """The problem as JSON values; an infinite bound becomes null."""
        return {
            "kind": self.kind,
            "start": self.start,
            "target": self.target,
            "clock": _clock_value(self.clock),
            "mobility": _mobility_value(self.mobility),
            "budget": self.budget,
            "min_weight": self.min_weight,
            "max_weight": None if math.isinf(self.max_weight) else self.max_weight,
            "monotone": self.monotone,
            "budget_density": None if self.budget_density is None else _lists(self.budget_density),
            "lipschitz": None if math.isinf(self.lipschitz) else self.lipschitz,
            "lipschitz_in": self.lipschitz_in,
            "max_ratio": None if math.isinf(self.max_ratio) else self.max_ratio,
            "bins": None if self.bins is None else list(self.bins),
            "crowding": self.crowding,
            "crowding_range": None if self.crowding_range is None else list(self.crowding_range),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Problem:
        """The problem that `to_dict` described.

        Raises
        ------
        ProblemError
            If a key is missing, unknown or out of range.
        """
        values = read_fields(cls.kind, values, (field.name for field in dataclasses.fields(cls)), LATER)
        density = values["budget_density"]
        unbounded = {key: math.inf for key in ("max_weight", "lipschitz", "max_ratio") if values[key] is None}
        changed = {
            **unbounded,
            "clock": _clock_from(values["clock"]),
            "mobility": _mobility_from(values["mobility"]),
            "budget_density": None if density is None else _measured("budget_density", density),
        }
        return cls(**{**values, **changed})


def number(field: str, value: Any) -> float:
    """The value as a float; raises `ProblemError` in the name of the field if it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer) or value != value:
        raise ProblemError(field, f"must be a number, got {str(value)[:40]!r}")
    try:
        return float(value)
    except OverflowError:
        raise ProblemError(field, "must be a number of ordinary size") from None


def read_range(value: Any, least: float, largest: float) -> tuple[float, float]:
    """A range of success probabilities; raises `ProblemError` in the name of the crowding limit's range."""
    ends = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if len(ends) != 2:
        raise ProblemError("crowding_range", f"must be two success probabilities, got {str(value)[:40]!r}")
    low, high = (number("crowding_range", end) for end in ends)
    if not max(least, EDGE) <= low < high <= min(largest, 1 - EDGE):
        raise ProblemError(
            "crowding_range",
            f"must be two success probabilities from {max(least, EDGE):g} to {min(largest, 1 - EDGE):g}, the second "
            f"above the first, got {low:g} {high:g}",
        )
    return low, high


def _edges(bins: Any) -> tuple[float, ...]:
    if isinstance(bins, str) or not isinstance(bins, Iterable):
        raise ProblemError("bins", f"must be a list of numbers, got {str(bins)[:40]!r}")
    return tuple(number("bins", edge) for edge in bins)


def _clock(clock: clocks.Clock | str) -> clocks.Clock:
    if not isinstance(clock, str):  # first, since looking whether something is a clock takes longer
        if isinstance(clock, clocks.Clock):
            return clock
        raise ProblemError("clock", f"must be a clock or the name of one, got {str(clock)[:40]!r}")
    try:
        return clocks.parse(clock)
    except ValueError as error:
        raise ProblemError("clock", f"is not usable: {error}") from None


def _mobility(mobility: dynamics.Mobility | str) -> dynamics.Mobility:
    if isinstance(mobility, dynamics.Mobility):
        return mobility
    if not isinstance(mobility, str) or mobility not in dynamics.MOBILITIES:
        raise ProblemError("mobility", f"must be one of {', '.join(dynamics.MOBILITIES)}, got {str(mobility)[:40]!r}")
    return dynamics.MOBILITIES[mobility]


def _clock_value(clock: clocks.Clock) -> Any:
    """A clock as JSON: its name, or for a measured one all of its values."""
    if not isinstance(clock, clocks.Tabulated):
        return clock.name
    return {"kind": clock.kind, "source": clock.source, **_lists(clock.measured)}


def _clock_from(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    try:
        return clocks.Tabulated(str(value.get("kind")), str(value.get("source")), _measured("clock", value))
    except ProblemError:
        raise
    except ValueError as error:
        raise ProblemError("clock", f"is not usable: {error}") from None


def _mobility_value(mobility: dynamics.Mobility) -> Any:
    if mobility.measured is None:
        return mobility.name
    return {"name": mobility.name, "exponent": mobility.exponent, **_lists(mobility.measured)}


def _mobility_from(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if value.get("exponent") != 0:
        raise ProblemError("mobility", "measured must have exponent 0")
    return dynamics.Mobility(str(value.get("name")), 0, _measured("mobility", value))


def _lists(measured: LogLinear) -> dict[str, list[float]]:
    return {"rho": list(measured.rho), "value": list(measured.value)}


def _measured(field: str, value: Any) -> LogLinear:
    try:
        rho, numbers = value["rho"], value["value"]
        return LogLinear(tuple(number(field, x) for x in rho), tuple(number(field, x) for x in numbers))
    except (KeyError, TypeError):
        raise ProblemError(field, "must hold lists 'rho' and 'value'") from None
    except ProblemError:
        raise
    except ValueError as error:
        raise ProblemError(field, f"is not usable: {error}") from None
