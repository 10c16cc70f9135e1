"""``weightopt demo``: a pilot, the table it is advised, training from it and from two named weightings, a report.

Everything goes through the same commands a user types; they are printed as they run. What is already there from an
earlier call is kept: an interrupted demonstration goes on where it stopped, a finished one prints its report again.

Nothing heavy is imported before the command is called.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import typer

from demo.tables import ADVISED, REFERENCE

NAMED = (REFERENCE, "sqrt-r")  # what everybody uses, and a named weighting that trained well from starts as hard
PILOT_SEED = 1000  # whose prompts and random numbers no run has
PILOT_STEPS = 4  # the pilot is one step with the prompts of so many
PILOT_LEAST = 64  # and with no fewer prompts
BAD_USAGE, INTERRUPTED = 2, 130
INSTALL = "pip install 'weightopt[rl]'"


class Size(NamedTuple):
    """How much is done: seeds per table, changes of the configuration, runs at once (None: all), where it goes."""

    seeds: int
    changes: tuple[str, ...]
    at_once: int | None
    folder: Path


FULL = Size(3, ("training.rollout_share=0.005",), 2, Path("out/demo"))
# One seed a table, a ninth of the steps with half the prompts each, and a start model from fewer steps.
QUICK = Size(
    1,
    (
        "supervised.steps=30",
        "supervised.batch_size=192",
        "supervised.check_every=30",
        "training.steps=24",
        "training.evaluate_every=8",
        "training.checkpoint_every=24",
        "training.rollout_share=0.05",
        "rollout.prompts_per_step=24",
        "evaluation.prompts=64",
    ),
    None,  # three short runs on two cores end sooner than two and then one
    Path("out/demo-quick"),
)


def demo(
    config: Annotated[
        str,
        typer.Option(
            help="What to show it on: a configuration, a TOML file or a shipped name. The start model that it names is "
            "taken; if it names none, one is made."
        ),
    ] = "demo",
    output: Annotated[
        Path | None,
        typer.Option(help=f"Folder; default {FULL.folder}, with --quick {QUICK.folder}, with --config out/demo-NAME."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="The whole idea in a minute and a half: one seed per table and short runs, which show how it works "
            "and not which table is better.",
        ),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(help=f"Seeds per table; default {FULL.seeds}, with --quick {QUICK.seeds}.", show_default=False),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(help=f"Runs side by side; default {FULL.at_once}, with --quick all.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the configuration; repeatable."),
    ] = None,
) -> None:
    """Ask for advice on a model, train it from that table and from GRPO's and Sqrt-R's, and show what came of it.

    It ends with a report to open in a browser. A demonstration that was interrupted goes on where it stopped.
    """
    for package in ("torch", "transformers", "pydantic", "safetensors"):
        if find_spec(package) is None:
            _stop(f"the demonstration trains, which needs {package}: {INSTALL}", BAD_USAGE)
    size = QUICK if quick else FULL
    count = size.seeds if seeds is None else seeds
    for option, value in (("--seeds", count), ("--at-once", at_once)):
        if value is not None and value < 1:
            _stop(f"{option} must be at least 1, got {value}", BAD_USAGE)
    from rl.errors import UsageError
    from weightopt.settings import changes_key

    for key in ("table", "later_tables", "weighting.follow", "seed"):
        if any(changes_key(change, key) for change in overrides or []):
            _stop(f"--set {key} is not for the demonstration, which sees to it for each of its runs", BAD_USAGE)
    if quick:
        print("--quick: one seed, shorter runs and smaller steps than the whole demonstration.")
    try:
        _demonstrate(
            config,
            output or (size.folder if config == "demo" else size.folder.with_name(f"demo-{Path(config).stem}")),
            count,
            at_once or size.at_once or count * (1 + len(NAMED)),
            [*size.changes, *(overrides or [])],
        )
    except UsageError as error:
        _stop(str(error), BAD_USAGE)
    except OSError as error:
        _stop(f"{error.filename or output} cannot be written: {error.strerror}", BAD_USAGE)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on from here", INTERRUPTED)


def _demonstrate(name: str, folder: Path, seeds: int, at_once: int, changes: list[str]) -> None:
    from demo.findings import write_report
    from demo.runs import Run, run_side_by_side
    from figures import training
    from figures.output import write
    from rl.config import load_config
    from rl.errors import UsageError

    config = load_config(Path(name), changes)
    tables = {ADVISED: folder / "table.json", **{name: folder / f"{name}.json" for name in NAMED}}
    known = (folder / "runs", folder / "pilot", *tables.values())
    begun = any(path.exists() for path in known) or {path.name for path in folder.glob("[!.]*")} == {"start"}
    if not begun and any(folder.glob("[!.]*")):
        raise UsageError(f"output {str(folder)!r} is not empty and holds no demonstration: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    runs = [Run(table, seed, folder / "runs" / table / f"seed-{seed}") for seed in range(seeds) for table in tables]
    print(
        f"{len(runs)} runs of {config.training.steps} steps, {config.rollout.prompts_per_step} prompts x "
        f"{config.rollout.group_size} responses each, {min(at_once, len(runs))} at a time."
    )

    # 1. One start model for all runs.
    overrides = [part for change in changes for part in ("--set", change)]
    if config.start_model is None:
        start_model = folder / "start"
        if not start_model.exists():
            # The only process of its moment: all the cores that the runs will have.
            threads = ("--set", f"threads={min(at_once, os.cpu_count() or 1)}")
            _weightopt("start-model", "--config", name, "--output", str(start_model), *overrides, *threads)
        overrides += ["--set", f"start_model={start_model}"]
    started = time.perf_counter()

    # 2. A pilot says how hard the start is; advice on it is the table to train from.
    group_size = str(config.rollout.group_size)
    for weighting in NAMED:
        _weightopt("table", "--weighting", weighting, "--group-size", group_size, "--output", str(tables[weighting]))
    pilot = folder / "pilot"
    if not (pilot / "model").exists():
        each = config.rollout.prompts_per_step
        prompts = each * max(PILOT_STEPS, -(-PILOT_LEAST // each))  # what divides a step divides it too
        changed = (
            f"seed={PILOT_SEED}",
            f"table={tables[REFERENCE]}",
            f"rollout.prompts_per_step={prompts}",
            "training.steps=1",
            "training.evaluate_every=1",
        )
        arguments = ["--config", name, *overrides, *(part for change in changed for part in ("--set", change))]
        resume = ["--resume"] if pilot.exists() else []
        _weightopt("train", *arguments, "--quiet", "--output", str(pilot), *resume)
    advise = ["advise", "--metrics", str(pilot), "--group-sizes", group_size]
    _weightopt(*advise, "--output", str(tables[ADVISED]))
    advised = time.perf_counter()

    # 3. Train, one run on each core.
    run_side_by_side(runs, name, tables, overrides, at_once, config.training.steps)
    trained = time.perf_counter()

    # 4. Draw and report.
    frame = training.data(folder / "runs")
    write(folder, "training", training.draw(frame), frame)
    seconds = {
        "start model": started - began,
        "pilot and advice": advised - started,
        "training": trained - advised,
    }
    print("\n" + write_report(folder, frame, tables, seconds))
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
