"""Trinity-RFT's settings that change what a table means, as versions `WRITTEN_FOR` have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weightopt.adapters.rules import Host, Rule

WRITTEN_FOR = ("0.6.0",)
FUNCTION = "weightopt.adapters.trinity.TableAdvantage"

# Algorithms whose advantages are made in the trainer, where groups are no longer whole.
IN_TRAINER = ("ppo", "reinforceplusplus", "rloo", "remax", "on_policy_distill", "jsd", "grpo_verl")


TRINITY = Host(
    key="trinity",
    name="Trinity-RFT",
    distribution="trinity-rft",
    written_for=WRITTEN_FOR,
    lines=f"algorithm: {{algorithm_type: grpo, advantage_fn: {FUNCTION}, advantage_fn_args: {{table: table.json}}, "
    "loss_agg_mode: seq-mean-token-sum, kl_loss_fn: none}}",
    recognises=lambda given: (
        isinstance(given.get("algorithm"), Mapping)
        and any(key in given["algorithm"] for key in ("algorithm_type", "repeat_times", "advantage_fn"))
    ),
    rules=(
        Rule(
            setting="algorithm.advantage_fn",
            severity="refuse",
            amiss=lambda value, _: value != FUNCTION,
            meaning="does not read a table",
            instead=f"advantage_fn: {FUNCTION}",
        ),
        Rule(
            setting="algorithm.algorithm_type",
            default="ppo",
            severity="refuse",
            amiss=lambda value, _: value in IN_TRAINER,
            meaning="makes advantages in the trainer, where groups are no longer whole",
            instead="algorithm_type: grpo",
        ),
        Rule(
            setting="algorithm.advantage_fn_args.table",
            severity="refuse",
            amiss=lambda value, _: not (isinstance(value, str) and value),
            meaning="is no table",
            instead="advantage_fn_args: {table: /path/of/table.json}, a path that the explorer can read",
        ),
        Rule(
            setting="algorithm.repeat_times",
            default=1,
            severity="refuse",
            amiss=lambda value, settings: (
                int(value) < 2 if settings.group_size is None else int(value) != settings.group_size
            ),
            meaning=lambda settings: (
                f"draws groups of another size than the {settings.group_size} that the table is made for"
                if settings.group_size
                else "draws groups of one response, which are all wrong or all right"
            ),
            instead=lambda settings: f"repeat_times: {settings.group_size or 16}",
        ),
        Rule(
            setting="algorithm.loss_agg_mode",
            default="token-mean",
            amiss=lambda value, _: value != "seq-mean-token-sum",
            meaning=lambda settings: _what_divides(settings.get("algorithm.loss_agg_mode", "token-mean")),
            instead="loss_agg_mode: seq-mean-token-sum",
        ),
        Rule(
            setting="trainer.use_dynamic_bsz",
            default=True,
            amiss=lambda value, _: bool(value),
            meaning="packs micro-batches by tokens, and the loss is a mean over each, so that responses in a full one "
            "weigh less",
            instead="use_dynamic_bsz: false",
        ),
        Rule(
            setting="algorithm.kl_loss_fn",
            default="k2",
            amiss=lambda value, _: value != "none",
            meaning="adds the gradient of a KL divergence that no weight multiplies, in groups without signal too",
            instead="kl_loss_fn: none",
        ),
    ),
)


def _what_divides(mode: Any) -> str:
    if mode == "seq-mean-token-mean":
        return "divides by the tokens of each response, so that short responses weigh more than the table says"
    if mode == "seq-mean-token-sum-norm":
        return (
            "divides by the longest response of each micro-batch, so that the table's weight is multiplied by another "
            "number in each"
        )
    return "divides by the tokens of a micro-batch, so that the table's weight is multiplied by another number in each"
