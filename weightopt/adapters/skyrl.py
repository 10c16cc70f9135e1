"""A weight table inside SkyRL: an advantage estimator of its registry.

In the entry point of a run, before ``validate_cfg``::

    from weightopt.adapters.skyrl import register
    register("/shared/table.json")

and ``trainer.algorithm.advantage_estimator=weight_table`` on the command line. The registered function carries the
table, so that only the process that registers needs to read the file.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from skyrl.backends.skyrl_train.utils.ppo_utils import (  # pyright: ignore[reportMissingImports]
    register_advantage_estimator,
)

from weightopt.adapters.weigher import GroupWeigher
from weightopt.table import WeightTable

ESTIMATOR = "weight_table"
PADDING = "pad"  # SkyRL fills a batch up with rows whose uid is pad0, pad1, ...; they have no loss


def register(
    table: WeightTable | str | os.PathLike[str], threshold: float | None = None, name: str = ESTIMATOR
) -> None:
    """Make `name` an advantage estimator of SkyRL that reads `table`.

    Parameters
    ----------
    table
        A table, or the path of its file.
    threshold
        The score from which on a response is correct; without it scores are 0 and 1.
    name
        What ``trainer.algorithm.advantage_estimator`` calls it.

    Raises
    ------
    weightopt.table.TableError
        If the file is bad.
    ValueError
        If the name is taken.
    """
    register_advantage_estimator(name)(TableEstimator(table, threshold))


class TableEstimator:
    """What SkyRL calls; see `register`."""

    __name__ = __qualname__ = ESTIMATOR

    def __init__(self, table: WeightTable | str | os.PathLike[str], threshold: float | None = None) -> None:
        self.weigher = GroupWeigher(table, threshold, host="SkyRL")

    def __call__(self, *, token_level_rewards: Any, response_mask: Any, index: Any, **_: Any) -> tuple[Any, Any]:
        """Advantages and returns, which are the same, for every token of a response.

        Parameters
        ----------
        token_level_rewards
            Shape (rows, tokens); their sum over tokens is the score. NaN: the response cannot be scored.
        response_mask
            Shape (rows, tokens).
        index
            The uid of each row's prompt.
        """
        ids = [str(uid) for uid in index]
        scores = token_level_rewards.sum(dim=-1).tolist()
        real = [row for row, uid in enumerate(ids) if not (uid.startswith(PADDING) and uid[len(PADDING) :].isdigit())]
        advantages = np.zeros(len(ids))
        advantages[real], _metrics = self.weigher([ids[row] for row in real], [scores[row] for row in real])
        values = token_level_rewards.new_tensor(advantages).unsqueeze(-1) * response_mask
        return values, values
