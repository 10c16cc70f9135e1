"""Attention and the prefix on a CPU, against transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig, LlamaConfig, PretrainedConfig, Qwen3Config

from rl.models.attention import GROUPED, grouped_attention, use_grouped_attention
from rl.models.config import ModelConfig, PolicyConfig
from rl.models.policy import load_policy, new_policy
from rl.models.prefix import Prefix

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.5,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def build(config: PretrainedConfig) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def logits_and_gradient(model: Any) -> tuple[Tensor, Tensor]:
    model.zero_grad()
    tokens = torch.arange(14).view(2, 7)
    seen = torch.ones_like(tokens)
    seen[1, :3] = 0
    read = model(input_ids=tokens[:, :5], attention_mask=seen[:, :5], use_cache=True)
    logits = model(input_ids=tokens[:, 5:], attention_mask=seen, past_key_values=read.past_key_values).logits
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), model.get_input_embeddings().weight.grad.clone()


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        LlamaConfig(**{**SIZES, "num_key_value_heads": 1}),
        Qwen3Config(**SIZES),
        Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=1),
    ],
    ids=["two groups", "one group", "qwen3", "sliding window"],
)
def test_grouped_attention_is_the_plain_one(config: PretrainedConfig) -> None:
    model = build(config)
    logits, gradient = logits_and_gradient(model)
    assert use_grouped_attention(model)
    assert model.config._attn_implementation == GROUPED
    found, its_gradient = logits_and_gradient(model)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5 * float(logits.abs().max()))
    torch.testing.assert_close(its_gradient, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
    assert GROUPED not in str(model.config.to_dict())


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZES, attn_logit_softcapping=50.0),
        GptOssConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1),
        LlamaConfig(**{**SIZES, "num_key_value_heads": 4}),
    ],
    ids=["capped scores", "sinks", "nothing shared"],
)
def test_where_it_is_not_the_plain_one_or_of_no_use_nothing_changes(config: PretrainedConfig) -> None:
    model = build(config)
    logits, _ = logits_and_gradient(model)
    assert not use_grouped_attention(model)
    assert model.config._attn_implementation == "eager"
    assert torch.equal(logits_and_gradient(model)[0], logits)


def test_a_policy_uses_it_unless_another_is_named(tmp_path: Path) -> None:
    tokenizer = new_policy(ModelConfig(layers=1, hidden_size=16, heads=2), "ab", seed=0).tokenizer
    build(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    chosen = {
        name: load_policy(tmp_path, PolicyConfig(attention=name)).model.config._attn_implementation
        for name in ("auto", "eager", "sdpa")
    }
    assert chosen == {"auto": GROUPED, "eager": "eager", "sdpa": "sdpa"}


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias", "indices", "block_indices", "something_new"])
def test_what_it_does_not_know_it_refuses(name: str) -> None:
    query, key = torch.randn(1, 4, 2, 8), torch.randn(1, 2, 2, 8)
    layer: Any = torch.nn.Identity()
    attend: Any = grouped_attention
    mixed, _ = attend(layer, query, key, key, None, position_ids=torch.arange(2), **{name: None})
    assert mixed.shape == (1, 2, 4, 8)
    with pytest.raises(NotImplementedError, match=name):
        attend(layer, query, key, key, None, **{name: torch.ones(1)})


def test_a_cache_with_room_holds_what_one_without_does_also_beyond_it() -> None:
    model = build(LlamaConfig(**SIZES))
    tokens = torch.arange(24).view(2, 12) % 20

    def reads(room: int) -> list[Tensor]:
        prefix = Prefix.read(model, [[3, 4, 5], [6]], room=room)
        said = [prefix.last]
        for rows, columns in (((0, 0, 1), (0, 3)), ((2, 0), (3, 5)), ((1, 0, 1), (5, 11)), ((2, 1), (11, 12))):
            prefix.select(torch.tensor(rows))
            said.append(prefix.extend(tokens[:1, columns[0] : columns[1]].repeat(len(rows), 1)))
        return said

    with torch.inference_mode():
        expected = reads(0)
        for room in (1, 4, 5, 50):
            for one, other in zip(reads(room), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_whole_model_has_the_gradients_it_has_in_float64(checkpointed: bool, tmp_path: Path) -> None:
    tokenizer = new_policy(ModelConfig(layers=1, hidden_size=16, heads=2), "ab", seed=0).tokenizer
    build(LlamaConfig(**SIZES, tie_word_embeddings=True)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = PolicyConfig(gradient_checkpointing=checkpointed, logits_at_once=45)
    prompts, owner, responses = [[3, 4, 5], [6]], [0, 0, 1], [[7, 8, 1], [9], [10, 11, 12, 1]]
    found = []
    for dtype in (torch.float32, torch.float64):
        named = settings if dtype == torch.float32 else PolicyConfig(attention="sdpa")
        policy = load_policy(tmp_path, named, dtype=dtype)
        log_probs = policy.token_log_probs(prompts, owner, responses)
        (torch.tensor([[1.0], [-2.0], [0.5]]) * log_probs).sum().backward()
        found.append({name: weight.grad for name, weight in policy.trained().items()})
    for name, gradient in found[0].items():
        scale = float(found[1][name].abs().max())
        torch.testing.assert_close(gradient.double(), found[1][name], rtol=0, atol=1e-5 * scale)
