"""One training run, in a process of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from rl.run_folder import BEST, CHECKPOINTS, MODEL
from rl.train import train
from studies.weightings.collect import DONE
from studies.weightings.plan import Job, Setting
from weightopt.table import replace_file


def run_job(setting: Setting, job: Job, table: Path, start: Path, output: Path) -> None:
    """Train, then throw away the models: the study is about the metrics."""
    folder = output / job.folder
    if (folder / DONE).exists():
        return
    torch.set_num_threads(1)
    config = setting.load(
        **{
            "seed": job.seed,
            "table": json.dumps(str(table)),
            "start_model": json.dumps(str(start)),
            "optimizer.learning_rate": job.rate,
            "training.steps": job.steps,
        }
    )
    outcome = train(config, folder, resume=folder.exists(), quiet=True)
    if not outcome.finished:
        raise KeyboardInterrupt
    for name in (CHECKPOINTS, BEST, MODEL):
        shutil.rmtree(folder / name, ignore_errors=True)
    replace_file(folder / DONE, b"")
