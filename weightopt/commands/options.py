"""Options that several commands share, and the problem they describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from weightopt.problem import Problem

CLOCKS = (
    "regular, effective, failures, both, variance, success:M, mixed:M, affine:a,b (a + b/ρ); or measured, "
    "two columns in a CSV file: "
    "csv:FILE (rho,cost), tokens:FILE (rho,tokens: response length, paid per update), tokens-effective:FILE "
    "(the same, paid per draw until a success)"
)

Start = Annotated[float, typer.Option(help="Success probability at the start, in (0, 1).")]
Target = Annotated[float, typer.Option(help="Success probability to reach, in (0, 1), above the start.")]
ClockName = Annotated[str, typer.Option(help=f"What time costs: {CLOCKS}.")]
MobilityName = Annotated[
    str,
    typer.Option(help="How the policy moves: natural ρ(1-ρ), softmax-gradient ρ²(1-ρ)², or csv:FILE (rho,mobility)."),
]
Density = Annotated[
    Path | None,
    typer.Option(help="CSV file (rho,density): how much budget a unit of weight costs at ρ; default 1 everywhere."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Output = Annotated[Path | None, typer.Option(help="Write the table to this JSON file.")]
Csv = Annotated[Path | None, typer.Option(help="Write the same numbers to this CSV file.")]
GroupSize = Annotated[
    int | None, typer.Option(help="Responses per prompt M: tabulate advantages for groups of M instead of a curve.")
]
StepModelName = Annotated[
    str,
    typer.Option(
        help="How a group moves the policy: ratio, each outcome's share of the group over its probability, or "
        "outcome, each outcome that was seen by its own advantage. Ratio is the "
        "direction of a policy gradient, which moves log-odds ρ(1-ρ) times as fast."
    ),
]
BudgetKindName = Annotated[
    str,
    typer.Option(
        help="What the budget counts: drift, the expected log-odds gained, so that no table beats the curve; or "
        "advantage-variance, the mean squared advantage, which pays for sampling noise too. Drift is the default "
        "because it is the budget of the curve, with which a table can then be compared; "
        "the other one trained better in the one test that was made."
    ),
]
ShapeName = Annotated[
    str,
    typer.Option(
        help="Table: convex, nonincreasing or free in the number correct. The free optimum is sparse and jagged; "
        "a convex one costs a few per cent at most and is what one would train with."
    ),
]
AllWrong = Annotated[
    float | None,
    typer.Option(help="Advantage in all-wrong groups; default the limit of -ρω at ρ = 0, or what is published."),
]
AllRight = Annotated[
    float | None,
    typer.Option(help="Advantage in all-right groups; default the limit of (1-ρ)ω at ρ = 1, or what is published."),
]


def read_problem(
    *, start: float, target: float, clock: str, mobility: str, budget_density: Path | None, **values: Any
) -> Problem:
    """The problem of the command line, with whatever was measured read from its files."""
    from weightopt.measured import read_clock, read_density, read_mobility
    from weightopt.problem import Problem

    Problem(start, target, "regular")  # so that start and target are known to be sound before a file must cover them
    return Problem(
        start,
        target,
        read_clock(clock, start, target),
        read_mobility(mobility, start, target),
        budget_density=None if budget_density is None else read_density(str(budget_density), start, target),
        **values,
    )


def read_numbers(field: str, text: str) -> list[float]:
    """Numbers between commas; none in an empty text.

    Raises
    ------
    ProblemError
        In the name of the option, if something is not a number.
    """
    from weightopt.errors import ProblemError

    numbers = []
    for word in text.split(",") if text.strip() else []:
        try:
            numbers.append(float(word))
        except ValueError:
            raise ProblemError(field, f"must be numbers between commas, got {word.strip()[:40]!r}") from None
    return numbers
