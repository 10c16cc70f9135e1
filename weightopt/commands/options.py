"""Options that several commands share, as records with their defaults, and the problems they describe."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from weightopt.commands.output import refuse

if TYPE_CHECKING:
    from weightopt.curves.problem import Problem
    from weightopt.groups.group import GroupProblem

CLOCKS = (
    "regular (a fixed batch; or refilling, in groups drawn), refill:M,a,b (refilling: a for a group drawn, b for one "
    "trained on), effective, failures, affine:a,b (a + b/ρ), both (these draw until a success), variance, success:M, "
    "mixed:M (thought experiments); or measured, "
    "two columns in a CSV file: "
    "csv:FILE (rho,cost), tokens:FILE (rho,tokens: response length, paid per update), tokens-effective:FILE "
    "(the same, paid per draw until a success)"
)

# Headings of the help.
CURVE, CONSTRAINTS, CROWDING, GROUP, OUTPUT = "Curve", "Constraints on the curve", "Crowding limit", "Group", "Output"

Start = Annotated[float, typer.Option(help="Success probability at the start, in (0, 1).", rich_help_panel=CURVE)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of a table.", rich_help_panel=OUTPUT)
]
RayCluster = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Spread over this Ray cluster, HOST:PORT; without an address over the one that this machine is part of.",
    ),
]
Output = Annotated[Path | None, typer.Option(help="Write the table to this JSON file.", rich_help_panel=OUTPUT)]
Csv = Annotated[Path | None, typer.Option(help="Write the same numbers to this CSV file.", rich_help_panel=OUTPUT)]
GroupSize = Annotated[
    int | None,
    typer.Option(
        help="Responses per prompt M: tabulate advantages for groups of M instead of a curve.", rich_help_panel=GROUP
    ),
]
AllWrong = Annotated[
    float | None,
    typer.Option(
        help="Advantage in all-wrong groups; default the limit of -ρω at ρ = 0, or what is published.",
        rich_help_panel=GROUP,
    ),
]
AllRight = Annotated[
    float | None,
    typer.Option(
        help="Advantage in all-right groups; default the limit of (1-ρ)ω at ρ = 1, or what is published.",
        rich_help_panel=GROUP,
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """From where to where is not all: what time costs, how the policy moves, and what the budget is."""

    panel: ClassVar = CURVE

    target: Annotated[float, typer.Option(help="Success probability to reach, in (0, 1), above the start.")]
    clock: Annotated[
        str, typer.Option(help=f"What time costs: {CLOCKS}. Between rows of a file ln cost is linear in log-odds.")
    ]
    mobility: Annotated[
        str,
        typer.Option(
            help="How the policy moves: natural ρ(1-ρ), softmax-gradient ρ²(1-ρ)², or csv:FILE (rho,mobility)."
        ),
    ] = "natural"
    budget: Annotated[
        float, typer.Option(help="Update budget, positive: ∫ω dρ, or what --budget-density and --budget-kind make it.")
    ] = 1.0
    budget_density: Annotated[
        Path | None,
        typer.Option(help="CSV file (rho,density): how much budget a unit of weight costs at ρ; default 1 everywhere."),
    ] = None

    def problem(self, start: float, **constraints: Any) -> Problem:
        """The problem of this way, with whatever was measured read from its files."""
        from weightopt.curves.measured_files import read_clock, read_density, read_mobility
        from weightopt.curves.problem import Problem

        target, density = self.target, self.budget_density
        Problem(start, target, "regular")  # start and target must be sound before a file must cover them
        return Problem(
            start,
            target,
            read_clock(self.clock, start, target),
            read_mobility(self.mobility, start, target),
            self.budget,
            budget_density=None if density is None else read_density(str(density), start, target),
            **constraints,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """Constraints that shape a curve."""

    panel: ClassVar = CONSTRAINTS

    min_weight: Annotated[float, typer.Option(help="Lower bound on the weight, from 0 up.")] = 0.0
    max_weight: Annotated[float | None, typer.Option(help="Upper bound on the weight; default none.")] = None
    monotone: Annotated[str | None, typer.Option(help="Decreasing or increasing in ρ; default free.")] = None
    max_ratio: Annotated[float | None, typer.Option(help="Largest over smallest weight, from 1; default no bound.")] = (
        None
    )
    lipschitz: Annotated[float | None, typer.Option(help="Largest slope of the weight, from 0; default no bound.")] = (
        None
    )
    lipschitz_in: Annotated[str, typer.Option(help="What the slope is taken over, log-odds ln(ρ/(1-ρ)) or rho.")] = (
        "log-odds"
    )
    bins: Annotated[
        str | None,
        typer.Option(
            help="Constant weight between these edges inside start to target, such as 0.05,0.2,0.5. "
            "With --lipschitz the slope is taken between the middles of neighbouring bins, in --lipschitz-in."
        ),
    ] = None

    def constraints(self) -> dict[str, Any]:
        """As parameters of a problem: a bound that is absent is infinite."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for bound in ("max_weight", "max_ratio", "lipschitz"):
            given[bound] = math.inf if given[bound] is None else given[bound]
        return {**given, "bins": None if self.bins is None else read_numbers("bins", self.bins)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrowdingOptions:
    """A limit on how fast kinds of prompts that succeed get ahead of those that do not."""

    panel: ClassVar = CROWDING

    crowding: Annotated[
        float | None,
        typer.Option(
            help="Crowding limit κ: φ(ρ) = ρu(ρ), what a kind of prompts presses a shared habit with, must not grow "
            "faster than ρ^κ, which bounds how fast a more successful kind gets ahead (in the model; in trained "
            "networks kinds were still lost); below 1, and the lower the stronger. Docs: problems.md."
        ),
    ] = None
    crowding_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LO HI",
            help="Success probabilities between which the limit holds; default for groups 1/M to 1/2, for a curve "
            "start to target.",
        ),
    ] = None
    crowding_measure: Annotated[
        str,
        typer.Option(
            help="Whose growth, with --group-size: gradient, φ = ρu, the mean gradient; or push, the mean push on a "
            "wrong response, which counts the advantage of all-wrong groups in full."
        ),
    ] = "gradient"

    def of_curve(self) -> dict[str, Any]:
        """As parameters of a curve problem."""
        if self.crowding_measure != CrowdingOptions.crowding_measure:
            refuse("--crowding-measure needs --group-size without --plug-in: for a curve the two are the same")
        return {"crowding": self.crowding, "crowding_range": self.crowding_range}

    def of_group(self, group: GroupProblem) -> GroupProblem:
        """The group problem with this limit."""
        return dataclasses.replace(group, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What the best table for groups is to be."""

    panel: ClassVar = GROUP

    step_model: Annotated[
        str,
        typer.Option(
            help="How a group moves the policy: ratio, each outcome's share of the group over its probability, or "
            "outcome, each outcome that was seen by its own advantage. Ratio is the "
            "direction of a policy gradient, which moves log-odds ρ(1-ρ) times as fast."
        ),
    ] = "ratio"
    budget_kind: Annotated[
        str,
        typer.Option(
            help="What the budget counts: drift, the expected log-odds gained, so that no table beats the curve; or "
            "advantage-variance, the default: the mean squared advantage, which pays for sampling noise too, tends to "
            "the curve's budget as M grows and trained better."
        ),
    ] = "advantage-variance"
    shape: Annotated[
        str,
        typer.Option(
            help="Convex, nonincreasing or free in the number correct. The free optimum is sparse and jagged; "
            "a convex one costs a few per cent at most and is what one would train with."
        ),
    ] = "convex"

    def problem(self, curve: Problem, group_size: int, centred: bool = True) -> GroupProblem:
        """The group problem of a curve problem without constraints."""
        from weightopt.groups.group import GroupProblem

        return GroupProblem(curve, group_size, self.step_model, self.budget_kind, self.shape, centred)  # pyright: ignore[reportArgumentType]


def takes_records(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take records of options: every field becomes an option, its default stated in the record alone.

    The help shows the options of a record under its ``panel``.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    records = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in records:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))
            continue
        record = records[parameter.name]
        options = typing.get_type_hints(record, include_extras=True)
        for field in dataclasses.fields(record):
            for info in typing.get_args(options[field.name])[1:]:
                info.rich_help_panel = info.rich_help_panel or getattr(record, "panel", None)
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=options[field.name]
                )
            )

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        filled: dict[str, Any] = {}
        for name, record in records.items():
            make: Any = record
            filled[name] = make(**{field.name: given.pop(field.name) for field in dataclasses.fields(record)})
        return function(**filled, **given)

    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return command


def only_defaults(record: Any, sentence: str) -> None:
    """Refuse the first option of a record that differs from its default."""
    for field in dataclasses.fields(record):
        if getattr(record, field.name) != field.default:
            refuse(f"--{field.name.replace('_', '-')} {sentence}")


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
