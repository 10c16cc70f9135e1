"""``weightopt sweep``: many problems into one CSV file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightopt.commands.options import AsJson, RayCluster, read_numbers
from weightopt.commands.output import check_folders, fail, print_json, refuse

if TYPE_CHECKING:
    from weightopt.sweep import Sweep

GRID = "numbers between commas, or LOW:HIGH:COUNT"


def sweep(
    start: Annotated[str, typer.Option(help=f"Success probabilities at the start: {GRID} even in log-odds.")],
    target: Annotated[str, typer.Option(help=f"Success probabilities to reach: {GRID} even in log-odds.")],
    output: Annotated[Path, typer.Option(help="CSV file with a row for every combination; - for standard output.")],
    clock: Annotated[
        list[str],
        typer.Option(
            help="What time costs, by name as for solve but not from a file; repeat it for more.", show_default=False
        ),
    ],
    mobility: Annotated[
        list[str] | None, typer.Option(help="natural (default) or softmax-gradient; repeatable.")
    ] = None,
    min_weight: Annotated[str | None, typer.Option(help=f"Lower bounds: {GRID} even in the logarithm.")] = None,
    max_weight: Annotated[str | None, typer.Option(help=f"Upper bounds: {GRID} even in the logarithm.")] = None,
    max_ratio: Annotated[
        str | None, typer.Option(help=f"Largest over smallest weight: {GRID} even in the logarithm.")
    ] = None,
    monotone: Annotated[
        list[str] | None, typer.Option(help="free (default), decreasing or increasing; repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default one a core.")] = None,
    ray: RayCluster = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted sweep of the same options.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Solve every combination of starts, targets, clocks and constraints at budget 1, each with its certificate.

    A weight bound is absolute; where no weighting of budget 1 meets it the row says infeasible.
    """
    import math
    import time

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from weightopt.heartbeat import Heartbeat
    from weightopt.spread import SpreadError
    from weightopt.sweep import Sweep, run_sweep

    to_pipe = str(output) == "-"
    if to_pipe and (resume or as_json):
        refuse(f"--{'resume' if resume else 'json'} needs --output FILE: standard output takes the rows alone")
    if not to_pipe:
        check_folders(output=output)
    cores = os.cpu_count() or 1
    if workers is not None and not 1 <= workers <= 256:
        refuse(f"--workers must be from 1 to 256, got {workers}")
    if workers is not None and ray is not None:
        refuse("--workers is for this machine and --ray for a cluster; give one of them")
    shapes = {"free": None, "decreasing": "decreasing", "increasing": "increasing"}
    for word in monotone or []:
        if word not in shapes:
            refuse(f"--monotone must be free, decreasing or increasing, got {word[:40]!r}")
    problems = Sweep(
        start=_grid("start", start, odds=True),
        target=_grid("target", target, odds=True),
        clock=clock,
        mobility=mobility or ["natural"],
        min_weight=[0.0] if min_weight is None else _grid("min_weight", min_weight),
        max_weight=[math.inf] if max_weight is None else _grid("max_weight", max_weight),
        max_ratio=[math.inf] if max_ratio is None else _grid("max_ratio", max_ratio),
        monotone=[shapes[word] for word in monotone or ["free"]],  # pyright: ignore[reportArgumentType]
    )
    problems.check()
    workers = min(workers or cores, problems.size)
    if to_pipe:
        try:
            _into_pipe(problems, workers, ray)
        except SpreadError as error:
            refuse(f"{error}")
        return
    began = time.perf_counter()
    columns = (TextColumn("solving"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, disable=as_json or not console.is_terminal)
    bar = progress.add_task("", total=problems.size)
    beat = Heartbeat(
        lambda seconds: f"weightopt: {progress.tasks[0].completed:.0f} of {problems.size} rows after {seconds:.0f} s",
        active=not (as_json or console.is_terminal),
    )

    def advance(rows: int) -> None:
        progress.start()  # from the first row on: a sweep that is refused shows no bar
        progress.advance(bar, rows)

    try:
        with beat:
            ended = run_sweep(problems, output, workers, advance, resume=resume, ray=ray)
    except SpreadError as error:
        if progress.live.is_started:  # else it would print an empty line
            progress.stop()
        refuse(f"{error}")
    except KeyboardInterrupt:
        progress.stop()
        fail(f"interrupted; the rows so far are in {output}.partial, and --resume goes on from there", 130)
    except OSError as error:
        progress.stop()
        kept = output.with_name(output.name + ".partial")
        if not kept.is_file():
            refuse(f"--output: cannot write {output} ({error.strerror}); give a file in an existing, writable folder")
        fail(f"cannot write {output} ({error.strerror}); the rows so far are in {kept}, and --resume goes on there", 1)
    progress.stop()
    seconds = time.perf_counter() - began
    if as_json:
        print_json({"file": str(output), "rows": problems.size, **ended, "seconds": seconds})
        return
    counts = ", ".join(f"{count} {name}" for name, count in ended.items() if count)
    print(f"{output}: {problems.size} rows in {seconds:.1f} s: {counts}")


def _into_pipe(problems: Sweep, workers: int, ray: str | None) -> None:
    """Print the rows as they are solved, and nothing else; how many there were goes to standard error."""
    from collections import Counter

    from weightopt.heartbeat import Heartbeat
    from weightopt.sweep import sweep_lines

    ended: Counter[str] = Counter()
    with Heartbeat(lambda seconds: f"weightopt: {ended.total()} of {problems.size} rows after {seconds:.0f} s"):
        for line, status in sweep_lines(problems, workers, ray):
            print(line, end="", flush=True)
            ended.update([status] if status else [])
    counts = ", ".join(f"{count} {name}" for name, count in ended.items())
    print(f"weightopt: {problems.size} rows: {counts}", file=sys.stderr)


def _grid(field: str, text: str, odds: bool = False) -> list[float]:
    """Numbers between commas, or LOW:HIGH:COUNT even in log-odds or in the logarithm."""
    import numpy as np
    from scipy.special import expit, logit

    from weightopt.errors import ProblemError

    if ":" not in text:
        return read_numbers(field, text)
    words = text.split(":")
    numbers = read_numbers(field, ",".join(words))
    top = 1.0 if odds else np.inf
    if len(numbers) != 3 or not (0 < numbers[0] < numbers[1] < top) or numbers[2] not in range(2, 100_001):
        where = "0 < LOW < HIGH < 1" if odds else "0 < LOW < HIGH"
        raise ProblemError(
            field, f"must be LOW:HIGH:COUNT with {where} and COUNT a whole number from 2 to 100000, got {text[:40]!r}"
        )
    low, high, count = numbers[0], numbers[1], int(numbers[2])
    values = expit(np.linspace(logit(low), logit(high), count)) if odds else np.geomspace(low, high, count)
    values[0], values[-1] = low, high
    return [float(value) for value in values]
