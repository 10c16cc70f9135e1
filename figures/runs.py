"""Where the runs of a comparison lie: folders ``RUNS/TABLE/SEED``, or what a study has collected of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from figures import style
from figures.frames import groups, part
from rl.records.metrics import METRICS_FILE, read_metrics

EVALUATIONS, STEPS, LABELS = "evaluations.csv.xz", "steps.csv.xz", "labels.json"
LAST = 3  # evaluations whose mean is "the end" of a run
COLUMNS = ["step", "responses", "tokens", "success", "low", "high"]


class Run(NamedTuple):
    """One training run.

    Attributes
    ----------
    table, seed
        Names of its folders.
    label
        How people read the table's name.
    evaluations
        A row for each held-out evaluation; columns step, responses, tokens, success, low, high.
    histograms
        Groups with K correct responses in each update, shape (updates, M+1); no rows before the first update.
    """

    table: str
    seed: str
    label: str
    evaluations: pd.DataFrame
    histograms: np.ndarray


def load_runs(runs: Path) -> list[Run]:
    """All runs of a comparison, by table and seed.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If a file cannot be understood.
    """
    if (runs / EVALUATIONS).is_file():
        return _collected(runs)
    paths = sorted(runs.glob(f"*/*/{METRICS_FILE}"))
    if not paths:
        raise FileNotFoundError(f"no runs (TABLE/SEED/{METRICS_FILE}) under {runs}")
    return [_single(path) for path in paths]


def best_first(runs: Sequence[Run]) -> list[str]:
    """The tables of some runs, by their mean success at the end; those without an evaluation last."""
    ends: dict[str, list[float]] = {}
    for run in runs:
        ends.setdefault(run.table, []).extend(
            [run.evaluations["success"].iloc[-LAST:].mean()] if len(run.evaluations) else []
        )
    return sorted(ends, key=lambda table: -float(np.mean(ends[table])) if ends[table] else np.inf)


def _single(path: Path) -> Run:
    metrics = read_metrics(path)
    # Runs of before tokens_so_far was recorded have the tokens of each step.
    tokens = np.cumsum([0, *(step.tokens for step in metrics.steps)])
    evaluations = pd.DataFrame(
        [
            (
                e.step,
                e.responses_so_far,
                int(tokens[min(e.step, tokens.size - 1)]),
                e.success,
                e.success_low,
                e.success_high,
            )
            for e in metrics.evaluations
        ],
        columns=COLUMNS,
    )
    histograms = np.array([step.success_histogram for step in metrics.steps])
    return Run(path.parts[-3], path.parts[-2], style.label(path.parts[-3]), evaluations, histograms)


def _collected(folder: Path) -> list[Run]:
    steps: Any = pd.read_csv(folder / STEPS)
    counts = [column for column in steps if str(column).startswith("k")]
    histograms = {key: of[counts].to_numpy() for key, of in groups(steps, "method", "seed")}
    evaluations: Any = pd.read_csv(folder / EVALUATIONS)
    compared = part(evaluations, phase="evaluation")
    labels = json.loads((folder / LABELS).read_text(encoding="utf-8")) if (folder / LABELS).is_file() else {}
    return [
        Run(
            key[0],
            f"seed-{key[1]}",
            labels.get(key[0], style.label(key[0])),
            of[COLUMNS].reset_index(drop=True),
            histograms[key],
        )
        for key, of in groups(compared, "method", "seed")
    ]
