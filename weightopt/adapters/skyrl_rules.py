"""SkyRL's settings that change what a table means, as versions `WRITTEN_FOR` have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weightopt.adapters.rules import Host, Rule, Settings

WRITTEN_FOR = ("0.3.0", "0.4.0")
ESTIMATOR = "weight_table"

ALGORITHM = "trainer.algorithm"
DIVISORS = {
    "token_mean": "divides by the tokens of a mini-batch, so that the table's weight is multiplied by another number "
    "in each",
    "token_mean_legacy": "divides by the tokens of a micro-batch, so that the table's weight is multiplied by another "
    "number in each",
    "sequence_mean": "divides by the tokens of each response, so that short responses weigh more than the table says",
    "prompt_mean": "divides by the tokens of each prompt's responses, which is one more weight of prompts",
}


def _drops(value: Any, settings: Settings) -> bool:
    table = settings.table
    return bool(value) and table is not None and (table.all_wrong_advantage, table.all_right_advantage) != (0, 0)


SKYRL = Host(
    key="skyrl",
    name="SkyRL",
    distribution="skyrl",
    written_for=WRITTEN_FOR,
    lines="from weightopt.adapters.skyrl import register; register('table.json') in the entry point, and "
    f"{ALGORITHM}.advantage_estimator={ESTIMATOR} {ALGORITHM}.loss_reduction=seq_mean_token_sum_norm "
    f"{ALGORITHM}.max_seq_len=8192 {ALGORITHM}.use_kl_loss=false",
    recognises=lambda given: (
        isinstance(given.get("trainer"), Mapping)
        and isinstance(given.get("generator"), Mapping)
        and isinstance(given["trainer"].get("algorithm", {}), Mapping)
    ),
    refills=(f"{ALGORITHM}.dynamic_sampling.type",),
    rules=(
        Rule(
            setting=f"{ALGORITHM}.advantage_estimator",
            default="grpo",
            severity="refuse",
            amiss=lambda value, _: value != ESTIMATOR,
            meaning="does not read a table",
            instead=f"{ALGORITHM}.advantage_estimator={ESTIMATOR}",
        ),
        Rule(
            setting="generator.n_samples_per_prompt",
            default=5,
            severity="refuse",
            amiss=lambda value, settings: settings.group_size not in (None, int(value)),
            meaning=lambda settings: (
                f"draws groups of another size than the {settings.group_size} that the table is made for"
            ),
            instead=lambda settings: (
                f"generator.n_samples_per_prompt={settings.group_size or 'M of the table'}, or use a curve (a table "
                "without --group-size)"
            ),
        ),
        Rule(
            setting=f"{ALGORITHM}.loss_reduction",
            default="token_mean",
            severity="refuse",
            amiss=lambda value, _: value not in (*DIVISORS, "seq_mean_token_sum_norm"),
            meaning="is a divisor that is not known here",
            instead=f"{ALGORITHM}.loss_reduction=seq_mean_token_sum_norm",
        ),
        Rule(
            setting=f"{ALGORITHM}.loss_reduction",
            default="token_mean",
            amiss=lambda value, _: value in DIVISORS,
            meaning=lambda settings: DIVISORS[settings.get(f"{ALGORITHM}.loss_reduction", "token_mean")],
            instead=f"{ALGORITHM}.loss_reduction=seq_mean_token_sum_norm {ALGORITHM}.max_seq_len=8192",
        ),
        Rule(
            setting=f"{ALGORITHM}.advantage_batch_normalize",
            default=False,
            severity="refuse",
            amiss=lambda value, _: bool(value),
            meaning="takes off the mean of a batch's advantages and divides by their standard deviation",
            instead=f"{ALGORITHM}.advantage_batch_normalize=false",
        ),
        Rule(
            setting=f"{ALGORITHM}.use_kl_in_reward",
            default=False,
            severity="refuse",
            amiss=lambda value, _: bool(value),
            meaning="subtracts a KL divergence from the score that says whether a response is correct",
            instead=f"{ALGORITHM}.use_kl_in_reward=false",
        ),
        Rule(
            setting=f"{ALGORITHM}.use_kl_loss",
            default=True,
            amiss=lambda value, _: bool(value),
            meaning="adds the gradient of a KL divergence that no weight multiplies, in groups without signal too",
            instead=f"{ALGORITHM}.use_kl_loss=false",
        ),
        Rule(
            setting=f"{ALGORITHM}.zero_variance_filter",
            default=False,
            severity="refuse",
            amiss=_drops,
            meaning="masks the groups that are all wrong or all right, to which this table gives an advantage",
            instead=f"{ALGORITHM}.zero_variance_filter=false",
        ),
        Rule(
            setting=f"{ALGORITHM}.dynamic_sampling.type",
            severity="refuse",
            amiss=_drops,
            meaning="drops the groups that are all wrong or all right, to which this table gives an advantage",
            instead=f"{ALGORITHM}.dynamic_sampling.type=null",
        ),
    ),
)
