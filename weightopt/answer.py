"""Answers: what a solve found, the proof of how good it is, and the checks that the proof passed.

One noun for every kind of problem. A kind adds what it found (a curve, a table of advantages) and its own numbers.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from weightopt.errors import SolverError
from weightopt.table import TableError, WeightTable

FEASIBLE = 1e-9  # largest relative error of the budget, and largest violation of a constraint


class Status(enum.Enum):
    """How a solve ended; the value is the sentence for the user."""

    OPTIMAL = "optimal: proven within the certified gap of the best possible time"
    BEST_FOUND = "best found: a local optimum, proven within the certified gap of a bound for all weights"
    UNCERTIFIED = "not certified: the gap exceeds the tolerance, so the weighting may not be the best"


class Promise(NamedTuple):
    """What a method promises of its answers.

    Attributes
    ----------
    gap
        Largest certified gap; ∞ where none is promised.
    feasible
        Largest relative error of the budget and violation of a constraint.
    """

    gap: float
    feasible: float = FEASIBLE


CONVEX = Promise(1e-4, 1e-7)  # the convex road: prices of an interior-point method are less exact than its times


class Check(NamedTuple):
    """One check of an answer: a number, the largest that is accepted, and what more there is to say."""

    name: str
    value: float
    limit: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value is a number within the limit."""
        return self.value <= self.limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
    """Proof of how good weights are, from the problem and the weights alone.

    Attributes
    ----------
    lower_bound
        Nothing that the problem allows does better; what quadrature and rounding can have added is subtracted.
    gap
        How much worse than the best the weights can be, relatively: (objective - lower_bound)/lower_bound with the
        error of the objective charged against it; ≥ 0.
    quadrature_error
        Relative error charged to objective or bound, the larger: twice what halving every panel changes, and rounding.
    budget_error
        Budget spent over the budget, minus 1.
    violation
        Largest relative violation of a constraint.
    """

    lower_bound: float
    gap: float
    quadrature_error: float
    budget_error: float
    violation: float

    @property
    def objective(self) -> float:
        """What was minimised."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeCertificate(Certificate):
    """Proof of how fast weights are.

    Attributes
    ----------
    time
        T, charged in proportion where the weights spend more than the budget.
    multiplier
        The price of the budget: for a curve λ = -dT*/dB, for a table the largest saving of time over price of budget.
    """

    time: float
    multiplier: float

    @property
    def objective(self) -> float:
        """The time."""
        return self.time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer to a problem.

    Attributes
    ----------
    problem
        What was asked.
    certificate
        Proof from the problem and the weights alone, whoever found them.
    method
        How they were found.
    promise
        What the checks hold the answer to.
    cross_checks
        Checks beyond the certificate, by a method that shares no code with it.
    """

    # How far a certificate that is computed elsewhere may be from a stated one, relatively: other versions of numpy
    # and scipy, and other processors, differ in the last digits.
    ROUNDING: ClassVar[float] = 1e-9

    problem: Any
    certificate: Certificate
    method: str
    promise: Promise
    cross_checks: tuple[Check, ...] = ()

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every check with its number and limit: budget, constraints, the gap where one is promised, cross-checks."""
        proof = self.certificate
        gap = (Check("gap", proof.gap, self.promise.gap),) if math.isfinite(self.promise.gap) else ()
        return (
            Check("budget", abs(proof.budget_error), self.promise.feasible),
            Check("constraints", proof.violation, self.promise.feasible),
            *gap,
            *self.cross_checks,
        )

    @property
    def stated(self) -> dict[str, Any]:
        """What a table file says of the certificate: its numbers, and the limit of every check they are held to."""
        promise = self.promise
        gap = {"gap": promise.gap} if math.isfinite(promise.gap) else {}
        limits = {"budget": promise.feasible, "constraints": promise.feasible, **gap}
        return {**self.certificate.to_dict(), "checks": limits}

    @property
    def status(self) -> Status:
        """Optimal if every check passed."""
        return Status.OPTIMAL if all(check.passed for check in self.checks) else Status.UNCERTIFIED

    @property
    def objective(self) -> float:
        """What was minimised: the time, or for a range of starts the worst ratio."""
        return self.certificate.objective

    @property
    def lower_bound(self) -> float:
        """Nothing that the problem allows does better."""
        return self.certificate.lower_bound

    @property
    def gap(self) -> float:
        """Certified relative gap (objective - lower_bound)/lower_bound."""
        return self.certificate.gap

    def certified(self, throw: bool = True, cause: str = "") -> None:
        """Raise SolverError if `throw` and a check failed; `cause` says what is likely to blame."""
        if throw and self.status is Status.UNCERTIFIED:
            failed = ", ".join(
                f"{check.name} {check.value:.1e}, tolerance {check.limit:g}"
                for check in self.checks
                if not check.passed
            )
            raise SolverError(f"{self.status.value} ({failed}{cause})")

    def table(
        self, group_size: int | None = None, all_wrong: float | None = None, all_right: float | None = None
    ) -> WeightTable:
        """The weights as a table, with problem and certificate inside.

        Parameters
        ----------
        group_size
            M. A curve without it stays a curve, which fits any group size; a table for groups has one of its own.
        all_wrong, all_right
            Advantage in all-wrong and all-right groups; default what the weights imply.

        Raises
        ------
        TableError
            If a limit is infinite and not overridden, or the group size is out of range.
        """
        raise NotImplementedError

    def reading_cost(self, curve: WeightTable) -> float | None:  # noqa: ARG002
        """By what the time of a curve read between its points exceeds the answer's, relatively; None where unknown."""
        return None

    def headline(self) -> str:
        """What was asked, in one line."""
        raise NotImplementedError

    def facts(self) -> dict[str, str]:
        """What there is to say about the answer, by name, in the order in which it is printed."""
        return {
            **self.about(),
            "status": self.status.value,
            **self.measures(),
            "gap": f"{self.gap:.2e} (certified, relative)",
            **{check.name: f"{check.value:.1e} (at most {check.limit:g}){check.note}" for check in self.cross_checks},
            "method": self.method,
        }

    def about(self) -> dict[str, str]:
        """Facts about the problem."""
        return {}

    def measures(self) -> dict[str, str]:
        """Objective and lower bound in words."""
        return {"time": f"{self.objective:.12g}", "lower bound": f"{self.lower_bound:.12g}"}

    def numbers(self) -> dict[str, Any]:
        """What was found, as JSON values."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The whole answer as JSON values."""
        return {
            "status": self.status.name.lower().replace("_", "-"),
            "time": self.objective,
            "lower_bound": self.lower_bound,
            "gap": self.gap,
            **self.numbers(),
            "problem": self.problem.to_dict(),
            "certificate": self.certificate.to_dict(),
            "checks": [{**check._asdict(), "passed": check.passed} for check in self.checks],
            "method": self.method,
        }

    def __str__(self) -> str:
        return "\n".join([self.headline(), *(f"  {name:<12} {text}" for name, text in self.facts().items())])


def promised(promises: Mapping[str, Promise], table: WeightTable) -> tuple[str, Promise]:
    """The method that a table names, and what it promises; refuses a name that is none."""
    method = table.provenance.get("method")
    if not isinstance(method, str) or method not in promises:
        raise TableError("key 'provenance.method' names no method for this problem; build the table again.")
    return method, promises[method]
