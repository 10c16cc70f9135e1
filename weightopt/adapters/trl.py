"""A weight table inside TRL: `GRPOTrainer` and `RLOOTrainer` whose advantages are those of the table.

Rewards are judged where TRL has gathered them from all processes, with the groups whole and in order; evaluation is
left as it is. A TRL that has ``_transform_advantages`` is given the advantages there; else they replace those that it
returns and those that it logs.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from trl import (  # pyright: ignore[reportMissingImports]
    GRPOConfig,  # pyright: ignore[reportPrivateImportUsage]
    GRPOTrainer,  # pyright: ignore[reportPrivateImportUsage]
    RLOOConfig,  # pyright: ignore[reportPrivateImportUsage]
    RLOOTrainer,  # pyright: ignore[reportPrivateImportUsage]
)

from weightopt.adapters.rules import sentences
from weightopt.adapters.trl_rules import GRPO, RLOO
from weightopt.adapters.weigher import AdapterError, GroupWeigher, scalars
from weightopt.table import WeightTable

PREFIX = "weight_table/"
NEEDED = ("_calculate_rewards", "_generate_and_score_completions")
_Trainer: Any = object  # the class that is mixed with


class WeightTableMixin(_Trainer):
    """Put before `GRPOTrainer`, `RLOOTrainer` or a class of yours: ``class Mine(WeightTableMixin, MyGRPOTrainer)``.

    Success is counted from correctness. With one reward function its rewards are it: 0 and 1, or with a threshold any
    number. With several, `correctness` names the one that says whether a response is right, or a threshold on TRL's
    weighted sum does. A response for which it returns None, or NaN, cannot be scored: its advantage is 0, and its group
    is one smaller.

    Parameters
    ----------
    *args, **kwargs
        As for the trainer.
    table
        A weight table, or the path of its file.
    threshold
        A response is correct from this reward on.
    correctness
        The name of the reward function that says whether a response is right, or of several, each for other responses.

    Raises
    ------
    AdapterError
        Before training: if the table is for groups of another size than ``num_generations``, or a setting makes its
        weight another; in a step: if rewards are neither 0 nor 1 and there is no threshold, or a response cannot be
        scored and the table is no curve.
    weightopt.table.TableError
        If the file is bad.
    """

    def __init__(
        self,
        *args: Any,
        table: WeightTable | str | os.PathLike[str],
        threshold: float | None = None,
        correctness: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.weigher = GroupWeigher(table, threshold, host="TRL")
        for name in NEEDED:
            if not hasattr(super(), name):
                raise self.weigher.error(f"{type(self).__name__} must also be a GRPOTrainer or RLOOTrainer with {name}")
        kinds: Any = (GRPOConfig, RLOOConfig)
        settings = next((value for value in (kwargs.get("args"), *args) if isinstance(value, kinds)), None)
        if settings is not None:  # before a model is loaded
            self._check_settings(settings)
        super().__init__(*args, **kwargs)
        if settings is None:
            self._check_settings(self.args)
        self._judging, silent = self._reward_columns(correctness)
        self._judged: torch.Tensor | None = None
        self._warn(silent)

    def _check_settings(self, settings: Any) -> None:
        host = RLOO if isinstance(self, RLOOTrainer) else GRPO
        self._findings = host.findings(vars(settings), self.weigher.table)
        if refused := sentences(self._findings, "refuse"):
            raise AdapterError(refused)

    def _reward_columns(self, correctness: str | Sequence[str] | None) -> tuple[list[int] | None, list[str]]:
        """The reward functions that judge (None: TRL's weighted sum of all), and the names of those that do nothing."""
        names = list(self.reward_func_names)
        if correctness is None:
            if self.weigher.threshold is not None:
                return None, []
            if len(names) > 1:
                raise self.weigher.error(
                    f"there are {len(names)} reward functions, and a table needs to know which responses are right; "
                    f"set correctness to one of {', '.join(names)}, or give a threshold on their weighted sum"
                )
            return [0], []
        wanted = [correctness] if isinstance(correctness, str) else list(correctness)
        for name in wanted:
            if names.count(name) != 1:
                raise self.weigher.error(
                    f"correctness must be the name of one reward function of {names}, found {name!r}"
                )
        if not wanted:
            raise self.weigher.error(f"correctness must name a reward function, one of {', '.join(names)}")
        return [names.index(name) for name in wanted], [name for name in names if name not in wanted]

    def _warn(self, silent: Sequence[str]) -> None:
        """All that is added to the weight, in one warning, from one process."""
        said = [sentences(self._findings, "warn")]
        if silent:
            said.append(
                f"TRL: the rewards of {', '.join(silent)} are logged and steer nothing, since the table's "
                "advantages take the place of TRL's."
            )
        text = " ".join(filter(None, said))
        if text and self.accelerator.is_main_process:
            warnings.warn(text, stacklevel=3)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        self._judged = rewards if self.model.training else None
        return rewards

    def _transform_advantages(self, advantages: torch.Tensor) -> torch.Tensor:
        """The hook of a TRL that has it, called before the advantages are logged and shared out."""
        return super()._transform_advantages(advantages) if self._judged is None else self._weigh(advantages)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self._judged is not None:  # this TRL has no hook
            local = output["advantages"]
            advantages = self._weigh(local)
            first = self.accelerator.process_index * len(local)
            output["advantages"] = advantages[first : first + len(local)]
            self._log_again(advantages.tolist())
        return output

    def _weigh(self, like: torch.Tensor) -> torch.Tensor:
        """The table's advantages of all responses of all processes; logs what the table has seen."""
        rewards, self._judged = self._judged, None
        assert rewards is not None
        if self._judging is None:
            scores = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
            used = rewards
        else:
            used = rewards[:, self._judging]
            scores = used.nansum(dim=1)
        scores[used.isnan().all(dim=1)] = torch.nan
        groups = np.arange(len(scores)) // self.num_generations
        advantages, metrics = self.weigher(groups, scores.float().cpu().numpy())
        for name, value in scalars(metrics).items():
            self._metrics["train"][PREFIX + name].append(value)
        return torch.from_numpy(advantages).to(device=like.device, dtype=like.dtype)

    def _log_again(self, advantages: list[float]) -> None:
        """Put the advantages in place of those that TRL has just logged of the same responses."""
        logged: deque[float] = self._logs["advantages"]
        for _ in range(min(len(advantages), len(logged))):
            logged.pop()
        logged.extend(advantages)


class TableGRPOTrainer(WeightTableMixin, GRPOTrainer):  # pyright: ignore[reportGeneralTypeIssues]
    """`GRPOTrainer` with the advantages of a weight table: ``TableGRPOTrainer(..., table="table.json")``.

    With ``GRPOConfig(loss_type="dr_grpo")`` the weight is the table's; see `WeightTableMixin`.
    """


class TableRLOOTrainer(WeightTableMixin, RLOOTrainer):  # pyright: ignore[reportGeneralTypeIssues]
    """`RLOOTrainer` with the advantages of a weight table: ``TableRLOOTrainer(..., table="table.json")``.

    With ``RLOOConfig(beta=0.0)`` the weight is the table's; see `WeightTableMixin`.
    """
