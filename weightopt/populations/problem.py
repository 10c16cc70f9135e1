"""The problem of a population: many prompts, one budget of weight a step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from theory.quadrature import log_odds
from theory.step_budgets import BUDGETS, StepBudget
from weightopt.errors import ProblemError
from weightopt.fields import read_fields

Array = NDArray[np.float64]
BudgetKind = Literal["weight", "kl", "square"]
ClockName = Literal["regular", "effective"]
CLOCKS: Mapping[ClockName, str] = {
    "regular": "update steps",
    "effective": "draws per prompt until it succeeds",
}

MAX_PROMPTS = 2000
HARDEST, EASIEST = 1e-6, 1 - 1e-9  # success probabilities at the start lie between
MARGIN = 1e-6  # between target and what is there already or never reached
KNOTS = 41  # of a shared weighting


@dataclasses.dataclass(frozen=True)
class Population:
    """Where many prompts start: what every problem of a population begins with.

    Parameters
    ----------
    source
        Where the rates come from, for people.
    rates
        Success probabilities at the start, strictly increasing, 1e-6 to 1 - 1e-9, at most 2000.
    counts
        How many prompts have each, at least 1.

    Raises
    ------
    ProblemError
        If a parameter is out of range.
    """

    source: str
    rates: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source.isprintable():
            raise ProblemError("source", "must be one line of text")
        sizes = len(self.rates), len(self.counts)
        if sizes[0] != sizes[1] or not 1 <= sizes[0] <= MAX_PROMPTS:
            raise ProblemError("rates", f"and counts must be of equal length from 1 to {MAX_PROMPTS}, got {sizes}")
        if not all(type(rate) is float and HARDEST <= rate <= EASIEST for rate in self.rates):
            raise ProblemError("rates", "must be success probabilities from 1e-6 to 1 - 1e-9")
        if any(left >= right for left, right in zip(self.rates, self.rates[1:], strict=False)):
            raise ProblemError("rates", "must be strictly increasing")
        if not all(type(count) is int and 1 <= count <= 10**12 for count in self.counts):
            raise ProblemError("counts", "must be whole numbers from 1 to 1e12")

    @cached_property
    def _rates(self) -> Array:
        return np.array(self.rates)

    @cached_property
    def share(self) -> Array:
        """Share of each rate in the population, shape (n,), sum 1."""
        counts = np.array(self.counts, dtype=np.float64)
        return counts / np.sum(counts)

    @cached_property
    def theta(self) -> Array:
        """Log-odds at the start, shape (n,)."""
        return log_odds(self._rates)

    @property
    def mean(self) -> float:
        """Mean success at the start."""
        return float(self._rates @ self.share)


def check_numbers(problem: Any, *fields: str) -> None:
    """Refuse a field that is no number; raises `ProblemError`."""
    for field in fields:
        value = getattr(problem, field)
        if isinstance(value, bool) or not isinstance(value, float | int) or value != value:
            raise ProblemError(field, f"must be a number, got {str(value)[:40]!r}")


def check_scale(budget: float, steepness: float) -> None:
    """Refuse a budget or a steepness that is out of range; raises `ProblemError`."""
    if not 1e-6 <= budget <= 1e6:
        raise ProblemError("budget", f"must be a positive number, from 1e-6 to 1e6, got {budget:g}")
    if not 1 <= steepness <= 2.5:
        raise ProblemError(
            "steepness",
            f"must be a number from 1, which every named weighting keeps to, up to 2.5; got {steepness:g}",
        )


def read_lists(values: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Rates and counts of a serialised population as tuples; raises `ProblemError`."""
    lists = {}
    for key in ("rates", "counts"):
        if not isinstance(values[key], list | tuple):
            raise ProblemError(key, "must be a list of numbers")
        lists[key] = tuple(values[key])
    return lists


@dataclasses.dataclass(frozen=True)
class PopulationProblem(Population):
    """Raise the mean success of a population to a target in least time, at most a budget of weight in each step.

    It holds no arrays: it compares, hashes and serialises.

    Parameters
    ----------
    source, rates, counts
        See `Population`.
    target
        Mean success to reach: above the mean of the start, below what is reached when every prompt is solved.
    budget_kind
        Which norm of the weights a step may spend, see `theory.step_budgets`. "weight", "kl" or "square".
    clock
        "regular" or "effective".
    budget
        b, what a step may spend, 1e-6 to 1e6; times are proportional to 1/b.
    solved
        From this success probability on a prompt has no weight and costs no budget, from 0.5 to 0.9999.
    steepness
        Largest |d ln ω / d log-odds| of the shared weighting searched for, 1 to 2.5. No named one exceeds 1. Without a
        limit the best shared weighting under the mean weight is degenerate: nothing for the hard prompts, infinitely
        much for the others until they meet at one level, as the optimum over all weights does.

    Raises
    ------
    ProblemError
        If a parameter is out of range.

    Examples
    --------
    >>> from weightopt import PopulationProblem, solve
    >>> answer = solve(PopulationProblem("three kinds of prompt", (0.05, 0.3, 0.7), (5, 3, 2), target=0.6))
    >>> answer.lower_bound <= answer.time
    True
    """

    kind: ClassVar[str] = "population"
    target: float
    budget_kind: BudgetKind = "weight"
    clock: ClockName = "regular"
    budget: float = 1.0
    solved: float = 0.99
    steepness: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "solved", "budget", "steepness", "target")
        if self.budget_kind not in BUDGETS:
            raise ProblemError(
                "budget_kind", f"must be one of {', '.join(BUDGETS)}, got {str(self.budget_kind)[:40]!r}"
            )
        if self.clock not in CLOCKS:
            raise ProblemError("clock", f"of a population must be regular or effective, got {str(self.clock)[:40]!r}")
        if not 0.5 <= self.solved <= 0.9999:
            raise ProblemError("solved", f"must be a success probability from 0.5 to 0.9999, got {self.solved!r}")
        check_scale(self.budget, self.steepness)
        mean, most = self.mean, float(np.maximum(self._rates, self.solved) @ self.share)
        if not mean + MARGIN <= self.target <= most - MARGIN:
            raise ProblemError(
                "target",
                f"must lie above the mean success at the start, {mean:.6g}, and below {most:.6g}, the mean when every "
                f"prompt has reached {self.solved:g}, by 1e-6 at least; got {self.target!r}",
            )

    @property
    def norm(self) -> StepBudget:
        """The budget's norm."""
        return BUDGETS[self.budget_kind]

    @property
    def reading(self) -> str:
        """The budget in words."""
        return f"{self.norm.reading}: {self.budget:g} per step; no weight from success {self.solved:g} on"

    def knots(self, width: float | None = None) -> Array:
        """Success probabilities, even in log-odds, from the hardest prompt to where prompts are solved, both exact.

        `KNOTS` of them, or as many as keep within `width` of each other.
        """
        low, high = float(self.theta[0]), float(log_odds(self.solved))
        count = KNOTS if width is None else max(2, math.ceil((high - low) / width) + 1)
        rho = expit(np.linspace(low, high, count))
        rho[0], rho[-1] = self.rates[0], self.solved
        return rho

    def to_dict(self) -> dict[str, Any]:
        """The problem as JSON values."""
        values = {**dataclasses.asdict(self), "rates": list(self.rates), "counts": list(self.counts)}
        return {"kind": self.kind, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PopulationProblem:
        """The problem that `to_dict` described; raises ProblemError if a key is missing, unknown or out of range."""
        values = read_fields(cls.kind, values, (field.name for field in dataclasses.fields(cls)))
        return cls(**{**values, **read_lists(values)})
