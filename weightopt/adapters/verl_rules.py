"""verl's settings that change what a table means, for versions in `TESTED`, and whether verl finds the estimator."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from weightopt.adapters.rules import Host, Plugin, Rule, Settings

TESTED = ("0.9.1",)
ESTIMATOR = "weight_table"
MODULE = "weightopt.adapters.verl"

ACTOR = "actor_rollout_ref.actor"
RESPONSES = "actor_rollout_ref.rollout.n"
SCALE = f"{ACTOR}.loss_scale_factor"
CONSTANT_SUM = f"{ACTOR}.loss_agg_mode=seq-mean-token-sum"

# The losses of verl 0.9.1 that weigh a response by its length, whatever loss_agg_mode says.
BY_LENGTH = {
    "gspo": "gives each token of a response its advantage over its length",
    "sapo": "divides by the tokens of each response",
    "geo_mean": "takes a mean over the tokens of each response",
}
DIVISORS = {
    "token-mean": "divides by the tokens of a mini-batch, so that the table's weight is multiplied by another number "
    "in each",
    "seq-mean-token-mean": "divides by the tokens of each response, so that short responses weigh more than the table "
    "says",
}
CONSTANT = ("token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm")
FIRST_SECONDS = 300  # what importing verl may take


def plugin() -> Plugin:
    """Whether verl finds the estimator in this environment, asked of verl itself in a process of its own."""
    code = (
        "import verl\n"
        "from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY as known\n"
        f"found = {ESTIMATOR!r} in known\n"
        "if not found:\n"
        f"    import {MODULE}\n"
        "print(found)\n"
    )
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FIRST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Plugin(False, f"verl was not imported in {FIRST_SECONDS} s")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Plugin(False, f"the plugin does not load: {reason[:200]}")
    if done.stdout.split()[-1:] == ["True"]:
        return Plugin(True, f"verl finds adv_estimator={ESTIMATOR}")
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS")
    if policy is not None:
        return Plugin(
            False, f"VERL_USE_EXTERNAL_PLUGINS={policy} leaves it out; set VERL_USE_EXTERNAL_MODULES={MODULE}"
        )
    return Plugin(
        False,
        f"this installation has no entry point verl.plugins; set VERL_USE_EXTERNAL_MODULES={MODULE}, or reinstall",
    )


def _no_table(value: Any, settings: Settings) -> bool:
    return settings.get("algorithm.adv_estimator") == ESTIMATOR and not (isinstance(value, str) and value)


def _no_constant(value: Any, settings: Settings) -> bool:
    if settings.get(f"{ACTOR}.loss_agg_mode", "token-mean") != "seq-mean-token-sum-norm":
        return False
    return value is None or isinstance(value, bool) or not 0 < float(value) < float("inf")


def _drops_advantages(value: Any, settings: Settings) -> bool:
    table = settings.table
    return bool(value) and table is not None and (table.all_wrong_advantage, table.all_right_advantage) != (0, 0)


def _shaped(value: Any, settings: Settings) -> bool:
    return bool(value) and settings.get("algorithm.weight_table_threshold") is None


VERL = Host(
    key="verl",
    name="verl",
    distribution="verl",
    tested=TESTED,
    lines=f"algorithm.adv_estimator={ESTIMATOR} +algorithm.weight_table=table.json "
    f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm {SCALE}='${{data.max_response_length}}'",
    recognises=lambda given: isinstance(given.get("actor_rollout_ref"), Mapping) and "algorithm" in given,
    plugin=plugin,
    refills=("algorithm.filter_groups.enable",),
    rules=(
        Rule(
            setting="algorithm.adv_estimator",
            default="gae",
            severity="refuse",
            amiss=lambda value, _: value != ESTIMATOR,
            meaning="does not read a table",
            instead=f"algorithm.adv_estimator={ESTIMATOR}",
        ),
        Rule(
            setting="algorithm.weight_table",
            severity="refuse",
            amiss=_no_table,
            meaning=f"gives {ESTIMATOR} no table",
            instead="+algorithm.weight_table=/path/of/table.json, a path that all nodes can read",
        ),
        Rule(
            setting="algorithm.weight_table_threshold",
            severity="refuse",
            amiss=lambda value, _: (
                value is not None and (isinstance(value, bool) or not abs(float(value)) < float("inf"))
            ),
            meaning="is no score from which on a response is correct",
            instead="+algorithm.weight_table_threshold=0.5, or leave it out if scores are 0 and 1",
        ),
        Rule(
            setting=RESPONSES,
            default=1,
            severity="refuse",
            amiss=lambda value, settings: settings.group_size not in (None, int(value)),
            meaning=lambda settings: (
                f"draws groups of another size than the {settings.group_size} that the table is made for"
            ),
            instead=lambda settings: (
                f"{RESPONSES}={settings.group_size or 'M of the table'}, or use a curve (a table without --group-size)"
            ),
        ),
        Rule(
            setting=RESPONSES,
            default=1,
            severity="refuse",
            amiss=lambda value, settings: settings.group_size is None and int(value) < 2,
            meaning="draws groups of one response, which are all wrong or all right",
            instead=f"{RESPONSES}=16, or another number from 2",
        ),
        Rule(
            setting=f"{ACTOR}.loss_agg_mode",
            default="token-mean",
            severity="refuse",
            amiss=lambda value, _: value not in (*CONSTANT, *DIVISORS),
            meaning="is a divisor that is not known here",
            instead=CONSTANT_SUM,
        ),
        Rule(
            setting=f"{ACTOR}.loss_agg_mode",
            default="token-mean",
            amiss=lambda value, _: value in DIVISORS,
            meaning=lambda settings: DIVISORS[settings.get(f"{ACTOR}.loss_agg_mode", "token-mean")],
            instead=CONSTANT_SUM,
        ),
        Rule(
            setting=SCALE,
            severity="refuse",
            amiss=_no_constant,
            meaning="makes seq-mean-token-sum-norm divide by the longest response of each micro-batch, so that the "
            "table's weight is multiplied by another number in each",
            instead=f"{SCALE}='${{data.max_response_length}}'",
        ),
        Rule(
            setting=f"{ACTOR}.policy_loss.loss_mode",
            default="vanilla",
            amiss=lambda value, _: value in BY_LENGTH,
            meaning=lambda settings: BY_LENGTH[settings.get(f"{ACTOR}.policy_loss.loss_mode")],
            instead=f"{ACTOR}.policy_loss.loss_mode=vanilla",
        ),
        Rule(
            setting="algorithm.use_kl_in_reward",
            default=False,
            severity="refuse",
            amiss=lambda value, _: bool(value),
            meaning="subtracts a KL divergence from the score that says whether a response is correct",
            instead="algorithm.use_kl_in_reward=false",
        ),
        Rule(
            setting=f"{ACTOR}.use_kl_loss",
            default=False,
            amiss=lambda value, _: bool(value),
            meaning="adds the gradient of a KL divergence that no weight multiplies, in groups without signal too",
            instead=f"{ACTOR}.use_kl_loss=false",
        ),
        Rule(
            setting=f"{ACTOR}.entropy_coeff",
            default=0,
            amiss=lambda value, _: float(value) != 0,
            meaning="adds the gradient of an entropy that no weight multiplies",
            instead=f"{ACTOR}.entropy_coeff=0",
        ),
        Rule(
            setting="reward.reward_kwargs.overlong_buffer_cfg.enable",
            default=False,
            severity="refuse",
            amiss=_shaped,
            meaning="takes off the score of long responses, so that it is neither 0 nor 1",
            instead="reward.reward_kwargs.overlong_buffer_cfg.enable=false, or say with "
            "+algorithm.weight_table_threshold=0.5 from which score on a response is correct",
        ),
        Rule(
            setting="algorithm.filter_groups.enable",
            default=False,
            severity="refuse",
            amiss=_drops_advantages,
            meaning="drops the groups that are all wrong or all right, to which this table gives an advantage",
            instead="algorithm.filter_groups.enable=false",
        ),
    ),
)
