"""Rung 4: what the starts and a pilot say in advance about the runs of ``rung4.toml``, and what the runs showed.

Two predictions, both made before the runs that are compared. *Independent prompts*: the time to a success by the flow
of `studies.weightings.prediction` from the start models that learning rates are tuned with. *Habits*: the world of
`sim.habits` fitted to the first 40 updates of the reference's tuning runs, at the rate that was chosen for it, and run
with every table; all at that one rate, though a method's own may be another.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from rl.records.layout import CHECKPOINTS, MODEL
from sim.forecast import fit, forecast, read_pilot
from studies.weightings import prediction
from studies.weightings.collect import DONE
from studies.weightings.findings import RESAMPLES, measures
from studies.weightings.plan import Plan, Setting
from studies.weightings.start_counts import count_starts
from weightopt.files import replace_file
from weightopt.table import WeightTable

PILOT_STEPS = 40
REPLICAS = 64
PREDICTED_FILE = "predicted.csv"
MEASURES = ("area", "end")
FOLLOWED, FOLLOW_EVERY = "followed", 10


def predict(plan: Plan, setting: Setting, output: Path) -> pd.DataFrame:
    """Predictions for a setting whose learning rates are tuned.

    Returns
    -------
    DataFrame
        A row for each method: ``area`` and ``end``, mean success over the run and at its end by the world of habits;
        ``lost``, kinds lost; and for each level ``time`` to it of independent prompts, in a unit all methods share.
    """
    here = output / setting.name
    tables = {name: WeightTable.load(here / "tables" / f"{name}.json") for name in plan.methods}
    advantages = {name: _advantages(table) for name, table in tables.items()}
    rate = json.loads((here / "rates.json").read_text(encoding="utf-8"))[plan.reference]
    steps = setting.load().training.steps
    runs: dict[str, list[Any]] = {name: [] for name in plan.methods}
    for seed in plan.tuning_seeds:
        pilot = read_pilot(here / "tuning" / plan.reference / f"{rate:g}" / f"seed-{seed}").first(PILOT_STEPS)
        fitted = fit(pilot, *advantages[plan.reference])
        for name in plan.methods:
            runs[name].append(forecast(fitted, *advantages[name], steps, seed=seed, replicas=REPLICAS))
    rows: dict[str, dict[str, float]] = {}
    for name, found in runs.items():
        rows[name] = {
            "area": float(np.mean([each.over_the_run() for each in found])),
            "end": float(np.mean([each.at_the_end() for each in found])),
            "lost": float(np.mean([each.lost() for each in found])),
        }
    starts: Any = count_starts(here / "starts")
    starts = starts[starts["seed"].isin(plan.tuning_seeds)]
    rho = prediction.population(np.bincount(starts["right"], starts["prompts"], int(starts["samples"].max()) + 1))
    for name, table in tables.items():
        times = prediction.time_to_levels(rho, table, plan.levels, "advantage")
        rows[name] |= {f"time {level:g}": time for level, time in zip(plan.levels, times, strict=True)}
    return pd.DataFrame(rows).T.rename_axis("method").reset_index()


def compare(plan: Plan, setting: Setting, folder: Path) -> pd.DataFrame:
    """Predicted beside measured, from the results that are kept in ``folder``.

    Returns
    -------
    DataFrame
        Columns rung, setting, method, measure, predicted, measured, low, high: success by the world of habits and as
        measured, with a 95 % bootstrap interval over seeds.
    """
    predicted = pd.read_csv(folder / setting.name / PREDICTED_FILE).set_index("method")
    rows = []
    for measure, values in _measured(plan, setting, folder).items():
        for method, of in values.items():
            low, high = np.quantile(_resampled(of), [0.025, 0.975])
            told: Any = predicted.loc[method, measure]
            rows.append((4, setting.name, method, measure, float(told), of.mean(), low, high))
    columns = ["rung", "setting", "method", "measure", "predicted", "measured", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def rank_correlation(plan: Plan, setting: Setting, folder: Path, measure: str, by: str) -> tuple[float, float, float]:
    """Kendall's τ over methods between a prediction and a measure, with its 95 % bootstrap interval over seeds.

    ``by`` names a column of `predict`; a time is taken with the opposite sign, since less of it is better.
    """
    predicted: Any = pd.read_csv(folder / setting.name / PREDICTED_FILE).set_index("method")[by]
    told = np.array([predicted[method] for method in plan.methods]) * (-1 if by.startswith("time") else 1)
    measured = _measured(plan, setting, folder)[measure]
    means = np.array([_resampled(measured[method]) for method in plan.methods])
    resampled = [kendalltau(told, column).statistic for column in means.T[:2000]]
    middle = kendalltau(told, [measured[method].mean() for method in plan.methods]).statistic
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(middle), float(low), float(high)


def _advantages(table: WeightTable) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(table.advantage_correct), np.asarray(table.advantage_wrong)


def _measured(plan: Plan, setting: Setting, folder: Path) -> dict[str, Mapping[str, np.ndarray]]:
    """For each measure and method its values, one a seed, in the order of the seeds."""
    evaluations: Any = pd.read_csv(folder / setting.name / "evaluations.csv.xz")
    runs: Any = measures(evaluations[evaluations["phase"] == "evaluation"], plan.levels).sort_values("seed")
    return {
        measure: {method: runs[runs["method"] == method][measure].to_numpy(dtype=float) for method in plan.methods}
        for measure in MEASURES
    }


def _resampled(values: np.ndarray) -> np.ndarray:
    """Means of bootstrap samples over seeds, the same seeds for every method."""
    rng = np.random.default_rng(0)
    return values[rng.integers(values.size, size=(RESAMPLES, values.size))].mean(axis=1)


def run_followed(setting: Setting, seed: int, rate: float, start: Path, table: Path, output: Path) -> None:
    """Train from ``table`` while ``weightopt advise --follow`` writes the next ones; what is done already is kept."""
    folder = output / setting.name / "following" / FOLLOWED / f"{rate:g}" / f"seed-{seed}"
    if (folder / DONE).exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    advised = folder.parent / f"seed-{seed}.json"
    if not folder.exists():
        shutil.copyfile(table, advised)
    weightopt = [sys.executable, "-m", "weightopt"]
    keys = {
        "seed": seed,
        "table": json.dumps(str(table)),
        "start_model": json.dumps(str(start)),
        "optimizer.learning_rate": rate,
        "weighting.follow": json.dumps(str(advised)),
        "weighting.follow_every": FOLLOW_EVERY,
    }
    changes = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    command = [*weightopt, "train", "--config", str(setting.config), "--output", str(folder), "--quiet", *changes]
    with subprocess.Popen([*command, *(["--resume"] if folder.exists() else [])]) as training:
        while not folder.exists() and training.poll() is None:
            time.sleep(0.1)
        follow = [*weightopt, "advise", "--follow", str(folder), "--output", str(advised), "--every", "0.5"]
        with subprocess.Popen(follow, stdout=subprocess.DEVNULL) as advice:
            training.wait()
            advice.terminate()
    if training.returncode != 0:
        raise RuntimeError(f"the followed run {folder} failed")
    for name in (CHECKPOINTS, MODEL):
        shutil.rmtree(folder / name, ignore_errors=True)
    replace_file(folder / DONE, b"")
