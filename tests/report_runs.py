"""Folders as training runs leave them, made in an instant: for tests of what reads them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rl.config import parse_config
from rl.records.layout import ABOUT
from rl.records.metrics import (
    METRICS_FILE,
    ROLLOUTS_FILE,
    TIMING_FILE,
    EvaluationRecord,
    StepRecord,
    TimingRecord,
    append_lines,
    line_of,
)
from weightopt.table import WeightTable

GROUPS, TOKENS = 16, 9


def record_run(
    folder: Path,
    table: Path,
    *,
    seed: int = 0,
    steps: int = 40,
    group_size: int = 8,
    rate: float = 0.08,
    every: int = 5,
    rollouts: bool = True,
    timing: bool = True,
    changes: dict[str, Any] | None = None,
    response: Callable[[int], str] = lambda k: f"{k}+{k}={2 * k}",
) -> None:
    """Write what a run of `steps` steps leaves: success rises along a logistic, groups are drawn from a binomial."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = WeightTable.load(table).for_group(group_size)
    settings = {
        "task": {"name": "addition", "digits": {"1": 1}},
        "seed": seed,
        "table": str(table),
        "rollout": {"group_size": group_size, "prompts_per_step": GROUPS},
        "training": {"steps": steps, "evaluate_every": every, "rollout_share": 1.0 if rollouts else 0.0},
        **(changes or {}),
    }
    about = {
        "schema": "rl.run/4",
        "config": parse_config(settings).to_json(),
        "table": {"name": names.name, "checksum": names.checksum},
        "later_tables": [],
        "versions": {"python": "3.11.7", "numpy": np.__version__},
    }
    (folder / ABOUT).write_text(json.dumps(about))
    lines: list[dict[str, Any]] = [line_of(evaluation(0, rng, rate))]
    timings, responses = [], []
    for step in range(1, steps + 1):
        counts = rng.binomial(group_size, rng.beta(8 * mean(step, rate), 8 * (1 - mean(step, rate)), GROUPS))
        histogram = np.bincount(counts, minlength=group_size + 1)
        correct, wrong = names.advantage_correct, names.advantage_wrong
        assert correct is not None
        assert wrong is not None
        lines.append(
            line_of(
                StepRecord(
                    step=step,
                    responses_so_far=step * GROUPS * group_size,
                    tokens=GROUPS * group_size * TOKENS,
                    reward=float(counts.mean() / group_size),
                    success_histogram=tuple(int(n) for n in histogram),
                    all_wrong=float(histogram[0] / GROUPS),
                    all_right=float(histogram[-1] / GROUPS),
                    mean_abs_advantage=float(
                        np.mean([k * abs(correct[k]) + (group_size - k) * abs(wrong[k]) for k in counts]) / group_size
                    ),
                    distinct_responses=int(rng.integers(40, 100)),
                    gradient_norm=float(rng.lognormal(0, 0.5)),
                    clipped=False,
                    entropy=2 * (1 - mean(step, rate)),
                    finished=0.97,
                    groups_so_far=step * GROUPS,
                    tokens_so_far=step * GROUPS * group_size * TOKENS,
                    groups_drawn=GROUPS,
                    groups_trained=GROUPS,
                    table=names.name,
                    all_wrong_factor=1.0,
                    learning_rate=1e-3,
                    clip_factor=1.0,
                    log_ratio_mean=0.0,
                    log_ratio_max=float(rng.lognormal(-9, 0.5)),
                    sampler_kl=float(rng.lognormal(-14, 0.5)),
                    importance_truncated=0.0,
                    updates_so_far=step,
                )
            )
        )
        timings.append(
            line_of(
                TimingRecord(
                    step=step,
                    sampling=round(float(rng.uniform(0.1, 0.2)), 4),
                    verifying=0.01,
                    learning=0.12,
                    evaluating=0.3 * (step % every == 0),
                    hand_over=0.002,
                )
            )
        )
        if rollouts:
            k = int(counts[0])
            responses += [
                {
                    "step": step,
                    "group": 0,
                    "prompt": f"{step}+{step}=",
                    "difficulty": "1 digit",
                    "response": response(n),
                    "finished": True,
                    "correct": n < k,
                    "advantage": correct[k] if n < k else wrong[k],
                }
                for n in range(group_size)
            ]
        if step % every == 0:
            lines.append(line_of(evaluation(step, rng, rate, group_size)))
    append_lines(folder / METRICS_FILE, lines)
    if timing:
        append_lines(folder / TIMING_FILE, timings)
    if rollouts:
        append_lines(folder / ROLLOUTS_FILE, responses)


def mean(step: int, rate: float) -> float:
    """Mean success after a number of steps."""
    return 0.02 + 0.93 / (1 + np.exp(3 - rate * step))


def evaluation(step: int, rng: np.random.Generator, rate: float, group_size: int = 8) -> EvaluationRecord:
    """A held-out measurement."""
    success = float(np.clip(mean(step, rate) + rng.normal(0, 0.015), 0, 1))
    return EvaluationRecord(
        step=step,
        responses_so_far=step * GROUPS * group_size,
        success=success,
        success_low=max(success - 0.04, 0),
        success_high=min(success + 0.04, 1),
        by_difficulty={"1 digit": success},
        prompts=64,
        samples=4,
        temperature=1.0,
        groups_so_far=step * GROUPS,
        tokens_so_far=step * GROUPS * group_size * TOKENS,
        updates_so_far=step,
        pass_at={"4": (min(success + 0.1, 1), min(success + 0.05, 1), min(success + 0.15, 1))},
        finished=0.97,
        parsable=0.9 + 0.1 * random.Random(step).random(),
    )
