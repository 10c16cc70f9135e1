"""A weight table inside slime: ``--custom-reward-post-process-path weightopt.adapters.slime.post_process``.

Table and threshold are keys of the file that ``--custom-config-path`` names::

    weight_table: /shared/table.json
    weight_table_threshold: 0.5  # leave it out if rewards are 0 and 1

With ``--advantage-estimator grpo`` slime broadcasts what this returns over the tokens of a response. What its loss
divides by is `constant_divisor`, with ``--custom-pg-loss-reducer-function-path``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from weightopt.adapters.rules import sentences
from weightopt.adapters.sessions import weigh_sessions
from weightopt.adapters.slime_rules import SLIME
from weightopt.adapters.weigher import AdapterError, GroupWeigher
from weightopt.table import TableError

logger = logging.getLogger(__name__)
DIVISOR = 1024.0  # tokens; a constant factor, which an optimizer such as Adam does not see


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
    weigher = _checked(args)
    raw = [sample.get_reward_value(args) for sample in samples]
    if any(sample.group_index is None for sample in samples):
        raise weigher.error("a sample has no group_index, so that the responses of a prompt cannot be told; set it")
    sessions = [
        index if (rollout := getattr(sample, "rollout_id", None)) is None else ("rollout", rollout)
        for sample in samples
        for index in [sample.index]
    ]
    if any(session is None for session in sessions):
        raise weigher.error(
            "a sample has neither index nor rollout_id, so that responses cannot be told apart; set one"
        )
    advantages, metrics = weigh_sessions(weigher, [sample.group_index for sample in samples], sessions, raw)
    logger.info("weight table %s: %s", weigher.table.name, metrics)
    return raw, advantages.tolist()


def constant_divisor(
    total_lengths: Sequence[int],  # noqa: ARG001
    response_lengths: Sequence[int],
    loss_masks: Sequence[Any],
    calculate_per_token_loss: bool = False,  # noqa: ARG001
) -> Callable[[Any], Any]:
    """A reducer of slime that adds up each response's tokens and divides by `DIVISOR`, whatever their number.

    slime then divides by the samples of a step.

    Raises
    ------
    AdapterError
        From the reducer, if it is not given all tokens, as under context parallelism.
    """

    def reduce(values: Any) -> Any:
        if values.shape[0] != sum(response_lengths):
            raise AdapterError(
                f"slime: constant_divisor is given {values.shape[0]} of {sum(response_lengths)} tokens, as "
                "--context-parallel-size above 1 cuts them; set --context-parallel-size 1."
            )
        parts = values.split(list(response_lengths))
        return sum((part * mask).sum() for part, mask in zip(parts, loss_masks, strict=True)) / DIVISOR

    return reduce


def _checked(args: Any) -> GroupWeigher:
    given = vars(args)
    if refused := sentences(SLIME.findings(given), "refuse"):
        raise AdapterError(refused)
    weigher = _weigher(args.weight_table, given.get("weight_table_threshold"))
    findings = SLIME.findings(given, weigher.table)
    if refused := sentences(findings, "refuse"):
        raise AdapterError(refused)
    _warn(sentences(findings, "warn"))
    return weigher


@functools.cache
def _weigher(path: str, threshold: float | None) -> GroupWeigher:
    try:
        return GroupWeigher(path, threshold, host="slime")
    except TableError as error:
        raise AdapterError(f"slime: weight_table: {error}") from None


@functools.cache
def _warn(text: str) -> None:
    if text:
        logger.warning(text)
