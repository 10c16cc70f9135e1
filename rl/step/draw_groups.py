"""The groups of one step: sampled, judged and, with dynamic sampling, drawn again until enough of them are mixed.

Dynamic sampling keeps the first groups that hold both right and wrong responses. A draw asks for as many prompts as
should fill the batch at the share of mixed groups among those last drawn, and for a few more: a draw takes as long as
its longest response, however few prompts it has, and asking only for what is missing took ten draws a step where 40 %
of the groups were mixed. Groups are kept in the order in which they were drawn, so a kept group is distributed as
before; those beyond the batch are counted as drawn, and nothing is learnt from them. The groups drawn for one that is
kept number 1/m = 1/(1 - ρ^M - (1-ρ)^M) on average, and those beyond the batch on top. A kept group moves further than
the mean group by the factor 1/m, so in groups drawn this loop pays the solver's clock ``regular``, as one without
dynamic sampling does, but for what is beyond the batch.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.samplers.ahead import AheadSampler
from rl.samplers.rollout import Batch, Group
from rl.seeds import derive_seed
from rl.step.loop import Loop, Stopwatch
from rl.step.success import Judgement, judge
from rl.tasks.split import training_prompts

# Standard deviations of the groups that a batch needs, by which a draw asks for more than their mean. For 64 mixed
# groups at a share of 40 % it takes 1.4 draws and 10 % more groups than are needed; 0 takes 1.7 and 6 %, and 1 takes
# 1.2 and 13 %.
AHEAD = 0.5


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
    def mixed(self) -> int:
        """How many of the groups drawn hold right and wrong responses."""
        return int(_mixed(self.correct).sum())

    @property
    def correct(self) -> np.ndarray:
        """Which of the responses drawn are correct, shape (groups drawn, M), bool."""
        return self.judgement.correct

    @property
    def batch(self) -> Batch:
        """The groups to train on."""
        return Batch(groups=tuple(self.drawn.groups[index] for index in self.kept))


def draw_groups(loop: Loop, step: int, stopwatch: Stopwatch) -> Collected:
    """Sample and judge the groups of a step; a pure function of weights and arguments.

    Each of several processes samples and judges its part of every draw, and all get everything. A sampler that draws
    ahead has drawn this step's, but for the first, and begins the next one's.

    With dynamic sampling drawing ends when ``prompts_per_step`` groups are mixed, or when ``over_generation_limit``
    times as many have been drawn; then there are fewer, or none, to train on.
    """
    sampler, task, rollout, drawn = loop.sampler, loop.task, loop.config.rollout, loop.drawn

    def asked(count: int, *draw: str | int) -> dict[str, Any]:
        return {
            "prompts": training_prompts(task, count=count, seed=derive_seed(loop.config.seed, "prompts", *draw)),
            "group_size": rollout.group_size,
            "temperature": rollout.temperature,
            "max_new_tokens": rollout.max_new_tokens,
            "seed": derive_seed(loop.config.seed, "responses", *draw),
        }

    wanted = rollout.prompts_per_step
    limit = wanted * (rollout.over_generation_limit if rollout.dynamic_sampling else 1)
    groups: list[Group] = []
    judged: list[Judgement] = []
    kept: list[int] = []
    draw: tuple[str | int, ...] = (step,)
    mixed, seen = loop.before
    if isinstance(sampler, AheadSampler):
        with stopwatch.stage("sampling"):
            if drawn is None:
                sampler.begin(**asked(wanted, step))
                drawn = sampler.drawn()
            sampler.begin(**asked(wanted, step + 1))
    left_out = getattr(task, "left_out", 0)
    while len(kept) < wanted and len(groups) < limit:
        count = wanted - len(kept)
        if rollout.dynamic_sampling:
            share = (mixed + 1) / (seen + 2)  # Laplace's rule: never 0
            count = math.ceil((count + AHEAD * math.sqrt(count * (1 - share))) / share)
        with stopwatch.stage("sampling"):
            request = asked(min(count, limit - len(groups)), *draw)
            if drawn is None:
                batch = sampler.sample(**request)
            else:
                batch = Batch.from_json(request["prompts"], json.loads(drawn))
        with stopwatch.stage("verifying"):
            judgement = judge(batch, loop.verifier, loop.ranks)
            keep = _mixed(judgement.correct)
            mixed, seen = mixed + int(keep.sum()), seen + len(keep)
            kept += (len(groups) + np.flatnonzero(keep | (not rollout.dynamic_sampling))).tolist()
        groups += batch.groups
        judged.append(judgement)
        draw = (step, "again", len(judged))
    return Collected(
        drawn=Batch(groups=tuple(groups)),
        judgement=Judgement.concatenate(judged),
        kept=np.array(kept[:wanted], dtype=np.intp),
        left_out=getattr(task, "left_out", 0) - left_out,
    )


def _mixed(correct: np.ndarray) -> np.ndarray:
    """Which groups hold right and wrong responses, shape (groups,), bool."""
    return np.asarray(correct.any(axis=1) & ~correct.all(axis=1))
