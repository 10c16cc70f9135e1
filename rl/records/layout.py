"""Names in the folder of a run, and the folders in it that are named after a step.

Needs nothing but the standard library, so that a command that is interrupted early can say what is on disk.
"""

import re
from pathlib import Path

ABOUT, LOCK = "run.json", ".lock"
START, MODEL, CHECKPOINTS, BEST, TRACKING = "start", "model", "checkpoints", "best", "tracking"
TABLES = "tables"
STEP_FOLDER = re.compile(r"step-(\d{6,})")


def step_folder(folder: Path, step: int) -> Path:
    """The folder of ``step`` in ``folder``, there or not."""
    return folder / f"step-{step:06d}"


def step_of(path: Path) -> int:
    """The step that a folder of `step_folders` is named after."""
    return int(path.name.removeprefix("step-"))


def step_folders(folder: Path) -> list[Path]:
    """The folders in ``folder`` that are named after a step, in order; none if there is no such folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in paths if STEP_FOLDER.fullmatch(path.name) and path.is_dir()), key=step_of)


def latest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the highest step; None if there is none."""
    return max(step_folders(folder), key=step_of, default=None)


def safe(output: Path) -> str:
    """What to say of the checkpoints of the run in ``output`` when it fails."""
    there = latest_checkpoint(output / CHECKPOINTS) is not None
    return "the last checkpoint is intact" if there else "there is no checkpoint yet"
