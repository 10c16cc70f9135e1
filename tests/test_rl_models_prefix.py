"""What texts begin with is read once, with the result of reading each alone; and the gradients of a whole model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPTNeoConfig, LlamaConfig, MistralConfig, PreTrainedConfig

from rl.models.config import ModelConfig, PolicyConfig
from rl.models.policy import load_policy, new_policy
from rl.models.prefix import SHORTEST, Prefix, shared_beginnings

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


def build(config: PreTrainedConfig) -> Any:
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


# Two sets that begin alike, a text that does not and is longer, and one that does not and is shorter.
TEXTS = [
    [*range(2, 20), 5],
    [*[7, 3] * 9, 4, 4],
    [9] * 30,
    [*range(2, 20), 6, 7, 8],
    [*[7, 3] * 9, 2],
    [*range(2, 20)],
    [11, 12],
]


@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=4)])
def test_what_texts_begin_with_is_read_once_and_says_the_same(config: PreTrainedConfig) -> None:
    model, read = build(config), []
    model.model.layers[0].register_forward_pre_hook(lambda _, given: read.append(given[0].shape[:2].numel()))
    with torch.no_grad():
        prefix = Prefix.read(model, TEXTS)
        # A window counts columns, padding too: in the middle of a text it would change what is seen.
        whole = len(TEXTS) * 30
        assert sum(read) == (whole if isinstance(config, MistralConfig) else 4 * 26 + len(TEXTS) * 4)
        rows = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])
        prefix.select(rows)
        ends = torch.arange(16).view(8, 2) + 2
        said = torch.cat([prefix.last.unsqueeze(1), prefix.extend(ends)], dim=1)
        for row, text in enumerate(rows.tolist()):
            alone = model(input_ids=torch.tensor([[*TEXTS[text], *ends[row].tolist()]])).logits[0, -3:]
            torch.testing.assert_close(said[row], alone, rtol=1e-4, atol=1e-4)  # float32, logits of order 10
        assert prefix.position.flatten().tolist() == [len(TEXTS[text]) + 1 for text in rows.tolist()]


def test_texts_without_a_rest_are_read_whole() -> None:
    """A single token has none, and with long rests after short beginnings more would be padding than is gained."""
    model = build(LlamaConfig(**SIZES))
    short, long = [*range(2, 18)], [7, 3] * 17
    apart = [[*short, *[4] * 20], [*short, *[5] * 20], [*long, 4, 4], [*long, 5, 5]]
    for texts in ([[3], [*short, 5], [*short, 6]], apart):
        with torch.no_grad():
            assert Prefix.read(model, texts).cache.get_seq_length() == max(map(len, texts))
            assert torch.equal(Prefix.read(model, texts).last, Prefix._read(model, texts).last)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 25), st.lists(st.integers(0, 1), min_size=1, max_size=20)),
        min_size=1,
        max_size=8,
    )
)
def test_sets_of_texts_begin_alike(drawn: list[tuple[int, int, list[int]]]) -> None:
    texts = [[*[stem] * length, *rest] for stem, length, rest in drawn]
    sets = shared_beginnings(texts)
    assert sorted(each for members, _ in sets for each in members) == list(range(len(texts)))
    for members, length in sets:
        assert (length == 0) == (len(members) == 1)
        assert length == 0 or length >= SHORTEST
        assert len({tuple(texts[each][:length]) for each in members}) == 1
        assert all(length < len(texts[each]) for each in members)


def test_a_model_that_counts_columns_reads_texts_whole() -> None:
    """Padding in the middle of a text would be a part of its window."""
    config = GPTNeoConfig(
        vocab_size=20,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        max_position_embeddings=64,
    )
    model = build(config)
    with torch.no_grad():
        said = Prefix.read(model, TEXTS).last
        for text, logits in zip(TEXTS, said, strict=True):
            alone = model(input_ids=torch.tensor([text])).logits[0, -1]
            torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)  # float32
