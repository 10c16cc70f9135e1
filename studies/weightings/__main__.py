"""``python -m studies.weightings``: the whole study, or only its report from the results that are kept.

Without options the start models are made, learning rates tuned, all methods trained, the results collected and the
tables of docs/results.md computed. What is done already is kept: it may be stopped at any time (Ctrl-C, SIGTERM,
SIGKILL) and goes on where it was when called again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# One thread a run, in this process and in those it starts; set before numpy and torch are loaded.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from rl.records.metrics import METRICS_FILE, read_metrics
from studies.weightings.collect import collect
from studies.weightings.plan import HERE, Job, Plan, Setting, load_plan
from studies.weightings.report import PAGE, rewrite
from studies.weightings.start_counts import count_starts, write_rates
from studies.weightings.starts import make_start, start_model
from studies.weightings.work import run_job
from weightopt.files import replace_file
from weightopt.spread import SpreadError, check_cluster, spread

ENVIRONMENT = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE")}
PACKAGES = ("weightopt", "numpy", "torch")


def main() -> None:
    """Run the study, or the settings that are named."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.weightings", description="Run the study of prompt weightings, or go on with it."
    )
    parser.add_argument("--plan", type=Path, default=HERE / "study.toml", help="what to run (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/studies/weightings"), help="folder of the runs")
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, one thread each (default: 2)")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="spread the runs over this Ray cluster, HOST:PORT, instead; without an address over the one that this "
        "machine is part of; --output is then on a file system that all nodes share",
    )
    parser.add_argument("--settings", nargs="+", help="of the plan (default: all)")
    parser.add_argument("--report-only", action="store_true", help="train nothing, compute docs/results.md anew")
    options = parser.parse_args()
    try:
        plan = load_plan(options.plan)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        parser.error(f"--plan {options.plan}: not a plan such as studies/weightings/study.toml ({error})")
    for name in options.settings or ():
        if name not in plan.settings:
            parser.error(f"--settings {name}: not a setting of {options.plan}; choose from {', '.join(plan.settings)}")
    if not options.report_only:
        try:
            train_all(plan, options)
        except SpreadError as error:
            parser.error(str(error))
    replace_file(PAGE, rewrite(plan, PAGE.read_text(encoding="utf-8")).encode())


def train_all(plan: Plan, options: argparse.Namespace) -> None:
    """Make every run of the settings that are asked for, and collect their results."""
    check_cluster(options.ray)
    for name in options.settings or plan.settings:
        run_setting(plan, plan.settings[name], options)
        collect(plan, plan.settings[name], options.output)


def run_setting(plan: Plan, setting: Setting, options: argparse.Namespace) -> None:
    """Starts, tables, tuning runs, evaluation runs of one setting."""
    output = options.output.resolve() if options.ray else options.output
    starts = {seed: output / setting.name / "starts" / f"seed-{seed}" for seed in (*plan.tuning_seeds, *plan.seeds)}
    calls = [(setting, seed, folder) for seed, folder in starts.items()]
    _all(options, make_start, calls, f"{setting.name}: starts")
    tables = _tables(plan, setting, output / setting.name)

    def run(jobs: list[Job]) -> None:
        if not jobs:
            return
        calls = [(setting, job, tables[job.method], start_model(setting, starts[job.seed]), output) for job in jobs]
        _all(options, run_job, calls, f"{setting.name}: {jobs[0].phase}")

    if len(setting.rates) == 1:  # nothing to choose from
        rates = dict.fromkeys(plan.methods, setting.rates[0])
    else:
        tuning = plan.tuning(setting)
        run(tuning)
        for _ in range(plan.extend):
            run(more := plan.tuning_at(setting, beyond(tuning, choose_rates(plan, tuning, output))))
            tuning += more
        rates = choose_rates(plan, tuning, output)
    replace_file(output / setting.name / "rates.json", (json.dumps(rates, indent=2) + "\n").encode())
    run(plan.evaluation(setting, rates))
    run(plan.explored(setting))


def beyond(tuning: list[Job], chosen: Mapping[str, float]) -> dict[str, list[float]]:
    """Half or twice the best learning rate of each method that is best at an end of what it was tried with."""
    tried = {method: [job.rate for job in tuning if job.method == method] for method in chosen}
    return {
        method: [rate / 2 if rate == min(tried[method]) else rate * 2]
        for method, rate in chosen.items()
        if rate in (min(tried[method]), max(tried[method]))
    }


def choose_rates(plan: Plan, tuning: list[Job], output: Path) -> dict[str, float]:
    """For each method the learning rate with the highest held-out success, averaged over evaluations and seeds."""
    mean: dict[tuple[str, float], list[float]] = {}
    for job in tuning:
        evaluations = read_metrics(output / job.folder / METRICS_FILE).evaluations
        mean.setdefault((job.method, job.rate), []).append(float(np.mean([each.success for each in evaluations])))
    score = {key: float(np.mean(values)) for key, values in mean.items()}
    return {
        method: max((rate for name, rate in score if name == method), key=lambda rate, m=method: score[m, rate])
        for method in plan.methods
    }


def _tables(plan: Plan, setting: Setting, folder: Path) -> dict[str, Path]:
    tables = {method: folder / "tables" / f"{method}.json" for method in plan.methods}
    (folder / "tables").mkdir(exist_ok=True)
    rates = folder / "tables" / "rates.csv"
    starts = count_starts(folder / "starts")
    write_rates(starts[starts["seed"].isin(plan.tuning_seeds)], rates)
    for method, path in tables.items():
        if not path.exists():
            plan.make_table(method, setting, path, rates)
    return tables


def _all(options: argparse.Namespace, function: Callable[..., None], calls: list[tuple[Any, ...]], title: str) -> None:
    """Make all calls, a line for each that has ended."""
    began = time.monotonic()
    ended = spread(
        function, calls, workers=options.at_once, ray=options.ray, packages=PACKAGES, environment=ENVIRONMENT
    )
    for number, _ in enumerate(ended, start=1):
        took = time.monotonic() - began
        left = took / number * (len(calls) - number)
        print(f"{title} {number}/{len(calls)}, {took:.0f} s, about {left:.0f} s to go", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
