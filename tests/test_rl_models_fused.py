"""The decoding step of our own against that of transformers, in the models it is for."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from rl.models import fused
from rl.models.agreement import FINE, continuation_gap
from rl.models.fused import Continuations
from rl.models.prefix import Prefix, fits
from rl.samplers.torch_sampler import TorchSampler
from rl.tasks.protocol import Prompt
from tests.worlds import tiny_policy

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
STRETCHED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KIN: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "stretched": LlamaConfig(**SIZES, rope_parameters={**STRETCHED, "original_max_position_embeddings": 8}),
    "dynamic": LlamaConfig(
        **{**SIZES, "max_position_embeddings": 8},
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
}
PROMPTS = [[3, 4, 5, 6, 7, 8], [9], [4, 5, 3, 2, 1, 7]]
# Rows that are kept before a token is added: groups begin, lose responses unevenly, and branch; the first and the last
# prompt lose all of theirs.
KEPT = {0: [0, 0, 0, 1, 1, 1, 2, 2, 2], 4: [0, 2, 3, 4, 5, 8], 8: [0, 1, 3, 5], 9: [0, 0, 0, 1, 2, 3], 12: [3, 4]}


def build(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        for weight in model.parameters():
            if weight.dim() == 1:  # norms and biases, which start at 1 and 0
                weight.data.normal_(1, 0.3)
    return model


def said(way: Prefix | Continuations) -> list[Tensor]:
    """The logits after each of 20 tokens."""
    generator, logits = torch.Generator().manual_seed(1), []
    for column in range(20):
        if column in KEPT:
            way.select(torch.tensor(KEPT[column]))
        way.extend(torch.randint(SIZES["vocab_size"], (len(way.last), 1), generator=generator))
        logits.append(way.last.float())
    return logits


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", KIN)
def test_it_says_what_transformers_does(name: str, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SHORT", 0 if shared else 16)
    model = build(KIN[name])
    assert fits(model)
    with torch.inference_mode():
        expected = said(Prefix.read(model, PROMPTS))
        for one, other in zip(said(Continuations(model, Prefix.read(model, PROMPTS))), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)  # float32, logits of order 1
        assert continuation_gap(model) < FINE


@pytest.mark.parametrize("shared", [False, True])
def test_in_bfloat16_it_is_as_near_to_float32_as_transformers_is(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SHORT", 0 if shared else 16)
    model = build(KIN["qwen3"])
    with torch.inference_mode():
        exact = torch.cat(said(Prefix.read(model, PROMPTS)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            theirs = torch.cat(said(Prefix.read(model, PROMPTS)))
            ours = torch.cat(said(Continuations(model, Prefix.read(model, PROMPTS))))
    assert not torch.equal(ours, exact)
    assert (ours - exact).square().mean() < 1.5 * (theirs - exact).square().mean()


def test_what_it_does_not_compute_is_left_to_transformers() -> None:
    for config in (MistralConfig(**SIZES, sliding_window=4), Gemma2Config(**SIZES)):
        assert not fits(build(config))
    scaled = build(KIN["llama"])
    scaled.base_model.layers[0].self_attn.scaling = 1.0  # type: ignore[union-attr] # of one layer only
    assert continuation_gap(scaled) > FINE


def test_responses_are_those_that_transformers_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(layers=2, context=64, initializer_range=0.5)
    prompts = [Prompt(id=text, text=text, difficulty="", problem=None) for text in ("a", "abba" * 6, "ba")]
    batches = []
    for fitting in (True, False):
        monkeypatch.setattr("rl.samplers.torch_sampler.fits", lambda _, fitting=fitting: fitting)
        batches.append(TorchSampler(policy).sample(prompts, group_size=16, temperature=1.0, max_new_tokens=12, seed=3))
    pairs = [
        pair
        for groups in zip(*(batch.groups for batch in batches), strict=True)
        for pair in zip(*(group.completions for group in groups), strict=True)
    ]
    for one, other in pairs:
        assert (one.tokens, one.finished) == (other.tokens, other.finished)
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
    # Otherwise nothing would have branched.
    assert len({one.tokens for one, _ in pairs}) > 20
