"""A weight table inside Trinity-RFT: an advantage function that is named by its path.

In the configuration of Trinity-RFT::

    algorithm:
      advantage_fn: weightopt.adapters.trinity.TableAdvantage
      advantage_fn_args: {table: /shared/table.json}

Whole groups reach it by their id, with the run and step of every experience, so that a run of several steps is counted
once: the reward of its last step says whether it is correct, and all its steps get the advantage.
"""

from __future__ import annotations

from typing import Any

from trinity.algorithm.advantage_fn import GroupAdvantage  # pyright: ignore[reportMissingImports]
from trinity.common.experience import group_by  # pyright: ignore[reportMissingImports]

from weightopt.adapters.sessions import weigh_sessions
from weightopt.adapters.weigher import AdapterError, GroupWeigher, scalars
from weightopt.table import TableError


class TableAdvantage(GroupAdvantage):
    """Advantages of a weight table.

    Parameters
    ----------
    table
        Path of the table, which the explorer's node can read.
    threshold
        The reward from which on a run is correct; without it rewards are 0 and 1.

    Raises
    ------
    AdapterError
        If there is no table, or it cannot be read.
    """

    def __init__(self, table: str | None = None, threshold: float | None = None) -> None:
        if not isinstance(table, str) or not table:
            raise AdapterError(
                f"Trinity-RFT: algorithm.advantage_fn_args.table={table!r} is no table; write "
                "advantage_fn_args: {table: /path/of/table.json}, a path that the explorer can read."
            )
        try:
            self.weigher = GroupWeigher(table, threshold, host="Trinity-RFT")
        except TableError as error:
            raise AdapterError(f"Trinity-RFT: algorithm.advantage_fn_args.table: {error}") from None

    def group_experiences(self, exps: list[Any]) -> dict[str, list[Any]]:
        """The experiences of each task."""
        return group_by(exps, id_type="task")

    def calculate_group_advantage(self, group_id: str, exps: list[Any]) -> tuple[list[Any], dict[str, float]]:
        """Set advantages and returns of a group's experiences, and tell what the table has seen.

        Raises
        ------
        AdapterError
            If two experiences have the same run and step, a reward is neither 0 nor 1 and there is no threshold, or
            the table is for groups of another size.
        """
        steps = {(exp.eid.run, exp.eid.step) for exp in exps}
        if len(steps) != len(exps):
            raise self.weigher.error(
                f"task {group_id} has {len(exps)} experiences and {len(steps)} pairs of run and step, so that "
                "responses cannot be told apart; set eid.run and eid.step in the workflow, a number for each"
            )
        advantages, metrics = weigh_sessions(
            self.weigher,
            [group_id] * len(exps),
            [exp.eid.run for exp in exps],
            [exp.reward for exp in exps],
            [exp.eid.step for exp in exps],
        )
        for exp, advantage in zip(exps, advantages.tolist(), strict=True):
            exp.advantages = exp.action_mask * advantage
            exp.returns = exp.advantages.clone()
        return exps, {name: value for name, value in scalars(metrics).items() if "/" not in name}

    @classmethod
    def default_args(cls) -> dict[str, Any]:
        """No table: the constructor says what to write."""
        return {"table": None, "threshold": None}
