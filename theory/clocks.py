"""Clocks: what one unit of update time costs when the success probability is ρ.

A clock is a frozen, hashable object. Called with success probabilities it returns c(ρ) > 0. ``name`` is what the
command line and the files call it, and `parse` turns that text back into the clock. ``at_zero`` and ``at_one`` are
its leading terms (coefficient, exponent): c(ρ) ~ C ρ^p as ρ → 0 and c(ρ) ~ C (1-ρ)^p as ρ → 1, from which the
all-wrong and all-right rules of an optimal weighting follow as limits. ``kinks`` are the points where it is not smooth.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from theory.log_linear import LogLinear

Term = tuple[float, float]
CHOICES = "regular, effective, failures, both, variance, success:M, mixed:M, affine:a,b"


@runtime_checkable
class Clock(Protocol):
    """c(ρ): cost of one unit of update time."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def reading(self) -> str: ...  # noqa: D102
    @property
    def at_zero(self) -> Term: ...  # noqa: D102
    @property
    def at_one(self) -> Term: ...  # noqa: D102
    @property
    def kinks(self) -> tuple[float, ...]: ...  # noqa: D102
    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Power:
    """c = ρ^p (1-ρ)^q.

    Parameters
    ----------
    name, reading
        What the command line calls it, and one line for people.
    at_success, at_failure
        p and q, each -1, 0 or 1.
    """

    name: str
    reading: str
    at_success: int
    at_failure: int
    kinks: tuple[float, ...] = dataclasses.field(default=(), init=False)

    @property
    def at_zero(self) -> Term:
        """ρ^p."""
        return (1.0, float(self.at_success))

    @property
    def at_one(self) -> Term:
        """(1-ρ)^q."""
        return (1.0, float(self.at_failure))

    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """c(ρ), any shape."""
        value = np.ones_like(rho)
        for x, exponent in ((1 - rho, self.at_failure), (rho, self.at_success)):
            if exponent:
                value = value * x if exponent > 0 else value / x
        return value


# The first two are arXiv 2602.11128's, the others derived: each makes one named weighting optimal.
REGULAR = Power("regular", "update steps", 0, 0)  # GRPO
EFFECTIVE = Power("effective", "expected draws per success", -1, 0)  # Sqrt-R
FAILURES = Power("failures", "expected failures before a success", -1, 1)  # Linear-R
BOTH = Power("both", "draws until both outcomes are seen, roughly", -1, -1)  # Uniform-R
VARIANCE = Power("variance", "variance of the reward", 1, 1)  # RLOO
PLAIN: dict[str, Clock] = {clock.name: clock for clock in (REGULAR, EFFECTIVE, FAILURES, BOTH, VARIANCE)}


def _check_group_size(clock: str, value: object, smallest: int) -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and smallest <= value <= 65536):
        raise ValueError(f"clock '{clock}:M' needs a whole number M from {smallest} to 65536, got {str(value)[:40]}")


@dataclasses.dataclass(frozen=True)
class Mixed:
    """c = 1/(1-ρ^M-(1-ρ)^M): groups drawn per group with both outcomes, as in dynamic sampling (derived).

    Parameters
    ----------
    group_size
        M ≥ 2.
    """

    group_size: int
    kinks: tuple[float, ...] = dataclasses.field(default=(), init=False)

    def __post_init__(self) -> None:
        _check_group_size("mixed", self.group_size, 2)

    @property
    def name(self) -> str:
        """``mixed:M``."""
        return f"mixed:{self.group_size}"

    @property
    def reading(self) -> str:
        """One line for people."""
        return f"groups of {self.group_size} drawn per group with both outcomes"

    @property
    def at_zero(self) -> Term:
        """1-ρ^M-(1-ρ)^M ~ Mρ, for every M ≥ 2."""
        return (1 / self.group_size, -1.0)

    @property
    def at_one(self) -> Term:
        """The clock is symmetric."""
        return self.at_zero

    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """c(ρ), any shape."""
        rare = np.minimum(rho, 1 - rho)
        # 1 - common^M through expm1: no cancellation where one outcome is rare.
        return 1 / (-np.expm1(self.group_size * np.log1p(-rare)) - rare**self.group_size)


@dataclasses.dataclass(frozen=True)
class Success:
    """c = 1/(1-(1-ρ)^M): groups drawn per group with a success (derived).

    Parameters
    ----------
    group_size
        M ≥ 1; for M = 1 the effective clock.
    """

    group_size: int
    kinks: tuple[float, ...] = dataclasses.field(default=(), init=False)

    def __post_init__(self) -> None:
        _check_group_size("success", self.group_size, 1)

    @property
    def name(self) -> str:
        """``success:M``."""
        return f"success:{self.group_size}"

    @property
    def reading(self) -> str:
        """One line for people."""
        return f"groups of {self.group_size} drawn per group with a success"

    @property
    def at_zero(self) -> Term:
        """1-(1-ρ)^M ~ Mρ."""
        return (1 / self.group_size, -1.0)

    @property
    def at_one(self) -> Term:
        """c → 1: one group is enough."""
        return (1.0, 0.0)

    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """c(ρ), any shape."""
        return -1 / np.expm1(self.group_size * np.log1p(-rho))


@dataclasses.dataclass(frozen=True)
class Affine:
    """c = a + b/ρ: an update costs a, the responses until a success cost b each (derived).

    Parameters
    ----------
    update, response
        a and b, each 0 or from 1e-30 to 1e30, not both 0.
    """

    update: float
    response: float
    kinks: tuple[float, ...] = dataclasses.field(default=(), init=False)

    def __post_init__(self) -> None:
        for field in ("update", "response"):
            object.__setattr__(self, field, float(getattr(self, field)))
        fine = all(x == 0 or 1e-30 <= x <= 1e30 for x in (self.update, self.response))
        if not fine or self.update + self.response == 0:
            raise ValueError(
                f"clock 'affine:a,b' needs a and b from 1e-30 to 1e30, one of them may be 0, "
                f"got {self.update},{self.response}"
            )

    @property
    def name(self) -> str:
        """``affine:a,b``."""
        return f"affine:{self.update!r},{self.response!r}"

    @property
    def reading(self) -> str:
        """One line for people."""
        return f"{self.update:g} per update + {self.response:g} per draw until a success"

    @property
    def at_zero(self) -> Term:
        """b/ρ, or a where responses are free."""
        return (self.response, -1.0) if self.response > 0 else (self.update, 0.0)

    @property
    def at_one(self) -> Term:
        """c → a + b: the update and one draw."""
        return (self.update + self.response, 0.0)

    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """c(ρ), any shape."""
        return self.update + self.response / rho


@dataclasses.dataclass(frozen=True)
class Tabulated:
    """A clock from measured values m(ρ): c = m, or c = m/ρ where a cost is paid for every draw until a success.

    Parameters
    ----------
    kind
        What was measured: "csv" is any cost, "tokens" the mean response length, paid per update, and
        "tokens-effective" the same, paid per draw until a success.
    source
        Where the values come from, for people.
    measured
        m(ρ).
    """

    kind: str
    source: str
    measured: LogLinear

    def __post_init__(self) -> None:
        if self.kind not in TABULATED:
            raise ValueError(f"a measured clock must be one of {', '.join(TABULATED)}, got {self.kind!r}")

    @property
    def name(self) -> str:
        """``kind:source``."""
        return f"{self.kind}:{self.source}"

    @property
    def reading(self) -> str:
        """One line for people."""
        return TABULATED[self.kind]

    @property
    def at_zero(self) -> Term:
        """The first value is kept towards 0."""
        return (self.measured.value[0], -1.0 if self.kind == "tokens-effective" else 0.0)

    @property
    def at_one(self) -> Term:
        """The last value is kept towards 1."""
        return (self.measured.value[-1], 0.0)

    @property
    def kinks(self) -> tuple[float, ...]:
        """At the measured points."""
        return self.measured.kinks

    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """c(ρ), any shape."""
        value = self.measured(rho)
        return value / rho if self.kind == "tokens-effective" else value


TABULATED = {
    "csv": "measured cost of an update",
    "tokens": "tokens of a response in an update",
    "tokens-effective": "expected tokens per success",
}


def parse(text: str) -> Clock:
    """The clock of that name.

    Parameters
    ----------
    text
        One of `CHOICES`, such as ``effective``, ``mixed:16`` or ``affine:1,0.5``.

    Raises
    ------
    ValueError
        With one sentence that names the choices.
    """
    name, _, arguments = text.partition(":")
    if text in PLAIN:
        return PLAIN[text]
    try:
        if name == "mixed":
            return Mixed(int(arguments))
        if name == "success":
            return Success(int(arguments))
        if name == "affine":
            update, response = arguments.split(",")
            return Affine(float(update), float(response))
    except ValueError as error:
        if str(error).startswith("clock"):
            raise
    raise ValueError(f"unknown clock {text[:40]!r}; choose one of {CHOICES} (such as mixed:16 or affine:1,0.5)")
