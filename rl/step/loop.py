"""What a step works with."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rl.config import Config
from rl.learning.reference import Reference
from rl.models.policy import Policy
from rl.processes.ranks import Ranks
from rl.samplers.rollout import Sampler
from rl.step.schedule import TableSchedule
from rl.tasks.protocol import Prompt, Task, Verifier
from rl.verification.pool import VerifierPool


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What a step works with.

    Attributes
    ----------
    reference
        The policy the distance to which is penalised; None: there is no penalty.
    before
        Mixed groups that the step before has drawn, and all its groups: dynamic sampling draws ahead by them.
    drawn
        What a sampler that draws ahead has drawn for this step, as JSON; None before the first.
    """

    config: Config
    task: Task[Any]
    held_out: tuple[Prompt[Any], ...]
    verifier: Verifier[Any] | VerifierPool
    tables: TableSchedule
    sampler: Sampler
    policy: Policy
    optimizer: torch.optim.Optimizer
    reference: Reference | None
    ranks: Ranks
    before: tuple[int, int] = (0, 0)
    drawn: str | None = None


class Stopwatch:
    """Seconds spent in each stage; one that was never entered is absent."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a ``with`` block towards stage ``name``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
