"""Rung 4: what the starts and a pilot say in advance about the runs of ``rung4.toml``, and what the runs showed.

Two predictions, both from what is there before the runs that are compared. *Independent prompts*: the time to a success
by the flow of `studies.weightings.prediction` from the start models that learning rates are tuned with. *Habits*: the
world of `sim.habits` fitted to the first 40 updates of the reference's tuning runs, at the rate that was chosen for it,
and run with every table; all at that one rate, though a method's own may be another.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rl.records.layout import CHECKPOINTS, MODEL
from sim.forecast import fit, forecast, read_pilot
from studies.ladder.rows import CONFIDENCE, Rank, Row, mean_row, rank_correlation
from studies.weightings import prediction
from studies.weightings.collect import DONE
from studies.weightings.findings import measures
from studies.weightings.plan import Plan, Setting
from studies.weightings.start_counts import count_starts
from weightopt.files import replace_file
from weightopt.table import WeightTable

PILOT_STEPS = 40
REPLICAS = 64
PREDICTED_FILE = "predicted.csv"
MEASURES = {"area": "mean over the run from a pilot", "end": "success at the end from a pilot"}
NAMES = {"crowding-50": "push-0.5", "crowding-30": "push-0.3", "crowding-15": "push-0.15"}  # as rung 3 calls them
FOLLOWED_IN, FOLLOWED, FOLLOW_EVERY = "letters-scratch", "followed", 10


def predict(plan: Plan, setting: Setting, output: Path) -> pd.DataFrame:
    """Predictions for a setting whose learning rates are tuned.

    Returns
    -------
    DataFrame
        A row for each method: ``area`` and ``end``, mean success over the run and at its end by the world of habits,
        with ``low`` and ``high`` of each, the forecast's own 95 % interval for one run; ``lost``, kinds lost; and for
        each level ``time`` to it of independent prompts, in a unit all methods share.
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
        values = {
            "area": np.concatenate([each.over_the_run() for each in found]),
            "end": np.concatenate([each.at_the_end() for each in found]),
            "lost": np.concatenate([each.lost() for each in found]),
        }
        rows[name] = {measure: float(value.mean()) for measure, value in values.items()}
        for measure in MEASURES:
            low, high = np.quantile(values[measure], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
            rows[name] |= {f"{measure} low": low, f"{measure} high": high}
    starts: Any = count_starts(here / "starts")
    starts = starts[starts["seed"].isin(plan.tuning_seeds)]
    counts = np.bincount(starts["right"], starts["prompts"], int(starts["samples"].max()) + 1)
    rho = prediction.population(counts.astype(np.float64))
    for name, table in tables.items():
        times = prediction.time_to_levels(rho, table, plan.levels, "advantage")
        rows[name] |= {f"time {level:g}": time for level, time in zip(plan.levels, times, strict=True)}
    return pd.DataFrame(rows).T.rename_axis("method").reset_index()


def rows_of(plan: Plan, folder: Path) -> tuple[list[Row], list[Rank]]:
    """Predicted beside measured in every setting whose results are kept in ``folder``, and how well the orders agree.

    The measures are mean success over the run and at its end, each as the world of habits has it, and by rank alone as
    independent prompts have it: whatever gets to a success soonest should have the most.
    """
    rows, ranks = [], []
    for setting in plan.settings:
        if not (folder / setting / "evaluations.csv.xz").exists():
            continue
        predicted: Any = pd.read_csv(folder / setting / PREDICTED_FILE).set_index("method")
        evaluations: Any = pd.read_csv(folder / setting / "evaluations.csv.xz")
        runs: Any = measures(evaluations[evaluations["phase"] == "evaluation"], plan.levels).sort_values("seed")
        for measure, title in MEASURES.items():
            found = {name: runs[runs["method"] == name][measure].to_numpy(dtype=float) for name in plan.methods}
            told: dict[str, float] = predicted[measure].to_dict()
            sooner: dict[str, float] = (-predicted[f"time {plan.levels[0]:g}"]).to_dict()
            rows += [
                mean_row(4, setting, NAMES.get(name, name), title, told[name], found[name]) for name in plan.methods
            ]
            ranks.append(rank_correlation(4, setting, title, {name: told[name] for name in plan.methods}, found))
            alone = title.replace("a pilot", "the starts alone")
            ranks.append(rank_correlation(4, setting, alone, {name: sooner[name] for name in plan.methods}, found))
    return rows, ranks


def _advantages(table: WeightTable) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(table.advantage_correct), np.asarray(table.advantage_wrong)


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
