"""From run folders to the few files that are kept with the project, a folder a setting under ``results/``.

``evaluations.csv.xz`` has a row for each held-out evaluation of every run, ``steps.csv.xz`` one for each update of the
runs that are compared, ``starts.csv`` how many prompts of a start model had so many right responses, ``rates.csv`` the
learning rates that were chosen, ``seconds.csv`` what each run took, and ``operators.csv``, where it was asked for,
success by operator, ``kinds.csv`` success by kind of problem at the end of the runs that are compared, and
``labels.json`` how people read the names of the methods.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rl.records.metrics import METRICS_FILE, TIMING_FILE, read_metrics, read_timing
from studies.weightings.findings import LAST
from studies.weightings.plan import Plan, Setting
from studies.weightings.start_counts import count_starts
from weightopt.files import replace_file

OPERATORS_FILE = "operators.csv"
KINDS_FILE = "kinds.csv"
LABELS = "labels.json"  # how people read the methods' names
DONE = "done"  # a file in the folder of a run that is finished
KEYS = ["phase", "method", "rate", "seed"]


def collect(plan: Plan, setting: Setting, output: Path, results: Path | None = None) -> None:
    """Write the results of a setting whose runs are all done, into the plan's folder if no other is named."""
    evaluations: list[tuple[Any, ...]] = []
    steps: list[tuple[Any, ...]] = []
    seconds: list[tuple[Any, ...]] = []
    operators: list[pd.DataFrame] = []
    kinds: list[tuple[Any, ...]] = []
    for key, folder in _runs(output / setting.name):
        metrics = read_metrics(folder / METRICS_FILE)
        evaluations += [
            (*key, e.step, e.responses_so_far, e.tokens_so_far, e.success, e.success_low, e.success_high)
            for e in metrics.evaluations
        ]
        timing = read_timing(folder / TIMING_FILE)
        seconds.append((*key, sum(t.sampling + t.verifying + t.learning + t.evaluating for t in timing)))
        if (folder / OPERATORS_FILE).exists():
            frame: Any = pd.read_csv(folder / OPERATORS_FILE).assign(**dict(zip(KEYS, key, strict=True)))
            operators.append(frame[[*KEYS, "operator", "prompts", "success", "never"]])
        if key[0] != "tuning":
            last = pd.DataFrame([e.by_difficulty for e in metrics.evaluations[-LAST:]]).mean()
            kinds += [(*key, kind, success) for kind, success in last.items()]
        if key[0] == "evaluation":
            steps += [
                (
                    *key,
                    s.step,
                    s.responses_so_far,
                    s.reward,
                    s.entropy,
                    s.gradient_norm,
                    s.finished,
                    *s.success_histogram,
                )
                for s in metrics.steps
            ]
    counts = [f"k{k}" for k in range(plan.group_size + 1)]
    folder = (plan.results if results is None else results) / setting.name
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "evaluations.csv.xz", evaluations, ["step", "responses", "tokens", "success", "low", "high"])
    _write(folder / "steps.csv.xz", steps, ["step", "responses", "reward", "entropy", "gradient", "finished", *counts])
    _write(folder / "seconds.csv", seconds, ["seconds"])
    if len({kind for *_, kind, _ in kinds}) > 1:
        _write(folder / KINDS_FILE, kinds, ["kind", "success"])
    if operators:
        pd.concat(operators).to_csv(folder / OPERATORS_FILE, index=False, float_format="%.6g")
    count_starts(output / setting.name / "starts").to_csv(folder / "starts.csv", index=False)
    rates = json.loads((output / setting.name / "rates.json").read_text(encoding="utf-8"))
    replace_file(folder / LABELS, (json.dumps(dict(plan.labels), indent=2) + "\n").encode())
    replace_file(folder / "rates.csv", "".join(["method,rate\n", *(f"{m},{r}\n" for m, r in rates.items())]).encode())


def _write(path: Path, rows: list[tuple[Any, ...]], columns: list[str]) -> None:
    frame = pd.DataFrame(rows, columns=[*KEYS, *columns]).sort_values(KEYS, kind="stable")
    frame.to_csv(path, index=False, float_format="%.6g")


def _runs(folder: Path) -> Iterator[tuple[tuple[str, str, float, int], Path]]:
    for path in sorted(folder.glob(f"*/*/*/seed-*/{DONE}")):
        phase, method, rate, seed = path.parent.parts[-4:]
        yield (phase, method, float(rate), int(seed.removeprefix("seed-"))), path.parent
