"""``python -m studies.ladder``: run rungs 1 to 3 of the ladder, or only its report from the results that are kept.

What is done already is kept: it may be stopped at any time and goes on where it was when called again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are loaded

from studies.ladder.report import DRAFT, PAGE, rewrite
from studies.ladder.rows import PREDICTIONS, RESULTS, write_frame, write_rows
from studies.ladder.runs import collect, jobs, predictions, rows_of
from weightopt.files import replace_file

RUNGS = (1, 2, 3)


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
        if not options.report_only:
            run(rung, options.output)
        write_rows(*rows_of(rung))
    for page in (PAGE, DRAFT):
        if page.exists():
            replace_file(page, rewrite(page.read_text(encoding="utf-8")).encode())


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
