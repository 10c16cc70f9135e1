"""The start models, one for each setting and seed, and how success is spread over prompts when they start.

Where a setting hides the skill, a model that has it goes through a second supervised phase: it is shown format-only
demonstrations until its success on held-out prompts is below a bound. What is left is a model that could, and does not.
A configuration that names a start model keeps it for all seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch

from rl.config import Config
from rl.models.policy import Policy, load_policy, save_policy
from rl.models.start import start_folder
from rl.records.metrics import Spent
from rl.run.checkpoint import open_policy
from rl.samplers.torch_sampler import TorchSampler
from rl.seeds import derive_seed
from rl.step.evaluate import evaluate
from rl.step.success import count_successes, judge
from rl.storage import whole_folder
from rl.supervised import BETAS, demonstration_loss, make_start_model
from rl.tasks.protocol import TeachingTask
from rl.tasks.registry import build_task, build_teaching_task
from rl.tasks.split import held_out_prompts, training_prompts
from rl.verification.pool import open_verifier
from studies.weightings.plan import Setting
from studies.weightings.start_counts import MEASURED

PROMPTS, SAMPLES = 256, 64  # training prompts and responses to each by which the start is measured
LONGEST = 200  # updates in which the skill must be hidden


def make_start(setting: Setting, seed: int, folder: Path) -> None:
    """Make the start model of a setting and a seed, and measure it; what is there already is kept.

    Raises
    ------
    ValueError
        If its success is not in the setting's range.
    """
    config = setting.load(seed=seed)
    torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    model = start_model(setting, folder)
    if not model.exists():
        skilled = folder / "skilled" if setting.hide else model
        if not skilled.exists():
            make_start_model(config, skilled)
        if setting.hide:
            _hide(config, setting.hide, skilled, model)
    if not (folder / MEASURED).exists():
        _measure(config, setting, model, folder / MEASURED)


def start_model(setting: Setting, folder: Path) -> Path:
    """The start model of a setting: what its configuration names, or what `make_start` has made in ``folder``."""
    named = setting.load().start_model
    return folder / "model" if named is None else start_folder(named)


def _hide(config: Config, hide: Mapping[str, float], skilled: Path, hidden: Path) -> None:
    task = build_teaching_task(config.task)
    policy = load_policy(skilled)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=hide["learning_rate"], betas=BETAS, weight_decay=0.0)
    for step in range(1, LONGEST + 1):
        rng = Random(derive_seed(config.seed, "hiding", step))
        prompts = training_prompts(task, count=config.supervised.batch_size, seed=rng.getrandbits(63))
        shown = [task.demonstrate(prompt, rng, solved=False) for prompt in prompts]
        loss = demonstration_loss(policy, [prompt.text for prompt in prompts], shown)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if _success(config, task, policy) < hide["below"]:
            with whole_folder(hidden) as partial:
                save_policy(policy, partial)
            return
    raise ValueError(f"the skill of {skilled} is still there after {LONGEST} updates")


def _success(config: Config, task: TeachingTask[Any], policy: Policy) -> float:
    return evaluate(
        TorchSampler(policy),
        task,
        held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed),
        config.evaluation,
        max_new_tokens=config.rollout.max_new_tokens,
        step=0,
        spent=Spent(),
        seed=derive_seed(config.seed, "start"),
    ).success


def _measure(config: Config, setting: Setting, model: Path, path: Path) -> None:
    """Write right responses of `SAMPLES` to each of `PROMPTS` training prompts."""
    sampler = TorchSampler(
        open_policy(model, None, config.policy, config.lora, device=config.device, seed=config.seed),
        stop=config.rollout.stop,
        include_stop=config.rollout.include_stop,
    )
    batch = sampler.sample(
        training_prompts(build_task(config.task), count=PROMPTS, seed=derive_seed(config.seed, "start prompts")),
        group_size=SAMPLES,
        temperature=1.0,
        max_new_tokens=config.rollout.max_new_tokens,
        seed=derive_seed(config.seed, "start responses"),
    )
    with open_verifier(config) as verifier:
        right = count_successes(judge(batch, verifier).correct)
    success, (low, high) = float(right.mean()) / SAMPLES, setting.start_range
    if not low <= success <= high:
        raise ValueError(f"start of {setting.name}, seed {config.seed}: success {success:.4f} is not in {low}..{high}")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["difficulty", "right", "samples"])
        writer.writerows(
            [group.prompt.difficulty, int(count), SAMPLES] for group, count in zip(batch.groups, right, strict=True)
        )
