"""One batch of scored groups in every host: the advantages of `rl`, and its gradient up to each host's constant.

Hosts that are installed are called themselves, each in its environment of `make test-adapters`. SkyRL, Trinity-RFT and
slime are called through stand-ins of the interface that ``tests/data/interfaces.json`` records from their sources, and
where one is installed the record is compared with it.
"""

# pyright: reportMissingImports=false, reportOptionalSubscript=false
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false

import importlib
import importlib.util
import inspect
import json
import pickle
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.scored_groups import LONGEST, SIZE, batch, log_probs, logits, of_rl, recorded, table
from weightopt.adapters import AdapterError, GroupWeigher
from weightopt.adapters.doctor import HOSTS, read_config
from weightopt.adapters.sessions import weigh_sessions

INTERFACES = json.loads((Path(__file__).parent / "data" / "interfaces.json").read_text(encoding="utf-8"))
BATCH = batch()
ADVANTAGES, GRADIENT = recorded()
SHUFFLED = np.random.default_rng(3).permutation(len(ADVANTAGES))


def there(package):
    return importlib.util.find_spec(package) is not None


def in_order_of(rows, values):
    return [values[row] for row in rows]


@pytest.fixture
def curve(tmp_path):
    path = tmp_path / "curve.json"
    table().save(path)
    return path


def module(monkeypatch, name, **contents):
    """A module under its name, with its parents."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        parent = ".".join(parts[:length])
        if parent not in sys.modules:
            made = types.ModuleType(parent)
            made.__path__ = []
            monkeypatch.setitem(sys.modules, parent, made)
    made = types.ModuleType(name)
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)


def test_the_record_is_what_rl_says_today():
    pytest.importorskip("pydantic")
    if not (there("safetensors") and there("tokenizers") and there("transformers")):
        pytest.skip("needs the extra rl")
    torch = pytest.importorskip("torch")
    advantages, gradient = of_rl()
    assert advantages.ravel().tolist() == ADVANTAGES.tolist()
    assert np.abs(gradient - GRADIENT).max() < 1e-15  # sums of some hundred terms of order one
    # The gradient from nothing but its definition: Σ A log π over the responses, divided by their number.
    weights = torch.tensor(logits(), requires_grad=True)
    total = sum(
        advantage * log_probs(weights, int(uid.removeprefix("prompt-")), response).sum()
        for uid, response, advantage in zip(BATCH["ids"], BATCH["responses"], ADVANTAGES.tolist(), strict=True)
    )
    (-total / len(ADVANTAGES)).backward()
    assert np.abs(weights.grad.numpy() - GRADIENT).max() < 1e-14


def test_the_core():
    weigher = pickle.loads(pickle.dumps(GroupWeigher(table())))
    advantages, metrics = weigher(in_order_of(SHUFFLED, BATCH["ids"]), in_order_of(SHUFFLED, BATCH["scores"]))
    assert advantages.tolist() == ADVANTAGES[SHUFFLED].tolist()
    assert metrics["success_histogram"] == (1,) * (SIZE + 1)


def test_rows_of_one_response_are_counted_once():
    weigher = GroupWeigher(table())
    ids, scores = ["a"] * 5 + ["b"] * 2, [0, 0, 1, None, 0, 1, 1]
    sessions = [0, 1, 0, 1, 1, 0, 1]  # the last rows of a: 1 of response 0, 0 of response 1
    advantages, metrics = weigh_sessions(weigher, ids, sessions, scores)
    pair = table().for_group(2)
    right, wrong = pair.advantage_correct[1], pair.advantage_wrong[1]
    assert advantages.tolist() == [right, wrong, right, wrong, wrong, 0.25, 0.25]
    assert metrics["groups"] == 2
    backwards, _ = weigh_sessions(weigher, ids[::-1], sessions[::-1], scores[::-1], order=[1, 0, 2, 1, 1, 0, 0])
    assert backwards.tolist() == advantages.tolist()[::-1]


def test_verl(curve):
    pytest.importorskip("verl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from verl import DataProto
        from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

        from tests.test_adapters_verl import composed, page_overrides, ppo_gradient

        config = composed(*page_overrides(curve), f"actor_rollout_ref.rollout.n={SIZE}")
        responses = in_order_of(SHUFFLED, BATCH["responses"])
        lengths = torch.tensor([len(each) for each in responses])
        mask = (torch.arange(LONGEST) < lengths[:, None]).double()
        rewards = torch.zeros_like(mask)
        rewards[torch.arange(len(mask)), lengths - 1] = torch.tensor(
            in_order_of(SHUFFLED, BATCH["scores"]), dtype=torch.float64
        )
        uids = np.array(in_order_of(SHUFFLED, BATCH["ids"]), dtype=object)
        data = DataProto.from_dict({"token_level_rewards": rewards, "response_mask": mask}, {"uid": uids})
        data = compute_advantage_for_multi_trajectories(
            data,
            batch_keys=[f"{uid}_{row}_0" for row, uid in enumerate(uids)],
            adv_estimator=config.algorithm.adv_estimator,
            config=config.algorithm,
        )
        advantages = data.batch["advantages"][:, 0]
        assert np.abs(advantages.numpy() - ADVANTAGES[SHUFFLED]).max() < 1e-6
        weights = torch.tensor(logits(), requires_grad=True)
        ours = [
            log_probs(weights, int(uid.removeprefix("prompt-")), each)
            for uid, each in zip(uids, responses, strict=True)
        ]
        ppo_gradient(config, ours, advantages)
    constant = config.actor_rollout_ref.actor.loss_scale_factor
    assert np.abs(weights.grad.numpy() * constant - GRADIENT).max() < 1e-6


@pytest.fixture
def skyrl(monkeypatch):
    """The adapter, and how SkyRL calls an estimator."""
    name = INTERFACES["skyrl"]["module"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            host = importlib.import_module(name)
    except ImportError:
        registered = {}

        def register_advantage_estimator(name):
            return lambda function: registered.setdefault(name, function)

        def compute_advantages_and_returns(*, adv_estimator, **given):
            assert set(given) == set(INTERFACES["skyrl"]["keywords"])
            return registered[adv_estimator](**given)

        module(
            monkeypatch,
            name,
            register_advantage_estimator=register_advantage_estimator,
            compute_advantages_and_returns=compute_advantages_and_returns,
        )
        host = sys.modules[name]
    monkeypatch.delitem(sys.modules, "weightopt.adapters.skyrl", raising=False)
    yield importlib.import_module("weightopt.adapters.skyrl"), host
    sys.modules.pop("weightopt.adapters.skyrl", None)


def skyrl_batch(torch, padded):
    """Rows as SkyRL has them; it fills a batch up with copies of the first row, under uids of their own."""
    rows = [*SHUFFLED, *[SHUFFLED[0]] * padded]
    lengths = torch.tensor([len(BATCH["responses"][row]) for row in rows])
    mask = (torch.arange(LONGEST) < lengths[:, None]).double()
    rewards = torch.zeros_like(mask)
    rewards[torch.arange(len(rows)), lengths - 1] = torch.tensor(
        in_order_of(rows, BATCH["scores"]), dtype=torch.float64
    )
    uids = [*in_order_of(SHUFFLED, BATCH["ids"]), *(f"pad{number}" for number in range(padded))]
    return rewards, mask, uids


@pytest.mark.parametrize("padded", [0, 3])
def test_skyrl(skyrl, curve, padded):
    torch = pytest.importorskip("torch")
    adapter, host = skyrl
    adapter.register(curve, name=f"table-{padded}")
    rewards, mask, uids = skyrl_batch(torch, padded)
    advantages, returns = host.compute_advantages_and_returns(
        token_level_rewards=rewards, response_mask=mask, index=np.array(uids), adv_estimator=f"table-{padded}",
        config=None, values=None, grpo_norm_by_std=True, gamma=1.0, lambd=1.0,
    )  # fmt: skip
    assert torch.equal(advantages, returns)
    assert np.abs(advantages[: len(SHUFFLED), 0].numpy() - ADVANTAGES[SHUFFLED]).max() < 1e-6
    assert not advantages[len(SHUFFLED) :].any()
    with pytest.raises(AdapterError, match=r"^SkyRL: scores must be 0 or 1"):
        adapter.TableEstimator(curve)(token_level_rewards=rewards * 0.5, response_mask=mask, index=uids)


@pytest.fixture
def trinity(monkeypatch):
    """The adapter, and the class of experiences."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            experience = importlib.import_module("trinity.common.experience")
            importlib.import_module("trinity.algorithm.advantage_fn")
    except ImportError:

        class GroupAdvantage:
            def process(self, exps):
                groups = self.group_experiences(exps)
                told = [self.calculate_group_advantage(group_id, group)[1] for group_id, group in groups.items()]
                return [exp for group in groups.values() for exp in group], told

        class EID(types.SimpleNamespace):
            pass

        class Experience(types.SimpleNamespace):
            pass

        def group_by(exps, id_type):
            assert id_type == "task"
            return {
                task: [exp for exp in exps if exp.eid.task == task] for task in dict.fromkeys(e.eid.task for e in exps)
            }

        module(monkeypatch, "trinity.common.experience", EID=EID, Experience=Experience, group_by=group_by)
        module(monkeypatch, "trinity.algorithm.advantage_fn", GroupAdvantage=GroupAdvantage)
        experience = sys.modules["trinity.common.experience"]
    yield importlib.import_module("weightopt.adapters.trinity"), experience
    sys.modules.pop("weightopt.adapters.trinity", None)


def experiences(trinity, torch, steps=1):
    made = []
    runs = {}
    for row in SHUFFLED:
        task, response = BATCH["ids"][row], BATCH["responses"][row]
        runs[task] = runs.get(task, -1) + 1
        for step in range(steps):
            exp = trinity.Experience(
                eid=trinity.EID(batch=0, task=task, run=runs[task], step=step),
                tokens=torch.zeros(len(response) + 1),
                prompt_length=1,
                reward=float(BATCH["scores"][row]) if step == steps - 1 else 0.0,
            )
            exp.action_mask = torch.ones(len(response), dtype=torch.bool)
            exp.row = row
            made.append(exp)
    return made


@pytest.mark.parametrize("steps", [1, 3])
def test_trinity(trinity, curve, steps):
    torch = pytest.importorskip("torch")
    adapter, host = trinity
    exps, told = adapter.TableAdvantage(table=str(curve)).process(experiences(host, torch, steps))
    assert len(exps) == steps * len(ADVANTAGES)
    for exp in exps:
        assert exp.advantages.shape == exp.action_mask.shape
        assert np.abs(exp.advantages.numpy() - ADVANTAGES[exp.row]).max() < 1e-6
        assert torch.equal(exp.advantages, exp.returns)
    assert told


def test_trinity_refuses(trinity, curve):
    torch = pytest.importorskip("torch")
    adapter, host = trinity
    with pytest.raises(AdapterError, match=r"^Trinity-RFT: algorithm\.advantage_fn_args\.table=None is no table"):
        adapter.TableAdvantage(**adapter.TableAdvantage.default_args())
    exps = experiences(host, torch)
    for exp in exps:
        exp.eid.run = 0
    with pytest.raises(AdapterError, match=r"8 experiences and 1 pairs of run and step.*set eid\.run"):
        adapter.TableAdvantage(table=str(curve)).process(exps)


def slime_args(curve, **changes):
    return types.SimpleNamespace(
        **{
            "custom_reward_post_process_path": "weightopt.adapters.slime.post_process",
            "custom_pg_loss_reducer_function_path": "weightopt.adapters.slime.constant_divisor",
            "weight_table": str(curve),
            "advantage_estimator": "grpo",
            "normalize_advantages": False,
            "n_samples_per_prompt": SIZE,
            "calculate_per_token_loss": False,
            "use_kl_loss": False,
            "entropy_coef": 0.0,
            "dynamic_sampling_filter_path": None,
            "reward_key": None,
        }
        | changes
    )


def samples(parts=1):
    """Samples as slime has them; with `parts` each response is cut into so many, which share a rollout."""
    made = []
    for row in SHUFFLED:
        for part in range(parts):
            made.append(
                types.SimpleNamespace(
                    group_index=int(BATCH["ids"][row].removeprefix("prompt-")),
                    index=len(made),
                    rollout_id=int(row) if parts > 1 else None,
                    get_reward_value=lambda _, row=row, last=part == parts - 1: BATCH["scores"][row] if last else 0,
                )
            )
    return made


@pytest.mark.parametrize("parts", [1, 2])
def test_slime(curve, parts):
    from weightopt.adapters.slime import post_process

    assert list(inspect.signature(post_process).parameters) == INTERFACES["slime"]["post_process"]
    raw, advantages = post_process(slime_args(curve), samples(parts))
    assert raw[parts - 1 :: parts] == in_order_of(SHUFFLED, BATCH["scores"])
    assert advantages[::parts] == ADVANTAGES[SHUFFLED].tolist()
    assert advantages[parts - 1 :: parts] == advantages[::parts]


def test_slime_divides_by_a_constant():
    torch = pytest.importorskip("torch")
    from weightopt.adapters.slime import DIVISOR, constant_divisor

    assert list(inspect.signature(constant_divisor).parameters) == INTERFACES["slime"]["reducer"]
    lengths = [2, 5]
    values = torch.arange(7.0, requires_grad=True)
    masks = [torch.ones(2), torch.tensor([1.0, 1, 0, 1, 1])]
    constant_divisor([4, 9], lengths, masks)(values).backward()
    assert values.grad.tolist() == [1 / DIVISOR] * 4 + [0] + [1 / DIVISOR] * 2
    with pytest.raises(AdapterError, match="set --context-parallel-size 1"):
        constant_divisor([4, 9], lengths, masks)(values[:3])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weight_table": None}, "weight_table=None is no table; write weight_table: /path"),
        ({"weight_table": "/nowhere.json"}, "weight_table: /nowhere.json: cannot be read"),
        ({"normalize_advantages": True}, "takes off the mean of a batch's advantages"),
        ({"advantage_estimator": "ppo"}, "makes advantages of its own"),
        ({"weight_table_threshold": "x"}, "is no value that slime takes"),
        ({"dynamic_sampling_filter_path": "a.b"}, "may drop the groups"),
    ],
)
def test_slime_refuses(curve, changes, sentence):
    from weightopt.adapters.slime import post_process

    with pytest.raises(AdapterError, match=f"^slime: .*{sentence}"):
        post_process(slime_args(curve, **changes), samples())


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.key)
def test_the_doctor_knows_a_configuration_of_each_host(host, tmp_path):
    """A configuration with the lines that a host asks for has no finding; without them it has."""
    good = {
        "verl": {
            "algorithm": {"adv_estimator": "weight_table", "weight_table": "table.json"},
            "actor_rollout_ref": {
                "rollout": {"n": SIZE},
                "actor": {
                    "loss_agg_mode": "seq-mean-token-sum-norm",
                    "loss_scale_factor": "${data.max_response_length}",
                },
            },
            "data": {"max_response_length": 512},
        },
        "skyrl": {
            "trainer": {
                "algorithm": {
                    "advantage_estimator": "weight_table",
                    "loss_reduction": "seq_mean_token_sum_norm",
                    "max_seq_len": 8192,
                    "use_kl_loss": False,
                }
            },
            "generator": {"n_samples_per_prompt": SIZE},
        },
        "trinity": {
            "algorithm": {
                "algorithm_type": "grpo",
                "advantage_fn": "weightopt.adapters.trinity.TableAdvantage",
                "advantage_fn_args": {"table": "table.json"},
                "repeat_times": SIZE,
                "loss_agg_mode": "seq-mean-token-sum",
                "kl_loss_fn": "none",
            },
            "trainer": {"use_dynamic_bsz": False},
        },
        "slime": vars(slime_args("table.json")),
    }.get(host.key)
    if good is None:
        pytest.skip("tested beside its adapter")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(good))
    found, given = read_config(path)
    assert found.key == host.key
    assert host.findings(given, table()) == []
    shorn = {key: value if key in ("data", "generator") else {} for key, value in good.items()}
    if host.key == "slime":
        shorn = {"n_samples_per_prompt": SIZE}
    assert any(finding.severity == "refuse" for finding in host.findings(shorn, table()))


def test_trl_weighs_the_batch_as_rl_does():
    pytest.importorskip("trl", reason="TRL is not installed: make test-adapters")
    torch = pytest.importorskip("torch")
    from collections import defaultdict

    from weightopt.adapters.trl import TableGRPOTrainer

    # What it has after TRL has gathered the rewards, and nothing else: the whole trainer runs in test_adapters_trl.py.
    trainer = object.__new__(TableGRPOTrainer)
    trainer.weigher = GroupWeigher(table(), host="TRL")
    trainer.num_generations, trainer._judging = SIZE, [0]
    trainer._metrics = {"train": defaultdict(list)}
    trainer._judged = torch.tensor(BATCH["scores"], dtype=torch.float32)[:, None]
    advantages = trainer._weigh(torch.zeros(len(ADVANTAGES), dtype=torch.float64))
    assert np.abs(advantages.numpy() - ADVANTAGES).max() < 1e-6
