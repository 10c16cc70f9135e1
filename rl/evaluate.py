"""Success on held-out prompts, with an interval that says how much the choice of prompts matters."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rl.config import EvaluationConfig
from rl.metrics import EvaluationRecord
from rl.rollout import Sampler
from rl.seeds import derive_seed
from rl.success import verify
from rl.tasks.protocol import Prompt, Task

RESAMPLES = 1000


def evaluate(
    sampler: Sampler,
    task: Task[Any],
    prompts: Sequence[Prompt[Any]],
    config: EvaluationConfig,
    *,
    max_new_tokens: int,
    step: int,
    responses: int,
    seed: int,
) -> EvaluationRecord:
    """Sample ``config.samples`` responses to every held-out prompt and measure success.

    Parameters
    ----------
    step, responses
        Updates made and training responses sampled so far, for the record.
    seed
        Seed of the sampling.

    Returns
    -------
    EvaluationRecord
        Mean success, and its 95 % percentile-bootstrap interval over prompts.
    """
    batch = sampler.sample(
        prompts,
        group_size=config.samples,
        temperature=config.temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    per_prompt = verify(batch, task).mean(axis=1)
    low, high = bootstrap_interval(per_prompt, seed=derive_seed(config.seed, "bootstrap"))
    strata: dict[str, list[float]] = {}
    for prompt, success in zip(prompts, per_prompt.tolist(), strict=True):
        strata.setdefault(prompt.difficulty, []).append(success)
    return EvaluationRecord(
        step=step,
        responses_so_far=responses,
        success=float(per_prompt.mean()),
        success_low=low,
        success_high=high,
        by_difficulty={name: float(np.mean(values)) for name, values in sorted(strata.items())},
        prompts=len(prompts),
        samples=config.samples,
        temperature=config.temperature,
    )


def bootstrap_interval(values: np.ndarray, *, seed: int) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean of ``values``, shape (n,), from 1000 resamples."""
    rng = np.random.default_rng(seed)
    resampled = rng.choice(values, size=(RESAMPLES, len(values)), replace=True).mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
