"""The commands ``weightopt simulate`` and ``weightopt forecast``.

Only the standard library and typer are imported here, so that the command line starts fast and can say what is missing
when the simulation extra is not installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from sim.config import Config

INSTALL = "pip install 'weightopt[sim]'"

# The packages of the extra; any other missing import is a defect and shows its traceback.
EXTRA = frozenset({"llvmlite", "numba", "pyarrow", "pydantic"})

BAD_USAGE = 2
INTERRUPTED = 130


def simulate(
    output: Annotated[
        Path | None, typer.Option(help="Folder of the sweep; must be new or empty.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration of the sweep: a TOML file, or the name of one that comes with the project."),
    ] = None,
    weighting: Annotated[
        list[str] | None,
        typer.Option(
            help="A name that `weightopt list` prints, or a table file; repeatable, the first is compared to."
        ),
    ] = None,
    population: Annotated[
        list[str] | None,
        typer.Option(help="Where prompts start: constant:R, uniform:LOW,HIGH, beta:A,B[,LOW] or csv:FILE; repeatable."),
    ] = None,
    step_size: Annotated[list[float] | None, typer.Option(help="Step size η of an update; repeatable.")] = None,
    world: Annotated[
        str | None,
        typer.Option(help="binary (a log-odds a prompt), tabular (softmax over answers) or shared (common skills)."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Of the binary world: finite-sample, mean-field or large-group.")
    ] = None,
    step_model: Annotated[str | None, typer.Option(help="How a group moves the policy: ratio or outcome.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Prompts in the population.")] = None,
    group_size: Annotated[int | None, typer.Option(help="Responses per prompt M.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any key, e.g. tabular.answers=64; repeatable."),
    ] = None,
    format: Annotated[str, typer.Option(help="Of the result tables: csv or parquet.")] = "csv",
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Spread the cells over this Ray cluster, HOST:PORT; without an address over that of this machine.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed sweep in --output was.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the outcome.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON document.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Only print every key, its value and its meaning, as TOML.")
    ] = False,
) -> None:
    """Simulate populations of prompts under weightings or weight tables, and compare what reaching a target costs."""
    stated = {
        "weightings": weighting,
        "populations": population,
        "step_sizes": step_size,
        "world": world,
        "engine": engine,
        "step_model": step_model,
        "prompts": prompts,
        "group_size": group_size,
        "steps": steps,
        "seeds": seeds,
    }
    if format not in ("csv", "parquet"):
        _stop(f"--format must be csv or parquet, got {format!r}", BAD_USAGE)
    try:
        import pyarrow  # noqa: F401

        from sim.config import load_config
        from sim.errors import UsageError
        from sim.progress import Display
        from sim.sweep import sweep
        from weightopt.settings import as_toml
        from weightopt.spread import SpreadError
    except ModuleNotFoundError as error:
        _refuse_without_extra(error)
    try:
        settings = load_config(config, stated, overrides or ())
    except UsageError as error:
        _stop(str(error), BAD_USAGE)
    if print_config:
        print(as_toml(settings), end="")
        return
    if output is None:
        _stop("missing option '--output'", BAD_USAGE)
    try:
        with Display(quiet=quiet or as_json) as display:
            summary = sweep(settings, output, resume=resume, format=format, reporter=display, ray=ray)
    except (UsageError, SpreadError) as error:
        _stop(str(error), BAD_USAGE)
    except OSError as error:
        _stop(f"{error.filename or output} cannot be written: {error.strerror}", BAD_USAGE)
    except MemoryError:
        _stop(
            f"{settings.prompts} prompts do not fit into memory; lower prompts, tabular.answers or shared.skills",
            BAD_USAGE,
        )
    except KeyboardInterrupt:
        _stop("interrupted; --resume goes on where the sweep was", INTERRUPTED)
    if as_json:
        rows = [
            {key: None if value != value else value for key, value in row.items()}
            for row in summary.to_dict(orient="records")
        ]
        print(json.dumps({"output": str(output), "summary": rows}, ensure_ascii=False, allow_nan=False))
        return
    _print(settings, summary)
    print(f"trajectories, measures and summary: {output}/*.{format}")


def forecast(
    pilot: Annotated[
        Path, typer.Option(help="Folder of a run, or its metrics.jsonl, that reports success by kind of prompt.")
    ],
    trained_with: Annotated[
        str, typer.Option(help="What the pilot was trained with: a name that `weightopt list` prints, or a table file.")
    ],
    weighting: Annotated[
        list[str] | None, typer.Option(help="What to forecast, as --trained-with; repeatable.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="Updates of the run that is forecast.", min=1, max=100_000)] = 400,
    pilot_steps: Annotated[int, typer.Option(help="The pilot's first steps that are used.", min=5, max=10_000)] = 40,
    level: Annotated[
        list[float] | None, typer.Option(help="Mean success to be reached; repeatable.", show_default="0.5")
    ] = None,
    replicas: Annotated[int, typer.Option(help="Simulated runs of each weighting.", min=8, max=4096)] = 64,
    seed: Annotated[int, typer.Option(help="Of the simulated runs.", min=0)] = 0,
    best: Annotated[
        Path | None,
        typer.Option(help="Search the best table of the fitted world, a local optimum, and write it to this file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the forecast as one JSON document.")] = False,
) -> None:
    """Forecast full runs of other weightings from a pilot, where kinds of prompts compete for shared habits."""
    try:
        from sim import report_forecast
        from sim.errors import UsageError
    except ModuleNotFoundError as error:
        _refuse_without_extra(error)
    try:
        report_forecast.run(
            pilot,
            trained_with,
            weighting or ["grpo", "rloo", "linear-r", "sqrt-r"],
            steps=steps,
            pilot_steps=pilot_steps,
            levels=level or [0.5],
            replicas=replicas,
            seed=seed,
            best=best,
            as_json=as_json,
        )
    except UsageError as error:
        _stop(str(error), BAD_USAGE)
    except OSError as error:
        _stop(f"{error.filename or best} cannot be written: {error.strerror}", BAD_USAGE)
    except KeyboardInterrupt:
        _stop("interrupted", INTERRUPTED)


def _print(config: Config, summary: Any) -> None:
    """A table a population: the first target, mean success, prompts never lifted."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    level = f"{config.measures.targets[0]:g}"
    what = config.engine if config.world == "binary" else f"{config.world} world"
    print(
        f"{config.prompts:,} prompts, groups of {config.group_size}, {config.steps:,} updates, seeds: {config.seeds}, "
        f"{what}; 95 % t-intervals over seeds"
    )
    console = Console()
    console = Console(width=max(console.width, 120))  # a number that is cut short is worse than a long line
    for scope in dict.fromkeys(summary["population"]):
        table = Table(box=box.SIMPLE_HEAD)
        heads = ("step size", f"updates to {level}", "ratio to the first", "ratio in responses", "never lifted")
        table.add_column("weighting", overflow="fold")
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True)
        part = summary[summary["population"] == scope]
        for (name, size), rows in part.groupby(["weighting", "step_size"], sort=False):
            measured = rows.set_index("measure")
            updates, responses = (measured.loc[f"{cost} to mean success {level}"] for cost in ("updates", "responses"))
            estimates = _estimate(updates, ""), _estimate(updates, "ratio"), _estimate(responses, "ratio")
            table.add_row(name, f"{size:g}", *estimates, f"{measured.loc['prompts never lifted', 'mean']:.1%}")
        print(f"\nstart {scope}")
        console.print(table)


def _estimate(row: Any, prefix: str) -> str:
    """A mean or a ratio with its interval; how many seeds arrived where not all did."""
    if row["reached"] < row["seeds"]:
        return "" if prefix else f"reached by {row['reached']} of {row['seeds']} seeds"
    names = ("ratio", "ratio_low", "ratio_high") if prefix else ("mean", "low", "high")
    mean, low, high = (row[name] for name in names)
    if mean != mean:  # not a number: the first weighting did not arrive, or was there from the start
        return ""
    digits = 3 if prefix else 1
    if low != low:  # one seed has no interval
        return f"{mean:,.{digits}f}"
    return f"{mean:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


def _refuse_without_extra(error: ModuleNotFoundError) -> NoReturn:
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA:
        raise error
    _stop(f"simulation needs {package}, which is not installed: {INSTALL}", BAD_USAGE)


def _stop(sentence: str, status: int) -> NoReturn:
    print(f"weightopt: {sentence}.", file=sys.stderr)
    raise SystemExit(status)
