"""``python -m studies.ladder``: run the ladder, or only write its report from the results that are kept.

What is done already is kept: it may be stopped at any time and goes on where it was when called again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are loaded

from studies.ladder import rung4
from studies.ladder.report import PAGE, rewrite
from studies.ladder.rows import PREDICTIONS, RESULTS, write_frame, write_rows
from studies.ladder.runs import collect, jobs, predictions, rows_of
from studies.weightings.collect import collect as collect_runs
from studies.weightings.plan import Plan, load_plan
from weightopt.files import replace_file

PLAN = Path(__file__).parent / "rung4.toml"
RUNGS = (1, 2, 3, 4)


def main() -> None:
    """Run the rungs that are named."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.ladder", description="Run the ladder of predicted experiments, or go on with it."
    )
    parser.add_argument("--rungs", type=int, nargs="+", choices=RUNGS, default=RUNGS, help="which (default: all)")
    parser.add_argument("--output", type=Path, default=Path("out/studies/ladder"), help="folder of single results")
    parser.add_argument("--predict", action="store_true", help="only write the predictions, which run nothing")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write rows and tables anew")
    options = parser.parse_args()
    if options.predict:
        write_frame(RESULTS / PREDICTIONS, predictions())
        return
    for rung in options.rungs:
        if rung == 4:
            plan = load_plan(PLAN)
            if not options.report_only:
                train(plan, options.output)
            write_rows(*rung4.rows_of(plan, plan.results))
            continue
        if not options.report_only:
            run(rung, options.output)
        write_rows(*rows_of(rung))
    replace_file(PAGE, rewrite(PAGE.read_text(encoding="utf-8")).encode())


def train(plan: Plan, output: Path) -> None:
    """Train what rung 4 trains, and predict it from the runs that tune and the start models alone."""
    command = [sys.executable, "-m", "studies.weightings", "--plan", str(PLAN), "--output", str(output)]
    subprocess.run(command, check=True)
    for setting in plan.settings.values():
        path = plan.results / setting.name / rung4.PREDICTED_FILE
        if not path.exists():
            write_frame(path, rung4.predict(plan, setting, output))
    setting = plan.settings[rung4.FOLLOWED_IN]
    here = output / setting.name
    rate = json.loads((here / "rates.json").read_text(encoding="utf-8"))["population"]
    for seed in plan.seeds:
        start, table = here / "starts" / f"seed-{seed}" / "model", here / "tables" / "crowding-30.json"
        rung4.run_followed(setting, seed, rate, start, table, output)
    collect_runs(plan, setting, output)


def run(rung: int, output: Path) -> None:
    """Do the jobs of a rung that are not done, a line for each, and keep their results."""
    waiting = [job for job in jobs(rung) if not job.file(output).exists()]
    began = time.monotonic()
    for number, job in enumerate(waiting, start=1):
        write_frame(job.file(output), job.run())
        took = time.monotonic() - began
        left = took / number * (len(waiting) - number)
        done = f"rung {rung}, {job.setting}, {job.method}: {number}/{len(waiting)}"
        print(f"{done}, {took:.0f} s, about {left:.0f} s to go", flush=True)
    collect(rung, output)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
