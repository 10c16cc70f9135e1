"""The estimator inside verl: its own configuration, advantage and loss code, in this process and in a cluster of Ray.

Needs verl: `make test-adapters`.
"""

# pyright: reportMissingImports=false, reportOptionalSubscript=false
# pyright: reportOptionalIterable=false, reportPossiblyUnboundVariable=false

import itertools
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.ray_nodes import NODE, patiently
from weightopt.adapters import AdapterError
from weightopt.table import WeightTable, group_table

pytest.importorskip("verl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray
    import torch
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from ray.cluster_utils import Cluster
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    from tensordict import TensorDict
    from verl import DataProto
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.ray_trainer import compute_advantage
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
    from verl.utils.config import omega_conf_to_dataclass
    from verl.utils.tensordict_utils import assign_non_tensor
    from verl.workers.utils.losses import ppo_loss

    import weightopt.adapters.verl as adapter
    from weightopt.adapters.verl_rules import VERL

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:verl"),  # ours begin like this
]

ROOT = Path(__file__).parent.parent
SIZE = 8
CURVE = WeightTable(
    name="sqrt-r-like",
    label="A curve with an advantage for all-wrong groups",
    group_size=None,
    rho=(0.01, 0.3, 0.99),
    weight=(10.0, 2.0, 1.0),
    all_wrong_advantage=-1.0,
    all_right_advantage=0.25,
)


def page_overrides(table):
    """The overrides that docs/adapters.md asks for, with the path of a table."""
    section = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8").split("## verl\n")[1]
    block = re.search(r"```sh\npython -m verl.trainer.main_ppo (.*?)```", section, re.DOTALL)
    assert block is not None
    words = block[1].replace("\\\n", " ").replace("'", "").split()
    return [word.replace("/shared/table.json", str(table)) for word in words if word != "..."]


def composed(*overrides):
    with initialize_config_module(config_module="verl.trainer.config", version_base=None):
        always = ["actor_rollout_ref.model.path=none", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2"]
        return compose("ppo_trainer", overrides=[*always, *overrides])


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "curve.json"
    CURVE.save(path)
    return path


@pytest.fixture(autouse=True)
def forget_tables():
    adapter._weighers.clear()


def batch_of(groups, seed=0, tokens=6):
    """Scored responses of groups (lists of scores), shuffled: data as verl has it, uids, scores."""
    rng = np.random.default_rng(seed)
    rows = [(f"prompt-{at}", score) for at, scores in enumerate(groups) for score in scores]
    rows = [rows[at] for at in rng.permutation(len(rows))]
    lengths = torch.from_numpy(rng.integers(1, tokens + 1, len(rows)))
    mask = (torch.arange(tokens) < lengths[:, None]).float()
    rewards = torch.zeros(len(rows), tokens)
    rewards[torch.arange(len(rows)), lengths - 1] = torch.tensor([float(score) for _, score in rows])
    uids = np.array([uid for uid, _ in rows], dtype=object)
    data = DataProto.from_dict(
        {"token_level_rewards": rewards, "token_level_scores": rewards, "response_mask": mask}, {"uid": uids}
    )
    return data, uids, np.array([score for _, score in rows])


def expected(table, uids, scores):
    """Advantages from the table's own lists, response by response."""
    values = []
    for uid, score in zip(uids, scores, strict=True):
        group = table.for_group(int(np.sum(uids == uid)))
        k = int(scores[uids == uid].sum())
        values.append((group.advantage_correct if score else group.advantage_wrong)[k])
    return np.array(values)


ALL_COUNTS = [[1] * k + [0] * (SIZE - k) for k in range(SIZE + 1)]


def advantages_in_verl(overrides, groups, seed, v1):
    """What verl's own code makes of a batch; imported by nobody, so that Ray carries it to its workers by value."""
    data, uids, scores = batch_of(groups, seed)
    config = composed(*overrides)
    call = {"adv_estimator": config.algorithm.adv_estimator, "config": config.algorithm}
    if v1:
        keys = [f"{uid}_{session}_0" for session, uid in enumerate(uids)]
        data = compute_advantage_for_multi_trajectories(data, batch_keys=keys, **call)
    else:
        data = compute_advantage(data, **call)
    assert torch.equal(data.batch["advantages"], data.batch["returns"])
    assert not (data.batch["advantages"] * (1 - data.batch["response_mask"])).any()
    return data.batch["advantages"][:, 0].double().numpy(), uids, scores


def ppo_gradient(config, log_probs, advantages):
    """Add the gradient of verl's loss at ratio 1 to what the log-probabilities come from, one tensor a response."""
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    lengths = [len(each) for each in log_probs]
    dtype = log_probs[0].dtype
    first = torch.zeros(
        2, dtype=dtype
    )  # a prompt of two tokens; verl has a token's log-probability one place before it
    last = torch.zeros(1, dtype=dtype)
    flat = torch.cat([torch.cat([first[:1], each, last]) for each in log_probs])
    offsets = torch.tensor([0, *itertools.accumulate(2 + n for n in lengths)])

    def nested(parts):
        return torch.nested.as_nested_tensor(list(parts), layout=torch.jagged)

    data = TensorDict(
        {
            "prompts": nested(first for _ in lengths),
            "responses": nested(torch.zeros(n) for n in lengths),
            "response_mask": nested(torch.ones(n) for n in lengths),
            "old_log_probs": nested(each.detach() for each in log_probs),
            "advantages": nested(
                torch.full((n,), float(a), dtype=dtype) for n, a in zip(lengths, advantages, strict=True)
            ),
        },
        batch_size=len(lengths),
    )
    assign_non_tensor(data, dp_size=1, batch_num_tokens=sum(lengths), global_batch_size=len(lengths))
    loss, _ = ppo_loss(actor, {"log_probs": torch.nested.nested_tensor_from_jagged(flat, offsets=offsets)}, data)
    loss.backward()


def gradient_per_token(overrides, lengths):
    """-d(loss)/d(log p) for responses of these lengths with A = 1: the numbers that occur."""
    log_probs = [torch.zeros(n, requires_grad=True) for n in lengths]
    ppo_gradient(composed(*overrides), log_probs, [1.0] * len(lengths))
    return sorted({round(float(-value), 9) for each in log_probs for value in each.grad})


class _Worker:
    """A worker of a cluster; it sees verl load the plugin."""

    def __init__(self):
        import sys

        self.before = "weightopt.adapters.verl" in sys.modules
        import verl  # noqa: F401
        from verl.trainer.ppo.core_algos import get_adv_estimator_fn

        self.loaded = get_adv_estimator_fn("weight_table").__module__

    def about(self):
        import os

        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid(), self.before, self.loaded

    def call(self, function, *arguments):
        return function(*arguments)


@pytest.fixture(scope="module")
def workers():
    """One actor on each of two nodes."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False}))
    try:
        second = patiently(lambda: cluster.add_node(**NODE))
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        nodes = [cluster.head_node.node_id, second.node_id]
        remote = ray.remote(num_cpus=1)(_Worker)
        yield [
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
            for node in nodes
        ]
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_the_plugin_loads_in_workers_on_other_nodes(workers):
    about = ray.get([worker.about.remote() for worker in workers])
    assert len({node for node, *_ in about}) == 2
    for _, pid, before, loaded in about:
        assert pid != os.getpid()
        assert not before
        assert loaded == "weightopt.adapters.verl"


@pytest.mark.parametrize("v1", [True, False])
def test_advantages_in_workers_are_the_tables(workers, curve, v1):
    overrides = [*page_overrides(curve), f"actor_rollout_ref.rollout.n={SIZE}"]
    futures = [
        worker.call.remote(advantages_in_verl, overrides, ALL_COUNTS, seed, v1) for seed, worker in enumerate(workers)
    ]
    for advantages, uids, scores in ray.get(futures):
        assert sorted(scores[uids == "prompt-3"]) == [0] * 5 + [1] * 3
        assert np.abs(advantages - expected(CURVE, uids, scores)).max() < 1e-6  # verl has float32
    assert advantages[uids == "prompt-0"] == pytest.approx(-1)


def test_the_documented_loss_divides_by_one_constant_in_workers(workers, curve):
    overrides = page_overrides(curve)
    lengths = [[10, 20], [10, 200], [10, 1000]]
    futures = [workers[at % 2].call.remote(gradient_per_token, overrides, each) for at, each in enumerate(lengths)]
    constant = composed(*overrides).data.max_response_length
    assert ray.get(futures) == [[pytest.approx(1 / (2 * constant), abs=1e-9)]] * 3
    loose = [word for word in overrides if "loss_scale_factor" not in word]
    seen = [gradient_per_token(loose, each) for each in lengths]
    assert seen == [[pytest.approx(1 / (2 * max(each)), abs=1e-9)] for each in lengths]


def test_a_refusal_reaches_the_driver_as_its_sentence(workers):
    with pytest.raises(AdapterError) as caught:
        ray.get(
            workers[0].call.remote(advantages_in_verl, ["algorithm.adv_estimator=weight_table"], ALL_COUNTS, 0, True)
        )
    # Ray puts the worker's traceback before the sentence, which is the last line.
    last = str(caught.value).splitlines()[-1]
    assert last.startswith(
        f"{AdapterError.__module__}.AdapterError: verl: algorithm.weight_table=None gives weight_table"
    )


def test_page_and_host_name_the_same_overrides(curve):
    words = page_overrides("table.json")
    for word in VERL.lines.replace("'", "").split():
        assert word in words
    assert VERL.findings(OmegaConf.to_container(composed(*page_overrides(curve)), resolve=True), CURVE) == []


def test_a_table_of_a_host_rule_gives_the_hosts_own_advantages(tmp_path):
    flat = tmp_path / "rloo.json"
    group_table(
        lambda rho: SIZE / (SIZE - 1) + 0 * rho, SIZE, name="rloo", label="RLOO", all_wrong_advantage=0,
        all_right_advantage=0,
    ).save(flat)  # fmt: skip
    deviation = tmp_path / "grpo.json"
    group_table(
        lambda rho: 1 / (np.sqrt(rho * (1 - rho) * SIZE / (SIZE - 1)) + 1e-6), SIZE, name="grpo", label="GRPO",
        all_wrong_advantage=0, all_right_advantage=0,
    ).save(deviation)  # fmt: skip
    for table, name in ((flat, "rloo"), (deviation, "grpo")):
        overrides = [*page_overrides(table), f"actor_rollout_ref.rollout.n={SIZE}"]
        ours, *_ = advantages_in_verl(overrides, ALL_COUNTS, 1, True)
        data, *_ = batch_of(ALL_COUNTS, 1)
        theirs = compute_advantage(data, adv_estimator=core_algos.AdvantageEstimator(name), config=None)
        assert np.abs(ours - theirs.batch["advantages"][:, 0].double().numpy()).max() < 1e-6


def test_sessions_with_several_outputs_are_refused(curve):
    overrides = [*page_overrides(curve), f"actor_rollout_ref.rollout.n={SIZE}"]
    doubled = [[score for score in group for _ in range(2)] for group in ALL_COUNTS]
    with pytest.raises(AdapterError, match=r"has 16 rows and .* is 8: a session with several"):
        advantages_in_verl(overrides, doubled, 0, True)
    fewer = [[1, 0, 0], *ALL_COUNTS]
    with pytest.raises(AdapterError, match="has 3 rows"):
        advantages_in_verl(overrides, fewer, 0, True)
    uneven = [*overrides, "+algorithm.weight_table_uneven_groups=true"]
    advantages, uids, scores = advantages_in_verl(uneven, fewer, 0, True)
    assert np.abs(advantages - expected(CURVE, uids, scores)).max() < 1e-6


def test_a_trainer_that_shows_its_algorithm_alone(curve, tmp_path):
    data, uids, scores = batch_of(ALL_COUNTS)
    alone = OmegaConf.create({"adv_estimator": "weight_table", "weight_table": str(curve)})
    with pytest.raises(AdapterError, match=r"rollout\.n cannot be seen .* use a table for groups of one size"):
        compute_advantage(data, adv_estimator="weight_table", config=alone)
    CURVE.for_group(SIZE).save(tmp_path / "eight.json")
    alone.weight_table = str(tmp_path / "eight.json")
    advantages = compute_advantage(data, adv_estimator="weight_table", config=alone).batch["advantages"][:, 0]
    assert np.abs(advantages.numpy() - expected(CURVE, uids, scores)).max() < 1e-6
    del data.non_tensor_batch["uid"]
    with pytest.raises(AdapterError, match=r"^verl: the batch has no uid"):
        compute_advantage(data, adv_estimator="weight_table", config=alone)


def test_a_response_that_cannot_be_scored_has_no_advantage(curve):
    groups = [[1, 0, np.nan, 0, 1, 0, 0, 0], *ALL_COUNTS]
    advantages, uids, scores = advantages_in_verl(
        [*page_overrides(curve), f"actor_rollout_ref.rollout.n={SIZE}"], groups, 3, True
    )
    group = CURVE.for_group(7)
    first, scored = advantages[uids == "prompt-0"], scores[uids == "prompt-0"]
    assert first[np.isnan(scored)] == [0]
    assert first[scored == 1] == pytest.approx([group.advantage_correct[2]] * 2)
    assert first[scored == 0] == pytest.approx([group.advantage_wrong[2]] * 5)


def test_shaped_scores_need_a_threshold(curve):
    overrides = [*page_overrides(curve), f"actor_rollout_ref.rollout.n={SIZE}"]
    shaped = [[score * 0.9 + 0.05 for score in group] for group in ALL_COUNTS]
    with pytest.raises(AdapterError, match=r"^verl: scores must be 0 or 1"):
        advantages_in_verl(overrides, shaped, 0, True)
    advantages, uids, scores = advantages_in_verl(
        [*overrides, "+algorithm.weight_table_threshold=0.5"], shaped, 0, True
    )
    assert np.abs(advantages - expected(CURVE, uids, (scores > 0.5).astype(int))).max() < 1e-6


def test_the_log_and_the_first_line(curve, tmp_path, capsys):
    log = tmp_path / "table.jsonl"
    overrides = [
        *page_overrides(curve), f"actor_rollout_ref.rollout.n={SIZE}", f"+algorithm.weight_table_log={log}"
    ]  # fmt: skip
    for _ in range(2):
        advantages_in_verl(overrides, ALL_COUNTS, 0, True)
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert first["success_histogram"] == [1] * 9
    assert (first["all_wrong"], second["batch"]) == (1 / 9, 1)
    printed = capsys.readouterr().out
    assert printed.count("weightopt: table 'sqrt-r-like'") == 1
    assert "9 groups, 11% all wrong, 11% all right" in printed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("actor_rollout_ref.actor.loss_scale_factor=null", "longest response of each micro-batch"),
        ("algorithm.use_kl_in_reward=true", "subtracts a KL divergence from the score"),
        ("+algorithm.weight_table_threshold=high", "is no value that verl takes"),
        ("algorithm.filter_groups.enable=true", "drops the groups that are all wrong or all right"),
        ("+algorithm.weight_table_log=/nowhere/log", "cannot be written"),
    ],
)
def test_settings_that_change_the_weight_are_refused(curve, change, sentence):
    with pytest.raises(AdapterError, match=f"^verl: .*{sentence}"):
        advantages_in_verl([*page_overrides(curve), f"actor_rollout_ref.rollout.n={SIZE}", change], ALL_COUNTS, 0, True)


def test_a_table_of_another_size_or_no_table(curve, tmp_path):
    overrides = page_overrides(curve)
    other = tmp_path / "four.json"
    CURVE.for_group(4).save(other)
    for table, sentence in (
        (other, "draws groups of another size than the 4"),
        (tmp_path / "no.json", "cannot be read"),
    ):
        words = [word.replace(str(curve), str(table)) for word in overrides]
        with pytest.raises(AdapterError, match=f"^verl: .*{sentence}"):
            advantages_in_verl([*words, f"actor_rollout_ref.rollout.n={SIZE}"], ALL_COUNTS, 0, True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("actor_rollout_ref.actor.loss_agg_mode=token-mean", "divides by the tokens of a mini-batch"),
        ("actor_rollout_ref.actor.use_kl_loss=true", "KL divergence that no weight multiplies"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode=gspo", "its advantage over its length"),
    ],
)
def test_what_is_added_to_the_weight_is_one_warning(curve, change, sentence):
    overrides = [*page_overrides(curve), f"actor_rollout_ref.rollout.n={SIZE}", change]
    with pytest.warns(UserWarning, match=f"^verl: .*{sentence}") as caught:
        advantages_in_verl(overrides, ALL_COUNTS, 0, True)
    assert sum(str(each.message).startswith("verl: ") for each in caught) == 1


def test_the_callback_ends_the_command_before_anything_starts(curve, tmp_path):
    """With hydra's own main, which a trainer of verl has."""
    program = tmp_path / "main.py"
    program.write_text(
        "import hydra, verl\n"
        "@hydra.main(config_path='pkg://verl.trainer.config', config_name='ppo_trainer', version_base=None)\n"
        "def main(config):\n"
        "    print('STARTED')\n"
        "main()\n"
    )
    good = page_overrides(curve)
    assert any(word.startswith("+hydra.callbacks.weightopt") for word in good)
    for change, status in (([], 0), (["actor_rollout_ref.actor.loss_scale_factor=null"], 2)):
        command = [sys.executable, str(program), *good, "actor_rollout_ref.model.path=none", *change]
        done = subprocess.run([*command, f"hydra.run.dir={tmp_path}/run"], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert ("STARTED" in done.stdout) == (status == 0)
        assert ("weightopt: verl: actor_rollout_ref.actor.loss_scale_factor=None makes" in done.stderr) == (status == 2)


def test_the_doctor_asks_verl_itself(monkeypatch):
    assert VERL.plugin is not None
    assert VERL.plugin().loaded
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
    found = VERL.plugin()
    assert not found.loaded
    assert found.why.startswith("VERL_USE_EXTERNAL_PLUGINS=none leaves it out; set VERL_USE_EXTERNAL_MODULES=")
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "weightopt.adapters.verl")
    assert VERL.plugin().loaded
