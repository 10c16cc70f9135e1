"""What a rung runs, as jobs that may be stopped and gone on with, and how results become rows.

A job is one method in one setting. It writes one small CSV into the output folder, whole or not at all, and a job
whose file is there is done. The files of all jobs of a rung are kept together as ``results/rungN.csv``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.ladder import rung1, rung2, rung3
from studies.ladder.network import train
from studies.ladder.rows import PREDICTIONS, RESULTS, Rank, Row, mean_row, rank_correlation, ratio_row, write_frame

SEED = 20261127
HALVINGS = (0, 1)
COST, BUDGET = "cost", "budget"
PILOT = "from a pilot"


class Job(NamedTuple):
    """One method in one setting."""

    rung: int
    setting: str
    method: str
    run: Callable[[], pd.DataFrame]

    def file(self, output: Path) -> Path:
        """Where its result goes."""
        return output / f"rung{self.rung}" / self.setting / f"{self.method}.csv"


def jobs(rung: int) -> list[Job]:
    """All jobs of a rung."""
    if rung == 3:
        found = [
            Job(3, name, method, partial(_replicas, name, method)) for name in rung3.WORLDS for method in rung3.METHODS
        ]
        return found + [Job(3, name, "forecast", partial(_forecasts, name)) for name in rung3.WORLDS]
    settings: Any = rung1.SETTINGS if rung == 1 else rung2.SETTINGS
    methods = rung1.METHODS if rung == 1 else rung2.METHODS
    return [Job(rung, s.name, method, partial(_networks, s, method)) for s in settings for method in methods]


def _networks(setting: Any, method: str) -> pd.DataFrame:
    """Cost and accumulated budget of each network at both step sizes, in units that do not hang on these."""
    frames = []
    for halvings in HALVINGS:
        size = setting.step_size(halvings)
        correct, wrong = setting.advantages(method)
        paid = train(setting.loop, correct, wrong, size, setting.steps * 2**halvings, SEED)
        frames.append(
            pd.DataFrame(
                {
                    "halvings": halvings,
                    "network": np.arange(paid.tokens.size),
                    COST: paid.tokens * size,
                    BUDGET: paid.spent * size,
                    "steps": paid.steps,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _replicas(name: str, method: str) -> pd.DataFrame:
    values = rung3.run(rung3.WORLDS[name], method, SEED)
    return pd.DataFrame(values, columns=list(rung3.MEASURES)).assign(source="replicas", of=method)


def _forecasts(name: str) -> pd.DataFrame:
    told = rung3.forecasts(rung3.WORLDS[name])
    frames = [
        pd.DataFrame(values, columns=list(rung3.MEASURES)).assign(source="forecast", of=method)
        for method, values in told.items()
    ]
    return pd.concat(frames, ignore_index=True)


def collect(rung: int, output: Path, results: Path = RESULTS) -> None:
    """Keep what the jobs of a rung have written, of those settings in which all are done."""
    frames = []
    waiting = {job.setting for job in jobs(rung) if not job.file(output).exists()}
    for job in jobs(rung):
        if job.setting in waiting:
            continue
        frame: Any = pd.read_csv(job.file(output))
        frames.append(frame.assign(setting=job.setting, method=job.method))
    write_frame(results / f"rung{rung}.csv.xz", pd.concat(frames, ignore_index=True))


def predictions() -> pd.DataFrame:
    """What is predicted before any run: columns rung, setting, method, measure, predicted."""
    rows: list[tuple[Any, ...]] = []
    for rung, settings, module in ((1, rung1.SETTINGS, rung1), (2, rung2.SETTINGS, rung2)):
        for setting in settings:
            least = setting.predicted(module.REFERENCE)
            for method in module.METHODS:
                rows.append((rung, setting.name, method, COST, setting.predicted(method) / least))
                if rung == 1:
                    rows.append((rung, setting.name, method, BUDGET, 1.0))
    for name, world in rung3.WORLDS.items():
        for method in rung3.METHODS:
            told = rung3.predicted(world, method)
            rows += [(3, name, method, measure, value) for measure, value in zip(rung3.MEASURES, told, strict=True)]
    return pd.DataFrame(rows, columns=["rung", "setting", "method", "measure", "predicted"])


def rows_of(rung: int, results: Path = RESULTS) -> tuple[list[Row], list[Rank]]:
    """Rows and rank correlations of a rung from what is kept and from the predictions that were committed before."""
    told: Any = pd.read_csv(results / PREDICTIONS)
    told = told[told["rung"] == rung].set_index(["setting", "method", "measure"])["predicted"]
    frame: Any = pd.read_csv(results / f"rung{rung}.csv.xz")
    rows: list[Row] = []
    ranks: list[Rank] = []
    for setting, of in frame.groupby("setting", sort=False):
        own = told[setting]
        if rung == 3:
            _world_rows(setting, of, own, rows, ranks)
        else:
            _network_rows(rung, setting, of, own, rows, ranks)
    return rows, ranks


def _network_rows(rung: int, setting: str, of: Any, told: Any, rows: list[Row], ranks: list[Rank]) -> None:
    reference = (rung1 if rung == 1 else rung2).REFERENCE
    logs = {
        measure: of.assign(log=np.log(of[measure])).pivot_table(
            index="network", columns=["method", "halvings"], values="log", sort=False
        )
        for measure in (COST, BUDGET)
    }

    def extrapolated(measure: str, method: str) -> np.ndarray:
        """ln of the value for steps of length 0, network by network: the error of a step is of first order."""
        return (2 * logs[measure][method, 1] - logs[measure][method, 0]).to_numpy()

    methods = list(of["method"].unique())
    costs = {method: extrapolated(COST, method) - extrapolated(COST, reference) for method in methods}
    for method in methods:
        if method != reference:
            rows.append(ratio_row(rung, setting, method, COST, float(told[method, COST]), costs[method]))
        if rung == 1:
            rows.append(ratio_row(rung, setting, method, BUDGET, 1.0, extrapolated(BUDGET, method)))
    ranks.append(
        rank_correlation(rung, setting, COST, {method: float(told[method, COST]) for method in methods}, costs)
    )


def _world_rows(setting: str, of: Any, told: Any, rows: list[Row], ranks: list[Rank]) -> None:
    by = {source: dict(list(part.groupby("of", sort=False))) for source, part in of.groupby("source", sort=False)}
    for measure in rung3.MEASURES:
        found = {method: by["replicas"][method][measure].to_numpy(dtype=np.float64) for method in rung3.METHODS}
        field = {method: float(told[method, measure]) for method in rung3.METHODS}
        pilot = {method: float(by["forecast"][method][measure].mean()) for method in rung3.METHODS}
        for predicted, name in ((field, measure), (pilot, f"{measure}, {PILOT}")):
            rows += [mean_row(3, setting, m, name, predicted[m], found[m]) for m in rung3.METHODS]
            ranks.append(rank_correlation(3, setting, name, predicted, found))
