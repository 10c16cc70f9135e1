"""The command line: parse, call one ordinary function, show its answer, turn it into an exit status.

Exit status 0: done. 1: the answer is no (`check` found something off, a solve could not be certified). 2: bad input,
one sentence on standard error. Solvers and plotting are imported by the command that needs them, so that help is fast.
Other packages hand in subcommands through the entry-point group ``weightopt.commands``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from weightopt.finite_group import GroupSolution
    from weightopt.problem import Problem
    from weightopt.solution import Solution, SolvedWeighting
    from weightopt.table import WeightTable

app = typer.Typer(
    name="weightopt",
    help="Time-optimal prompt weights for reinforcement learning with verifiable rewards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CLOCKS = (
    "regular, effective, failures, mixed:M, affine:a,b (a + b/ρ); or measured, two columns in a CSV file: "
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
        "outcome, each outcome that was seen by its own advantage. Ratio is what a policy gradient does on average."
    ),
]
BudgetKindName = Annotated[
    str,
    typer.Option(
        help="What the budget counts: drift, the expected log-odds gained, so that no table beats the curve; or "
        "advantage-variance, which pays for sampling noise too."
    ),
]
AllWrong = Annotated[
    float | None, typer.Option(help="Advantage in all-wrong groups; default the limit of -ρω at ρ = 0.")
]
AllRight = Annotated[
    float | None, typer.Option(help="Advantage in all-right groups; default the limit of (1-ρ)ω at ρ = 1.")
]


@app.command()
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

    _check_folders(output=output, csv=csv, plot=plot)
    problem = _problem(
        start=start,
        target=target,
        clock=clock,
        mobility=mobility,
        budget=budget,
        budget_density=budget_density,
        min_weight=min_weight,
        max_weight=float("inf") if max_weight is None else max_weight,
        monotone=monotone,
    )
    for_table = {"step_model": step_model, "budget_kind": budget_kind, "shape": shape, "uncentred": uncentred}
    if group_size is None or plug_in:
        _only_defaults(for_table, "needs --group-size without --plug-in: it describes the best table of a group")
        if plug_in and group_size is None:
            _refuse("--plug-in needs --group-size, the M of the K/M at which the curve is read")
        solution: Solution | GroupSolution = solve_curve(problem)
        result = solved_table(solution, group_size, all_wrong, all_right)
    else:
        if uncentred and (budget_kind, shape) != ("advantage-variance", "free"):
            _refuse("--uncentred needs --budget-kind advantage-variance and --shape free")
        for_curve = {"min_weight": min_weight, "max_weight": max_weight, "monotone": monotone}
        _only_defaults(for_curve, "shapes a curve: add --plug-in to read that curve at K/M, or use --shape")
        solution = solve_group(
            GroupProblem(problem, group_size, step_model, budget_kind, shape, not uncentred)  # pyright: ignore[reportArgumentType]
        )
        result = group_solved_table(solution, all_wrong, all_right)
    _write(result, output, csv)
    if plot is not None:
        from weightopt.plot import draw_weights

        _replace("--plot", plot, draw_weights(solve_curve(problem), result))
    if as_json:
        _print_json(_solution_document(solution, result))
        return
    print(solution)
    if isinstance(solution, Solution):
        _print_weights(result, solution.weighting)
        return
    if budget_kind == "drift":
        ratio = solution.time / solve_curve(problem).time
        print(f"  curve        {ratio:.4f} times the time of the curve, which no group size beats")
    _print_weights(result)


def _only_defaults(options: dict[str, Any], sentence: str) -> None:
    """Refuse the first of these options that differs from its default."""
    defaults = {"step_model": "ratio", "budget_kind": "drift", "shape": "convex", "uncentred": False, "min_weight": 0.0}
    for name, value in options.items():
        if value != defaults.get(name):
            _refuse(f"--{name.replace('_', '-')} {sentence}")


@app.command()
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

    problem = _problem(
        start=start, target=target, clock=clock, mobility=mobility, budget=budget, budget_density=budget_density
    )
    solution, rows = compare_weightings(problem, tuple(catalogue.WEIGHTINGS) if every else NAMES)
    if as_json:
        _print_json(
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
    _print_table(
        title,
        ("weighting", "time", "relative to optimum"),
        [(row.label, f"{row.time:.6g}", f"{row.ratio:.3f}") for row in rows],
        caption=f"optimum certified within {solution.gap:.1e}",
    )


@app.command()
def table(
    weighting: Annotated[
        str, typer.Option(help="A name that `weightopt list` prints, with other parameters if it has any.")
    ],
    group_size: GroupSize = None,
    all_wrong: AllWrong = None,
    all_right: AllRight = None,
    budget: Annotated[
        float | None, typer.Option(help="Scale the weighting so that ∫ω dρ from --start to --target is this.")
    ] = None,
    start: Annotated[float | None, typer.Option(help="With --budget: where the integral starts.")] = None,
    target: Annotated[float | None, typer.Option(help="With --budget: where the integral ends.")] = None,
    output: Output = None,
    csv: Csv = None,
    as_json: AsJson = False,
) -> None:
    """Tabulate a named weighting, for instance as a baseline."""
    from theory import catalogue
    from weightopt.build import budget_scale, catalogue_table

    _check_folders(output=output, csv=csv)
    try:
        named = catalogue.parse(weighting)
    except ValueError as error:
        _refuse(f"--weighting: {error}")
    scale = 1.0
    if budget is not None and start is not None and target is not None:
        # The budget of a rule for groups is that of the curve it tends to.
        curve = named.weighting if isinstance(named, catalogue.Entry) else named.limit
        scale = budget_scale(curve, start, target, budget)
    elif not (budget is None and start is None and target is None):
        _refuse("--budget, --start and --target must be given together: the budget is an integral between the two")
    result = catalogue_table(named, group_size, all_wrong, all_right, scale)
    _write(result, output, csv)
    if as_json:
        print(result.to_json(), end="")
    else:
        _describe(result)
        _print_weights(result)


@app.command("list")
def list_weightings(as_json: AsJson = False) -> None:
    """List the catalogue of weightings: formula, rule for all-wrong groups, source."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from theory import catalogue

    rows = [catalogue.describe(member) for member in catalogue.EVERYTHING.values()]
    if as_json:
        _print_json({"weightings": rows})
        return
    listing = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "weight ω(ρ), or advantages", "all-wrong group", "source"):
        listing.add_column(column, overflow="fold")
    for row in rows:
        listing.add_row(row["name"], row["formula"], row["all_wrong"], row["source"])
    Console().print(listing)
    families = ", ".join(f"{family.name}:{family.parameters}" for family in catalogue.FAMILIES.values())
    print(f"Parameters may be changed: {families}")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A table file.")],
    csv: Csv = None,
    as_json: AsJson = False,
) -> None:
    """Print a table file."""
    from weightopt.table import WeightTable

    result = WeightTable.load(file)
    _write(result, None, csv)
    if as_json:
        print(result.to_json(), end="")
    else:
        _describe(result)
        _print_weights(result)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A table file.")],
    as_json: AsJson = False,
) -> None:
    """Verify a table file: checksum, shapes, every number, certificate. Exit status 1 if anything is off."""
    from weightopt.build import verify
    from weightopt.table import TableError, WeightTable

    try:
        sentence, fine = verify(WeightTable.load(file)), True
    except TableError as error:
        sentence, fine = str(error).removeprefix(f"{file}: "), False
    if as_json:
        _print_json({"file": str(file), "ok": fine, "message": sentence})
    elif fine:
        print(f"{file}: fine: {sentence}")
    else:
        print(f"weightopt: {file}: {sentence}", file=sys.stderr)
    if not fine:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; every failure a user can cause is one sentence and an exit status."""
    from weightopt.errors import ProblemError, SolverError
    from weightopt.table import TableError

    _add_commands()
    try:
        status = app(standalone_mode=False)
    except typer.TyperException as error:
        sentence = _sentence(error)
        if not sentence:  # called without a command: the help has been printed
            raise SystemExit(2) from None
        _fail(sentence, 2)
    except ProblemError as error:
        _fail(f"--{error.field.replace('_', '-')} {error.sentence}", 2)
    except TableError as error:
        _fail(str(error), 2)
    except SolverError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(141) from None
    raise SystemExit(status if isinstance(status, int) else 0)


def _add_commands() -> None:
    """Attach the subcommands of the other packages; one that cannot be loaded says so when it is called."""
    for entry in sorted(importlib.metadata.entry_points(group="weightopt.commands"), key=lambda entry: entry.name):
        try:
            command = entry.load()
        except (ImportError, AttributeError) as error:
            command = _unavailable(entry.name, error)
        app.command(entry.name)(command)


def _unavailable(name: str, error: Exception) -> Any:
    def command() -> None:
        _refuse(f"the command '{name}' cannot be loaded ({error}); install the project again")

    command.__doc__ = "Not available in this installation."
    return command


def _problem(
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


def _write(table: WeightTable, output: Path | None, csv: Path | None) -> None:
    if output is not None:
        _replace("--output", output, table.to_json().encode())
    if csv is not None:
        _replace("--csv", csv, table.to_csv().encode())


def _check_folders(**paths: Path | None) -> None:
    """Refuse the first path that cannot be written, or that two options share, before anything is written."""
    seen: set[Path] = set()
    for name, path in paths.items():
        if path is not None and path.resolve() in seen:
            _refuse(f"--{name}: {path} is named by another option already; give each file a name of its own")
        if path is not None:
            seen.add(path.resolve())
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            _refuse(f"--{name}: cannot write {path}; give a file in an existing, writable folder")


def _replace(option: str, path: Path, data: bytes) -> None:
    from weightopt.table import replace_file

    try:
        replace_file(path, data)
    except OSError as error:
        _refuse(f"{option}: cannot write {path} ({error.strerror}); give a file in an existing, writable folder")


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


def _describe(table: WeightTable) -> None:
    """What a table says about itself; a file that `check` has not seen may say anything, or nothing."""
    kind = "curve, any group size" if table.group_size is None else f"groups of {table.group_size}"
    print(f"{''.join(c for c in table.label if c.isprintable())}: {kind}")
    said = {**table.provenance, **(table.certificate or {}), "checksum": table.checksum}
    for key in ("formula", "source", "scale", "method", "time", "lower_bound", "gap", "checksum"):
        value = said.get(key)
        if isinstance(value, str | float | int) and (key, value) != ("scale", 1):
            text = f"{value:.12g}" if isinstance(value, float) else str(value)[:200]
            print(f"  {key.replace('_', ' '):<12} {''.join(c for c in text if c.isprintable())}")


def _print_weights(table: WeightTable, weighting: SolvedWeighting | None = None) -> None:
    """A table a person can read: every K of a group up to 32, else a handful of success probabilities."""
    import numpy as np

    if table.group_size is not None:
        assert table.advantage_correct is not None
        assert table.advantage_wrong is not None
        shown = range(table.group_size + 1)
        if table.group_size > 32:
            shown = sorted({round(x) for x in np.linspace(0, table.group_size, 17)})
        rows = [
            (
                f"{k}/{table.group_size}",
                f"{table.weight[k - 1]:.4g}" if 0 < k < table.group_size else "",
                f"{table.advantage_correct[k]:.4g}" if k > 0 else "",
                f"{table.advantage_wrong[k]:.4g}" if k < table.group_size else "",
            )
            for k in shown
        ]
        _print_table(None, ("correct", "weight ω", "advantage, correct", "advantage, wrong"), rows)
        return
    low, high = table.rho[0], table.rho[-1]
    rho = np.array([0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 0.999])
    if weighting is not None:
        low, high = weighting.envelope.problem.start, weighting.envelope.problem.target
        rho = np.unique([low, *rho, high])
    rho = rho[(rho >= low) & (rho <= high)]
    weight = table(rho) if weighting is None else weighting(rho)
    rows = [(f"{r:.4g}", f"{w:.4g}", f"{r * (1 - r) * w:.4g}") for r, w in zip(rho, weight, strict=True)]
    ends = f"all wrong {table.all_wrong_advantage:.4g}, all right {table.all_right_advantage:.4g}"
    _print_table(None, ("ρ", "weight ω", "effective weight"), rows, caption=f"advantages at the ends: {ends}")


def _print_table(
    title: str | None, columns: tuple[str, ...], rows: list[tuple[str, ...]], caption: str | None = None
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    if title is not None:
        print(title)
    Console().print(table)
    if caption is not None:
        print(caption)


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, ensure_ascii=False, allow_nan=False))


def _sentence(error: typer.TyperException) -> str:
    """What the option parser has to say, on one line."""
    text = " ".join((error.format_message() if isinstance(error, typer.BadParameter) else str(error)).split())
    return text[:1].lower() + text[1:]


def _refuse(sentence: str) -> NoReturn:
    _fail(sentence, 2)


def _fail(sentence: str, status: int) -> NoReturn:
    print(f"weightopt: {sentence.rstrip('.')}.", file=sys.stderr)
    raise SystemExit(status)
