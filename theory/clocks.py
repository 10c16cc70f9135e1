"""Clocks: what one unit of update time costs when the success probability is ρ.

A clock is a frozen, hashable object. Called with success probabilities it returns c(ρ) > 0. ``name`` is what the
command line and the files call it, and `parse` turns that text back into the clock. ``at_zero`` and ``at_one`` are
its leading terms (coefficient, exponent): c(ρ) ~ C ρ^p as ρ → 0 and c(ρ) ~ C (1-ρ)^p as ρ → 1, from which the
all-wrong and all-right rules of an optimal weighting follow as limits. ``kinks`` are the points where it is not smooth.

Every clock is the price of a loop, and ``loop`` names it (`LOOPS` describes them). The price is what the loop pays for
one unit of progress in log-odds times the unconditional speed u(ρ) of a group (for a curve ω(ρ)):

    loop                                  it pays for                   a unit of progress costs    clock
    fixed batch                           groups drawn                  1/u                         regular
    fixed batch                           tokens, of mean length L(ρ)   L/u                         tokens:FILE
    refill until mixed, m = P(mixed)      groups drawn, 1/m a kept one  (1/m)/(u/m) = 1/u           regular
    refill until mixed                    tokens drawn                  L/u                         tokens:FILE
    refill until mixed                    a a group drawn, b a kept one (a/m + b)/(u/m) = (a + bm)/u  refill:M,a,b
    draw until a success, learn from it   draws, 1/ρ                    (1/ρ)/ω                     effective
    draw until a success, learn from it   failures                      ((1-ρ)/ρ)/ω                 failures
    the same, a an update, b a draw                                     (a + b/ρ)/ω                 affine:a,b
    draw until a success, afresh until    draws, 1/ρ + 1/(1-ρ)          1/(ρ(1-ρ)ω)                 both
      a failure, learn from the pair

A *kept* group moves by u/m on average, not by u: with uniform groups left out, the mean over all groups is m times the
mean over the mixed ones. So refilling costs as many groups per progress as a fixed batch does. ``mixed:M`` and
``success:M`` charge the draws and let a kept group move by u; that is the price of a loop that refills and then divides
the loss by the groups drawn, which nobody runs: they are kept as thought experiments. `sim.loops` simulates every loop
of this table.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from theory.log_linear import LogLinear

Term = tuple[float, float]
CHOICES = "regular, effective, failures, both, variance, refill:M,a,b, affine:a,b, success:M, mixed:M"

NO_LOOP = "thought-experiment"
# What a loop does, by the name under which a clock and a table file speak of it.
LOOPS = {
    "fixed-batch": "a fixed number of groups a step, every one of them paid and used",
    "refill": "groups drawn until enough of them are mixed (dynamic sampling)",
    "until-success": "draws for a prompt until one response is right, and an update by that response",
    "until-both": "draws until one response is right, afresh until one is wrong, and an update by the pair",
    NO_LOOP: "no loop in use",
}


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
    @property
    def loops(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def paid_by(self) -> str: ...  # noqa: D102
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
    loops, paid_by
        Names in `LOOPS` of the loops that pay it, and the same in one line for people.
    """

    name: str
    reading: str
    at_success: int
    at_failure: int
    loops: tuple[str, ...]
    paid_by: str
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
REGULAR = Power(  # GRPO
    "regular",
    "update steps",
    0,
    0,
    ("fixed-batch", "refill"),
    "a fixed batch, in steps, groups or responses; or refilling until groups are mixed, in groups drawn",
)
EFFECTIVE = Power(  # Sqrt-R
    "effective",
    "expected draws per success",
    -1,
    0,
    ("until-success",),
    "drawing for a prompt until one response is right and updating by it, in responses",
)
FAILURES = Power(  # Linear-R
    "failures",
    "expected failures before a success",
    -1,
    1,
    ("until-success",),
    "drawing for a prompt until one response is right and updating by it, in wrong responses",
)
# 1/ρ + 1/(1-ρ). One search for both outcomes ends a draw earlier: 1/(ρ(1-ρ)) - 1.
BOTH = Power(  # Uniform-R
    "both",
    "draws until a success, and afresh until a failure",
    -1,
    -1,
    ("until-both",),
    "drawing until one response is right, afresh until one is wrong, and updating by the pair, in responses",
)
# 2ρ(1-ρ) of all pairs are mixed, so half of what refill:2,0,1 charges.
VARIANCE = Power(  # RLOO
    "variance",
    "variance of the reward",
    1,
    1,
    ("refill",),
    "refilling until pairs (M = 2) are mixed, in updates: draws are free",
)
PLAIN: dict[str, Clock] = {clock.name: clock for clock in (REGULAR, EFFECTIVE, FAILURES, BOTH, VARIANCE)}


def _check_group_size(clock: str, value: object, smallest: int, form: str = "M") -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and smallest <= value <= 65536):
        raise ValueError(
            f"clock '{clock}:{form}' needs a whole number M from {smallest} to 65536, got {str(value)[:40]}"
        )


def _check_prices(clock: str, first: float, second: float) -> None:
    if not all(x == 0 or 1e-30 <= x <= 1e30 for x in (first, second)) or first + second == 0:
        raise ValueError(
            f"clock '{clock}' needs a and b from 1e-30 to 1e30, one of them may be 0, got {first},{second}"
        )


def mixed_share(rho: NDArray[np.float64], group_size: int) -> NDArray[np.float64]:
    """m(ρ) = 1-ρ^M-(1-ρ)^M, the probability that a group holds both outcomes; any shape."""
    rare = np.minimum(rho, 1 - rho)
    # 1 - common^M through expm1: no cancellation where one outcome is rare.
    return -np.expm1(group_size * np.log1p(-rare)) - rare**group_size


@dataclasses.dataclass(frozen=True)
class Refill:
    """c = a + b m, m = 1-ρ^M-(1-ρ)^M: a for each group drawn and b for each group kept, with refilling (derived).

    The price of dynamic sampling where sampling and updating cost something each. A kept group takes 1/m draws and
    moves by u/m: (a/m + b)/(u/m) = (a + b m)/u. With b = 0 the regular clock; with a = 0 only updates count.

    Parameters
    ----------
    group_size
        M ≥ 2.
    draw, update
        a and b, each 0 or from 1e-30 to 1e30, not both 0.
    """

    group_size: int
    draw: float
    update: float
    kinks: tuple[float, ...] = dataclasses.field(default=(), init=False)
    loops: tuple[str, ...] = dataclasses.field(default=("refill",), init=False)

    def __post_init__(self) -> None:
        _check_group_size("refill", self.group_size, 2, "M,a,b")
        for field in ("draw", "update"):
            object.__setattr__(self, field, float(getattr(self, field)))
        _check_prices("refill:M,a,b", self.draw, self.update)

    @property
    def name(self) -> str:
        """``refill:M,a,b``."""
        return f"refill:{self.group_size},{self.draw!r},{self.update!r}"

    @property
    def reading(self) -> str:
        """One line for people."""
        return f"{self.draw:g} per group of {self.group_size} drawn + {self.update:g} per group kept"

    @property
    def paid_by(self) -> str:
        """One line for people."""
        return f"refilling until groups of {self.group_size} are mixed, in groups drawn and groups trained on"

    @property
    def at_zero(self) -> Term:
        """a, or b M ρ where draws are free."""
        return (self.draw, 0.0) if self.draw > 0 else (self.update * self.group_size, 1.0)

    @property
    def at_one(self) -> Term:
        """The clock is symmetric."""
        return self.at_zero

    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """c(ρ), any shape."""
        return self.draw + self.update * mixed_share(rho, self.group_size)


@dataclasses.dataclass(frozen=True)
class Mixed:
    """c = 1/(1-ρ^M-(1-ρ)^M): groups drawn per group with both outcomes, at the unconditional speed (derived).

    A thought experiment. Dynamic sampling draws that many groups, but a kept group moves further by the same factor, so
    that loop pays ``regular`` in groups drawn, and `Refill` where updates cost something too.

    Parameters
    ----------
    group_size
        M ≥ 2.
    """

    group_size: int
    kinks: tuple[float, ...] = dataclasses.field(default=(), init=False)
    loops: tuple[str, ...] = dataclasses.field(default=(NO_LOOP,), init=False)
    paid_by: str = dataclasses.field(
        default="no loop in use (a thought experiment): refilling until groups are mixed pays regular, in groups drawn",
        init=False,
    )

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
        return 1 / mixed_share(rho, self.group_size)


@dataclasses.dataclass(frozen=True)
class Success:
    """c = 1/(1-(1-ρ)^M): groups drawn per group with a success, at the unconditional speed (derived).

    A thought experiment for M > 1, as `Mixed` is: a kept group moves further by the same factor. For M = 1 it is the
    effective clock, whose loop learns from the success alone.

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
    def loops(self) -> tuple[str, ...]:
        """None in use but for M = 1."""
        return EFFECTIVE.loops if self.group_size == 1 else (NO_LOOP,)

    @property
    def paid_by(self) -> str:
        """One line for people."""
        if self.group_size == 1:
            return EFFECTIVE.paid_by
        return (
            "no loop in use (a thought experiment): refilling until groups have a success pays regular, in groups drawn"
        )

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

    Paid by the loop of the effective clock where updates cost something too.

    Parameters
    ----------
    update, response
        a and b, each 0 or from 1e-30 to 1e30, not both 0.
    """

    update: float
    response: float
    kinks: tuple[float, ...] = dataclasses.field(default=(), init=False)
    loops: tuple[str, ...] = dataclasses.field(default=("until-success",), init=False)
    paid_by: str = dataclasses.field(
        default="drawing for a prompt until one response is right and updating by it, in responses and updates",
        init=False,
    )

    def __post_init__(self) -> None:
        for field in ("update", "response"):
            object.__setattr__(self, field, float(getattr(self, field)))
        _check_prices("affine:a,b", self.update, self.response)

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
    def loops(self) -> tuple[str, ...]:
        """A cost of an update is that of a fixed batch; tokens drawn per progress do not change with refilling."""
        return _PAID[self.kind][0]

    @property
    def paid_by(self) -> str:
        """One line for people."""
        return _PAID[self.kind][1]

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
_PAID = {
    "csv": (("fixed-batch",), "a fixed batch, in what was measured for an update"),
    "tokens": (
        ("fixed-batch", "refill"),
        "a fixed batch, in tokens; or refilling until groups are mixed, in tokens drawn",
    ),
    "tokens-effective": (
        ("until-success",),
        "drawing for a prompt until one response is right and updating by it, in tokens",
    ),
}


def made_for(clock: Clock, group_size: int | None = None) -> tuple[tuple[str, ...], str]:
    """For which loop weights are made that are best under a clock.

    A curve is read at the success probability itself, and its loops are the clock's. A table for groups of M moves by
    groups: a clock that prices an update by a single success, or groups of another size, is then paid by no loop.

    Parameters
    ----------
    clock
        Any clock.
    group_size
        M of a table for groups; None for a curve.

    Returns
    -------
    loops : tuple of str
        Names in `LOOPS`.
    line : str
        The same in one line, with what the loop pays for.
    """
    if group_size is None:
        return clock.loops, clock.paid_by
    size = clock.group_size if isinstance(clock, Refill) else 2 if clock == VARIANCE else group_size
    if size != group_size:
        return (NO_LOOP,), f"no loop in use (a thought experiment): this clock is paid for groups of {size}"
    if set(clock.loops) <= {"until-success", "until-both"}:
        return (NO_LOOP,), (
            "no loop in use (a thought experiment): this clock is paid by updates from single responses, "
            f"not from groups of {group_size}"
        )
    return clock.loops, clock.paid_by


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
        if name == "refill":
            size, draw, update = arguments.split(",")
            return Refill(int(size), float(draw), float(update))
    except ValueError as error:
        if str(error).startswith("clock"):
            raise
    raise ValueError(f"unknown clock {text[:40]!r}; choose one of {CHOICES} (such as mixed:16 or affine:1,0.5)")
