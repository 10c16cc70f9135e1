"""TRL's settings that change what a table means, for `GRPOConfig` and `RLOOConfig` of the versions in `TESTED`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from weightopt.adapters.rules import Host, Rule, Settings

TESTED = ("1.16.0",)

# The loss of a response is divided by its own length, by the tokens of the micro-batch, by those of all responses that
# were drawn together, or by a constant.
BY_LENGTH = ("grpo", "sapo")
BY_MICRO_BATCH = ("bnpo",)
BY_BATCH = ("dapo", "cispo", "vespo")
BY_A_CONSTANT = ("dr_grpo", "luspo")

RLOO_ALONE = ("normalize_advantages", "reward_clip_range")


def _what_divides(settings: Settings) -> str:
    loss = settings.get("loss_type", "dapo")
    if loss in BY_LENGTH:
        return "divides by the tokens of each response, so that short responses weigh more than the table says"
    if loss in BY_MICRO_BATCH:
        return (
            "divides by the tokens of a micro-batch, so that the table's weight is multiplied by another number in each"
        )
    return (
        "divides by the tokens of all responses that are drawn together, so that the table's weight is multiplied by "
        "another number in each step"
    )


SIZE = Rule(
    setting="num_generations",
    default=8,
    severity="refuse",
    amiss=lambda value, settings: settings.group_size not in (None, int(value)),
    meaning=lambda settings: f"draws groups of another size than the {settings.group_size} that the table is made for",
    instead=lambda settings: (
        f"num_generations={settings.group_size or 'M of the table'}, or use a curve (a table without --group-size)"
    ),
)
TRUNCATED_SAMPLING = tuple(
    Rule(
        setting=setting,
        default=default,
        amiss=amiss,
        meaning="draws from another distribution than the one that is trained, and success is counted in that one",
        instead=instead,
    )
    for setting, default, amiss, instead in (
        ("top_p", 1.0, lambda value, _: value is not None and value < 1, "top_p=1.0"),
        ("top_k", 0, lambda value, _: value is not None and value > 0, "top_k=0"),
        ("min_p", None, lambda value, _: value is not None and value > 0, "min_p=None"),
        ("repetition_penalty", 1.0, lambda value, _: value is not None and value != 1, "repetition_penalty=1.0"),
    )
)
MASKED = Rule(
    setting="mask_truncated_completions",
    default=False,
    amiss=lambda value, _: bool(value),
    meaning="counts truncated responses in the success of their group and then leaves their advantage out",
    instead="mask_truncated_completions=False",
)


def _weights(value: Any, _: Settings) -> bool:
    return value is not None and any(float(weight) != 1 for weight in value)


WEIGHTS = Rule(
    setting="reward_weights",
    amiss=_weights,
    severity="note",
    meaning="is used only where a threshold on the weighted sum says what is correct",
    instead="correctness=NAME in the trainer, for the one reward function that says whether a response is right",
)

GRPO = Host(
    key="trl",
    name="TRL",
    distribution="trl",
    tested=TESTED,
    lines="from weightopt.adapters.trl import TableGRPOTrainer; TableGRPOTrainer(..., table='table.json')",
    constructors=("GRPOConfig",),
    recognises=lambda given: (
        not any(isinstance(value, Mapping) for value in given.values())
        and not any(key in given for key in RLOO_ALONE)
        and any(key in given for key in ("num_generations", "loss_type", "scale_rewards", "max_completion_length"))
    ),
    rules=(
        SIZE,
        Rule(
            setting="loss_type",
            default="dapo",
            severity="refuse",
            amiss=lambda value, _: value not in (*BY_LENGTH, *BY_MICRO_BATCH, *BY_BATCH, *BY_A_CONSTANT),
            meaning="is a loss whose divisor is not known here",
            instead='loss_type="dr_grpo"',
        ),
        Rule(
            setting="loss_type",
            default="dapo",
            amiss=lambda value, _: value in (*BY_LENGTH, *BY_MICRO_BATCH, *BY_BATCH),
            meaning=_what_divides,
            instead='loss_type="dr_grpo"',
        ),
        Rule(
            setting="beta",
            default=0.0,
            amiss=lambda value, _: float(value) != 0,
            meaning="adds the gradient of a KL divergence that no weight multiplies, in groups without signal too",
            instead="beta=0.0",
        ),
        Rule(
            setting="entropy_coef",
            default=0.0,
            amiss=lambda value, settings: float(value) != 0 or bool(settings.get("use_adaptive_entropy", False)),
            meaning="adds the gradient of an entropy that no weight multiplies",
            instead="entropy_coef=0.0, use_adaptive_entropy=False",
        ),
        Rule(
            setting="top_entropy_quantile",
            default=1.0,
            amiss=lambda value, _: float(value) < 1,
            meaning="leaves out tokens of low entropy, so that a response's gradient is not that of its probability",
            instead="top_entropy_quantile=1.0",
        ),
        Rule(
            setting="off_policy_mask_threshold",
            amiss=lambda value, _: value is not None,
            meaning="leaves out some responses with negative advantage after their group was counted",
            instead="off_policy_mask_threshold=None",
        ),
        MASKED,
        *TRUNCATED_SAMPLING,
        WEIGHTS,
        Rule(
            setting="multi_objective_aggregation",
            default="sum_then_normalize",
            severity="note",
            amiss=lambda value, _: value != "sum_then_normalize",
            meaning="has no effect, since the table replaces the advantages",
            instead='multi_objective_aggregation="sum_then_normalize"',
        ),
        Rule(
            setting="scale_rewards",
            default="none",  # the host's own default has no effect either, and is not worth a word
            severity="note",
            amiss=lambda value, _: value not in ("none", False),
            meaning="has no effect, since the table replaces the advantages",
            instead='scale_rewards="none"',
        ),
    ),
)

RLOO = Host(
    key="trl-rloo",
    name="TRL RLOO",
    distribution="trl",
    tested=TESTED,
    lines="from weightopt.adapters.trl import TableRLOOTrainer; TableRLOOTrainer(..., table='table.json')",
    constructors=("RLOOConfig",),
    recognises=lambda given: (
        any(key in given for key in RLOO_ALONE) and "n_samples_per_prompt" not in given  # else it is slime's
    ),
    rules=(
        dataclasses.replace(SIZE, default=2),
        Rule(
            setting="beta",
            default=0.05,
            amiss=lambda value, _: float(value) != 0,
            meaning="does not hold the policy back: this trainer puts the KL divergence into the reward, and the table "
            "counts correctness alone",
            instead="beta=0.0",
        ),
        MASKED,
        *TRUNCATED_SAMPLING,
        WEIGHTS,
        *(
            Rule(
                setting=setting,
                severity="note",
                amiss=lambda value, _: bool(value),
                meaning="has no effect, since the table replaces the advantages",
                instead=instead,
            )
            for setting, instead in (
                ("normalize_advantages", "normalize_advantages=False"),
                ("reward_clip_range", "reward_clip_range=None"),
            )
        ),
    ),
)
