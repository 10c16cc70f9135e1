"""A weight table inside slime: ``--custom-reward-post-process-path weightopt.adapters.slime.post_process``.

slime has no option for a path of ours, so that table and threshold are environment variables of the process that rolls
out (slime is started by ``ray job submit``: name them in its ``env_vars``):

``WEIGHTOPT_TABLE``
    Path of the table.
``WEIGHTOPT_THRESHOLD``
    The reward from which on a response is correct; without it rewards are 0 and 1.

slime broadcasts what this returns over the tokens of a response if ``--advantage-estimator grpo`` is given.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

from weightopt.adapters.rules import sentences
from weightopt.adapters.sessions import weigh_sessions
from weightopt.adapters.slime_rules import SLIME, TABLE, THRESHOLD
from weightopt.adapters.weigher import AdapterError, GroupWeigher
from weightopt.table import TableError

logger = logging.getLogger(__name__)


def post_process(args: Any, samples: Sequence[Any]) -> tuple[list[float | None], list[float]]:
    """The raw rewards, for the log, and the table's advantages, for training.

    Parameters
    ----------
    args
        slime's arguments.
    samples
        With ``group_index`` (the prompt), ``index`` and, in newer versions, ``rollout_id`` (the response that several
        samples were cut from), ``get_reward_value(args)`` and ``remove_sample``.

    Raises
    ------
    AdapterError
        If there is no table, an argument makes the weight another than the table's, a reward is neither 0 nor 1 and
        there is no threshold, or a group is of a size that the table is not made for.
    """
    weigher = _weigher(os.environ.get(TABLE), os.environ.get(THRESHOLD))
    _check(weigher, args)
    raw = [sample.get_reward_value(args) for sample in samples]
    if any(sample.group_index is None for sample in samples):
        raise weigher.error("a sample has no group_index, so that the responses of a prompt cannot be told; set it")
    sessions = [
        index if (rollout := getattr(sample, "rollout_id", None)) is None else ("rollout", rollout)
        for sample in samples
        for index in [sample.index]
    ]
    if any(session is None for session in sessions):
        raise weigher.error("a sample has neither index nor rollout_id, so that responses cannot be told apart; set one")
    advantages, metrics = weigh_sessions(weigher, [sample.group_index for sample in samples], sessions, raw)
    logger.info("weight table %s: %s", weigher.table.name, metrics)
    return raw, advantages.tolist()


@functools.cache
def _weigher(path: str | None, threshold: str | None) -> GroupWeigher:
    if not path:
        raise AdapterError(
            f"slime: {TABLE} names no table; set it to a path that the node of the rollout manager can read."
        )
    try:
        number = None if threshold is None else float(threshold)
    except ValueError:
        raise AdapterError(f"slime: {THRESHOLD}={threshold!r:.40} is no number; write 0.5, or leave it out.") from None
    try:
        return GroupWeigher(path, number, host="slime")
    except TableError as error:
        raise AdapterError(f"slime: {TABLE}: {error}") from None


def _check(weigher: GroupWeigher, args: Any) -> None:
    findings = SLIME.findings(vars(args), weigher.table)
    if refused := sentences(findings, "refuse"):
        raise AdapterError(refused)
    _warn(sentences(findings, "warn"))


@functools.cache
def _warn(text: str) -> None:
    if text:
        logger.warning(text)
