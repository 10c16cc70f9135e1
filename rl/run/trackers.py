"""Trackers: TensorBoard, trackio and wandb mirror the records of a run, which its files keep.

One that fails stops nothing: it is off until the run is resumed, and then gets what it lacks, like one added later.
"""

import io
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, redirect_stdout, suppress
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rl.records import metrics
from rl.records.layout import ABOUT, TRACKING
from rl.run.config import TrackingConfig
from weightopt.files import replace_file

Record = metrics.StepRecord | metrics.EvaluationRecord | metrics.TimingRecord
GROUPS = {metrics.StepRecord: "train", metrics.EvaluationRecord: "held_out", metrics.TimingRecord: "seconds"}
Say = Callable[[str], None]
# What takes the values of a step, and what sends those that are held back and ends.
Tracker = tuple[Callable[[Mapping[str, Any], int], None], Callable[[], None]]


class Trackers(AbstractContextManager["Trackers"]):
    """The trackers of a run in a ``with`` block; ``tell`` says where to look, ``warn`` that one has failed."""

    def __init__(self, config: TrackingConfig, output: Path, *, tell: Say, warn: Say) -> None:
        self._state, self._warn = output / TRACKING / "state.json", warn
        self._open: dict[str, Tracker] = {}
        self._records: list[Record] = []
        self._id, self._sent = secrets.token_hex(4), dict[str, int]()  # the last step that each tracker has
        if config.trackers and self._state.exists():
            try:
                known = json.loads(self._state.read_text(encoding="utf-8"))
                self._id, self._sent = str(known["id"]), {str(name): int(step) for name, step in known["sent"].items()}
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                warn(f"{self._state} is damaged: trackers get the run from its beginning, as a new one")
        for name in config.trackers:
            self._guard(name, partial(self._start, name, config, output, tell))

    def _start(self, name: str, config: TrackingConfig, output: Path, tell: Say) -> None:
        folder, again = self._state.parent, name in self._sent
        folder.mkdir(parents=True, exist_ok=True)
        about = json.loads((output / ABOUT).read_text(encoding="utf-8"))
        if name == "tensorboard":
            self._open[name], self._sent[name] = _open_tensorboard(folder / name, about), -1
            return tell(f"tensorboard --logdir {folder / name}")
        options = {"project": config.project, "name": config.run or output.resolve().name, "config": about}
        if name == "trackio":  # it knows a run by its name
            options["name"] += f"-{self._id}"
            options |= {"resume": "allow" if again else "never", "embed": False}
        else:  # offline it cannot look for a run: ``wandb sync`` joins the parts that have one id
            resume = "allow" if again and config.wandb_mode == "online" else None
            options |= {"id": self._id, "resume": resume, "mode": config.wandb_mode, "dir": str(folder)}
        self._open[name] = _open_wandb(name, options)
        return tell(f"{name}: run {options['name']} of project {config.project}")

    def catch_up(self, output: Path) -> None:
        """Send what the files of a run that goes on hold, each tracker what it lacks."""
        if self._open and (output / metrics.METRICS_FILE).exists():
            found, timing = metrics.read_metrics(output / metrics.METRICS_FILE), output / metrics.TIMING_FILE
            records = [*found.steps, *found.evaluations, *(metrics.read_timing(timing) if timing.exists() else ())]
            for record in sorted(records, key=lambda record: record.step):
                self.log(record)

    def log(self, record: Record) -> None:
        """Take a record, and send its step once it is whole: with its timing, or at once before the first step."""
        self._records.append(record)
        if self._open and (isinstance(record, metrics.TimingRecord) or record.step == 0):
            values, self._records = values_of(self._records), []
            for name, (log, _) in list(self._open.items()):
                if record.step > self._sent.get(name, -1) and self._guard(name, partial(log, values, record.step)):
                    self._sent[name] = record.step
            with suppress(OSError):  # at worst a step is sent twice after a resume
                replace_file(self._state, (json.dumps({"id": self._id, "sent": self._sent}) + "\n").encode())

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._open.items()):
            self._guard(name, tracker[1])

    def _guard(self, name: str, call: Callable[[], Any]) -> bool:
        """Whether a call succeeded; a tracker whose call did not is off, with one warning."""
        try:
            call()
        except Exception as error:  # whatever it is, it is no reason to lose a training run
            self._open.pop(name, None)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._warn(f"tracker {name!r} failed and is off until the run is resumed ({reason})")
        return name in self._open


def values_of(records: list[Record]) -> dict[str, Any]:
    """Every field of the records of a step under the name that trackers show: a number, a text, or counts by K."""
    waiting: list[tuple[str, Any]] = [(GROUPS[type(record)], asdict(record) | {"step": None}) for record in records]
    values: dict[str, Any] = {}
    for name, value in waiting:  # which grows
        if isinstance(value, Mapping):
            waiting.extend((f"{name}/{key}", each) for key, each in value.items())
        elif isinstance(value, tuple) and any(isinstance(each, float) for each in value):  # with its interval
            values.update(zip((name, f"{name}_low", f"{name}_high"), value, strict=True))
        elif isinstance(value, tuple) and value and isinstance(value[0], tuple):
            continue  # pairs by K, which trackers have no form for
        elif value is not None:
            values[name] = float(value) if isinstance(value, int) else value
    return values


def _open_tensorboard(folder: Path, about: Any) -> Tracker:
    """Event files. A run that goes on declares all events before it void, and is written again from its beginning."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(log_dir=str(folder), purge_step=0 if folder.exists() else None)
    writer.add_text("run", "    " + json.dumps(about, indent=2).replace("\n", "\n    "), 0)  # indented: as it is

    def log(values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, tuple):
                writer.add_histogram(name, np.repeat(np.arange(len(value)), value), step, bins=_edges(value))  # type: ignore[arg-type]
            else:
                (writer.add_text if isinstance(value, str) else writer.add_scalar)(name, value, step)
        writer.flush()

    return log, writer.close


def _open_wandb(name: str, options: dict[str, Any]) -> Tracker:
    """A run of wandb, or of trackio, which speaks its interface; what they print would run across the display."""

    def silently(call: Callable[..., Any], **settings: Any) -> Any:
        with redirect_stdout(io.StringIO()):
            return call(**settings)

    package = silently(import_module, name=name)
    quiet = {"settings": package.Settings(console="off", silent=True)} if name == "wandb" else {}
    run = silently(package.init, **options, **quiet)

    def log(values: Mapping[str, Any], step: int) -> None:
        counts = {key: (list(value), _edges(value)) for key, value in values.items() if isinstance(value, tuple)}
        run.log({**values, **{key: package.Histogram(np_histogram=each) for key, each in counts.items()}}, step=step)

    return log, partial(silently, package.finish)


def _edges(counts: tuple[int, ...]) -> list[float]:
    return [k - 0.5 for k in range(len(counts) + 1)]
