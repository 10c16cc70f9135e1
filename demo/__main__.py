"""``python -m demo``: solve a weight curve, tabulate it, train from it and from GRPO's table, and report.

Everything goes through the same commands a user types; they are printed as they run. What is already there from an
earlier call is kept: an interrupted demonstration goes on where it stopped, a finished one prints its report again.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from demo.report import write_report
from demo.runs import Run, run_side_by_side
from figures import training
from figures.output import write
from rl.config import load_config
from rl.errors import UsageError
from theory.catalogue import WEIGHTINGS
from theory.dynamics import update_budget

CONFIG = Path("configs/demo.toml")
START, TARGET, CLOCK, GROUP_SIZE = 0.01, 0.9, "effective", 16


def main() -> None:
    """Run the demonstration from the repository root."""
    options = _options()
    folder: Path = options.output
    config = load_config(CONFIG, options.set)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()

    # 1. Solve. Both tables spend the same update budget from start to target: that of GRPO as everybody uses it.
    budget = update_budget(WEIGHTINGS["grpo"], START, TARGET)
    tables = {"optimal": folder / "table.json", "grpo": folder / "grpo.json"}
    goal = ["--start", str(START), "--target", str(TARGET)]
    _weightopt("solve", *goal, "--clock", CLOCK, "--budget", repr(budget), "--output", str(tables["optimal"]))
    _weightopt("check", str(tables["optimal"]))
    _weightopt("compare", *goal, "--clock", CLOCK)
    _weightopt("table", "--weighting", "grpo", "--group-size", str(GROUP_SIZE), "--output", str(tables["grpo"]))
    solved = time.perf_counter()

    # 2. One start model for all runs.
    start_model = folder / "start"
    overrides = [part for change in options.set for part in ("--set", change)]
    if not start_model.exists():
        _weightopt("start-model", "--config", str(CONFIG), "--output", str(start_model), *overrides)
    started = time.perf_counter()

    # 3. Train, one run on each core.
    runs = [
        Run(table, seed, folder / "runs" / table / f"seed-{seed}")
        for seed in range(options.seeds)
        for table in ("optimal", "grpo")
    ]
    overrides += ["--set", f"start_model={start_model}"]
    run_side_by_side(runs, CONFIG, tables, overrides, options.at_once, config.training.steps)
    trained = time.perf_counter()

    # 4. Draw and report.
    frame = training.data(folder / "runs")
    write(folder, "training", training.draw(frame), frame)
    seconds = {
        "solving and tabulating": solved - began,
        "start model": started - solved,
        "training": trained - started,
    }
    print("\n" + write_report(folder, frame, tables, seconds))
    print(f"\nReport: {folder / 'report.md'}   figure: {folder / 'training.png'}   table: {tables['optimal']}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Solve, tabulate, train, report.")
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per table, at least 2 (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, one thread each (default: 2)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"change a key of {CONFIG}")
    options = parser.parse_args()
    if options.seeds < 2 or options.at_once < 1:
        parser.error("--seeds must be at least 2 and --at-once at least 1")
    return options


def _weightopt(*arguments: str) -> None:
    """Run a command of this project, showing it; stop with its exit status if it fails."""
    print(f"\n$ weightopt {shlex.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "weightopt", *arguments], check=False).returncode
    if status != 0:
        raise SystemExit(status)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; `make demo` goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
