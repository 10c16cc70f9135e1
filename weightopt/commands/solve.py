"""``weightopt solve``: the time-optimal curve or group table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from weightopt.commands.options import (
    AllRight,
    AllWrong,
    AsJson,
    BudgetKindName,
    ClockName,
    Csv,
    Density,
    MobilityName,
    Output,
    ShapeName,
    StepModelName,
    Target,
    read_numbers,
    read_problem,
)
from weightopt.commands.output import check_folders, only_defaults, print_json, print_weights, refuse, replace, write

if TYPE_CHECKING:
    from weightopt.finite_group import GroupProblem, GroupSolution
    from weightopt.problem import Problem
    from weightopt.solution import Solution
    from weightopt.start_range import RangeSolution
    from weightopt.table import WeightTable


def solve(
    target: Target,
    clock: ClockName,
    start: Annotated[float | None, typer.Option(help="Success probability at the start, in (0, 1).")] = None,
    start_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="A B",
            help="With --group-size, instead of --start: one table for all starts from A to B, whose worst ratio to "
            "the best table for a start is least.",
        ),
    ] = None,
    mobility: MobilityName = "natural",
    budget: Annotated[
        float, typer.Option(help="Update budget, positive: ∫ω dρ, or what --budget-density and --budget-kind make it.")
    ] = 1.0,
    budget_density: Density = None,
    min_weight: Annotated[float, typer.Option(help="Curve: lower bound on the weight, from 0 up.")] = 0.0,
    max_weight: Annotated[float | None, typer.Option(help="Curve: upper bound on the weight; default none.")] = None,
    monotone: Annotated[str | None, typer.Option(help="Curve: decreasing or increasing in ρ; default free.")] = None,
    max_ratio: Annotated[
        float | None, typer.Option(help="Curve: largest over smallest weight, from 1; default no bound.")
    ] = None,
    lipschitz: Annotated[
        float | None, typer.Option(help="Curve: largest slope of the weight, from 0; default no bound.")
    ] = None,
    lipschitz_in: Annotated[
        str, typer.Option(help="Curve: what the slope is taken over, log-odds ln(ρ/(1-ρ)) or rho.")
    ] = "log-odds",
    bins: Annotated[
        str | None,
        typer.Option(
            help="Curve: constant weight between these edges inside start to target, such as 0.05,0.2,0.5. With "
            "--lipschitz the slope is taken between the middles of neighbouring bins, in --lipschitz-in."
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="Responses per prompt M: find the best table for groups of M instead of a curve."),
    ] = None,
    plug_in: Annotated[
        bool, typer.Option("--plug-in", help="With --group-size: evaluate the curve at K/M instead.")
    ] = False,
    step_model: StepModelName = "ratio",
    budget_kind: BudgetKindName = "drift",
    shape: ShapeName = "convex",
    uncentred: Annotated[
        bool,
        typer.Option(
            "--uncentred",
            help="Table: let the advantages of correct and wrong responses be free, the push on all-wrong groups "
            "among them (for research; needs --budget-kind advantage-variance --shape free).",
        ),
    ] = False,
    all_wrong: AllWrong = None,
    all_right: AllRight = None,
    output: Output = None,
    csv: Csv = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the weights into this PNG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Solve for the time-optimal weighting, with a certificate.

    Without --group-size the answer is a curve ω(ρ), optimal for very large groups. With it, the answer is the best
    table for groups of M responses, which is not the curve read at K/M.
    """
    check_folders(output=output, csv=csv, plot=plot)
    for_table = {"step_model": step_model, "budget_kind": budget_kind, "shape": shape, "uncentred": uncentred}
    if group_size is None or plug_in:
        only_defaults(for_table, "needs --group-size without --plug-in: it describes the best table of a group")
        if plug_in and group_size is None:
            refuse("--plug-in needs --group-size, the M of the K/M at which the curve is read")
    else:
        if uncentred and (budget_kind, shape) != ("advantage-variance", "free"):
            refuse("--uncentred needs --budget-kind advantage-variance and --shape free")
        for_curve = {
            "min_weight": min_weight,
            "max_weight": max_weight,
            "monotone": monotone,
            "max_ratio": max_ratio,
            "lipschitz": lipschitz,
            "lipschitz_in": lipschitz_in,
            "bins": bins,
        }
        only_defaults(for_curve, "shapes a curve: add --plug-in to read that curve at K/M, or use --shape")
        only_defaults(
            {"all_wrong": all_wrong, "all_right": all_right},
            "would change a table that was solved for, and prove nothing about it: add --plug-in, or --uncentred to "
            "have these advantages solved for too",
        )
    if lipschitz is None:
        only_defaults({"lipschitz_in": lipschitz_in}, "needs --lipschitz, the slope that it is about")
    problem = read_problem(
        start=_first_start(start, start_range, target, group_size is not None and not plug_in),
        target=target,
        clock=clock,
        mobility=mobility,
        budget=budget,
        budget_density=budget_density,
        min_weight=min_weight,
        max_weight=float("inf") if max_weight is None else max_weight,
        monotone=monotone,
        max_ratio=float("inf") if max_ratio is None else max_ratio,
        lipschitz=float("inf") if lipschitz is None else lipschitz,
        lipschitz_in=lipschitz_in,
        bins=None if bins is None else read_numbers("bins", bins),
    )
    _warn_if_coarse(problem)
    if group_size is None or plug_in:
        answer = _solve_curve(problem, group_size, all_wrong, all_right)
    else:
        from weightopt.finite_group import GroupProblem

        group = GroupProblem(problem, group_size, step_model, budget_kind, shape, not uncentred)  # pyright: ignore[reportArgumentType]
        answer = _solve_group(group, None if start_range is None else start_range[1])
    picture = None
    if plot is not None:
        from weightopt.curve import solve as solve_curve
        from weightopt.plot import draw_weights

        picture = draw_weights(solve_curve(problem), answer.table)
    # All that can fail has been done: what is written now is whole.
    write(answer.table, output, csv)
    if plot is not None and picture is not None:
        replace("--plot", plot, picture)
    if as_json:
        print_json(_solution_document(answer))
        return
    print(answer.solution)
    for line in answer.remarks:
        print(line)
    print_weights(answer.table, answer.curve)


def _warn_if_coarse(problem: Problem) -> None:
    """Say on standard error that the rows of a measured clock are too far apart for the time to be trusted."""
    from weightopt.measured import COARSE, coarseness

    change = coarseness(problem)
    if change > COARSE:
        print(
            f"weightopt: warning: the table of clock {problem.clock.name} is coarse between start and target: without "
            f"every second row the best time would differ by {change:.0%}. Between rows ln cost is taken as linear in "
            "log-odds; add rows.",
            file=sys.stderr,
        )


class _Answer(NamedTuple):
    """What was solved, as a table, and lines that put its numbers in relation; ``curve`` if that is what is shown."""

    solution: Solution | GroupSolution | RangeSolution
    table: WeightTable
    remarks: tuple[str, ...] = ()
    table_time: float | None = None
    curve: Solution | None = None


def _first_start(start: float | None, start_range: tuple[float, float] | None, target: float, for_table: bool) -> float:
    """The start, or the first of a range; refuses neither, both, and a range that is none."""
    if start is not None and start_range is not None:
        refuse("--start and --start-range exclude each other: give one start, or a range of them")
    if start_range is not None:
        if not for_table:
            refuse(
                "--start-range needs --group-size without --plug-in: the best curve without constraints, ω ∝ √(c/κ), "
                "is the same for every start, so a range asks nothing new of it"
            )
        if not 0 < start_range[0] < start_range[1] < target:
            refuse(
                f"--start-range must be two success probabilities, the second above the first and below the target "
                f"{target:g}, got {start_range[0]!r} {start_range[1]!r}"
            )
        return start_range[0]
    if start is None:
        refuse("missing option '--start', a success probability in (0, 1), or --start-range")
    return start


def _solve_curve(problem: Problem, group_size: int | None, all_wrong: float | None, all_right: float | None) -> _Answer:
    """The best curve; read at K/M it is a table, which has a time of its own."""
    import math

    import numpy as np

    from weightopt.build import solved_table
    from weightopt.curve import solve as solve_curve
    from weightopt.finite_group import LARGEST_GROUP, GroupProblem, time_and_budget

    solution = solve_curve(problem)
    table = solved_table(solution, group_size, all_wrong, all_right)
    if group_size is None:
        return _Answer(solution, table, curve=solution)
    remarks = ["  read at K/M  status, time and bound above are the curve's, for very large groups"]
    time = None
    if group_size <= LARGEST_GROUP:
        correct, wrong = np.array(table.advantage_correct), np.array(table.advantage_wrong)
        time, spent = time_and_budget(GroupProblem(problem.unconstrained, group_size), correct, wrong)
        time = time * spent / problem.budget if math.isfinite(time) else None
        took = "never arrives" if time is None else f"takes {time:.6g}"
        remarks.append(
            f"  this table   {took} in groups of {group_size} (ratio step, drift budget); see compare --group-size"
        )
    return _Answer(solution, table, tuple(remarks), time)


def _solve_group(group: GroupProblem, last_start: float | None) -> _Answer:
    """The best table for one start, or for a range of them."""
    from weightopt.build import group_solved_table
    from weightopt.curve import solve as solve_curve
    from weightopt.finite_group import solve_group
    from weightopt.start_range import RangeProblem, solve_range

    if last_start is not None:
        of_range = solve_range(RangeProblem(group, last_start))
        return _Answer(of_range, group_solved_table(of_range))
    solution = solve_group(group)
    remarks = ()
    if group.budget_kind == "drift":
        ratio = solution.time / solve_curve(group.curve).time
        remarks = (f"  curve        {ratio:.4f} times the time of the curve, which no group size beats",)
    return _Answer(solution, group_solved_table(solution), remarks)


def _solution_document(answer: _Answer) -> dict[str, Any]:
    from weightopt.solution import Solution
    from weightopt.start_range import RangeSolution

    solution, table = answer.solution, answer.table
    if isinstance(solution, Solution) and table.group_size is None:
        rho = solution.grid()
        numbers = {"rho": rho.tolist(), "weight": solution.weighting(rho).tolist()}
    else:
        numbers = {
            "rho": table.rho,
            "weight": table.weight,
            "group_size": table.group_size,
            "advantage_correct": table.advantage_correct,
            "advantage_wrong": table.advantage_wrong,
        }
    measure: dict[str, Any]
    if isinstance(solution, RangeSolution):
        measure = {
            "worst_ratio": solution.worst_ratio,
            "starts": solution.problem.starts.tolist(),
            "ratios": solution.ratios,
        }
    else:
        measure = {"time": solution.time}
    if answer.table_time is not None:
        measure["table_time"] = answer.table_time
    return {
        "status": solution.status.name.lower(),
        **measure,
        "lower_bound": solution.lower_bound,
        "gap": solution.gap,
        **numbers,
        "all_wrong_advantage": table.all_wrong_advantage,
        "all_right_advantage": table.all_right_advantage,
        "problem": solution.problem.to_dict(),
        "certificate": solution.certificate.to_dict(),
        "method": solution.method,
    }
