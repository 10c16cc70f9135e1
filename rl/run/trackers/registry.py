"""The trackers of a run together: opened, caught up after a resume, fed, and dropped when they fail.

``metrics.jsonl`` is the record of a run and a tracker its mirror. Whatever a tracker does, training goes on and its
files stay as they are; a tracker that failed, or was added later, gets what it lacks from the files at the next resume.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from rl.config import Config
from rl.errors import UsageError
from rl.records.layout import ABOUT, TRACKING
from rl.records.metrics import METRICS_FILE, TIMING_FILE, TimingRecord, read_metrics, read_timing
from rl.run.config import TrackingConfig
from rl.run.trackers.backends import BACKENDS, Identity, Tracker
from rl.run.trackers.values import Record, Values
from weightopt.files import replace_file

STATE = "state.json"


def check_trackers(config: TrackingConfig) -> None:
    """Refuse a tracker that is not installed, before a run has begun.

    Raises
    ------
    UsageError
        If one is not.
    """
    for name in config.trackers:
        if find_spec(BACKENDS[name].package) is None:
            raise UsageError(f"tracker {name!r} is not installed: pip install 'weightopt[{name}]'")


class Trackers:
    """The open trackers of a run.

    Parameters
    ----------
    trackers
        By name.
    folder
        Where it is kept which step each has been given.
    id_
        Of the run.
    sent
        The last step each tracker has been given by earlier processes.
    warn
        Called with one sentence when a tracker fails.
    """

    def __init__(
        self, trackers: dict[str, Tracker], folder: Path, id_: str, sent: dict[str, int], warn: Callable[[str], None]
    ) -> None:
        self._trackers = trackers
        self._folder = folder
        self._id = id_
        self._sent = sent
        self._warn = warn
        self._records: list[Record] = []

    def catch_up(self, output: Path) -> None:
        """Send what the files of a run that goes on hold, each tracker what it lacks."""
        if not self._trackers or not (output / METRICS_FILE).exists():
            return
        metrics = read_metrics(output / METRICS_FILE)
        timing = read_timing(output / TIMING_FILE) if (output / TIMING_FILE).exists() else ()
        records = sorted([*metrics.steps, *metrics.evaluations, *timing], key=lambda record: record.step)
        for _, of_step in groupby(records, key=lambda record: record.step):
            self._send(of_step, save=False)
        self._save()

    def log(self, record: Record) -> None:
        """Take a record, and send its step once it is whole: with its timing, or at once before the first step."""
        if self._trackers:
            self._records.append(record)
            if isinstance(record, TimingRecord) or record.step == 0:
                self._send(self._records)
                self._records = []

    def close(self) -> None:
        """End all trackers."""
        for name in list(self._trackers):
            self._guard(name, self._trackers[name].close)
        self._trackers = {}

    def _send(self, records: Iterable[Record], *, save: bool = True) -> None:
        values = Values.of(records)
        for name, tracker in list(self._trackers.items()):
            if values.step > self._sent.get(name, -1) and self._guard(name, lambda it=tracker: it.log(values)):
                self._sent[name] = values.step
        if save:
            self._save()

    def _save(self) -> None:
        """Note what has been sent; not for trackers that are sent everything again."""
        kept = {name: step for name, step in self._sent.items() if not BACKENDS[name].rewrites}
        if kept:
            # Without it a tracker may be given a step twice after a resume, which is no reason to stop.
            with suppress(OSError):
                _write_state(self._folder, self._id, kept)

    def _guard(self, name: str, call: Callable[[], Any]) -> bool:
        """Whether a call succeeded; a tracker whose call did not is dropped, with one warning."""
        try:
            call()
        except Exception as error:  # whatever it is, it is no reason to lose a training run
            self._trackers.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._warn(f"tracker {name!r} failed and is off until the run is resumed ({reason})")
            return False
        return True


@contextmanager
def open_trackers(
    config: Config, output: Path, *, tell: Callable[[str], None], warn: Callable[[str], None]
) -> Iterator[Trackers]:
    """Open the trackers of a run for the length of a ``with`` block.

    Parameters
    ----------
    output
        The run's folder; what trackers write is in its ``tracking/``, which is not made without a tracker.
    tell
        Called with a line for each tracker that says where to look.
    warn
        Called with one sentence when a tracker fails.

    Raises
    ------
    UsageError
        If a tracker cannot be opened.
    """
    folder = output / TRACKING
    trackers: dict[str, Tracker] = {}
    id_, sent = "", {}
    try:
        if config.tracking.trackers:
            id_, sent = _read_state(folder)
            resumed = bool(id_)
            id_ = id_ or secrets.token_hex(4)
            _write_state(folder, id_, sent)
            identity = Identity(
                project=config.tracking.project,
                name=config.tracking.run or output.resolve().name,
                id=id_,
                resumed=resumed,
                folder=folder,
                about=json.loads((output / ABOUT).read_text(encoding="utf-8")),
            )
            for name in config.tracking.trackers:
                trackers[name] = _open(name, identity, config.tracking)
                tell(f"{name}: {trackers[name].where}")
        opened = Trackers(trackers, folder, id_, sent, warn)
    except BaseException:
        for tracker in trackers.values():
            with suppress(Exception):
                tracker.close()
        raise
    try:
        yield opened
    finally:
        opened.close()


def _open(name: str, identity: Identity, config: TrackingConfig) -> Tracker:
    try:
        return BACKENDS[name](identity, config)
    except Exception as error:  # of whatever kind a package raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"tracker {name!r} cannot be opened ({reason}); leave it out of tracking.trackers") from error


def _read_state(folder: Path) -> tuple[str, dict[str, int]]:
    """Id of the run, empty if it has none yet, and the last step each tracker has been given."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return str(state["id"]), {str(name): int(step) for name, step in state["sent"].items()}
    except FileNotFoundError:
        return "", {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{folder / STATE} is damaged: remove the folder {folder} and go on") from error


def _write_state(folder: Path, id_: str, sent: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / STATE, (json.dumps({"id": id_, "sent": sent}) + "\n").encode())
