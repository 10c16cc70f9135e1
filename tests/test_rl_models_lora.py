"""Low-rank adapters: only they are trained and stored, and what is published and saved is the merged model."""

import json
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from rl.config import Config, parse_config
from rl.errors import UsageError
from rl.models.config import ModelConfig
from rl.models.lora import MergedWeights
from rl.models.policy import Policy, new_policy, save_policy
from rl.records.layout import latest_checkpoint
from rl.run.checkpoint import open_policy
from rl.tasks.registry import build_task
from rl.train import train
from tests.amounts import some_of

GROUP_SIZE = 4
TOKENS = torch.tensor([[3, 4, 5, 6]])


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, table_file: Callable[[str, int], Path]) -> Path:
    """A start model with biases that is not close to anything, and beside it the table of its runs."""
    folder = tmp_path_factory.mktemp("start") / "start"
    folder.with_name("table.json").symlink_to(table_file("linear-r", GROUP_SIZE))
    shape = ModelConfig(layers=1, hidden_size=16, intermediate_size=24, heads=2, context=32)
    alphabet = build_task(document({})["task"]).alphabet  # type: ignore[union-attr]
    tokenizer = new_policy(shape, alphabet, seed=0).tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        attention_bias=True,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.convert_tokens_to_ids("<end>"),
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    save_policy(Policy(model=model, tokenizer=tokenizer), folder)
    return folder


def document(lora_section: Mapping[str, Any]) -> dict[str, Any]:
    from rl.tasks.addition import Addition

    return {
        "task": Addition(name="addition", digits={1: 1}),
        "lora": lora_section,
        "rollout": {"prompts_per_step": 4, "group_size": GROUP_SIZE, "max_new_tokens": 4},
        "optimizer": {"learning_rate": 1e-2},
        "training": {"steps": 4, "evaluate_every": 2, "checkpoint_every": 2},
        "evaluation": {"prompts": 4, "samples": 2},
    }


def settings(start: Path, **changes: Any) -> Config:
    filled = {**document({"rank": 3, "alpha": 5.0}), "task": {"name": "addition", "digits": {"1": 1}}, **changes}
    return parse_config({**filled, "table": str(start.with_name("table.json")), "start_model": str(start)})


def opened(config: Config, start: Path, checkpoint: Path | None) -> Policy:
    return open_policy(start, checkpoint, config.policy, config.lora, device=config.device, seed=config.seed)


def shaken(policy: Policy) -> Policy:
    """The same with an adapter that changes the model."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in policy.trained().values():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return policy


def logits(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.model(TOKENS).logits


def test_a_new_adapter_changes_nothing_and_only_it_is_trained(start: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    policy = opened(settings(start), start, None)
    assert torch.equal(torch.rand(3), expected)
    plain = opened(settings(start, lora={}), start, None)
    assert torch.equal(logits(policy), logits(plain))
    assert set(policy.trained()) == {name for name, _ in policy.model.named_parameters() if ".lora_" in name}
    # All linear layers but the output layer: 7 in each of 2 blocks, two factors each.
    assert len(policy.trained()) == 28
    again = opened(settings(start), start, None)
    other = opened(settings(start, seed=1), start, None)
    names = [name for name in policy.trained() if ".lora_A" in name]
    assert all(torch.equal(policy.trained()[name], again.trained()[name]) for name in names)
    assert not any(torch.equal(policy.trained()[name], other.trained()[name]) for name in names)


@some_of("precision", ["fp32", "bf16"], 1)
def test_published_and_saved_weights_compute_what_the_adapted_model_does(
    start: Path, tmp_path: Path, precision: str
) -> None:
    policy = shaken(opened(settings(start, policy={"precision": precision}), start, None))
    plain = opened(settings(start, lora={}), start, None)
    assert (logits(plain) - logits(policy)).abs().max() > 0.1
    frozen = {parameter.dtype for parameter in policy.model.parameters() if not parameter.requires_grad}
    assert frozen == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert {parameter.dtype for parameter in policy.trained().values()} == {torch.float32}
    published = policy.published_weights()
    assert set(published) == set(plain.model.state_dict())
    assert {weight.dtype for weight in published.values()} == {torch.float32}
    plain.model.load_state_dict(published)
    # float32 rounding in another order; with bfloat16 the adapted model's own three digits
    tolerance = 1e-5 if precision == "fp32" else 0.1
    torch.testing.assert_close(logits(plain), logits(policy).float(), rtol=0, atol=tolerance)
    # By another road: what peft merges, written by `save_policy`.
    save_policy(policy, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", local_files_only=True, dtype=torch.float32)
    assert not any("lora" in name for name in merged.state_dict())
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(weight, published[name], rtol=0, atol=1e-6)
    # The trained policy is as it was.
    assert policy.adapter is not None
    assert len(policy.trained()) == 28


def test_weights_are_merged_when_they_are_looked_at_and_kept_by_nobody(start: Path) -> None:
    """A mapping that held them all would take five times the memory of a frozen model in bfloat16."""
    policy = shaken(opened(settings(start, policy={"precision": "bf16"}), start, None))
    published = policy.published_weights()
    layers = {name: layer for name, layer in policy.model.named_modules() if hasattr(layer, "get_delta_weight")}
    assert len(layers) == 14
    merged: Any = {f"{name}.weight": layer for name, layer in layers.items()}
    held = [weakref.ref(published[name]) for name in published]
    assert all(each() is None for each in held)  # also those without an adapter: bfloat16 is made float32
    for name, layer in merged.items():
        expected = layer.base_layer.weight.float() + layer.get_delta_weight("default").float()
        assert torch.equal(published[name], expected)
    name, layer = next(iter(merged.items()))
    before = published[name]
    with torch.no_grad():
        layer.lora_B["default"].weight.mul_(2)
    assert not torch.equal(published[name], before)


def test_a_copy_is_merged_weight_by_weight_and_what_is_saved_not_on_the_device(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = shaken(opened(settings(start, policy={"precision": "bf16"}), start, None))
    expected = {name: weight.clone() for name, weight in policy.published_weights().items()}
    made: list[weakref.ref[torch.Tensor]] = []
    look = MergedWeights.__getitem__

    def looked(self: MergedWeights, key: str) -> torch.Tensor:
        assert all(each() is None for each in made)
        weight = look(self, key)
        made.append(weakref.ref(weight))
        return weight

    monkeypatch.setattr(MergedWeights, "__getitem__", looked)
    copy = policy.without_adapter().model.state_dict()
    assert len(made) == len(expected)
    assert copy.keys() == expected.keys()
    assert all(torch.equal(copy[name], weight) for name, weight in expected.items())
    # Whoever makes something on the device of the policy has nothing to save.
    monkeypatch.setattr(Policy, "device", torch.device("meta"))
    save_policy(policy, tmp_path / "merged")
    saved = load_file(tmp_path / "merged" / "model.safetensors")
    assert saved.keys() == expected.keys() - {"lm_head.weight"}  # which is tied
    assert all(torch.equal(weight, expected[name]) for name, weight in saved.items())
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("timing.jsonl", "records.json", "run.json")
    }


@pytest.mark.slow
def test_a_run_is_resumed_exactly_and_stores_adapters_only(start: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = settings(start)
    train(config, whole, quiet=True)
    shorter = settings(start, training={"steps": 2, "evaluate_every": 2, "checkpoint_every": 2})
    train(shorter, parts, quiet=True)
    train(config, parts, quiet=True, resume=True)
    assert files(whole) == files(parts)
    latest = latest_checkpoint(whole / "checkpoints")
    assert latest is not None
    assert not (latest / "model" / "model.safetensors").exists()
    weights = load_file(latest / "model" / "adapter_model.safetensors")
    assert len(weights) == 28
    assert all("lora" in name for name in weights)
    moved = [float(weight.abs().max()) for name, weight in weights.items() if "lora_B" in name]
    assert min(moved) > 1e-4
    assert len(load_file(latest / "optimizer.safetensors")) == 3 * 28
    base = json.loads((latest / "model" / "base.json").read_text())
    assert base["model"] == str(start)
    # The end is a model like any other, with the adapter of the last checkpoint in it.
    final = AutoModelForCausalLM.from_pretrained(whole / "model", local_files_only=True)
    policy = opened(config, start, latest)
    torch.testing.assert_close(final(TOKENS).logits, logits(policy), rtol=0, atol=1e-5)


def test_an_adapter_of_another_model_is_refused(start: Path, tmp_path: Path) -> None:
    config = settings(start)
    policy = opened(config, start, None)
    checkpoint = tmp_path / "step-000001"
    save_policy(policy, checkpoint / "model", merge=False)
    opened(config, start, checkpoint)
    other = tmp_path / "other"
    changed = opened(settings(start, lora={}), start, None)
    save_policy(shaken(changed), other)
    with pytest.raises(UsageError, match=r"belongs to a model with weights sha256:\w+; '.*other' has sha256:"):
        opened(config, other, checkpoint)
    (checkpoint / "model" / "base.json").write_text("{}")
    with pytest.raises(UsageError, match=r"has no base\.json that names its model"):
        opened(config, start, checkpoint)


def test_layers_that_are_not_there_are_one_sentence(start: Path) -> None:
    config = settings(start, lora={"rank": 2, "targets": ["q_project"]})
    with pytest.raises(UsageError, match=r"^section \[lora\] does not fit the start model: .*q_project"):
        opened(config, start, None)
    some = opened(settings(start, lora={"rank": 2, "targets": ["q_proj", "v_proj"]}), start, None)
    assert len(some.trained()) == 2 * 2 * 2
    with pytest.raises(UsageError, match="alpha and targets go with a rank above 0"):
        settings(start, lora={"alpha": 3})


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_weight_with_two_places_gets_no_adapter(start: Path, target: str) -> None:
    with pytest.raises(UsageError, match="one weight for both"):
        opened(settings(start, lora={"rank": 2, "targets": [target, "q_proj"]}), start, None)


def test_a_missing_package_is_one_sentence(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UsageError, match=r"needs peft, which is not installed: pip install 'weightopt\[lora\]'"):
        opened(settings(start), start, None)
