"""One training run, in a process of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from rl.config import Config
from rl.models.policy import load_policy
from rl.records.layout import BEST, CHECKPOINTS, MODEL
from rl.samplers.torch_sampler import TorchSampler
from rl.seeds import derive_seed
from rl.step.success import count_successes, judge
from rl.tasks.registry import build_teaching_task
from rl.tasks.split import held_out_prompts
from rl.train import train
from studies.weightings.collect import DONE, OPERATORS_FILE
from studies.weightings.plan import Job, Setting
from weightopt.files import replace_file

PROMPTS, SAMPLES = 150, 32  # nearly all held-out problems there are


def run_job(setting: Setting, job: Job, table: Path, start: Path, output: Path) -> None:
    """Train, then throw away the models: the study is about the metrics."""
    folder = output / job.folder
    if (folder / DONE).exists():
        return
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
    if job.phase == "exploration":
        success_by_operator(config, folder / MODEL).to_csv(folder / OPERATORS_FILE, index=False)
    for name in (CHECKPOINTS, BEST, MODEL):
        shutil.rmtree(folder / name, ignore_errors=True)
    replace_file(folder / DONE, b"")


def success_by_operator(config: Config, model: Path) -> pd.DataFrame:
    """Success on held-out Countdown problems of two numbers by the operator they were built from.

    Returns
    -------
    DataFrame
        Columns operator, prompts, success (mean), never (share of prompts without a right response).
    """
    task = build_teaching_task(config.task)
    batch = TorchSampler(load_policy(model)).sample(
        held_out_prompts(task, count=PROMPTS, seed=derive_seed(config.seed, "operators")),
        group_size=SAMPLES,
        temperature=1.0,
        max_new_tokens=config.rollout.max_new_tokens,
        seed=derive_seed(config.seed, "operators", "responses"),
    )
    frame = pd.DataFrame(
        {
            "operator": [next(c for c in group.prompt.problem.solution if c in "+-*/") for group in batch.groups],
            "right": count_successes(judge(batch, task).correct) / SAMPLES,
        }
    )
    by: Any = frame.groupby("operator")["right"]
    found = pd.DataFrame(
        {"prompts": by.size(), "success": by.mean(), "never": by.agg(lambda share: (share == 0).mean())}
    )
    return found.reset_index()
