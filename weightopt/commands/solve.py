"""``weightopt solve``: the best curve, or the best table for groups."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from weightopt.commands.options import (
    CURVE,
    GROUP,
    OUTPUT,
    AllRight,
    AllWrong,
    AsJson,
    CrowdingOptions,
    Csv,
    CurveOptions,
    Output,
    TableOptions,
    Way,
    only_defaults,
    takes_records,
)
from weightopt.commands.output import check_folders, print_json, print_weights, refuse, replace, write

if TYPE_CHECKING:
    from weightopt.answer import Answer
    from weightopt.curves.curve import CurveAnswer
    from weightopt.curves.problem import Problem
    from weightopt.groups.group import GroupProblem
    from weightopt.table import WeightTable


PICTURES = (".png", ".pdf", ".svg")  # the endings of `weightopt.plot`, which is slow to import
IDLE = 1e-7  # relative difference of two times, each certified to 1e-8, that is none


@takes_records
def solve(
    *,
    start: Annotated[
        float | None, typer.Option(help="Success probability at the start, in (0, 1).", rich_help_panel=CURVE)
    ] = None,
    way: Way,
    curve: CurveOptions,
    limit: CrowdingOptions,
    start_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="A B",
            help="With --group-size, instead of --start: one table for all starts from A to B, whose worst ratio to "
            "the best table for a start is least.",
            rich_help_panel=GROUP,
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Responses per prompt M: find the best table for groups of M instead of a curve.",
            rich_help_panel=GROUP,
        ),
    ] = None,
    plug_in: Annotated[
        bool,
        typer.Option("--plug-in", help="With --group-size: evaluate the curve at K/M instead.", rich_help_panel=GROUP),
    ] = False,
    table: TableOptions,
    uncentred: Annotated[
        bool,
        typer.Option(
            "--uncentred",
            help="Let the advantages of correct and wrong responses be free, the push on all-wrong groups "
            "among them (for research; needs --budget-kind advantage-variance --shape free).",
            rich_help_panel=GROUP,
        ),
    ] = False,
    method: Annotated[
        str,
        typer.Option(
            help="direct, made for the problem; convex, an independent solver (cvxpy) for curves and centred tables; "
            "or ode-check, the direct answer with its time computed again by integrating the dynamics.",
            rich_help_panel=CURVE,
        ),
    ] = "direct",
    all_wrong: AllWrong = None,
    all_right: AllRight = None,
    output: Output = None,
    csv: Csv = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw clock, weights and named weightings into this file: .png, .pdf or .svg.", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Solve for the time-optimal weighting, with a certificate.

    Without --group-size the answer is a curve ω(ρ), optimal for very large groups. With it, the answer is the best
    table for groups of M responses, which is not the curve read at K/M.

    Examples:
        $ weightopt solve --start 0.01 --target 0.9 --clock effective --plot weights.png
          The best curve when every draw until a success is paid for, and its picture.

        $ weightopt solve --start 0.01 --target 0.9 --clock regular --group-size 16 --output table.json
          The best table for groups of 16 responses, to train from.

        $ weightopt solve --start 0.01 --target 0.9 --clock effective --monotone decreasing --max-weight 3
          The best curve among those that never rise and stay below a bound.
    """
    check_folders(output=output, csv=csv, plot=plot)
    if plot is not None and plot.suffix.lower() not in PICTURES:
        refuse(f"--plot: {plot} must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}")
    if curve.lipschitz is None and curve.lipschitz_in != CurveOptions.lipschitz_in:
        refuse("--lipschitz-in needs --lipschitz, the slope that it is about")
    if group_size is None or plug_in:
        _refuse_table_options(table, uncentred, start_range, group_size)
        problem = way.problem(_given(start), **curve.constraints(), **limit.of_curve())
        solved = _solve_curve(problem, method, group_size, all_wrong, all_right)
    else:
        _refuse_curve_options(curve, table, uncentred, all_wrong, all_right)
        first = _first_start(start, start_range, way.target)
        problem = way.problem(first)
        group = limit.of_group(table.problem(problem, group_size, not uncentred))
        solved = _solve_group(group, start_range, method)
    _warn_if_coarse(problem)
    picture = None if plot is None else _draw(problem, solved, plot)
    # All that can fail has been done: what is written now is whole.
    write(solved.table, output, csv)
    if plot is not None and picture is not None:
        replace("--plot", plot, picture)
    if as_json:
        print_json(_document(solved))
        return
    print(solved.answer)
    for line in (*solved.remarks, *_about_the_file(problem), *_about_zeros(solved.table)):
        print(line)
    print_weights(solved.table, solved.curve)


def _warn_if_coarse(problem: Problem) -> None:
    """Say on standard error that the rows of a measured clock are too far apart for the time to be trusted."""
    from weightopt.curves.measured_files import COARSE, coarseness

    change = coarseness(problem)
    if change > COARSE:
        print(
            f"weightopt: warning: the table of clock {problem.clock.name} is coarse between start and target: without "
            f"every second row the best time would differ by {change:.0%}. Between rows ln cost is taken as linear in "
            "log-odds; add rows.",
            file=sys.stderr,
        )


def _about_the_file(problem: Problem) -> tuple[str, ...]:
    """What is taken to be between the rows of a measured clock."""
    from theory.clocks import Tabulated

    if not isinstance(problem.clock, Tabulated):
        return ()
    rows = len(problem.clock.measured.rho)
    return (f"  clock file   {rows} rows; between two of them ln cost is taken as linear in log-odds",)


def _about_zeros(table: WeightTable) -> tuple[str, ...]:
    """What a weight of 0 means, where the best table has one."""
    zeros = [k for k, weight in enumerate(table.weight, start=1) if weight == 0] if table.group_size else []
    if not zeros:
        return ()
    where = ", ".join(f"{k}/{table.group_size}" for k in zeros[:4]) + (", …" if len(zeros) > 4 else "")
    lines = [f"  weight 0     at {where}: groups with so many correct are not learned from at all"]
    if (table.problem or {}).get("budget_kind") == "drift":
        lines.append(
            "               a drift budget prices no noise, so it pays most where a start like this one is found;\n"
            "               --budget-kind advantage-variance prices it, and spreads the weight"
        )
    return tuple(lines)


class _Solved(NamedTuple):
    """What was solved, as a table, and lines that put its numbers in relation; ``curve`` if that is what is shown."""

    answer: Answer
    table: WeightTable
    remarks: tuple[str, ...] = ()
    table_time: float | None = None
    curve: CurveAnswer | None = None


def _refuse_table_options(
    table: TableOptions, uncentred: bool, start_range: tuple[float, float] | None, group_size: int | None
) -> None:
    """Refuse what describes the best table of a group where a curve is asked for."""
    why = "needs --group-size without --plug-in: it describes the best table of a group"
    only_defaults(table, why)
    if uncentred:
        refuse(f"--uncentred {why}")
    if group_size is None and start_range is None:
        return
    if start_range is not None:
        refuse(
            "--start-range needs --group-size without --plug-in: the best curve without constraints, ω ∝ √(c/κ), "
            "is the same for every start, so a range asks nothing new of it"
        )


def _refuse_curve_options(
    curve: CurveOptions, table: TableOptions, uncentred: bool, all_wrong: float | None, all_right: float | None
) -> None:
    """Refuse what shapes a curve, or changes a table that was solved for, where the best table is asked for."""
    if uncentred and (table.budget_kind, table.shape) != ("advantage-variance", "free"):
        refuse("--uncentred needs --budget-kind advantage-variance and --shape free")
    only_defaults(curve, "shapes a curve: add --plug-in to read that curve at K/M, or use --shape")
    for side, rule in (("wrong", all_wrong), ("right", all_right)):
        if rule is not None:
            refuse(
                f"--all-{side} would change a table that was solved for, and prove nothing about it: add --plug-in, or "
                "--uncentred to have these advantages solved for too"
            )


def _given(start: float | None) -> float:
    if start is None:
        refuse("missing option '--start', a success probability in (0, 1), or --start-range")
    return start


def _first_start(start: float | None, start_range: tuple[float, float] | None, target: float) -> float:
    """The start, or the first of a range; refuses neither, both, and a range that is none."""
    if start_range is None:
        return _given(start)
    if start is not None:
        refuse("--start and --start-range exclude each other: give one start, or a range of them")
    if not 0 < start_range[0] < start_range[1] < target:
        refuse(
            f"--start-range must be two success probabilities, the second above the first and below the target "
            f"{target:g}, got {start_range[0]!r} {start_range[1]!r}"
        )
    return start_range[0]


def _solve_curve(
    problem: Problem, method: Any, group_size: int | None, all_wrong: float | None, all_right: float | None
) -> _Solved:
    """The best curve; read at K/M it is a table, which has a time of its own."""
    import math

    import numpy as np

    from weightopt.groups.group import LARGEST_GROUP, GroupProblem, time_and_budget
    from weightopt.kinds import solve as solve_problem

    answer = solve_problem(problem, method)
    table = answer.table(group_size, all_wrong, all_right)
    remarks = []
    if problem.crowding is not None:
        remarks.append(_price_of_limit(answer.time, solve_problem(problem.unconstrained).time))
    if group_size is None:
        return _Solved(answer, table, tuple(remarks), curve=answer)
    remarks += ["  read at K/M  status, time and bound above are the curve's, for very large groups"]
    time = None
    if group_size <= LARGEST_GROUP:
        correct, wrong = np.array(table.advantage_correct), np.array(table.advantage_wrong)
        time, spent = time_and_budget(
            GroupProblem(problem.unconstrained, group_size, budget_kind="drift"), correct, wrong
        )
        time = time * spent / problem.budget if math.isfinite(time) else None
        took = "never arrives" if time is None else f"takes {time:.6g}"
        remarks.append(
            f"  this table   {took} in groups of {group_size} (ratio step, drift budget); see compare --group-size"
        )
    return _Solved(answer, table, tuple(remarks), time)


def _solve_group(group: Any, start_range: tuple[float, float] | None, method: Any) -> _Solved:
    """The best table for one start, or for a range of them."""
    from weightopt.groups.start_range import RangeProblem
    from weightopt.kinds import solve as solve_problem

    if start_range is not None:
        of_range = solve_problem(RangeProblem(group, start_range[1]), method)
        return _Solved(of_range, of_range.table())
    answer = solve_problem(group, method)
    remarks = []
    if group.crowding is not None:
        # At κ = M the limit asks nothing, and the push on all-wrong groups is still solved for.
        free = solve_problem(dataclasses.replace(group, crowding=float(group.group_size)))
        plain = solve_problem(_without_limit(group)).time if group.centred else None
        remarks.append(_price_of_limit(answer.time, free.time, plain))
    if group.budget_kind == "drift":
        ratio = answer.time / solve_problem(group.curve).time
        remarks.append(f"  curve        {ratio:.4f} times the time of the curve, which no group size beats")
    return _Solved(answer, answer.table(), tuple(remarks))


def _without_limit(group: GroupProblem) -> GroupProblem:
    return dataclasses.replace(group, crowding=None, crowding_range=None, crowding_measure="gradient")


def _price_of_limit(time: float, free: float, plain: float | None = None) -> str:
    """What the crowding limit costs, in one line; `plain` is the time of a table that has no push and no limit."""
    if time <= free * (1 + IDLE):
        return "  limit        idle: what is best without the crowding limit keeps it already"
    line = f"  limit        {time / free:.4f} times the time without the crowding limit, {free:.6g}"
    return line if plain is None else f"{line} with the all-wrong push free ({plain:.6g} without a push)"


def _draw(problem: Problem, solved: _Solved, plot: Path) -> bytes:
    """The picture of the clock and of the weights, with dots where a group looks the table up."""
    from weightopt.curves.curve import CurveAnswer
    from weightopt.kinds import solve as solve_problem
    from weightopt.plot import draw_weights

    if isinstance(solved.answer, CurveAnswer):
        return draw_weights(solved.answer, solved.table, ending=plot.suffix.lower())
    return draw_weights(solve_problem(problem), solved.table, solved.answer, plot.suffix.lower())


def _document(solved: _Solved) -> dict[str, Any]:
    """The answer as JSON values, with the table's advantages."""
    table, document = solved.table, solved.answer.to_dict()
    if table.group_size is not None:
        keys = ("rho", "weight", "group_size", "advantage_correct", "advantage_wrong")
        document |= {key: getattr(table, key) for key in keys}
    if solved.table_time is not None:
        document["table_time"] = solved.table_time
    ends = ("all_wrong_advantage", "all_right_advantage")
    return {**document, **{key: getattr(table, key) for key in ends}}
