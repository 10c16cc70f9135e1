"""The gradients of a whole model whose query heads share keys, by another road."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from rl.models.config import ModelConfig, PolicyConfig
from rl.models.policy import load_policy, new_policy

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


def build(config: LlamaConfig) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


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
