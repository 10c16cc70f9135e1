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
    Start,
    StepModelName,
    Target,
    read_numbers,
    read_problem,
)
from weightopt.commands.output import check_folders, print_json, print_weights, refuse, replace, write

if TYPE_CHECKING:
    from weightopt.finite_group import GroupSolution
    from weightopt.solution import Solution
    from weightopt.table import WeightTable


def solve(
    start: Start,
    target: Target,
    clock: ClockName,
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
    shape: Annotated[
        str,
        typer.Option(
            help="Table: convex, nonincreasing or free in the number correct. The free optimum is sparse and jagged; "
            "a convex one costs a few per cent at most and is what one would train with."
        ),
    ] = "convex",
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
    from weightopt.finite_group import GroupProblem, solve_group
    from weightopt.solution import Solution

    check_folders(output=output, csv=csv, plot=plot)
    problem = read_problem(
        start=start,
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
        _only_defaults(for_table, "needs --group-size without --plug-in: it describes the best table of a group")
        if plug_in and group_size is None:
            refuse("--plug-in needs --group-size, the M of the K/M at which the curve is read")
        solution: Solution | GroupSolution = solve_curve(problem)
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
        _only_defaults(for_curve, "shapes a curve: add --plug-in to read that curve at K/M, or use --shape")
        solution = solve_group(
            GroupProblem(problem, group_size, step_model, budget_kind, shape, not uncentred)  # pyright: ignore[reportArgumentType]
        )
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
    if budget_kind == "drift":
        ratio = solution.time / solve_curve(problem).time
        print(f"  curve        {ratio:.4f} times the time of the curve, which no group size beats")
    print_weights(result)


def _only_defaults(options: dict[str, Any], sentence: str) -> None:
    """Refuse the first of these options that differs from its default."""
    defaults = {"step_model": "ratio", "budget_kind": "drift", "shape": "convex", "uncentred": False}
    defaults |= {"min_weight": 0.0, "lipschitz_in": "log-odds"}
    for name, value in options.items():
        if value != defaults.get(name):
            refuse(f"--{name.replace('_', '-')} {sentence}")


def _solution_document(solution: Solution | GroupSolution, table: WeightTable) -> dict[str, Any]:
    from weightopt.solution import Solution

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
    return {
        "status": solution.status.name.lower(),
        "time": solution.time,
        "lower_bound": solution.lower_bound,
        "gap": solution.gap,
        **numbers,
        "all_wrong_advantage": table.all_wrong_advantage,
        "all_right_advantage": table.all_right_advantage,
        "problem": solution.problem.to_dict(),
        "certificate": solution.certificate.to_dict(),
        "method": solution.method,
    }
