"""A sweep: every cell of a configuration run once, kept as it is finished, and gathered into three tables.

The folder of a sweep holds ``run.json`` (configuration, checksums of the weights, versions), ``cells.jsonl`` with a
line for each finished cell (see `weightopt.journal`), a checkpoint of the one that was interrupted, and at the end
``trajectories``, ``measures`` and ``summary`` as CSV or parquet. A cell's numbers follow from the configuration and its
seed alone: common random numbers for all weightings and step sizes, so that comparisons are paired by seed.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import itertools
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from sim import starts, weighting
from sim.binary import Binary
from sim.config import Config
from sim.engine import Engine, FiniteSample, LargeGroup, MeanField
from sim.errors import UsageError
from sim.measure import COSTS, mean_interval, measures, ratio_interval
from sim.skills import Skills, features
from sim.tabular import Tabular
from sim.trajectory import COLUMNS, Schedule, Trajectory, run
from sim.weighting import PromptWeights
from sim.world import World
from theory.dynamics import update_budget
from weightopt.files import replace_file
from weightopt.journal import Journal, JournalError, open_journal
from weightopt.settings import differences
from weightopt.spread import check_cluster, spread

RECORDS = 200  # where record_every is 0
DAPO_GROUPS = 64  # groups drawn at most by a weighting that is defined by dynamic sampling
PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "pandas", "pyarrow")
NO_RESULT = ("threads", "save_every")  # keys of the configuration that change no number
Format = Literal["csv", "parquet"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    index: int
    population: str
    weighting: str
    step_size: float
    seed: int


class Reporter:
    """What a sweep tells as it goes; this one keeps silent."""

    def start(self, cells: int, done: int, steps: int) -> None:
        """So many cells in all, so many done before, so many steps each."""

    def at(self, cell: Cell, step: int, success: float) -> None:
        """A record of a cell."""

    def finished(self, cell: Cell, trajectory: Trajectory) -> None:
        """A cell is done and kept."""


def cells(config: Config) -> list[Cell]:
    """The cells of a configuration, seeds innermost."""
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    product = itertools.product(config.populations, config.weightings, config.step_sizes, seeds)
    return [Cell(index, *values) for index, values in enumerate(product)]


def sweep(
    config: Config,
    output: Path,
    *,
    resume: bool = False,
    format: Format = "csv",
    reporter: Reporter | None = None,
    ray: str | None = None,
) -> pd.DataFrame:
    """Run, or go on with, a sweep.

    Parameters
    ----------
    config
        What is run.
    output
        Folder: new or empty, or with `resume` what a sweep of the same configuration has left.
    resume
        Go on with what the folder holds.
    format
        Of the three tables. "csv" or "parquet".
    reporter
        Told how the sweep goes on; default silence.
    ray
        Address of a Ray cluster to spread the cells over, one thread each; see `weightopt.spread`.

    Returns
    -------
    DataFrame
        The summary: for each weighting, step size and measure, and each population and all of them, the mean over seeds
        with its 95 % interval and the ratio to the first weighting at the same step size. Where a seed did not reach a
        target, there is no mean: ``reached`` says how many did; one seed has no interval.

    Raises
    ------
    UsageError
        If the sweep cannot start as asked; nothing has been written.
    weightopt.spread.SpreadError
        If the cluster cannot be worked with.
    """
    reporter = reporter or Reporter()
    populations = {name: starts.parse(name) for name in config.populations}
    weights = {
        name: _scaled(weighting.read(name, config.group_size, config.all_wrong), config) for name in config.weightings
    }
    todo = cells(config)
    for cell in {cell.weighting: cell for cell in todo}.values():
        # Whatever a world refuses, it refuses before anything is written.
        _world(config, cell, populations[cell.population], weights[cell.weighting]).use(weights[cell.weighting])
    check_cluster(ray)
    document = _document(config, weights, populations)
    _check_folder(output, document, resume=resume)
    with _journal(output, document, resume=resume) as journal:
        found = {entry["cell"]: Trajectory(np.array(entry["rows"])) for entry in journal.entries}
        reporter.start(len(todo), len(found), config.steps)
        left = [cell for cell in todo if cell.index not in found]

        def checkpoint(cell: Cell) -> Path:
            return output / f"cell-{cell.index:06d}.npz"

        def here() -> Iterator[tuple[int, Trajectory]]:
            for number, cell in enumerate(left):
                start, chosen = populations[cell.population], weights[cell.weighting]
                yield number, run_cell(config, cell, start, chosen, checkpoint(cell), reporter)

        def elsewhere() -> Iterator[tuple[int, Trajectory]]:
            single = config.model_copy(update={"threads": 1})
            calls = ((single, cell, populations[cell.population], weights[cell.weighting]) for cell in left)
            return spread(run_cell, calls, ray=ray, packages=("weightopt", *PACKAGES))

        for number, trajectory in here() if ray is None else elsewhere():
            cell = left[number]
            found[cell.index] = trajectory
            journal.append({"cell": cell.index, "rows": trajectory.rows.tolist()})
            reporter.finished(cell, trajectory)
            checkpoint(cell).unlink(missing_ok=True)
        for cell in todo:
            checkpoint(cell).unlink(missing_ok=True)  # of a cell that was kept just before the sweep was killed
        results = [(cell, found[cell.index]) for cell in todo]
        measured = _measured(config, results)
        summary = summarise(config, measured)
        for name, frame in (("trajectories", _trajectories(results)), ("measures", measured), ("summary", summary)):
            _write(output / f"{name}.{format}", frame)
    return summary


def run_cell(
    config: Config,
    cell: Cell,
    start: starts.Start,
    weights: PromptWeights,
    checkpoint: Path | None = None,
    reporter: Reporter | None = None,
) -> Trajectory:
    """One run of a sweep; what it gives follows from its arguments alone."""
    reporter = reporter or Reporter()
    schedule = Schedule(
        steps=config.steps,
        record_every=config.record_every or max(1, config.steps // RECORDS),
        quantile=config.measures.quantile,
        lifted=config.measures.lifted,
        warm_up=config.warm_up.steps,
        warm_up_shape=config.warm_up.shape,
    )
    return run(
        _world(config, cell, start, weights),
        weights,
        schedule,
        _generator(cell.seed, "groups", 0),
        checkpoint=checkpoint,
        save_every=config.save_every,
        report=lambda step, success: reporter.at(cell, step, success),
    )


def _world(config: Config, cell: Cell, start: starts.Start, weights: PromptWeights) -> World:
    rng = _generator(cell.seed, "population", config.populations.index(cell.population))
    rho = start.draw(config.prompts, rng)
    worlds: dict[str, Callable[..., World]] = {"binary": _binary, "tabular": _tabular, "shared": _shared}
    return worlds[config.world](config, cell, rho, rng, weights)


def _generator(seed: int, what: str, index: int) -> np.random.Generator:
    """The generator of one purpose of one seed: the same for every weighting and step size."""
    return np.random.default_rng([seed, {"population": 0, "groups": 1}[what], index])


def _scaled(weights: PromptWeights, config: Config) -> PromptWeights:
    """The weights at a budget of 1 between the two success rates of ``equal_budget``, if there are any."""
    if not config.equal_budget:
        return weights
    start, target = config.equal_budget
    if config.engine == "large-group":
        if weights.curve is None:
            return weights  # the engine refuses it
        budget = update_budget(weights.curve, start, target, weights.kinks)
    else:
        budget = weights.drift_budget(start, target, config.step_model)
    if not budget > 0:
        raise UsageError(f"weighting {weights.name!r} has no positive budget from {start:g} to {target:g}: {budget:g}")
    return weights.times(1 / budget)


def _most_groups(config: Config, weights: PromptWeights) -> int:
    return DAPO_GROUPS if weights.draw_again and config.most_groups == 1 else config.most_groups


def _binary(config: Config, cell: Cell, rho: Any, rng: np.random.Generator, weights: PromptWeights) -> World:  # noqa: ARG001
    most = _most_groups(config, weights)

    def engine(weights: PromptWeights) -> Engine:
        if config.engine == "finite-sample":
            return FiniteSample(weights, cell.step_size, config.step_model, most, config.threads)
        if config.engine == "mean-field":
            return MeanField(weights, cell.step_size, config.step_model, most)
        return LargeGroup(weights, cell.step_size)

    return Binary(rho, config.group_size, engine)


def _tabular(config: Config, cell: Cell, rho: Any, rng: np.random.Generator, weights: PromptWeights) -> World:
    return Tabular(
        rho,
        config.group_size,
        cell.step_size,
        answers=config.tabular.answers,
        right=config.tabular.right,
        spread=config.tabular.spread,
        rng=rng,
        gradient=config.tabular.gradient,
        step_model=config.step_model,
        most_groups=_most_groups(config, weights),
        threads=config.threads,
    )


def _shared(config: Config, cell: Cell, rho: Any, rng: np.random.Generator, weights: PromptWeights) -> World:
    settings = config.shared
    world = Skills(
        rho,
        features(config.prompts, settings.skills, settings.skills_per_prompt, settings.conflict, rng),
        config.group_size,
        cell.step_size,
        gradient=settings.gradient,
        step_model=config.step_model,
        damping=settings.damping,
        most_groups=_most_groups(config, weights),
        threads=config.threads,
    )
    if settings.start == "sft":
        world.supervise(settings.sft_success, settings.sft_share)
    return world


def _document(
    config: Config, weights: Mapping[str, PromptWeights], populations: Mapping[str, starts.Start]
) -> dict[str, Any]:
    """What ``run.json`` holds: all that the numbers of a sweep follow from."""
    return {
        "schema": "sim.run/2",
        "config": config.to_json(),
        "weights": {name: each.checksum for name, each in weights.items()},
        "files": {name: each.checksum for name, each in populations.items() if each.checksum},
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
    }


def _check_folder(output: Path, document: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse a folder that this sweep may not write to."""
    about = output / "run.json"
    if output.is_dir() and any(output.iterdir()) and not (resume and about.is_file()):
        hint = "it holds no run.json to resume" if resume else "add --resume to go on, or name another folder"
        raise UsageError(f"output {str(output)!r} is not empty: {hint}")
    if not about.is_file():
        return
    try:
        changed = differences(json.loads(about.read_text(encoding="utf-8")), document)
    except (OSError, ValueError, AttributeError):
        raise UsageError(f"{str(about)!r} is damaged; start again in a new folder") from None
    for key, before, now in changed:
        name = key.removeprefix("config.")
        if name not in NO_RESULT:
            raise UsageError(f"cannot resume {str(output)!r}: {name!r} was {before!r} and is now {now!r}")


@contextmanager
def _journal(output: Path, document: Mapping[str, Any], *, resume: bool) -> Iterator[Journal]:
    """The finished cells of a folder that only this process writes to; ``run.json`` is written unless it is there."""
    told = {key: value for key, value in document["config"].items() if key not in NO_RESULT}
    problem = json.dumps({**document, "config": told}, sort_keys=True, allow_nan=False)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with open_journal(output / "cells.jsonl", sha256(problem.encode()).hexdigest()) as journal:
            if not (output / "run.json").is_file():
                replace_file(output / "run.json", (json.dumps(document, indent=2) + "\n").encode())
            elif not resume:
                raise UsageError(f"output {str(output)!r} has been taken by another sweep")
            yield journal
    except JournalError as error:
        raise UsageError(str(error)) from None


def _trajectories(results: list[tuple[Cell, Trajectory]]) -> pd.DataFrame:
    """All records, a row each, with the cell in front."""
    frames = []
    for cell, trajectory in results:
        frame = pd.DataFrame(trajectory.rows, columns=list(COLUMNS)).astype({"step": "int64"})
        for at, key in enumerate(("population", "weighting", "step_size", "seed")):
            frame.insert(at, key, getattr(cell, key))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _measured(config: Config, results: list[tuple[Cell, Trajectory]]) -> pd.DataFrame:
    """Every measure of every cell, a row each; no value where a target was not reached."""
    settings = config.measures
    rows = [
        (cell.population, cell.weighting, cell.step_size, cell.seed, name, value if math.isfinite(value) else math.nan)
        for cell, trajectory in results
        for name, value in measures(trajectory, settings.targets, settings.quantile, settings.quantile_target).items()
    ]
    return pd.DataFrame(rows, columns=["population", "weighting", "step_size", "seed", "measure", "value"])


def summarise(config: Config, measured: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds with 95 % t-intervals over strata, and ratios to the first weighting, paired by seed.

    An interval of a share is cut at 0 and 1, and that of a cost at 0: seeds that are few and skew would lead it beyond.

    Parameters
    ----------
    config
        What was run: populations, weightings and step sizes in the order of the rows.
    measured
        Columns population, weighting, step_size, seed, measure, value.
    """
    groups = {
        key: group.sort_values("seed")["value"].to_numpy()
        for key, group in measured.groupby(["population", "weighting", "step_size", "measure"], sort=False)
    }
    names = list(dict.fromkeys(measured["measure"]))
    scopes: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in config.populations]
    if len(config.populations) > 1:
        scopes.append(("all", config.populations))  # strata: the populations
    rows = []
    for (scope, strata), name, step_size in itertools.product(scopes, names, config.step_sizes):
        first = [groups[each, config.weightings[0], step_size, name] for each in strata]
        for chosen in config.weightings:
            values = [groups[each, chosen, step_size, name] for each in strata]
            reached = sum(int(np.isfinite(each).sum()) for each in values)
            largest = math.inf if name.split()[0] in COSTS else 1.0  # a cost, or a share
            mean, ratio = np.clip(_estimate(values, None), 0.0, largest), _estimate(values, first)
            rows.append((scope, chosen, step_size, name, sum(map(len, values)), reached, *mean, *ratio))
    columns = ["population", "weighting", "step_size", "measure", "seeds", "reached"]
    return pd.DataFrame(rows, columns=[*columns, "mean", "low", "high", "ratio", "ratio_low", "ratio_high"])


def _estimate(values: list[Any], reference: list[Any] | None) -> tuple[float, float, float]:
    """Mean over strata, or its ratio to that of a reference, and its interval; not-a-number for what there is none of.

    An interval takes two seeds a stratum.
    """
    pairs = [
        np.column_stack([each, np.ones_like(each) if reference is None else reference[at]])
        for at, each in enumerate(values)
    ]
    total = np.mean([each.mean(axis=0) for each in pairs], axis=0)
    if not (np.all(np.isfinite(total)) and all(np.all(each[:, 1] > 0) for each in pairs)):
        return math.nan, math.nan, math.nan
    if min(map(len, pairs)) < 2:
        return float(total[0] / total[1]), math.nan, math.nan
    if reference is None:
        return float(total[0]), *mean_interval([each[:, 0] for each in pairs])
    if not total[0] > 0:  # a ratio of 0 has no logarithm
        return 0.0, math.nan, math.nan
    return float(total[0] / total[1]), *ratio_interval(pairs)


def _write(path: Path, frame: pd.DataFrame) -> None:
    """Write a table, whole or not at all; floats in shortest round-trip form."""
    if path.suffix == ".csv":
        replace_file(path, frame.to_csv(index=False, lineterminator="\n").encode())
        return
    file = io.BytesIO()
    frame.to_parquet(file, index=False, engine="pyarrow")
    replace_file(path, file.getvalue())
