"""Learning from the batch of a step: its parts, their gradients, one update of the weights from each."""

import math
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import torch

from rl.errors import DivergenceError
from rl.learning.config import OptimizerConfig
from rl.learning.loss import (
    NO_CLIP,
    Accumulated,
    accumulate_gradient,
    cut,
    deal,
    denominator,
    log_probs_of,
    micro_batches,
    penalties_of,
    rows_of,
)
from rl.learning.ppo_clip import Clip
from rl.learning.reference import Reference
from rl.models.policy import Policy
from rl.processes.ranks import ALONE, Ranks
from rl.processes.sharded import gathered, idle, own_part
from rl.samplers.config import RolloutConfig
from rl.samplers.rollout import Batch
from rl.seeds import derive_seed


def new_optimizer(policy: Policy, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over the parameters of the policy that are trained."""
    return torch.optim.AdamW(
        policy.trained().values(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        # One kernel for all parameters instead of several for each. On a CPU it gains little and changes roundings.
        fused=policy.device.type == "cuda",
    )


@dataclass(frozen=True, kw_only=True)
class Update:
    """What the updates of a step did.

    Attributes
    ----------
    rows
        Distinct responses computed.
    gradient_norms
        Of the updates, before clipping.
    max_grad_norm
        Bound on these norms; infinity without clipping.
    """

    rows: int
    learning_rate: float
    gradient_norms: tuple[float, ...]
    max_grad_norm: float
    seen: Accumulated

    @property
    def gradient_norm(self) -> float:
        """The largest."""
        return max(self.gradient_norms)

    @property
    def clip_factor(self) -> float:
        """The smallest of what the gradients were multiplied by; 1 if none was clipped."""
        return self.max_grad_norm / self.gradient_norm if self.clipped else 1.0

    @property
    def clipped(self) -> int:
        """How many gradients were clipped."""
        return sum(norm > self.max_grad_norm for norm in self.gradient_norms)


def learn(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    advantages: np.ndarray,
    settings: OptimizerConfig,
    rollout: RolloutConfig,
    *,
    step: int,
    seed: int,
    cap: float | None = None,
    reference: Reference | None = None,
    ranks: Ranks = ALONE,
) -> Update:
    """Make the updates of a step from one on-policy batch: one without mini-batches and epochs.

    Parameters
    ----------
    advantages
        Shape (P, M).
    rollout
        Of which the temperature and the size of a full step count.
    step
        From 1: the learning rate may depend on it.
    seed
        Of the run: it deals the groups to the mini-batches.
    cap
        Of the importance weights; None: there are none.
    reference
        The policy the distance to which is penalised; None: there is no penalty.
    ranks
        All with the same arguments: each computes the gradient of some groups.

    Raises
    ------
    DivergenceError
        If a loss or a gradient is not finite, and then that update is not made, or if a weight is not finite after one.
    """
    clip = Clip(low=settings.clip_low, high=settings.clip_high)
    temperature, tokens, layout = rollout.temperature, settings.tokens_per_micro_batch, policy.layout
    told = partial(log_probs_of, temperature=temperature, tokens_per_micro_batch=tokens, layout=layout)
    rate = settings.rate_at(step)
    # The parts of the step, a whole number of groups each, as rows.
    parts = [
        rows_of(
            Batch(groups=tuple(batch.groups[index] for index in part)),
            advantages[part],
            weighted=cap is not None or clip != NO_CLIP,
            every=reference is not None,
        )
        for part in cut(len(batch.groups), settings.mini_batches, seed=derive_seed(seed, "mini-batches", step))
    ]
    # This process's groups of each; all make as many passes as the one that has most to compute.
    hands = [deal(rows, ranks.size) for rows in parts]
    own = [hand[ranks.rank] for hand in hands]
    passes = [[len(micro_batches(rows, tokens, layout=layout)) for rows in hand] for hand in hands]
    rest = [max(each) - each[ranks.rank] for each in passes]
    # What the reference says of them; and the policy as it is now, of those that come after the first update.
    penalties = [
        None if reference is None else penalties_of(rows, told(reference, rows), reference.kl, tokens, layout=layout)
        for rows in own
    ]
    before: list[list[torch.Tensor] | None] = []
    for number, rows in enumerate(own):
        later = number > 0 or settings.epochs > 1
        before.append(told(policy, rows) if later else None)
        idle(policy, rest[number] if later else 0, backward=False)
    norms: list[float] = []
    seen = Accumulated()
    for number in range(settings.updates):
        part = number % len(parts)
        parameters = _zero_gradient(policy)
        accumulated = accumulate_gradient(
            policy,
            own[part],
            responses=denominator(rollout, parts=len(parts)),
            temperature=temperature,
            tokens_per_micro_batch=tokens,
            layout=layout,
            importance_cap=cap,
            before=before[part] if number else None,
            clip=clip,
            penalties=penalties[part],
        )
        idle(policy, rest[part], backward=True)
        together = reduce(Accumulated.plus, ranks.gather(accumulated))
        norms.append(_clip_and_step(optimizer, parameters, together, rate, settings.max_grad_norm, ranks))
        seen = seen.plus(together)
    return Update(
        rows=sum(map(len, parts)),
        learning_rate=rate,
        gradient_norms=tuple(norms),
        max_grad_norm=settings.max_grad_norm or math.inf,
        seen=seen,
    )


def _zero_gradient(policy: Policy) -> list[torch.nn.Parameter]:
    """Give the trained parameters a gradient of zero; returns them."""
    parameters = list(policy.trained().values())
    for parameter in parameters:
        # Not None: a step without any signal has a gradient of zero, and the optimizer's memory fades over it.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()
    return parameters


def _clip_and_step(
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    accumulated: Accumulated,
    rate: float,
    max_grad_norm: float | None,
    ranks: Ranks,
) -> float:
    """Make one update if all is finite; returns the norm of the gradient before clipping."""
    norm = float(gathered(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm or math.inf)))
    if not math.isfinite(norm):
        raise DivergenceError(f"the gradient is not finite (norm {norm})")
    if not math.isfinite(accumulated.loss):
        raise DivergenceError(f"the loss is not finite ({accumulated.loss})")
    if not math.isfinite(accumulated.mismatch.kl_sum):
        raise DivergenceError("the sampler's and the trainer's log-probabilities are too far apart to compare")
    if not math.isfinite(accumulated.divergence.total):
        raise DivergenceError("the policy's and the reference's log-probabilities are too far apart to compare")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    # Looked at once: each look waits for a GPU.
    finite = torch.stack([torch.isfinite(own_part(parameter)).all() for parameter in parameters])
    if ranks.any(not bool(finite.all())):
        raise DivergenceError("a weight is not finite after the update")
    return norm
