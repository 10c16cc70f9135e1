"""``weightopt solve``: the time-optimal curve or group table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from weightopt.finite_group import GroupSolution
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
    budget: Annotated[float, typer.Option(help="Update budget ∫ω dρ, positive.")] = 1.0,
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
        typer.Option(help="Curve: constant weight between these edges inside start to target, such as 0.05,0.2,0.5."),
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
    from weightopt.build import group_solved_table, solved_table
    from weightopt.curve import solve as solve_curve
    from weightopt.finite_group import GroupProblem, GroupSolution, solve_group
    from weightopt.solution import Solution
    from weightopt.start_range import RangeProblem, solve_range

    check_folders(output=output, csv=csv, plot=plot)
    if start is None and start_range is None:
        refuse("missing option '--start', a success probability in (0, 1), or --start-range")
    if start is not None and start_range is not None:
        refuse("--start and --start-range exclude each other: give one start, or a range of them")
    if start_range is not None and (group_size is None or plug_in):
        refuse(
            "--start-range needs --group-size without --plug-in: the best curve without constraints, ω ∝ √(c/κ), is "
            "the same for every start, so a range asks nothing new of it"
        )
    first = start if start_range is None else start_range[0]
    assert first is not None
    problem = read_problem(
        start=first,
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
    for_table = {"step_model": step_model, "budget_kind": budget_kind, "shape": shape, "uncentred": uncentred}
    if group_size is None or plug_in:
        only_defaults(for_table, "needs --group-size without --plug-in: it describes the best table of a group")
        if plug_in and group_size is None:
            refuse("--plug-in needs --group-size, the M of the K/M at which the curve is read")
        solution: Solution | GroupSolution | RangeSolution = solve_curve(problem)
        result = solved_table(solution, group_size, all_wrong, all_right)
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
        group = GroupProblem(problem, group_size, step_model, budget_kind, shape, not uncentred)  # pyright: ignore[reportArgumentType]
        solution = solve_group(group) if start_range is None else solve_range(RangeProblem(group, start_range[1]))
        result = group_solved_table(solution, all_wrong, all_right)
    write(result, output, csv)
    if plot is not None:
        from weightopt.plot import draw_weights

        replace("--plot", plot, draw_weights(solve_curve(problem), result))
    if as_json:
        print_json(_solution_document(solution, result))
        return
    print(solution)
    if isinstance(solution, Solution):
        print_weights(result, solution)
        return
    if budget_kind == "drift" and isinstance(solution, GroupSolution):
        ratio = solution.time / solve_curve(problem).time
        print(f"  curve        {ratio:.4f} times the time of the curve, which no group size beats")
    print_weights(result)


def _solution_document(solution: Solution | GroupSolution | RangeSolution, table: WeightTable) -> dict[str, Any]:
    from weightopt.solution import Solution
    from weightopt.start_range import RangeSolution

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
