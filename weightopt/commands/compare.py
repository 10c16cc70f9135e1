"""``weightopt compare``: named weightings against the optimum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightopt.commands.options import (
    AsJson,
    BudgetKindName,
    ClockName,
    Density,
    MobilityName,
    ShapeName,
    Start,
    StepModelName,
    Target,
    read_problem,
)
from weightopt.commands.output import only_defaults, print_json, print_table

if TYPE_CHECKING:
    from weightopt.comparison import GroupRow
    from weightopt.groups.group import GroupProblem
    from weightopt.curves.problem import Problem


def compare(
    start: Start,
    target: Target,
    clock: ClockName,
    mobility: MobilityName = "natural",
    budget: Annotated[float, typer.Option(help="Update budget ∫ω dρ that every weighting gets, positive.")] = 1.0,
    budget_density: Density = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Responses per prompt M: compare tables for groups of M, weightings read at K/M, with the best table, "
            "also where the true start is not the one designed for."
        ),
    ] = None,
    step_model: StepModelName = "ratio",
    budget_kind: BudgetKindName = "drift",
    shape: ShapeName = "convex",
    every: Annotated[
        bool, typer.Option("--all", help="Compare the whole catalogue; rules for groups only with --group-size.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Time of every named weighting relative to the optimum, at equal budget."""
    from theory import catalogue
    from weightopt.comparison import GROUP_NAMES, NAMES

    problem = read_problem(
        start=start, target=target, clock=clock, mobility=mobility, budget=budget, budget_density=budget_density
    )
    if group_size is None:
        for_tables = {"step_model": step_model, "budget_kind": budget_kind, "shape": shape}
        only_defaults(for_tables, "needs --group-size: it describes tables for groups")
        _curves(problem, tuple(catalogue.WEIGHTINGS) if every else NAMES, as_json)
        return
    from weightopt.groups.group import GroupProblem

    group = GroupProblem(problem, group_size, step_model, budget_kind, shape)  # pyright: ignore[reportArgumentType]
    _groups(group, tuple(catalogue.EVERYTHING) if every else GROUP_NAMES, as_json)


def _curves(problem: Problem, names: tuple[str, ...], as_json: bool) -> None:
    from weightopt.comparison import compare as compare_weightings

    solution, rows = compare_weightings(problem, names)
    if as_json:
        print_json(
            {
                "optimal_time": solution.time,
                "lower_bound": solution.lower_bound,
                "gap": solution.gap,
                "problem": problem.to_dict(),
                "rows": [{"weighting": row.weighting, "time": row.time, "ratio": row.ratio} for row in rows],
            }
        )
        return
    print_table(
        f"Time from {problem.start:g} to {problem.target:g}, {problem.clock.name} clock ({problem.clock.reading}), "
        "equal budget",
        ("weighting", "time", "relative to optimum"),
        [(row.label, f"{row.time:.6g}", f"{row.ratio:.3f}") for row in rows],
        caption=f"optimum certified within {solution.gap:.1e}",
    )


def _groups(problem: GroupProblem, names: tuple[str, ...], as_json: bool) -> None:
    from weightopt.comparison import FACTORS, compare_groups

    solution, rows = compare_groups(problem, names)
    curve = problem.curve
    if as_json:
        print_json(
            {
                "optimal_time": solution.time,
                "lower_bound": solution.lower_bound,
                "gap": solution.gap,
                "problem": problem.to_dict(),
                "rows": [_row_document(row) for row in rows],
            }
        )
        return
    shown = sorted({*FACTORS, 1.0})
    print_table(
        f"Groups of {problem.group_size} from {curve.start:g} to {curve.target:g}, {curve.clock.name} clock, "
        f"{problem.step_model} step, equal {problem.budget_kind} budget:\n"
        f"time relative to the best {problem.shape} table for each start; the last row is for {curve.start:g}",
        ("weighting", "all wrong", *(f"from {factor * curve.start:.3g}" for factor in shown)),
        [
            (
                row.label,
                f"{row.all_wrong_advantage:.3g}",
                *(_ratio(row.ratio if factor == 1 else row.robustness[factor]) for factor in shown),
            )
            for row in rows
        ],
        caption=f"all wrong: advantage where no response is correct; best table certified within {solution.gap:.1e}",
    )


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else "never" if math.isinf(ratio) else f"{ratio:.3f}"


def _row_document(row: GroupRow) -> dict[str, Any]:
    """A row as JSON values; a time that never comes is null, and so is a start that there is not."""

    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "weighting": row.weighting,
        "all_wrong_advantage": row.all_wrong_advantage,
        "time": finite(row.time),
        "ratio": finite(row.ratio),
        "robustness": [
            {"start_factor": factor, "ratio": finite(ratio), "reached": None if ratio is None else math.isfinite(ratio)}
            for factor, ratio in row.robustness.items()
        ],
    }
