"""The learning rate of a step: a function of its number alone, so that a resumed or prolonged run keeps its past."""

import math

from rl.learning.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Learning rate of the updates of ``step`` ≥ 1: it goes by steps, however many updates one makes.

    It is r·step/W over the W warm-up steps and r afterwards; with a horizon H it is
    r·(s + (1-s)·(1 + cos π(step-W)/(H-W))/2) between W and H, and s·r from H on, s the final share.
    """
    warmup, horizon = config.warmup_steps, config.cosine_until
    if step < warmup:
        return config.learning_rate * step / warmup
    if horizon is None:
        return config.learning_rate
    way = min((step - warmup) / (horizon - warmup), 1.0)
    share = config.final_share
    return config.learning_rate * (share + (1 - share) * (1 + math.cos(math.pi * way)) / 2)
