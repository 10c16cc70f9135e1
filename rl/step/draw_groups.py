"""The groups of one step: sampled, judged and, with dynamic sampling, drawn again until enough of them are mixed.

Dynamic sampling keeps the groups that hold both right and wrong responses. Each further draw asks for as many prompts
as groups are missing, so no mixed group is ever left over, and the groups drawn for one that is kept number
1/m = 1/(1 - ρ^M - (1-ρ)^M) on average. A kept group moves further than the mean group by the same factor, so in groups
drawn this loop pays the solver's clock ``regular``, as one without dynamic sampling does.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.processes.ranks import ALONE, Ranks
from rl.samplers.config import RolloutConfig
from rl.samplers.rollout import Batch, Group, Sampler
from rl.seeds import derive_seed
from rl.step.stopwatch import Stopwatch
from rl.step.success import Judgement, count_successes, judge
from rl.tasks.protocol import Task, Verifier
from rl.tasks.split import training_prompts
from rl.verification.pool import VerifierPool


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a step has to learn from.

    Attributes
    ----------
    drawn
        All groups sampled, in the order in which they were.
    judgement
        What the verifier said of their responses, arrays of shape (groups drawn, M).
    kept
        Which groups to train on: increasing indices, at most ``prompts_per_step``; without dynamic sampling all.
    left_out
        Prompts that the task proposed and that do not fit into the model's context.
    """

    drawn: Batch
    judgement: Judgement
    kept: np.ndarray
    left_out: int = 0

    @property
    def correct(self) -> np.ndarray:
        """Which of the responses drawn are correct, shape (groups drawn, M), bool."""
        return self.judgement.correct

    @property
    def batch(self) -> Batch:
        """The groups to train on."""
        return Batch(groups=tuple(self.drawn.groups[index] for index in self.kept))

    @property
    def batch_correct(self) -> np.ndarray:
        """Which of their responses are correct, shape (P, M)."""
        return self.correct[self.kept]


def draw_groups(
    sampler: Sampler,
    task: Task[Any],
    verifier: Verifier[Any] | VerifierPool,
    rollout: RolloutConfig,
    *,
    seed: int,
    step: int,
    stopwatch: Stopwatch,
    ranks: Ranks = ALONE,
) -> Collected:
    """Sample and judge the groups of a step; a pure function of weights, configuration, seed of the run and step.

    Each of several processes samples and judges its part of every draw, and all get everything.

    With dynamic sampling drawing ends when ``prompts_per_step`` groups are mixed, or when ``over_generation_limit``
    times as many have been drawn; then there are fewer, or none, to train on.
    """
    wanted = rollout.prompts_per_step
    limit = wanted * (rollout.over_generation_limit if rollout.dynamic_sampling else 1)
    groups: list[Group] = []
    judged: list[Judgement] = []
    kept: list[int] = []
    draw: tuple[str | int, ...] = (step,)
    before = getattr(task, "left_out", 0)
    while len(kept) < wanted and len(groups) < limit:
        with stopwatch.stage("sampling"):
            prompts = training_prompts(
                task,
                count=min(wanted - len(kept), limit - len(groups)),
                seed=derive_seed(seed, "prompts", *draw),
            )
            batch = sampler.sample(
                prompts,
                group_size=rollout.group_size,
                temperature=rollout.temperature,
                max_new_tokens=rollout.max_new_tokens,
                seed=derive_seed(seed, "responses", *draw),
            )
        with stopwatch.stage("verifying"):
            judgement = judge(batch, verifier, ranks)
            successes = count_successes(judgement.correct)
            keep = (successes > 0) & (successes < rollout.group_size) if rollout.dynamic_sampling else successes >= 0
            kept += (len(groups) + np.flatnonzero(keep)).tolist()
        groups += batch.groups
        judged.append(judgement)
        draw = (step, "again", len(judged))
    return Collected(
        drawn=Batch(groups=tuple(groups)),
        judgement=Judgement.concatenate(judged),
        kept=np.array(kept, dtype=np.intp),
        left_out=getattr(task, "left_out", 0) - before,
    )
