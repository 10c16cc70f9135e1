"""Whether the folder of a run is as the run has left it."""

import json
from pathlib import Path
from typing import Any

from rl.errors import UsageError, refusing
from rl.records.layout import ABOUT, BEST, CHECKPOINTS, MODEL, START, latest_checkpoint, step_folders
from rl.records.metrics import METRICS_FILE, TIMING_FILE, read_metrics, read_timing
from rl.run.checkpoint import RECORDS, RunState, read_state
from rl.run.records import Records
from rl.storage import damage_in


def check(output: Path) -> dict[str, Any]:
    """Compare every file of a run with its checksum, and its records with those of the last checkpoint.

    Returns what was checked, as JSON: ``step`` of the last checkpoint (0 without one), number of ``files`` with a
    checksum, of ``steps`` and ``evaluations`` recorded.

    Raises
    ------
    UsageError
        If the folder holds no run, or a file is missing, damaged or was not written by the run; the first is named.
    """
    try:
        training = json.loads((output / ABOUT).read_text(encoding="utf-8"))["config"]["training"]
        every, last = int(training["evaluate_every"]), int(training["steps"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"folder {str(output)!r} holds no run: its {ABOUT} cannot be read") from error
    folders = [
        *(folder for folder in (output / START, output / MODEL) if folder.is_dir()),
        *step_folders(output / BEST),
        *step_folders(output / CHECKPOINTS),
    ]
    for folder in folders:
        if damage := damage_in(folder, but=(RECORDS,)):
            raise UsageError(f"folder {str(folder)!r}: {damage}")
    state, known = RunState(), {}
    if checkpoint := latest_checkpoint(output / CHECKPOINTS):
        state, known = read_state(checkpoint)
    Records(output, every=every).check(known, step=state.step, ended=state.step == last)
    with refusing(f"the records of {str(output)!r} cannot be read", OSError, ValueError):
        metrics = read_metrics(output / METRICS_FILE)
        if (output / TIMING_FILE).exists():
            read_timing(output / TIMING_FILE)
    return {
        "step": state.step,
        "files": sum(path.is_file() for folder in folders for path in folder.rglob("*")),
        "steps": len(metrics.steps),
        "evaluations": len(metrics.evaluations),
    }
