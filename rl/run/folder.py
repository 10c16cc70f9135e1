"""The folder of a run: who may write into it, and ``run.json``, which says what the run is.

``run.json`` is written before anything else, so a folder without it holds nothing of a run.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rl.config import Config
from rl.errors import UsageError
from rl.models.start import start_folder, weights_checksum
from rl.records.layout import ABOUT, CHECKPOINTS, FOLDERS, LOCK, MODEL
from rl.records.metrics import RECORD_FILES
from rl.run.config import TrackingConfig
from rl.run.lock import check_unlocked, locked
from rl.run.versions import versions
from rl.storage import sha256_of, withdraw
from rl.tasks.registry import data_files
from weightopt.files import replace_file
from weightopt.settings import differences

SCHEMA = "rl.run/3"

# What may be another value when a run goes on, since no number that has been written depends on it.
CHANGEABLE = (
    "processes",
    "config.training.keep_checkpoints",
    *(f"config.tracking.{key}" for key in TrackingConfig.model_fields),
)
STEPS = "config.training.steps"


@contextmanager
def run_folder(output: Path, config: Config, tables: dict[str, Any], *, resume: bool) -> Iterator[Callable[[], None]]:
    """Open the folder of a run for the length of a ``with`` block, and keep other processes out of it.

    If the block ends in a `UsageError` before a first checkpoint, and the run was begun here, the folder is as it was
    before: the corrected call can have it.

    Yields what is to be called when all that a run goes on from has been read. Until then nothing of it is changed;
    then ``run.json`` is brought up to date, and the model of an end that is none any more goes.

    Parameters
    ----------
    tables
        What `rl.step.schedule.TableSchedule.describe` says.
    resume
        Whether the folder may hold a run; its configuration must then be the same, but for more ``training.steps``,
        another ``training.keep_checkpoints`` and other ``[tracking]``.

    Raises
    ------
    UsageError
        If the run may not write here, or is another one than asked for, or another process is at it; nothing has been
        changed.
    """
    run = _describe(config, tables)
    with ExitStack() as stack:
        with _writing(output):
            _in_use(output, resume=resume)  # a folder of something else gets no lock
            if not output.is_dir():
                output.mkdir(parents=True, exist_ok=True)
                stack.callback(_remove_empty, output)
            stack.enter_context(locked(output))
            used = _in_use(output, resume=resume)  # and now nobody else changes it
            changed = _changes(output, run) if used else []
            if not used:
                _write(output / ABOUT, run)
            for path in _leftovers(output):
                path.unlink(missing_ok=True)
        try:
            yield partial(_go_on, output, run, changed)
        except UsageError:
            if not used and not (output / CHECKPOINTS).exists():
                _clear(output)
            raise


def check_folder(output: Path, config: Config, tables: dict[str, Any], *, resume: bool) -> None:
    """Refuse a folder that `run_folder` would refuse, and change nothing.

    Raises
    ------
    UsageError
        With the same sentence.
    """
    run = _describe(config, tables)
    with _writing(output):
        used = _in_use(output, resume=resume)
        check_unlocked(output)
        if used:
            _changes(output, run)
        else:
            _check_room(output)


def _describe(config: Config, tables: dict[str, Any]) -> dict[str, Any]:
    """What ``run.json`` says of a run."""
    run = {
        "schema": SCHEMA,
        "config": config.to_json(),
        **tables,
        "start_model": None if config.start_model is None else weights_checksum(start_folder(config.start_model)),
        "kl_reference": None if config.kl.reference is None else _reference_checksum(config.kl.reference),
        "data": {},
        "versions": versions(config),
    }
    for key, file in data_files(config.task).items():
        try:
            run["data"][key] = f"sha256:{sha256_of(file)}"
        except OSError as error:
            raise UsageError(f"data file {str(file)!r} cannot be read: {error.strerror}") from error
    return run


def _reference_checksum(reference: Path) -> str:
    key = "kl.reference"
    return weights_checksum(start_folder(reference, key=key), key=key)


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"output {str(output)!r} cannot be written: {error.strerror}") from error


def _in_use(output: Path, *, resume: bool) -> bool:
    """Whether the folder holds a run, which is to go on; refuse one that is not empty otherwise."""
    leftovers = _leftovers(output)
    used = output.is_dir() and any(path.name != LOCK and path not in leftovers for path in output.iterdir())
    if used and not (resume and (output / ABOUT).is_file()):
        hint = f"it holds no {ABOUT} to resume" if resume else "add --resume to go on, or name another folder"
        raise UsageError(f"output {str(output)!r} is not empty: {hint}")
    return used


def _check_room(output: Path) -> None:
    """Raise the `OSError` that making the folder would raise, as far as can be told without trying."""
    nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not nearest.is_dir():
        number = errno.EEXIST if nearest == output else errno.ENOTDIR
    elif not os.access(nearest, os.W_OK | os.X_OK):
        number = errno.EACCES
    else:
        return
    raise OSError(number, os.strerror(number))


def _go_on(output: Path, run: dict[str, Any], changed: list[tuple[str, Any, Any]]) -> None:
    """Note what has changed since the run in ``output`` was left."""
    with _writing(output):
        if any(key == STEPS for key, *_ in changed):
            # First the model, which is that of the old end: a run that stops between these lines writes it again.
            withdraw(output / MODEL)
        if changed:
            _write(output / ABOUT, run)


def _changes(output: Path, run: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where ``run`` differs from the run in ``output``, as `weightopt.settings.differences`; all of it may change."""
    about = output / ABOUT
    try:
        before = json.loads(about.read_text(encoding="utf-8"))
        steps_before = before["config"]["training"]["steps"]
        known = isinstance(before["schema"], str) and isinstance(steps_before, int)
    except (ValueError, TypeError, KeyError, RecursionError):
        known, before, steps_before = False, {}, 0
    if not known:
        raise UsageError(f"cannot resume {str(output)!r}: its {ABOUT} is not that of a run; start in a new folder")
    if before["schema"] != SCHEMA:
        raise UsageError(f"cannot resume {str(output)!r}: another version wrote it; start in a new folder")
    changed = differences(before, run)
    for key, was, now in changed:
        if key in CHANGEABLE or (key == STEPS and now > was):
            continue
        hint = " (it can only be raised)" if key == STEPS else ""
        raise UsageError(
            f"cannot resume {str(output)!r}: {key.removeprefix('config.')!r} was {was!r} and is now {now!r}{hint}"
        )
    return changed


def _leftovers(output: Path) -> set[Path]:
    """Temporary files of `weightopt.files.replace_file` that a process left when it was killed."""
    return {path for name in (*RECORD_FILES, ABOUT) for path in output.glob(f".{name}.*.tmp")}


def _write(about: Path, run: dict[str, Any]) -> None:
    replace_file(about, (json.dumps(run, indent=2) + "\n").encode())


def _clear(output: Path) -> None:
    """Remove what a run that has made no step has written, and nothing else."""
    for name in FOLDERS:
        shutil.rmtree(output / name, ignore_errors=True)
    for name in (*RECORD_FILES, ABOUT):
        (output / name).unlink(missing_ok=True)


def _remove_empty(output: Path) -> None:
    with suppress(OSError):  # it is not empty
        output.rmdir()
