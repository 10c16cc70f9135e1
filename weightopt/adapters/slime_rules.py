"""slime's arguments that change what a table means, as versions `WRITTEN_FOR` have them."""

from __future__ import annotations

from typing import Any

from weightopt.adapters.rules import Host, Rule, Settings

WRITTEN_FOR = ("0.3.1",)
FUNCTION = "weightopt.adapters.slime.post_process"
REDUCER = "weightopt.adapters.slime.constant_divisor"
ESTIMATORS = ("grpo", "gspo")


def _drops(value: Any, settings: Settings) -> bool:
    table = settings.table
    return bool(value) and table is not None and (table.all_wrong_advantage, table.all_right_advantage) != (0, 0)


SLIME = Host(
    key="slime",
    name="slime",
    distribution="slime",
    written_for=WRITTEN_FOR,
    lines=f"--custom-reward-post-process-path {FUNCTION} --custom-config-path weightopt.yaml (with the line "
    "weight_table: /path/of/table.json) --advantage-estimator grpo --custom-pg-loss-reducer-function-path "
    f"{REDUCER}",
    recognises=lambda given: "custom_reward_post_process_path" in given or "n_samples_per_prompt" in given,
    refills=("dynamic_sampling_filter_path",),
    rules=(
        Rule(
            setting="custom_reward_post_process_path",
            severity="refuse",
            amiss=lambda value, _: value != FUNCTION,
            meaning="does not read a table",
            instead=f"--custom-reward-post-process-path {FUNCTION}",
        ),
        Rule(
            setting="weight_table",
            severity="refuse",
            amiss=lambda value, _: not (isinstance(value, str) and value),
            meaning="is no table",
            instead="weight_table: /path/of/table.json in the file of --custom-config-path",
        ),
        Rule(
            setting="weight_table_threshold",
            severity="refuse",
            amiss=lambda value, _: (
                value is not None and (isinstance(value, bool) or not abs(float(value)) < float("inf"))
            ),
            meaning="is no reward from which on a response is correct",
            instead="weight_table_threshold: 0.5, or leave it out if rewards are 0 and 1",
        ),
        Rule(
            setting="advantage_estimator",
            default="grpo",
            severity="refuse",
            amiss=lambda value, _: value not in ESTIMATORS,
            meaning="makes advantages of its own from what the table gives",
            instead="--advantage-estimator grpo",
        ),
        Rule(
            setting="normalize_advantages",
            default=False,
            severity="refuse",
            amiss=lambda value, _: bool(value),
            meaning="takes off the mean of a batch's advantages and divides by their standard deviation",
            instead="no --normalize-advantages",
        ),
        Rule(
            setting="n_samples_per_prompt",
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
            instead=lambda settings: f"--n-samples-per-prompt {settings.group_size or 16}",
        ),
        Rule(
            setting="dynamic_sampling_filter_path",
            severity="refuse",
            amiss=_drops,
            meaning="may drop the groups that are all wrong or all right, to which this table gives an advantage",
            instead="no --dynamic-sampling-filter-path",
        ),
        Rule(
            setting="custom_pg_loss_reducer_function_path",
            amiss=lambda value, settings: not value and not settings.get("calculate_per_token_loss", False),
            meaning="leaves slime's own reducer, which divides by the tokens of each response, so that short responses "
            "weigh more than the table says",
            instead=f"--custom-pg-loss-reducer-function-path {REDUCER}",
        ),
        Rule(
            setting="calculate_per_token_loss",
            default=False,
            amiss=lambda value, settings: bool(value) and not settings.get("custom_pg_loss_reducer_function_path"),
            meaning="divides by the tokens of a batch, so that the table's weight is multiplied by another number in "
            "each",
            instead=f"--custom-pg-loss-reducer-function-path {REDUCER}",
        ),
        Rule(
            setting="use_kl_loss",
            default=False,
            amiss=lambda value, settings: bool(value) and float(settings.get("kl_loss_coef", 0)) != 0,
            meaning="adds the gradient of a KL divergence that no weight multiplies, in groups without signal too",
            instead="no --use-kl-loss",
        ),
        Rule(
            setting="entropy_coef",
            default=0.0,
            amiss=lambda value, _: float(value) != 0,
            meaning="adds the gradient of an entropy that no weight multiplies",
            instead="--entropy-coef 0",
        ),
    ),
)
