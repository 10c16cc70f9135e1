"""``weightopt compare``: named weightings against the optimum."""

from __future__ import annotations

from typing import Annotated

import typer

from weightopt.commands.options import AsJson, ClockName, Density, MobilityName, Start, Target, read_problem
from weightopt.commands.output import print_json, print_table


def compare(
    start: Start,
    target: Target,
    clock: ClockName,
    mobility: MobilityName = "natural",
    budget: Annotated[float, typer.Option(help="Update budget ∫ω dρ that every weighting gets, positive.")] = 1.0,
    budget_density: Density = None,
    every: Annotated[
        bool, typer.Option("--all", help="Compare the whole catalogue, as far as it is curves of ρ alone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Time of every named weighting relative to the optimum, at equal budget."""
    from theory import catalogue
    from weightopt.compare import NAMES
    from weightopt.compare import compare as compare_weightings

    problem = read_problem(
        start=start, target=target, clock=clock, mobility=mobility, budget=budget, budget_density=budget_density
    )
    solution, rows = compare_weightings(problem, tuple(catalogue.WEIGHTINGS) if every else NAMES)
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
    title = f"Time from {start:g} to {target:g}, {problem.clock.name} clock ({problem.clock.reading}), equal budget"
    print_table(
        title,
        ("weighting", "time", "relative to optimum"),
        [(row.label, f"{row.time:.6g}", f"{row.ratio:.3f}") for row in rows],
        caption=f"optimum certified within {solution.gap:.1e}",
    )
