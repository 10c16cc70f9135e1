"""Texts laid end to end are computed as each alone, by every kind of attention; what cannot be says so."""

import inspect
import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, GptOssConfig, MistralConfig

from rl.models import packing
from rl.models.agreement import FINE, packed_gap
from rl.models.config import PolicyConfig
from rl.models.packing import Layout, Packed, is_packed, pack, unpack
from rl.models.policy import Policy, load_policy
from rl.samplers.torch_sampler import TorchSampler
from tests.amounts import some_of
from tests.test_rl_models_policy import (
    FAMILIES,
    OWNER,
    PROMPTS,
    RESPONSES,
    SIZES,
    Texts,
    make,
    plain,
    save,
    values_and_gradients,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# A prompt whose only response is a single token, prompts that are longer and shorter than their responses.
TEXTS: Texts = (
    [[1, 2, 3, 4, 5], [6], [7, 8, 9]],
    [0, 2, 1, 0, 1, 2],
    [[1], [2, 3, 4, 5], [6], [1, 2, 3, 4, 5, 6, 7], [8], [9, 1]],
)


# Prompts that begin alike in two ways, one that is the beginning of another, one like no other, and responses that
# begin alike, end where another goes on, or are the same.
STEMS = [[*range(3, 20)], [7, 5] * 10]
BRANCHING: Texts = (
    [[*STEMS[0], 4, 4], [*STEMS[1], 9], [8, 7], [*STEMS[0]], [*STEMS[0], 4, 5, 6], [*STEMS[1], 3, 3, 3]],
    [0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 4, 5, 5],
    [
        [12, 13, 14, 15, 1],
        [12, 13, 14, 16],
        [12, 13, 1],
        [12],
        [2, 3, 4],
        [2, 3, 4, 5, 6, 7],
        [9, 9, 9, 1],
        [9, 9, 1],
        [5, 5, 1],
        [6, 1],
        [6, 7, 8],
        [6, 7, 9],
        [10],
        [11],
    ],
)
ALL = {"apart": (PROMPTS, OWNER, RESPONSES), "branching": BRANCHING}


def agrees(policy: Policy, texts: Texts, attention: str, expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Values and gradients of a policy, packed, are those expected."""
    policy.model.set_attn_implementation(attention)
    pack(policy.model)
    values, gradients = values_and_gradients(policy, texts=texts)
    # float64, also of the softmax; rotations and norms without a mean are computed in float32.
    torch.testing.assert_close(values, expected[0], rtol=1e-10, atol=1e-10)
    for name, gradient in gradients.items():
        scale = float(expected[1][name].abs().max())
        torch.testing.assert_close(gradient, expected[1][name], rtol=0, atol=1e-6 * scale)


@some_of("family", FAMILIES, 2)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("texts", ALL)
@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "computed again"])
def test_packed_texts_have_the_values_and_gradients_of_transformers(
    family: str, attention: str, texts: str, checkpointed: bool
) -> None:
    policy = make(family, gradient_checkpointing=checkpointed)
    expected = plain(policy, texts=ALL[texts])
    if checkpointed:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        policy.model.disable_input_require_grads()
    agrees(policy, ALL[texts], attention, expected)


@pytest.mark.parametrize("texts", ALL)
def test_what_begins_alike_is_read_once(texts: str) -> None:
    policy = make("tied llama")
    pack(policy.model)
    read: list[int] = []
    policy.output_layer  # noqa: B018 - tries the model out
    policy.model.model.layers[0].register_forward_pre_hook(lambda _, given: read.append(given[0].shape[:2].numel()))  # type: ignore[union-attr, index]
    values_and_gradients(policy, texts=ALL[texts])
    prompts, owner, responses = ALL[texts]
    # Of a response the last token is asked for and not read. Beginnings of prompts that are short are read twice: of
    # those in STEMS the last common token is the last but one of [*STEMS[0]], and of [4, 4] and [4, 5, 6] one more.
    trees = {(who, *each[:n]) for who, each in zip(owner, responses, strict=True) for n in range(1, len(each))}
    alike = {"apart": 0, "branching": 2 * 16 + 20}
    assert read == [sum(map(len, prompts)) - alike[texts] + len(trees)]


def test_long_responses_that_differ_are_no_tree() -> None:
    """A tree of them would hold a pair for each token of one and each of another."""
    rng = np.random.default_rng(0)
    layout = Layout(kind="grid", slot=0.05, pair=0.001)
    for length, are in ((200, False), (4, True)):
        responses = [[1, 2, 3, *rng.integers(9, size=length).tolist()] for _ in range(16)]
        packed = Packed([[1, 2, 3, 4]], [0] * 16, responses, device=torch.device("cpu"), layout=layout)
        assert packed.is_tree == are


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> Tensor:
    """What torch documents of `varlen_attn`, one sequence after the other; the last query sees the last key."""
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (cu_seq_q[-1], cu_seq_k[-1]) == (len(query), len(key))
    assert (cu_seq_q.diff().max(), cu_seq_k.diff().max()) == (max_q, max_k)
    assert cu_seq_q.diff().min() > 0
    left, right = window_size
    said = []
    begins, ends = (itertools.pairwise(each.tolist()) for each in (cu_seq_q, cu_seq_k))
    for (a, b), (c, d) in zip(begins, ends, strict=True):
        times = query.shape[1] // key.shape[1]
        keys, values = (each[c:d].repeat_interleave(times, dim=1) for each in (key, value))
        gap = torch.arange(b - a).unsqueeze(1) + (d - c) - (b - a) - torch.arange(d - c)
        seen = (gap >= -right) & ((gap <= left) | torch.tensor(left < 0))
        scores = torch.einsum("qhf,khf->hqk", query[a:b], keys) * scale
        shares = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
        said.append(torch.einsum("hqk,khf->qhf", shares, values))
    return torch.cat(said)


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("keys", [4, 2])
@pytest.mark.parametrize("texts", [TEXTS, BRANCHING], ids=["apart", "branching"])
def test_the_kernel_is_told_where_sequences_begin(
    window: int | None, keys: int, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = Packed(*texts, device=torch.device("cpu"))
    total = packed.tokens.shape[1]
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(1, n, total, 8, generator=generator, dtype=torch.float64) for n in (4, keys, keys)]
    back = torch.randn(1, total, 4, 8, generator=generator, dtype=torch.float64)

    def run(way: str) -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in given]
        attend = AttentionInterface()[way]
        answer, _ = attend(torch.nn.Identity(), *leaves, None, scaling=0.3, sliding_window=window, packed=packed)
        answer.backward(back)
        return [answer.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    products, fused = run("packed_eager"), run("packed_sdpa")
    monkeypatch.setattr(packing, "varlen", lambda: reference)
    monkeypatch.setattr(packing, "_knows", lambda option: option == "enable_gqa")
    monkeypatch.setattr(packing, "_has_kernel", lambda *_: True)
    kernel = run("packed_sdpa")
    for one, other, third in zip(products, fused, kernel, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)  # float64
        torch.testing.assert_close(one, third, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("texts", ALL)
def test_a_window_that_slides_is_kept(attention: str, texts: str) -> None:
    FAMILIES["mistral"] = MistralConfig(**SIZES, head_dim=8, sliding_window=3)
    try:
        policy = make("mistral")
        expected = plain(policy, texts=ALL[texts])
        assert packed_gap(policy.model) < FINE
        agrees(policy, ALL[texts], attention, expected)
    finally:
        del FAMILIES["mistral"]


def test_attention_that_asks_for_more_is_not_packed(tmp_path: Path) -> None:
    """Sinks take a share of attention for themselves, which packed attention does not know."""
    config = GptOssConfig(
        **SIZES, head_dim=8, num_local_experts=2, num_experts_per_tok=1, layer_types=["full_attention"] * 2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for layer in model.model.layers:
        layer.self_attn.sinks.data.fill_(2.0)
    policy = load_policy(save(Policy(model=model, tokenizer=make("tied llama").tokenizer), tmp_path))
    assert not policy.packed
    assert "cannot learn from packed texts (it is off by" in policy.notes[-1]
    values, _ = values_and_gradients(policy)
    expected, _ = plain(policy)
    torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-4)  # float32


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_packed_model_still_computes_what_is_padded(attention: Literal["eager", "sdpa"], tmp_path: Path) -> None:
    folder = save(make("qwen2 with biases", dtype=torch.float32), tmp_path)
    policy = load_policy(folder, PolicyConfig(attention=attention))
    assert is_packed(policy.model)
    tokens = torch.tensor([[0, 0, 3, 4, 5], [6, 7, 8, 9, 10]])
    seen = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        packed = policy.model(input_ids=tokens, attention_mask=seen).logits
        unpack(policy.model)
        assert policy.model.config._attn_implementation == attention
        before = policy.model(input_ids=tokens, attention_mask=seen).logits
    torch.testing.assert_close(packed[seen.bool()], before[seen.bool()], rtol=1e-5, atol=1e-5)
    pack(policy.model)
    assert not is_packed(TorchSampler(policy)._policy.model)
    assert is_packed(policy.model)


def test_the_loop_takes_what_the_kernel_of_torch_takes() -> None:
    attend = packing.varlen()
    if attend is None:
        pytest.skip("this torch has no variable-length attention with windows")
    assert {"scale", "window_size"} <= set(inspect.signature(attend).parameters)
