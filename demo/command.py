"""``weightopt demo``: a pilot, the table it is advised, training from it and from two named weightings, a report.

Everything goes through the same commands a user types; they are printed as they run. What is already there from an
earlier call is kept: an interrupted demonstration goes on where it stopped, a finished one prints its report again.

Nothing heavy is imported before the command is called.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import typer

from demo.tables import ADVISED, REFERENCE

CONFIG = "demo"
GROUP_SIZE = 16
NAMED = (REFERENCE, "sqrt-r")  # what everybody uses, and the named weighting that trained best from starts as hard
# One step from the start model of all runs, on prompts and random numbers of a seed that no run has.
PILOT = ("seed=1000", "training.steps=1", "rollout.prompts_per_step=256", "training.evaluate_every=1")
BAD_USAGE, INTERRUPTED = 2, 130
INSTALL = "pip install 'weightopt[rl]'"


class Size(NamedTuple):
    """How much is done: seeds per table, changes of the configuration, levels of success that are compared."""

    seeds: int
    changes: tuple[str, ...]
    levels: tuple[float, ...]
    folder: Path


FULL = Size(3, ("training.rollout_share=0.005",), (0.3, 0.5, 0.7), Path("out/demo"))
# One seed a table, a ninth of the steps with half the prompts each, and a start model from fewer steps.
QUICK = Size(
    1,
    (
        "supervised.steps=30",
        "supervised.check_every=30",
        "training.steps=30",
        "training.evaluate_every=10",
        "training.checkpoint_every=30",
        "training.rollout_share=0.05",
        "rollout.prompts_per_step=32",
        "evaluation.prompts=64",
    ),
    (0.1, 0.15, 0.2),
    Path("out/demo-quick"),
)


def demo(
    output: Annotated[
        Path | None, typer.Option(help=f"Folder; default {FULL.folder}, with --quick {QUICK.folder}.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="The whole idea in two to three minutes: one seed per table and short runs, which show how it works "
            "and not which table is better.",
        ),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(help=f"Seeds per table; default {FULL.seeds}, with --quick {QUICK.seeds}.", show_default=False),
    ] = None,
    at_once: Annotated[int, typer.Option(help="Runs side by side, one thread each.")] = 2,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the configuration; repeatable."),
    ] = None,
) -> None:
    """Ask for advice on a small model, train it from that table and from GRPO's and Sqrt-R's, and show what came of it.

    It ends with a report to open in a browser. A demonstration that was interrupted goes on where it stopped.
    """
    for package in ("torch", "transformers", "pydantic", "safetensors"):
        if find_spec(package) is None:
            _stop(f"the demonstration trains, which needs {package}: {INSTALL}", BAD_USAGE)
    size = QUICK if quick else FULL
    count = size.seeds if seeds is None else seeds
    for option, value in (("--seeds", count), ("--at-once", at_once)):
        if value < 1:
            _stop(f"{option} must be at least 1, got {value}", BAD_USAGE)
    from rl.errors import UsageError

    try:
        _demonstrate(size, output or size.folder, count, at_once, [*size.changes, *(overrides or [])])
    except UsageError as error:
        _stop(str(error), BAD_USAGE)
    except OSError as error:
        _stop(f"{error.filename or output} cannot be written: {error.strerror}", BAD_USAGE)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on from here", INTERRUPTED)


def _demonstrate(size: Size, folder: Path, seeds: int, at_once: int, changes: list[str]) -> None:
    from demo.findings import write_report
    from demo.runs import Run, run_side_by_side
    from figures import training
    from figures.output import write
    from rl.config import load_config

    config = load_config(Path(CONFIG), changes)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    tables = {ADVISED: folder / "table.json", **{name: folder / f"{name}.json" for name in NAMED}}
    runs = [Run(table, seed, folder / "runs" / table / f"seed-{seed}") for seed in range(seeds) for table in tables]
    print(
        f"{len(runs)} runs of {config.training.steps} steps, {config.rollout.prompts_per_step} prompts x "
        f"{config.rollout.group_size} responses each, {at_once} at a time"
        + (
            "; --quick: one seed, shorter runs and smaller steps than the whole demonstration."
            if size is QUICK
            else "."
        )
    )

    # 1. One start model for all runs.
    overrides = [part for change in changes for part in ("--set", change)]
    start_model = folder / "start"
    if not start_model.exists():
        _weightopt("start-model", "--config", CONFIG, "--output", str(start_model), *overrides)
    overrides += ["--set", f"start_model={start_model}"]
    started = time.perf_counter()

    # 2. A pilot says how hard the start is; advice on it is the table to train from.
    for name in NAMED:
        _weightopt("table", "--weighting", name, "--group-size", str(GROUP_SIZE), "--output", str(tables[name]))
    pilot = folder / "pilot"
    if not tables[ADVISED].exists():
        changed = [part for change in PILOT for part in ("--set", change)]
        if not (pilot / "model").exists():
            resume = ["--resume"] if pilot.exists() else []
            arguments = [
                "train",
                "--config",
                CONFIG,
                *overrides,
                *changed,
                "--set",
                f"table={tables['grpo']}",
                "--quiet",
            ]
            _weightopt(*arguments, "--output", str(pilot), *resume)
    advise = ["advise", "--metrics", str(pilot), "--group-sizes", str(GROUP_SIZE)]
    _weightopt(*advise, "--output", str(tables[ADVISED]))
    advised = time.perf_counter()

    # 3. Train, one run on each core.
    run_side_by_side(runs, CONFIG, tables, overrides, at_once, config.training.steps)
    trained = time.perf_counter()

    # 4. Draw and report.
    frame = training.data(folder / "runs")
    write(folder, "training", training.draw(frame), frame)
    seconds = {
        "start model": started - began,
        "pilot and advice": advised - started,
        "training": trained - advised,
    }
    print("\n" + write_report(folder, frame, tables, seconds, size.levels))
    page = folder / "report.html"
    shown = find_spec("plotly") is not None
    if shown:
        _weightopt("report", *(str(run.folder) for run in runs), "--output", str(page))
    print(f"\nTable:    {tables[ADVISED]}\nTraining: {folder / 'training.png'}")
    print(f"Summary:  {folder / 'report.md'}")
    print(f"Report:   {page}, to open in a browser" if shown else "Report:   needs pip install 'weightopt[report]'")


def _weightopt(*arguments: str) -> None:
    """Run a command of this project, showing it; stop with its exit status if it fails."""
    print(f"\n$ weightopt {shlex.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "weightopt", *arguments], check=False).returncode
    if status != 0:
        raise SystemExit(status)


def _stop(sentence: str, status: int) -> NoReturn:
    print(f"weightopt: {sentence}.", file=sys.stderr)
    raise SystemExit(status)
