"""From the ``[task]`` section of a configuration to the task."""

from typing import Any

from rl.config import AdditionConfig, CountdownConfig
from rl.tasks.addition import Addition
from rl.tasks.countdown import Countdown
from rl.tasks.protocol import Task


def build_task(config: AdditionConfig | CountdownConfig) -> Task[Any]:
    """The task that a configuration describes."""
    match config:
        case AdditionConfig():
            return Addition(digits=config.digits)
        case CountdownConfig():
            return Countdown(
                numbers=config.numbers,
                largest_number=config.largest_number,
                largest_target=config.largest_target,
                operators={**config.operators},
                habits={**config.habits},
            )
