"""A weight table inside verl: the advantage estimator ``weight_table``.

verl loads this module by itself, in every worker, through the entry point ``verl.plugins`` of this distribution; where
entry points are switched off, through ``VERL_USE_EXTERNAL_MODULES=weightopt.adapters.verl``. Keys that it reads:

``algorithm.weight_table``
    Path of the table, which every node can read.
``algorithm.weight_table_threshold``
    The score from which on a response is correct; without it scores are 0 and 1.
``algorithm.weight_table_uneven_groups``
    true: every row is a response of its own, also where a prompt has more or fewer of them than
    ``actor_rollout_ref.rollout.n``.
``algorithm.weight_table_log``
    A file, to which a line of JSON is added for each batch: what the table has seen. verl asks an estimator for no
    metrics.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from hydra.experimental.callback import Callback  # pyright: ignore[reportMissingImports]
from omegaconf import DictConfig, OmegaConf  # pyright: ignore[reportMissingImports]
from omegaconf.errors import OmegaConfBaseException  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.core_algos import register_adv_est  # pyright: ignore[reportMissingImports]

from weightopt.adapters.rules import TABLE, Finding, Settings, sentences
from weightopt.adapters.verl_rules import ESTIMATOR, RESPONSES, VERL
from weightopt.adapters.weigher import AdapterError, GroupWeigher
from weightopt.table import TableError, WeightTable

UNEVEN = "algorithm.weight_table_uneven_groups"
LOG = "algorithm.weight_table_log"

_weighers: dict[tuple[Any, ...], _Weigher] = {}


class _Weigher:
    """The table of a run, read and checked against its settings once a process."""

    def __init__(self, settings: Settings) -> None:
        self.weigher = checked(settings.given)
        self.log = settings.get(LOG)
        self.uneven = bool(settings.get(UNEVEN, False))
        self.responses = settings.get(RESPONSES)
        if self.responses is None and not self.uneven and self.weigher.table.group_size is None:
            raise self.weigher.error(
                f"{RESPONSES} cannot be seen from the algorithm node of this trainer, so that rows cannot be told from "
                f"responses; use a table for groups of one size, or set +{UNEVEN}=true if every row is a response"
            )
        self.batches = 0

    def __call__(self, ids: Any, scores: Any) -> Any:
        advantages, metrics = self.weigher(ids, scores)
        if self.log is not None:
            self._write(metrics)
        if not self.batches:
            table = self.weigher.table
            size = "any size" if table.group_size is None else f"{table.group_size}"
            print(
                f"weightopt: table {table.name!r} ({table.checksum[:15]}) for groups of {size} gives the advantages; "
                f"first batch: {metrics['groups']} groups, {metrics['all_wrong']:.0%} all wrong, "
                f"{metrics['all_right']:.0%} all right",
                flush=True,
            )
        self.batches += 1
        return advantages

    def check_rows(self, ids: Any) -> None:
        """Refuse a prompt with another number of rows than responses: the number correct would be of other things."""
        if self.uneven or self.responses is None:
            return
        names, rows = np.unique(np.asarray(ids, dtype=str), return_counts=True)
        wrong = np.flatnonzero(rows != self.responses)
        if len(wrong):
            raise self.weigher.error(
                f"prompt {str(names[wrong[0]])[:40]!r} has {rows[wrong[0]]} rows and {RESPONSES} is {self.responses}: "
                "a session with several outputs has a row for each, and they would be counted as responses; use an "
                f"agent loop with one output a session, or set +{UNEVEN}=true if every row is a response of its own"
            )

    def _write(self, metrics: Mapping[str, Any]) -> None:
        try:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps({"batch": self.batches, **metrics}) + "\n")
        except OSError as error:
            raise self.weigher.error(
                f"{LOG}={self.log!r} cannot be written ({error.strerror}); give a file in an existing folder"
            ) from None


def checked(given: Mapping[str, Any]) -> GroupWeigher:
    """The weigher that a composed configuration asks for; what is added to the table's weight becomes one warning.

    Raises
    ------
    AdapterError
        If there is no table, it cannot be read, or a setting makes the weight another than the table's.
    """
    settings = Settings(given)
    if refused := sentences(_findings(given), "refuse"):
        raise AdapterError(refused)
    path = settings.get("algorithm.weight_table")
    try:
        weigher = GroupWeigher(path, settings.get("algorithm.weight_table_threshold"), host="verl")
    except TableError as error:
        raise AdapterError(f"verl: algorithm.weight_table: {error}") from None
    findings = _findings(given, weigher.table)
    if refused := sentences(findings, "refuse"):
        raise AdapterError(refused)
    if added := sentences(findings, "warn"):
        warnings.warn(added, stacklevel=2)
    return weigher


def _findings(given: Mapping[str, Any], table: WeightTable | None = None) -> list[Finding]:
    """What the settings that can be seen do; a trainer may show its node ``algorithm`` alone."""
    return [each for each in VERL.findings(given, table) if each.setting.partition(".")[0] in (*given, TABLE)]


@register_adv_est(ESTIMATOR)
def weight_table_advantage(
    *, token_level_rewards: Any, response_mask: Any, config: Any = None, index: Any = None, **_: Any
) -> tuple[Any, Any]:
    """Advantages of the table at ``algorithm.weight_table``, for every token of a response.

    Parameters
    ----------
    token_level_rewards
        Shape (rows, tokens); their sum over tokens is the score. NaN: the response cannot be scored.
    response_mask
        Shape (rows, tokens).
    config
        The node ``algorithm`` of the composed configuration.
    index
        The prompt of each row, shape (rows,), in any order.

    Returns
    -------
    tuple of Tensor
        Advantages and returns, which are the same, shape (rows, tokens).

    Raises
    ------
    AdapterError
        If a setting or a score makes the weight another than the table's, or a prompt has other than
        ``actor_rollout_ref.rollout.n`` rows.
    """
    if index is None:
        raise AdapterError("verl: the batch has no uid, so that the responses of a prompt cannot be told; add it.")
    settings = Settings(_composed(config))
    key = tuple(
        settings.get(name)
        for name in ("algorithm.weight_table", "algorithm.weight_table_threshold", UNEVEN, LOG, RESPONSES)
    )
    if key not in _weighers:
        _weighers[key] = _Weigher(settings)
    weigher = _weighers[key]
    weigher.check_rows(index)
    scores = token_level_rewards.sum(dim=-1).tolist()
    advantages = token_level_rewards.new_tensor(weigher(index, scores)).unsqueeze(-1) * response_mask
    return advantages, advantages


def _composed(algorithm: Any) -> dict[str, Any]:
    """The whole configuration that a node ``algorithm`` is of; that node alone if it is not in one."""
    if isinstance(algorithm, DictConfig):
        try:
            return _plain(OmegaConf.select(algorithm, ".."))
        except OmegaConfBaseException:  # the node stands alone
            return {"algorithm": _plain(algorithm)}
    if algorithm is None:
        return {"algorithm": {}}
    return {"algorithm": dict(algorithm) if isinstance(algorithm, Mapping) else dict(vars(algorithm))}


def _plain(config: DictConfig) -> Any:
    try:
        return OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:  # some other key refers to what is not there
        return OmegaConf.to_container(config, resolve=False)


class CheckConfig(Callback):
    """Checks the composed configuration before anything starts.

    ``+hydra.callbacks.weightopt._target_=weightopt.adapters.verl.CheckConfig`` on the command line of verl; a setting
    with which the weight is not the table's ends the command with its sentence and exit status 2.
    """

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Called by hydra with the composed configuration."""
        try:
            checked(_plain(config))
        except AdapterError as error:
            print(f"weightopt: {error}", file=sys.stderr)
            raise SystemExit(2) from None  # hydra turns any other exception of a callback into a warning
