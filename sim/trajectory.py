"""A run of one world, what is recorded of it, and the files it leaves: the record as CSV, a checkpoint on the way.

Memory is that of the world and of the record, which has a line for every `record_every` steps.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim.errors import UsageError
from sim.weighting import PromptWeights
from sim.world import World
from weightopt.files import replace_file

COLUMNS = ("step", "responses", "groups", "success", "quantile", "never_lifted", "all_wrong", "all_right")


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What a run recorded.

    Parameters
    ----------
    rows
        Shape (records, 8). In the order of `COLUMNS`: updates made, responses and groups drawn so far; mean success;
        the quantile of success that was asked for; the share of prompts that no record has seen at the level that
        counts as lifted; the shares of all-wrong and all-right groups among those used since the last record (0 in the
        first).
    """

    rows: NDArray[np.float64]

    def __getitem__(self, column: str) -> NDArray[np.float64]:
        """One column by name, shape (records,)."""
        return self.rows[:, COLUMNS.index(column)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run is and what is recorded.

    Parameters
    ----------
    steps
        Updates.
    record_every
        Steps between records; the first and the last step are always recorded.
    quantile
        In [0, 1]: which quantile of success over prompts.
    lifted
        Success at which a prompt counts as lifted.
    warm_up
        Steps during which the push on all-wrong groups is held back.
    warm_up_shape
        Whether it is 0 until then, or grows in proportion to the step. "hold" or "ramp".
    """

    steps: int
    record_every: int
    quantile: float = 0.1
    lifted: float = 0.5
    warm_up: int = 0
    warm_up_shape: Literal["hold", "ramp"] = "hold"

    def all_wrong_factor(self, step: int) -> float:
        """What multiplies the push on all-wrong groups in the update after `step` updates."""
        if step >= self.warm_up:
            return 1.0
        return 0.0 if self.warm_up_shape == "hold" else step / self.warm_up


@dataclasses.dataclass
class _Progress:
    """Where a run stands, apart from its world and its generator."""

    step: int
    responses: float
    groups: float
    since: NDArray[np.float64]  # groups used, all-wrong and all-right ones, since the last record
    lifted: NDArray[np.bool_]
    rows: list[list[float]]


def run(
    world: World,
    weights: PromptWeights,
    schedule: Schedule,
    rng: np.random.Generator,
    *,
    checkpoint: Path | None = None,
    save_every: float = 30.0,
    report: Callable[[int, float], None] = lambda *_: None,
) -> Trajectory:
    """Advance a world and record it.

    Parameters
    ----------
    world
        At its start, also where a checkpoint exists: its state is then replaced.
    weights
        What the world is weighted with; scaled during a warm-up.
    schedule
        Steps, records, warm-up.
    rng
        Its state is kept in the checkpoint.
    checkpoint
        Written at records, when `save_every` seconds have passed; taken up if it exists. The result is the same, bit
        for bit, however often a run is killed.
    save_every
        Least number of seconds between checkpoints.
    report
        Told step and mean success at each record.

    Raises
    ------
    UsageError
        If the checkpoint is damaged.
    """
    at = _Progress(0, 0.0, 0.0, np.zeros(3), np.zeros(world.prompts, dtype=bool), [])
    if checkpoint is not None and checkpoint.exists():
        at = _restore(checkpoint, world, rng)
    else:
        _record(at, world, schedule)
    saved, factor = time.monotonic(), None
    while at.step < schedule.steps:
        if factor != (wanted := schedule.all_wrong_factor(at.step)):
            factor = wanted
            world.use(weights if factor == 1 else weights.with_all_wrong(factor))
        tally = world.advance(rng)
        at.step += 1
        at.groups += tally.groups
        at.responses += tally.groups * world.group_size
        at.since += (world.prompts, tally.all_wrong, tally.all_right)
        if at.step % schedule.record_every == 0 or at.step == schedule.steps:
            _record(at, world, schedule)
            report(at.step, at.rows[-1][COLUMNS.index("success")])
            if checkpoint is not None and time.monotonic() - saved >= save_every and at.step < schedule.steps:
                _save(checkpoint, at, world, rng)
                saved = time.monotonic()
    return Trajectory(np.array(at.rows))


def _record(at: _Progress, world: World, schedule: Schedule) -> None:
    success = world.success()
    at.lifted |= success >= schedule.lifted
    used = max(at.since[0], 1.0)
    at.rows.append(
        [
            float(at.step),
            at.responses,
            at.groups,
            float(success.mean()),
            float(np.quantile(success, schedule.quantile)),
            float(1 - at.lifted.mean()),
            *(at.since[1:] / used).tolist(),
        ]
    )
    at.since[:] = 0


def _save(path: Path, at: _Progress, world: World, rng: np.random.Generator) -> None:
    """Write a checkpoint, whole or not at all: arrays of numbers and one JSON text, nothing that is executed."""
    about: dict[str, Any] = {
        "step": at.step,
        "responses": at.responses,
        "groups": at.groups,
        "generator": rng.bit_generator.state,
    }
    file = io.BytesIO()
    np.savez(
        file,
        allow_pickle=False,
        about=np.array(json.dumps(about)),
        lifted=at.lifted,
        rows=np.array(at.rows),
        **{f"world.{name}": array for name, array in world.state().items()},
    )
    replace_file(path, file.getvalue())


def _restore(path: Path, world: World, rng: np.random.Generator) -> _Progress:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
            about = json.loads(str(data["about"]))
            for name, array in world.state().items():
                array[...] = data[f"world.{name}"]
            rng.bit_generator.state = about["generator"]
            at = _Progress(
                about["step"],
                about["responses"],
                about["groups"],
                np.zeros(3),
                data["lifted"],
                data["rows"].tolist(),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise UsageError(f"checkpoint {str(path)!r} is damaged; remove it and resume") from None
    return at
