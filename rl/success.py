"""From judged responses to the success count of each group."""

from typing import Any

import numpy as np

from rl.rollout import Batch
from rl.tasks.protocol import Task


def verify(batch: Batch, task: Task[Any]) -> np.ndarray:
    """Judge every response, exactly: correct or not, nothing in between.

    A response that ran into the length limit is wrong: the policy has not said that it was done.

    Returns
    -------
    numpy.ndarray
        Shape (P, M), bool.
    """
    return np.array(
        [
            [completion.finished and task.verify(group.prompt, completion.text) for completion in group.completions]
            for group in batch.groups
        ],
        dtype=bool,
    )


def count_successes(correct: np.ndarray) -> np.ndarray:
    """Number correct K of each group, shape (P,), int, in 0..M; ``correct`` has shape (P, M), bool."""
    return correct.sum(axis=1)


def success_histogram(successes: np.ndarray, group_size: int) -> tuple[int, ...]:
    """How many groups have K correct, for K = 0..M; length M + 1."""
    return tuple(int(count) for count in np.bincount(successes, minlength=group_size + 1))
