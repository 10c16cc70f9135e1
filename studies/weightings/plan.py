"""What a study compares, as written in its plan (``study.toml``), and the list of runs that follows from it."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from rl.config import Config, load_config
from studies.weightings.start_counts import write_rates
from weightopt.table import WeightTable

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A task and a start.

    Attributes
    ----------
    config
        Configuration file of its runs.
    rates
        Learning rates that every method is tried with, increasing; a single one is taken without being tried.
    start, target
        Success probabilities between which solved tables are optimal.
    start_range
        Where the success of a start model has to lie.
    hide
        How the skill of the start model is hidden, if it is: see `studies.weightings.starts`.
    """

    name: str
    config: Path
    rates: tuple[float, ...]
    start: float
    target: float
    start_range: tuple[float, float]
    hide: Mapping[str, float] | None

    def load(self, **changes: Any) -> Config:
        """The configuration, with some keys (``**{"section.key": value}``) set."""
        return load_config(self.config, [f"{key}={value}" for key, value in changes.items()])


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run."""

    setting: str
    phase: str  # "tuning", "evaluation" or "exploration"
    method: str
    rate: float
    seed: int
    steps: int

    @property
    def folder(self) -> Path:
        """Where it lies, relative to the study's output."""
        return Path(self.setting, self.phase, self.method, f"{self.rate:g}", f"seed-{self.seed}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of a plan.

    Attributes
    ----------
    folder
        Where the plan's file lies, and the results of its runs in ``results/``.
    tuning_share
        Share of a run's updates that are made when learning rates are tuned.
    extend
        How often the grid of learning rates is extended by a factor of 2 for a method that is best at an end of it.
    methods
        Command that makes the table of each; ``{start}``, ``{target}`` and ``{rates}`` (a file with the pass rates of
        the start models that learning rates are tuned with) are the setting's.
    """

    folder: Path
    group_size: int
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    tuning_share: float
    levels: tuple[float, ...]
    reference: str
    methods: Mapping[str, str]
    labels: Mapping[str, str]
    settings: Mapping[str, Setting]
    exploration: Mapping[str, Any] = field(default_factory=dict)
    extend: int = 0

    @property
    def results(self) -> Path:
        """Folder of the results that are kept with the project, a folder a setting."""
        return self.folder / "results"

    def command(self, method: str, setting: Setting, rates: Path) -> list[str]:
        """Arguments of ``weightopt`` that make the table of a method."""
        words = self.methods[method].format(start=setting.start, target=setting.target, rates=rates)
        return [*shlex.split(words), "--group-size", str(self.group_size)]

    def tables(self, setting: Setting, starts: pd.DataFrame) -> dict[str, WeightTable]:
        """The tables of all methods, made by their commands from start models as `count_starts` has counted them."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_rates(starts, folder / "rates.csv")
            for method in self.methods:
                self.make_table(method, setting, folder / f"{method}.json", folder / "rates.csv")
            return {method: WeightTable.load(folder / f"{method}.json") for method in self.methods}

    def make_table(self, method: str, setting: Setting, path: Path, rates: Path) -> None:
        """Write the table of a method."""
        command = [sys.executable, "-m", "weightopt", *self.command(method, setting, rates), "--output", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def tuning(self, setting: Setting) -> list[Job]:
        """The runs that choose the learning rates."""
        return self.tuning_at(setting, dict.fromkeys(self.methods, setting.rates))

    def tuning_at(self, setting: Setting, rates: Mapping[str, Sequence[float]]) -> list[Job]:
        """Tuning runs of some methods, each at learning rates of its own."""
        steps = round(setting.load().training.steps * self.tuning_share)
        return [
            Job(setting=setting.name, phase="tuning", method=method, rate=rate, seed=seed, steps=steps)
            for seed in self.tuning_seeds
            for method, tried in rates.items()
            for rate in tried
        ]

    def evaluation(self, setting: Setting, rates: Mapping[str, float]) -> list[Job]:
        """The runs that are compared, seed by seed, so that pairs are complete early."""
        steps = setting.load().training.steps
        return [
            Job(setting=setting.name, phase="evaluation", method=method, rate=rates[method], seed=seed, steps=steps)
            for seed in self.seeds
            for method in self.methods
        ]

    def explored(self, setting: Setting) -> list[Job]:
        """The runs that were added when the first results were known; none in most settings."""
        if setting.name != self.exploration.get("setting"):
            return []
        steps = setting.load().training.steps
        return [
            Job(setting=setting.name, phase="exploration", method=method, rate=rate, seed=seed, steps=steps)
            for seed in self.exploration["seeds"]
            for method, rate in self.exploration["runs"]
        ]


def load_plan(path: Path = HERE / "study.toml") -> Plan:
    """Read a plan; one with a key ``like`` has everything it does not name itself from that other one."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    if "like" in document:
        document = tomllib.loads((path.parent / document.pop("like")).read_text(encoding="utf-8")) | document
    settings = {
        name: Setting(
            name=name,
            config=path.parent / keys["config"],
            rates=tuple(keys["rates"]),
            start=keys["start"],
            target=keys["target"],
            start_range=tuple(keys["start_range"]),
            hide=keys.get("hide"),
        )
        for name, keys in document.pop("settings").items()
    }
    lists = {key: tuple(document.pop(key)) for key in ("seeds", "tuning_seeds", "levels")}
    return Plan(folder=path.parent, settings=settings, **lists, **document)
