"""From run folders to the few files that are kept with the project: evaluations, steps, starts, seconds.

``results/evaluations.csv.xz`` has a row for each held-out evaluation of every run, ``steps.csv.xz`` a row for each
update of the runs that are compared, ``starts.csv.xz`` one for each prompt by which a start was measured, and
``seconds.csv`` one for each run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from rl.metrics import METRICS_FILE, TIMING_FILE, read_metrics, read_timing
from studies.weightings.plan import HERE, Plan

RESULTS = HERE / "results"
KEYS = ["setting", "phase", "method", "rate", "seed"]


def collect(plan: Plan, output: Path, results: Path = RESULTS) -> None:
    """Write the results of all runs that are done."""
    evaluations, steps, seconds, starts = [], [], [], []
    for key, folder in _runs(plan, output):
        metrics = read_metrics(folder / METRICS_FILE)
        evaluations += [
            (*key, e.step, e.responses_so_far, e.tokens_so_far, e.success, e.success_low, e.success_high)
            for e in metrics.evaluations
        ]
        seconds.append((*key, sum(t.sampling + t.verifying + t.learning + t.evaluating for t in _timing(folder))))
        if key[1] == "evaluation":
            steps += [
                (*key, s.step, s.responses_so_far, s.reward, s.entropy, s.gradient_norm, s.finished, *s.success_histogram)
                for s in metrics.steps
            ]
    for name in plan.settings:
        for path in sorted((output / name / "starts").glob("seed-*/start.csv")):
            frame = pd.read_csv(path).assign(setting=name, seed=int(path.parent.name.removeprefix("seed-")))
            starts.append(frame[["setting", "seed", "difficulty", "right", "samples"]])
    counts = [f"k{k}" for k in range(plan.group_size + 1)]
    results.mkdir(exist_ok=True)
    _write(results / "evaluations.csv.xz", evaluations, ["step", "responses", "tokens", "success", "low", "high"])
    _write(results / "steps.csv.xz", steps, ["step", "responses", "reward", "entropy", "gradient", "finished", *counts])
    _write(results / "seconds.csv", seconds, ["seconds"])
    pd.concat(starts).to_csv(results / "starts.csv.xz", index=False)


def _write(path: Path, rows: list[tuple], columns: list[str]) -> None:
    frame = pd.DataFrame(rows, columns=[*KEYS, *columns]).sort_values(KEYS, kind="stable")
    frame.to_csv(path, index=False, float_format="%.6g")


def _runs(plan: Plan, output: Path) -> Iterator[tuple[tuple[str, str, str, float, int], Path]]:
    for name in plan.settings:
        for path in sorted((output / name).glob("*/*/*/seed-*/done")):
            folder = path.parent
            phase, method, rate, seed = folder.parts[-4:]
            yield (name, phase, method, float(rate), int(seed.removeprefix("seed-"))), folder


def _timing(folder: Path):
    return read_timing(folder / TIMING_FILE)
