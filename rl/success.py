"""From judged responses to the success count of each group, and to other estimates of a prompt's success."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rl.config import WeightingConfig
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


def histogram_by_difficulty(batch: Batch, successes: np.ndarray, group_size: int) -> dict[str, tuple[int, ...]]:
    """The success histogram of each stratum of the task that was drawn, sorted by name."""
    strata = np.array([group.prompt.difficulty for group in batch.groups])
    return {str(name): success_histogram(successes[strata == name], group_size) for name in np.unique(strata)}


def leave_one_out(correct: np.ndarray) -> np.ndarray:
    """For each response the share correct among the M-1 others of its group, shape (P, M) like ``correct``."""
    others = correct.sum(axis=1, keepdims=True) - correct
    return others / (correct.shape[1] - 1)


class Visits:
    """What has been seen of each prompt, as the counts of a Beta posterior of its success probability.

    Parameters
    ----------
    config
        The prior and the discount.
    counts
        Prompt id to (successes, failures) without the prior, as `to_json` gives them.
    """

    def __init__(self, config: WeightingConfig, counts: Mapping[str, Sequence[float]] | None = None) -> None:
        self._config = config
        self._counts = {name: (float(pair[0]), float(pair[1])) for name, pair in (counts or {}).items()}

    def estimate(self, batch: Batch) -> np.ndarray:
        """Posterior mean of the success probability of each prompt, from earlier visits only; shape (P,), in (0, 1)."""
        prior = self._config.prior_successes, self._config.prior_failures
        seen = [self._counts.get(group.prompt.id, (0.0, 0.0)) for group in batch.groups]
        return np.array(
            [(prior[0] + right) / (prior[0] + prior[1] + right + wrong) for right, wrong in seen], dtype=np.float64
        )

    def add(self, batch: Batch, successes: np.ndarray) -> None:
        """Note a visit to every prompt of ``batch``: K correct and M-K wrong responses."""
        discount = self._config.visit_discount
        for group, right in zip(batch.groups, successes.tolist(), strict=True):
            before = self._counts.get(group.prompt.id, (0.0, 0.0))
            wrong = len(group.completions) - right
            self._counts[group.prompt.id] = (discount * before[0] + right, discount * before[1] + wrong)

    def to_json(self) -> dict[str, tuple[float, float]]:
        """All counts, for a checkpoint; JSON keeps every digit of them."""
        return dict(self._counts)
