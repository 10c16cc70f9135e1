"""Trackers: TensorBoard, trackio and wandb show the records of a run.

The files of a run are its record, and a tracker mirrors them. Whatever a tracker does, training goes on: one that fails
is off until the run is resumed, and then gets from the files what it lacks, as does one that was added later.
"""

import io
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import closing, redirect_stdout, suppress
from dataclasses import asdict
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from rl.config import Config
from rl.errors import UsageError
from rl.records import metrics
from rl.records.layout import ABOUT, TRACKING
from rl.run.config import TrackingConfig
from weightopt.files import replace_file

Record = metrics.StepRecord | metrics.EvaluationRecord | metrics.TimingRecord
GROUPS = {metrics.StepRecord: "train", metrics.EvaluationRecord: "held_out", metrics.TimingRecord: "seconds"}
STATE = "state.json"


def check_trackers(config: TrackingConfig) -> None:
    """Refuse a tracker that is not installed, before a run has begun; raises `UsageError`."""
    for name in config.trackers:
        if find_spec(name) is None:
            raise UsageError(f"tracker {name!r} is not installed: pip install 'weightopt[{name}]'")


class Trackers:
    """The trackers of a run; ``tell`` shows a line, ``warn`` a sentence about one that has failed."""

    def __init__(self, config: TrackingConfig, output: Path, tell: Callable[[str], None], warn: Callable[[str], None]):
        self._folder, self._warn = output / TRACKING, warn
        self._open: dict[str, tuple[Callable[[dict[str, Any], int], None], Callable[[], None]]] = {}
        self._records: list[Record] = []
        self._id, self._sent = secrets.token_hex(4), dict[str, int]()  # the last step that each tracker has
        if config.trackers and (self._folder / STATE).exists():
            try:
                state = json.loads((self._folder / STATE).read_text(encoding="utf-8"))
                self._id, self._sent = str(state["id"]), {str(name): int(step) for name, step in state["sent"].items()}
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                warn(f"{self._folder / STATE} is damaged: trackers get the run from its beginning, as a new one")
        for name in config.trackers:
            self._guard(name, partial(self._start, name, config, output, tell))

    def _start(self, name: str, config: TrackingConfig, output: Path, tell: Callable[[str], None]) -> None:
        about = json.loads((output / ABOUT).read_text(encoding="utf-8"))
        self._save()  # a run that is killed in its first step has its id
        folder, again = self._folder / "tensorboard", name in self._sent
        options: dict[str, Any] = {"project": config.project, "name": config.run or output.resolve().name}
        if name == "tensorboard":
            where, self._sent[name] = f"tensorboard --logdir {folder}", -1
            self._open[name] = _open_tensorboard(folder, about)
        elif name == "trackio":  # which knows a run by its name
            options["name"] += f"-{self._id}"
            where = f"trackio show --project {config.project!r}, run {options['name']}"
            self._open[name] = _open_wandb(
                name, resume="allow" if again else "never", embed=False, config=about, **options
            )
        else:  # offline it cannot look for a run: ``wandb sync`` joins the parts that have one id
            options |= {"id": self._id, "dir": str(self._folder), "mode": config.wandb_mode}
            options["resume"] = "allow" if again and config.wandb_mode == "online" else None
            where = f"wandb sync {self._folder}/wandb/*run-*{self._id}"
            self._open[name] = _open_wandb(name, config=about, **options)
        tell(f"{name}: {where}")

    def catch_up(self, output: Path) -> None:
        """Send what the files of a run that goes on hold, each tracker what it lacks."""
        if self._open and (output / metrics.METRICS_FILE).exists():
            found, timing = metrics.read_metrics(output / metrics.METRICS_FILE), output / metrics.TIMING_FILE
            records = [*found.steps, *found.evaluations, *(metrics.read_timing(timing) if timing.exists() else ())]
            records.sort(key=lambda record: record.step)
            for _, of_step in groupby(records, key=lambda record: record.step):
                self._send(list(of_step))

    def log(self, record: Record) -> None:
        """Take a record, and send its step once it is whole: with its timing, or at once before the first step."""
        self._records.append(record)
        if isinstance(record, metrics.TimingRecord) or record.step == 0:
            self._send(self._records)
            self._records = []

    def _send(self, records: list[Record]) -> None:
        step, values = records[0].step, values_of(records)
        for name, (log, _) in list(self._open.items()):
            if step > self._sent.get(name, -1) and self._guard(name, partial(log, values, step)):
                self._sent[name] = step
        with suppress(OSError):  # at worst a step is sent twice after a resume
            self._save() if self._open else None

    def close(self) -> None:
        """Let all trackers send what they hold back, and end them."""
        for name, (_, close) in list(self._open.items()):
            self._guard(name, close)

    def _save(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._folder / STATE, (json.dumps({"id": self._id, "sent": self._sent}) + "\n").encode())

    def _guard(self, name: str, call: Callable[[], Any]) -> bool:
        """Whether a call succeeded; a tracker whose call did not is off, with one warning."""
        try:
            call()
        except Exception as error:  # whatever it is, it is no reason to lose a training run
            self._open.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._warn(f"tracker {name!r} failed and is off until the run is resumed ({reason})")
            return False
        return True


def open_trackers(config: Config, output: Path, **say: Callable[[str], None]) -> "closing[Trackers]":
    """The trackers of a run for the length of a ``with`` block; ``tell`` and ``warn`` as for `Trackers`."""
    return closing(Trackers(config.tracking, output, **say))


def values_of(records: list[Record]) -> dict[str, Any]:
    """Every field of the records of a step under the name that trackers show: a number, a text, or counts by K."""
    values: dict[str, Any] = {}

    def flatten(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, each in value.items():
                flatten(f"{name}/{key}", each)
        elif isinstance(value, tuple) and any(isinstance(each, float) for each in value):  # with its interval
            values.update(zip((name, f"{name}_low", f"{name}_high"), value, strict=True))
        elif value is not None:
            values[name] = float(value) if isinstance(value, int) else value

    for record in records:
        for name, value in asdict(record).items():
            if name != "step":
                flatten(f"{GROUPS[type(record)]}/{name}", value)
    return values


def _open_tensorboard(folder: Path, about: Any) -> tuple[Callable[[dict[str, Any], int], None], Callable[[], None]]:
    """Event files. A run that goes on declares all events before it void, and is written again from its beginning."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(log_dir=str(folder), purge_step=0 if folder.exists() else None)
    writer.add_text("run", "    " + json.dumps(about, indent=2).replace("\n", "\n    "), 0)  # indented: as it is

    def log(values: dict[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, tuple):
                k = np.arange(len(value) + 1)
                writer.add_histogram(name, np.repeat(k[:-1], value), step, bins=k - 0.5)  # type: ignore[arg-type]
            else:
                (writer.add_text if isinstance(value, str) else writer.add_scalar)(name, value, step)
        writer.flush()

    return log, writer.close


def _open_wandb(name: str, **options: Any) -> tuple[Callable[[dict[str, Any], int], None], Callable[[], None]]:
    """A run of wandb, or of trackio, which speaks its interface; what they print would run across the display."""
    with redirect_stdout(io.StringIO()):
        package = import_module(name)
        settings = {"settings": package.Settings(console="off", silent=True)} if name == "wandb" else {}
        run = package.init(**options, **settings)

    def log(values: dict[str, Any], step: int) -> None:
        shown = dict(values)
        for each, counts in values.items():
            if isinstance(counts, tuple):
                edges = [k - 0.5 for k in range(len(counts) + 1)]
                shown[each] = package.Histogram(np_histogram=(list(counts), edges))
        run.log(shown, step=step)

    def close() -> None:
        with redirect_stdout(io.StringIO()):
            package.finish()

    return log, close
