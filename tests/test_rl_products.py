"""Products and attention on a CPU, against PyTorch's and transformers' own."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig, LlamaConfig, PretrainedConfig, Qwen3Config

from rl.config import ModelConfig, PolicyConfig
from rl.models import products
from rl.models.attention import GROUPED, grouped_attention, use_grouped_attention
from rl.models.policy import load_policy, new_policy, save_policy
from rl.models.prefix import Prefix
from rl.models.products import Linear, product, use_own_products

pytestmark = pytest.mark.usefixtures("one_thread")

# Rows, columns in, columns out; a gradient copies the smaller of its factors, so both orders.
SHAPES = [((5,), 7, 3), ((5,), 3, 7), ((2, 4, 3), 16, 16), ((1,), 1, 1), ((3, 0), 4, 2)]


def values_and_gradients(function: Callable[..., Tensor], *factors: Tensor | None) -> list[Tensor]:
    leaves = [None if each is None else each.detach().clone().requires_grad_() for each in factors]
    result = function(*leaves)
    (result * torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
    return [result.detach(), *[each.grad for each in leaves if each is not None and each.grad is not None]]


def close(found: Any, expected: Any) -> None:
    # float32, sums of at most some hundred terms of order 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "inside", "out"), SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_and_its_gradients_are_those_in_float64(
    rows: tuple[int, ...], inside: int, out: int, biased: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((*rows, inside), (out, inside), (out,))
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    factors = [x, weight, bias if biased else None]
    expected = values_and_gradients(linear, *[None if each is None else each.double() for each in factors])
    close(values_and_gradients(product, *factors), expected)
    turned = values_and_gradients(lambda x, weight, bias: product(x, weight.t().contiguous().t(), bias), *factors)
    close(turned, expected)
    with torch.inference_mode():
        close([product(*factors)], expected[:1])


def test_gradients_are_computed_where_they_are_asked_for() -> None:
    x, weight = torch.randn(3, 4), torch.randn(2, 4)
    for asked in (x, weight):
        leaf = asked.clone().requires_grad_()
        result = product(*(leaf if each is asked else each for each in (x, weight)))
        (gradient,) = torch.autograd.grad(result.sum(), leaf)
        assert gradient.shape == asked.shape
    assert not product(x, weight).requires_grad


def test_float32_goes_to_onednn_and_the_rest_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.backends.mkldnn.is_available() == products._ONEDNN  # the PyTorch of the constraints has it
    taken: list[torch.dtype] = []
    own = products._product
    monkeypatch.setattr(products, "_product", lambda *factors: taken.append(factors[0].dtype) or own(*factors))
    x, weight = torch.randn(4, 6), torch.randn(5, 6)
    product(x, weight)
    assert taken == [torch.float32] * products._ONEDNN
    taken.clear()
    product(x.double(), weight.double())
    # A part of a wider matrix: oneDNN would crawl.
    wider = torch.randn(6, 20)
    torch.testing.assert_close(product(x, wider[:, 3:8].t()), linear(x, wider[:, 3:8].t()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(x, weight).dtype == torch.bfloat16
    assert not taken


def test_a_bias_with_gaps_or_alone_in_being_trained() -> None:
    x, weight, bias = torch.randn(3, 4), torch.randn(5, 4), torch.arange(10.0)
    for each in (bias[::2], bias[:1].expand(5)):
        torch.testing.assert_close(product(x, weight, each), linear(x, weight, each))
    leaf = bias[:5].clone().requires_grad_()
    product(x, weight, leaf).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [3.0] * 5
    assert product(x, weight[:0]).shape == (3, 0)


@pytest.mark.parametrize(("inside", "out"), [(6, 9), (9, 6)])
def test_what_goes_into_onednn_as_a_weight_has_no_gaps(inside: int, out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = products._product, []

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(products._dense(weight))
        return own(x, weight, bias)

    monkeypatch.setattr(products, "_product", watched)
    x, weight = torch.randn(7, 2 * inside)[:, ::2].requires_grad_(), torch.randn(out, inside, requires_grad=True)
    for part in (lambda y: y.sum(), lambda y: y[:, : out - 2].square().sum(), lambda y: y[::2].square().sum()):
        found = torch.autograd.grad(part(product(x, weight)), (x, weight))
        close(found, [each.double() for each in torch.autograd.grad(part(linear(x, weight)), (x, weight))])
    assert len(seen) == 9 * products._ONEDNN
    assert all(seen)


def test_layers_keep_their_weights_names_and_class_where_it_is_another() -> None:
    class Twice(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = torch.nn.ModuleDict({"plain": torch.nn.Linear(3, 2), "other": Twice(3, 2)})
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 3)
    values = {name: layer(x) for name, layer in model.items()}
    use_own_products(model)
    assert [type(layer) for layer in model.values()] == [Linear, Twice]
    assert list(model.state_dict()) == list(before)
    for name, layer in model.items():
        torch.testing.assert_close(layer(x), values[name])
        assert torch.equal(layer.get_parameter("weight"), before[f"{name}.weight"])


def test_a_policy_multiplies_so_and_saves_what_transformers_loads(tmp_path: Path) -> None:
    policy = new_policy(ModelConfig(layers=1, hidden_size=16, heads=2), "ab", seed=0)
    save_policy(policy, tmp_path)
    again = load_policy(tmp_path)
    for each in (policy, again):
        kinds = {type(layer) for layer in each.model.modules() if isinstance(layer, torch.nn.Linear)}
        assert kinds == {Linear}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens = torch.tensor([[2, 3, 2]])
    with torch.no_grad():
        torch.testing.assert_close(again.model(tokens).logits, plain(tokens).logits)


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
