"""``weightopt compare``: named weightings against the optimum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightopt.commands.options import AsJson, Start, TableOptions, Way, only_defaults, takes_records
from weightopt.commands.output import print_json, print_table

if TYPE_CHECKING:
    from weightopt.comparison import GroupRow
    from weightopt.curves.problem import Problem
    from weightopt.groups.group import GroupProblem


@takes_records
def compare(
    *,
    start: Start,
    way: Way,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Responses per prompt M: compare tables for groups of M, weightings read at K/M, with the best table, "
            "also where the true start is not the one designed for."
        ),
    ] = None,
    table: TableOptions,
    every: Annotated[
        bool, typer.Option("--all", help="Compare the whole catalogue; rules for groups only with --group-size.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Time of every named weighting relative to the optimum, at equal budget."""
    from theory import catalogue

    problem = way.problem(start)
    if group_size is None:
        only_defaults(table, "needs --group-size: it describes tables for groups")
        _curves(problem, tuple(catalogue.WEIGHTINGS) if every else None, as_json)
    else:
        group = table.problem(problem, group_size)
        _groups(group, tuple(catalogue.EVERYTHING) if every else None, as_json)


def _curves(problem: Problem, names: tuple[str, ...] | None, as_json: bool) -> None:
    from theory.clocks import made_for
    from weightopt.comparison import compare as compare_named

    answer, rows = compare_named(problem, names)
    if as_json:
        print_json(
            {
                "optimal_time": answer.time,
                "lower_bound": answer.lower_bound,
                "gap": answer.gap,
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
        caption=f"made for: {made_for(problem.clock)[1]}\noptimum certified within {answer.gap:.1e}",
    )


def _groups(problem: GroupProblem, names: tuple[str, ...] | None, as_json: bool) -> None:
    from theory.clocks import made_for
    from weightopt.comparison import FACTORS
    from weightopt.comparison import compare as compare_named

    answer, rows = compare_named(problem, names)
    curve = problem.curve
    if as_json:
        print_json(
            {
                "optimal_time": answer.time,
                "lower_bound": answer.lower_bound,
                "gap": answer.gap,
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
        caption="all wrong: advantage where no response is correct, 0 in the best table, which a rule there can beat; "
        f"best table certified within {answer.gap:.1e}\n"
        f"made for: {made_for(curve.clock, problem.group_size)[1]}",
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
