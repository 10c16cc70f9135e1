"""Models of other people: log-probabilities piece by piece, in less memory, in bfloat16, as transformers has them."""

import copy
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    Mamba2Config,
    NanoChatConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3NextConfig,
)

from rl.errors import UsageError, one_line
from rl.models import output_layer
from rl.models.agreement import FINE, attention_gap, prefix_gap, widened
from rl.models.config import ModelConfig, PolicyConfig
from rl.models.packing import unpack
from rl.models.policy import Policy, choose_device, load_policy, new_policy, save_policy
from rl.models.start import hub_revisions, parameters_in, start_folder, weights_checksum
from rl.models.tokenizer import encode_prompt
from rl.samplers.torch_sampler import TorchSampler
from rl.tasks.protocol import Prompt
from tests.amounts import some_of

VOCABULARY = 40
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,  # next-token distributions far from uniform
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "tied llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "untied llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen2 with biases": Qwen2Config(**SIZES),
    "gemma2 caps its logits": Gemma2Config(
        **SIZES, head_dim=8, final_logit_softcapping=3.0, attn_logit_softcapping=None
    ),
    "granite divides them": GraniteConfig(**SIZES, logits_scaling=5.0),
    "cohere multiplies them": CohereConfig(**SIZES, logit_scale=0.3),
    "gpt2 has learned positions": GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=None, eos_token_id=1
    ),
}
# Not among them: the biases of its keys have no gradient.
DROPS_OUT: dict[str, PretrainedConfig] = {
    "opt drops out": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    ),
}
PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
OWNER = [0, 0, 1, 2, 2]
RESPONSES = [[12, 13, 1], [14], [15, 16, 17, 18, 1], [19, 20], [1]]
COEFFICIENTS = torch.tensor([0.5, -1.0, 2.0, 1.0, -0.3], dtype=torch.float64)


pytestmark = pytest.mark.usefixtures("one_thread")


def make(family: str, *, dtype: torch.dtype = torch.float64, **settings: Any) -> Policy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = copy.deepcopy((FAMILIES | DROPS_OUT)[family])
        # "eager" computes its softmax in float32, whatever it is given.
        attention = "sdpa" if dtype == torch.float64 else "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    tokenizer = new_policy(ModelConfig(layers=1, hidden_size=16, heads=2), "ab", seed=0).tokenizer
    return Policy(model=model.eval(), tokenizer=tokenizer, settings=PolicyConfig(**settings))


Texts = tuple[list[list[int]], list[int], list[list[int]]]


def coefficients(texts: Texts) -> Tensor:
    return COEFFICIENTS.repeat(len(texts[1]))[: len(texts[1])]


def values_and_gradients(
    policy: Policy, temperature: float = 0.7, texts: Texts = (PROMPTS, OWNER, RESPONSES)
) -> tuple[Tensor, dict[str, Tensor]]:
    policy.model.zero_grad()
    log_probs = policy.token_log_probs(*texts, temperature=temperature)
    (coefficients(texts).to(log_probs.dtype) * log_probs.sum(dim=1)).sum().backward()
    return log_probs.detach(), {
        name: parameter.grad.clone() for name, parameter in policy.trained().items() if parameter.grad is not None
    }


def plain(
    policy: Policy, temperature: float = 0.7, texts: Texts = (PROMPTS, OWNER, RESPONSES)
) -> tuple[Tensor, dict[str, Tensor]]:
    """Transformers alone: one sequence at a time, no padding, no cache, the whole log-softmax."""
    policy.model.zero_grad()
    prompts, owners, responses = texts
    result = torch.zeros(len(responses), max(map(len, responses)), dtype=torch.float64)
    for row, (owner, response) in enumerate(zip(owners, responses, strict=True)):
        prompt = prompts[owner]
        logits = policy.model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits
        every = torch.log_softmax(logits[0, len(prompt) - 1 : -1] / temperature, dim=-1)
        chosen = every[torch.arange(len(response)), torch.tensor(response)]
        (coefficients(texts)[row] * chosen.sum()).backward()
        result[row, : len(response)] = chosen.detach()
    return result, {name: each.grad.clone() for name, each in policy.trained().items() if each.grad is not None}


@pytest.mark.slow
@some_of("family", FAMILIES, 2)
@pytest.mark.parametrize("at_once", [1, 2 * VOCABULARY + 3, 2**24], ids=["token by token", "two tokens", "whole"])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "computed again"])
def test_every_road_gives_the_values_and_gradients_of_transformers(
    family: str, at_once: int, checkpointed: bool
) -> None:
    policy = make(family, logits_at_once=at_once, gradient_checkpointing=checkpointed)
    if checkpointed:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        policy.model.disable_input_require_grads()
    assert policy.output_layer.separable
    values, gradients = values_and_gradients(policy)
    expected, expected_gradients = plain(policy)
    # float64, sums of some hundred terms of order 1
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == expected_gradients.keys()
    # Norms without a mean are computed in float32, whatever they are given; the others are not.
    precision = 1e-12 if family.startswith("gpt2") else 1e-6
    for name, gradient in gradients.items():
        scale = float(expected_gradients[name].abs().max())
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=precision * scale)


@pytest.mark.parametrize("family", ["tied llama", "qwen2 with biases", "gemma2 caps its logits"])
def test_blocks_and_parts_of_the_weight_change_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_layer, "IN_CACHE", 2 * VOCABULARY)
    monkeypatch.setattr(output_layer, "ROWS_OF_WEIGHT", 7)
    values, gradients = values_and_gradients(make(family, logits_at_once=5 * VOCABULARY))
    expected, expected_gradients = plain(make(family))
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-10)
    for name, gradient in gradients.items():
        scale = float(expected_gradients[name].abs().max())
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("pieces", [1, 3])
def test_the_output_layer_as_a_gpu_computes_it(
    temperature: float, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_layer, "whole_rows", lambda _: True)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (11, VOCABULARY))
    bias = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    tokens = torch.arange(11) * 3
    coefficients = torch.randn(11, generator=generator, dtype=torch.float64)

    def gradients(apart: bool) -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in (hidden, weight, bias)]
        if apart:
            told = output_layer._ChosenLogProbs.apply(*leaves, tokens, None, temperature, pieces)
        else:
            logits = torch.nn.functional.linear(*leaves) / temperature
            told = torch.log_softmax(logits, dim=1).gather(1, tokens.unsqueeze(1)).squeeze(1)
        (coefficients * told).sum().backward()
        return [told.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)  # float64


def test_piece_by_piece_is_exact_in_float32_too() -> None:
    whole, gradients = values_and_gradients(make("tied llama", dtype=torch.float32))
    pieces, others = values_and_gradients(make("tied llama", dtype=torch.float32, logits_at_once=3 * VOCABULARY))
    torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=1e-6)
    for name, gradient in gradients.items():
        # float32 gradients of weights of 0.5: entries of order 1 to 10, a dozen of them added up in another order
        torch.testing.assert_close(others[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


def largest_tensor(policy: Policy) -> int:
    """Largest number of elements that an operation gives in a step of learning."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.largest = max(self.largest, result.numel())
            return result

    policy.output_layer  # noqa: B018 - the probe is made once, and not of the step's size
    with Watch() as watch:
        values_and_gradients(policy)
    return watch.largest


def test_the_logits_are_never_whole() -> None:
    wide = LlamaConfig(**{**SIZES, "vocab_size": 5000, "hidden_size": 8})
    FAMILIES["wide"] = wide
    try:
        weights = 5000 * 8
        whole = sum(map(len, RESPONSES)) * 5000
        assert largest_tensor(make("wide")) == whole > weights
        assert largest_tensor(make("wide", logits_at_once=2 * 5000)) == weights
        again = make("wide", logits_at_once=2 * 5000, gradient_checkpointing=True)
        again.model.gradient_checkpointing_enable({"use_reentrant": False})
        assert largest_tensor(again) == weights
    finally:
        del FAMILIES["wide"]


def test_what_a_model_does_to_its_logits_is_never_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that does something to its logits that is not known here is computed whole, and right."""
    policy = make("untied llama", logits_at_once=1)
    honest = type(policy.model).forward

    def twisted(self: Any, *arguments: Any, **others: Any) -> Any:
        output = honest(self, *arguments, **others)
        output.logits = output.logits * 0.5
        return output

    monkeypatch.setattr(type(policy.model), "forward", twisted)
    assert not policy.output_layer.separable
    values, _ = values_and_gradients(policy)
    torch.testing.assert_close(values, plain(policy)[0], rtol=1e-10, atol=1e-10)
    FAMILIES["nanochat"] = NanoChatConfig(**SIZES, final_logit_softcapping=2.0)
    try:
        assert make("nanochat").output_layer.separable
    finally:
        del FAMILIES["nanochat"]


def test_checkpointed_layers_keep_less() -> None:
    def kept(policy: Policy) -> int:
        sizes: list[int] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda value: sizes.append(value.numel()) or value, lambda x: x
        )
        with hooks:
            policy.token_log_probs(PROMPTS, OWNER, RESPONSES)
        return sum(sizes)

    again = make("tied llama", gradient_checkpointing=True)
    again.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert kept(again) < kept(make("tied llama")) / 2
    assert not any(module.training for module in again.model.modules())


def test_bf16_computes_in_bfloat16_from_weights_in_float32() -> None:
    exact = make("tied llama", dtype=torch.float32)
    values, _ = values_and_gradients(exact)
    policy = make("tied llama", dtype=torch.float32, precision="bf16")
    rough, gradients = values_and_gradients(policy)
    assert rough.dtype == torch.float32
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    difference = (rough - values).abs().max()
    # Three digits, and log-probabilities of order 10.
    assert 1e-4 < difference < 0.5
    piecewise, _ = values_and_gradients(
        make("tied llama", dtype=torch.float32, precision="bf16", logits_at_once=2 * VOCABULARY)
    )
    # The same products; how many rows one has may decide about the last bit of a bfloat16.
    torch.testing.assert_close(piecewise, rough, rtol=0, atol=0.1)


def test_the_torch_sampler_computes_in_the_same_precision() -> None:
    config = ModelConfig(layers=2, hidden_size=32, intermediate_size=48, heads=2, context=32, initializer_range=0.3)
    fresh = new_policy(config, "ab", seed=3)
    policy = Policy(model=fresh.model, tokenizer=fresh.tokenizer, settings=PolicyConfig(precision="bf16"))
    prompts = [Prompt(id=text, text=text, difficulty="", problem=None) for text in ("a", "abba")]
    batch = TorchSampler(policy).sample(prompts, group_size=8, temperature=1.0, max_new_tokens=8, seed=0)
    completions = [completion for group in batch.groups for completion in group.completions]
    prompt_tokens = [group.prompt_tokens for group in batch.groups]
    owner = [index for index, group in enumerate(batch.groups) for _ in group.completions]
    tokens = [completion.tokens for completion in completions]
    with torch.no_grad():
        same = policy.token_log_probs(prompt_tokens, owner, tokens)
        exact = fresh.token_log_probs(prompt_tokens, owner, tokens)
    sampled = torch.zeros_like(same)
    for row, completion in enumerate(completions):
        sampled[row, : len(completion.log_probs)] = torch.tensor(completion.log_probs)
    rounding = (sampled - exact).abs().mean()
    assert rounding > 1e-4
    assert (sampled - same).abs().mean() < rounding / 2


def save(policy: Policy, folder: Path) -> Path:
    save_policy(Policy(model=policy.model, tokenizer=policy.tokenizer), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tied llama", "untied llama", "gemma2 caps its logits"])
def test_a_saved_model_opens_with_transformers_with_tokenizer_and_chat_template(family: str, tmp_path: Path) -> None:
    policy = make(family, dtype=torch.float32)
    policy.tokenizer.chat_template = "{% for message in messages %}a{{ message.content }}b{% endfor %}"
    save(policy, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    tokens = torch.tensor([[3, 4, 5, 6]])
    torch.testing.assert_close(model(tokens).logits, policy.model(tokens).logits, rtol=1e-5, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    chat = [{"role": "user", "content": "ba"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "abab"
    published = policy.published_weights()
    assert "lm_head.weight" in published
    other = make(family, dtype=torch.float32)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1.5)
    other.model.load_state_dict(published)
    assert torch.equal(other.model(tokens).logits, policy.model(tokens).logits)


def test_a_tokenizer_that_begins_texts_with_a_token_does_so_with_prompts_only() -> None:
    from tokenizers.processors import TemplateProcessing

    policy = make("tied llama")
    assert policy.encode_prompt("ab") == policy.encode("ab")
    first = policy.tokenizer.convert_tokens_to_ids("<end>")
    policy.tokenizer.bos_token = "<end>"
    policy.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<end> $A", pair="<end> $A $B", special_tokens=[("<end>", first)]
    )
    policy = Policy(model=policy.model, tokenizer=policy.tokenizer)
    assert policy.encode_prompt("ab") == (first, *policy.encode("ab"))
    assert policy.encode_prompt("<end>ab") == (first, *policy.encode("ab"))
    assert first not in policy.encode("ab")


def test_a_tokenizer_without_padding_token_will_do(tmp_path: Path) -> None:
    policy = make("untied llama", dtype=torch.float32)
    policy.tokenizer.pad_token = None
    again = load_policy(save(policy, tmp_path))
    assert again.tokenizer.pad_token is None
    # Not bit by bit: what is loaded multiplies in its own way.
    torch.testing.assert_close(*(each.token_log_probs(PROMPTS, OWNER, RESPONSES) for each in (policy, again)))


@pytest.mark.slow
def test_gradient_checkpointing_is_refused_where_it_would_be_wrong(tmp_path: Path) -> None:
    # OPT's layers apply their dropout themselves; GPT-2's leave it to modules that are never told to train.
    folder = save(make("opt drops out", dtype=torch.float32), tmp_path / "opt")
    load_policy(folder)
    with pytest.raises(UsageError, match="apply dropout"):
        load_policy(folder, PolicyConfig(gradient_checkpointing=True))
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"dropout": 0.0}))
    gpt2 = save(make("gpt2 has learned positions", dtype=torch.float32), tmp_path / "gpt2")
    assert json.loads((gpt2 / "config.json").read_text())["resid_pdrop"] > 0
    for each in (folder, gpt2):
        policy = load_policy(each, PolicyConfig(gradient_checkpointing=True))
        torch.testing.assert_close(
            policy.token_log_probs(PROMPTS, OWNER, RESPONSES),
            load_policy(each).token_log_probs(PROMPTS, OWNER, RESPONSES),
        )


def gemma2_with_capped_attention(folder: Path, cap: float = 0.5) -> Path:
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=None, attn_logit_softcapping=cap)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        parameter.data.mul_(3 if parameter.dim() > 1 else 1)  # so that the cap acts
    return save(Policy(model=model.eval(), tokenizer=make("tied llama").tokenizer), folder)


@pytest.mark.slow
def test_attention_that_leaves_out_a_cap_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = gemma2_with_capped_attention(tmp_path)
    right = load_policy(folder, PolicyConfig(attention="eager"))
    assert right.notes == ()
    with pytest.raises(UsageError, match=r"'sdpa' leaves out .*_softcapping; set policy.attention = \"eager\""):
        load_policy(folder, PolicyConfig(attention="sdpa"))
    monkeypatch.setattr("rl.models.policy.ATTENTION_ON_CPU", "sdpa")  # what "auto" is on a GPU
    # A cap that does nothing to random tokens may do so to others.
    idle = load_policy(gemma2_with_capped_attention(tmp_path / "idle", cap=1e6))
    chosen = load_policy(folder)
    for each in (idle, chosen):
        assert "'eager' is used instead" in each.notes[0]
        assert each.settings.attention == "eager"
    monkeypatch.setattr("rl.models.policy.is_capped", lambda _: False)  # as if it had another name
    unnamed = load_policy(folder)
    assert re.search(r"'sdpa' is off by \d.* nats a token from 'eager': 'eager' is used instead", unnamed.notes[0])
    values = [policy.token_log_probs(PROMPTS, OWNER, RESPONSES) for policy in (right, chosen)]
    assert torch.equal(*values)


def test_weights_in_bfloat16_are_compared_in_float32(tmp_path: Path) -> None:
    """Where rounding to bfloat16 is larger than what a lost cap does, it neither refuses a model nor hides the cap."""
    policy = new_policy(ModelConfig(layers=8, hidden_size=64, heads=2, initializer_range=0.3), "abcdefgh", seed=0)
    folder = save(policy, tmp_path / "deep")
    opened = load_policy(folder, PolicyConfig(attention="sdpa"), dtype=torch.bfloat16)
    unpack(opened.model)
    with widened(opened.model):
        exact = attention_gap(opened.model, "sdpa")
    held = opened.model.state_dict()
    rounded = attention_gap(opened.model, "sdpa")
    assert exact < FINE < 0.25 < rounded
    # The weights are as they were read.
    for name, weight in policy.model.state_dict().items():
        assert torch.equal(held[name], weight.bfloat16())
    capped = AutoModelForCausalLM.from_pretrained(
        gemma2_with_capped_attention(tmp_path / "capped", cap=150.0), dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    with widened(capped):
        assert FINE < attention_gap(capped, "sdpa") < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mamba2", "lfm2", "qwen3 next"])
def test_a_model_that_remembers_more_than_keys_and_values_is_refused(kind: str, tmp_path: Path) -> None:
    linear: dict[str, Any] = {f"linear_{name}": 2 for name in ("num_value_heads", "num_key_heads")}
    experts: dict[str, Any] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    config: PretrainedConfig = {
        "mamba2": lambda: Mamba2Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            state_size=8,
            num_heads=4,
            head_dim=8,
            n_groups=1,
        ),
        "lfm2": lambda: Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
        "qwen3 next": lambda: Qwen3NextConfig(
            **SIZES,
            **linear,
            **experts,
            head_dim=8,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            shared_expert_intermediate_size=8,
            layer_types=["linear_attention", "full_attention"],
        ),
    }[kind]()
    model = AutoModelForCausalLM.from_config(config)
    folder = save(Policy(model=model.eval(), tokenizer=make("tied llama").tokenizer), tmp_path)
    with pytest.raises(UsageError, match="keeps more than keys and values"):
        load_policy(folder)


@pytest.mark.slow
def test_precision_is_chosen_by_what_the_device_is_fast_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(make("tied llama", dtype=torch.float32), tmp_path)
    for capability, chosen in (("AVX2", "fp32"), ("AVX512", "bf16"), ("DEFAULT", "fp32")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert load_policy(folder, PolicyConfig(precision="auto")).settings.precision == chosen
        warned = load_policy(folder, PolicyConfig(precision="bf16")).notes
        assert bool(warned) == (chosen == "fp32")
        assert load_policy(folder, PolicyConfig(precision="fp32")).notes == ()


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"'device' is 'cuda:1', and torch finds 0 GPUs"):
        choose_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="'cuda:2'"):
        choose_device("cuda:2")


def test_only_a_name_that_says_so_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, str | None]] = []
    commit = tmp_path / "snapshots" / ("0123456789abcdef" * 3)[:40]

    def offline(name: str, *, revision: str | None, **_: Any) -> str:
        asked.append((name, revision))
        raise OSError("no network\nand no cache. Advice.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    (tmp_path / "owner" / "here").mkdir(parents=True)
    assert start_folder(Path("owner/here")) == Path("owner/here")
    for name in ("owner/absent", "out/strat", "absent", "./owner/absent", "/owner/absent", "a/b/c", "../owner/absent"):
        with pytest.raises(
            UsageError, match=rf"^start_model '{name.removeprefix('./')}' is no folder here; .* hub:OWNER"
        ):
            start_folder(Path(name))
    with pytest.raises(
        UsageError, match=r"'out/smollm2' is no folder here; weightopt model smollm2 --output out/smollm2 "
    ):
        start_folder(Path("out/smollm2"))
    for name in ("hub:", "hub:absent", "hub:a/b/c", "hub:../b", "hub:a/b@", "hub:a/b@c/d", "hub:a/b@c@d", "hub: a/b"):
        with pytest.raises(
            UsageError, match=rf"^kl.reference '{name}' is no name on the hub: it must be hub:OWNER/NAME"
        ):
            start_folder(Path(name), key="kl.reference")
    assert not asked
    with pytest.raises(UsageError, match=r"'hub:owner/here': the hub did not give .* \(no network …\)$"):
        start_folder(Path("hub:owner/here"))
    assert len(one_line(OSError("a page\nof advice" * 99))) < 210
    with pytest.raises(UsageError, match="'hub:owner/absent@main'"):
        start_folder(Path("hub:owner/absent@main"))
    assert asked == [("owner/here", None), ("owner/absent", "main")]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(commit))
    assert start_folder(Path("hub:owner/absent")) == commit
    named = {"start_model": Path("hub:owner/absent@v1"), "kl_reference": Path("owner/here")}
    assert hub_revisions(**named) == {"start_model": commit.name}
    assert hub_revisions(start_model=None, kl_reference=None) == {}


def test_weights_in_parts_have_one_checksum(tmp_path: Path) -> None:
    policy = make("untied llama", dtype=torch.float32)
    policy.model.save_pretrained(tmp_path, max_shard_size=4000)
    policy.tokenizer.save_pretrained(tmp_path)
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 1
    before = weights_checksum(tmp_path)
    again = load_policy(tmp_path)
    torch.testing.assert_close(again.model(torch.tensor([[3, 4]])).logits, policy.model(torch.tensor([[3, 4]])).logits)
    data = parts[0].read_bytes()
    parts[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert weights_checksum(tmp_path) != before
    parts[0].write_bytes(data[:-1])
    with pytest.raises(UsageError, match=rf"{parts[0].name}' is damaged"):
        weights_checksum(tmp_path)
    with pytest.raises(UsageError, match=r"has no readable model\.safetensors"):
        weights_checksum(tmp_path / "absent")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_that_lacks_weights_is_refused(tmp_path: Path, tied: bool) -> None:
    policy = new_policy(ModelConfig(layers=2, hidden_size=8, intermediate_size=8, heads=2), "ab", seed=0)
    if not tied:
        policy.model.config.tie_word_embeddings = False
        policy.model.lm_head.weight = torch.nn.Parameter(policy.model.lm_head.weight.detach().clone())  # type: ignore[union-attr]
    save_policy(policy, tmp_path)
    load_policy(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if ".layers.1." not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=rf"lacks {len(weights) - len(kept)} of the weights .*'model.layers.1"):
        load_policy(tmp_path)


def change(folder: Path, file: str, **entries: Any) -> None:
    """Change entries of a JSON object that stands in a file of a model; None takes one away."""
    document = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    document = {name: value for name, value in {**document, **entries}.items() if value is not None}
    (folder / file).write_text(json.dumps(document))


SPY = """
from pathlib import Path
Path({canary!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig): model_type = "spy"
class Model(LlamaForCausalLM): config_class = Config
class Tokens(PreTrainedTokenizerFast): pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("native", [False, True], ids=["its own class", "a class of transformers too"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_python_in_a_model_folder_is_never_run(
    tmp_path: Path, file: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands on standard input: transformers asks there, and y runs it."""
    folder = save(make("tied llama", dtype=torch.float32), tmp_path / "model")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    (folder / "spy.py").write_text(SPY.format(canary=str(tmp_path / "canary")))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(SPY.format(canary=str(tmp_path / "canary")))
    classes = {
        "AutoConfig": "spy.Config",
        "AutoModelForCausalLM": "spy.Model",
        "AutoTokenizer": ["spy.Tokens", "spy.Tokens"],
    }
    kind = {"config.json": "model_type", "tokenizer_config.json": "tokenizer_class"}.get(file)
    change(folder, file, auto_map=classes, **({kind: "Spy"} if kind and not native else {}))
    if native or kind is None:
        load_policy(folder)
    else:
        with pytest.raises(
            UsageError, match=rf"asks for Python code of its own \({file} names .*spy\..*\), which is never"
        ):
            load_policy(folder)
    assert not (tmp_path / "canary").exists()


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["pytorch_model.bin", "../model-1.safetensors", "/model.safetensors", "sub/a.safetensors", 3]
)
def test_an_index_leads_to_safetensors_in_its_folder_only(tmp_path: Path, part: Any) -> None:
    policy = make("untied llama", dtype=torch.float32)
    folder = save(policy, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    torch.save({"model.norm.weight": Bomb(tmp_path / "canary")}, folder / "pytorch_model.bin")
    names = load_file(folder / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": {**dict.fromkeys(names, "model-1.safetensors"), "model.norm.weight": part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for read in (load_policy, weights_checksum, parameters_in):
        with pytest.raises(
            UsageError, match=rf"index.json' names {part!r} for weights: they must be \.safetensors files"
        ):
            read(folder)
    assert not (tmp_path / "canary").exists()
    index["weight_map"]["model.norm.weight"] = "model-1.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_policy(folder)


def test_weights_are_read_from_no_other_place(tmp_path: Path) -> None:
    folder = save(make("untied llama", dtype=torch.float32), tmp_path)
    change(folder, "config.json", transformers_weights="adapter_model.bin")
    with pytest.raises(UsageError, match=r"names a file of weights in its config\.json"):
        load_policy(folder)
    change(folder, "config.json", transformers_weights=None)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/elsewhere"}')
    with pytest.raises(UsageError, match=r"holds an adapter"):
        load_policy(folder)
    (folder / "adapter_config.json").unlink()
    load_policy(folder)
    (folder / "model.safetensors").rename(folder / "kept")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"cannot be read"):
        load_policy(folder)
    os.mkfifo(folder / "model.safetensors")
    for read in (load_policy, weights_checksum, parameters_in):
        with pytest.raises(UsageError, match=r"model\.safetensors' is no regular file"):
            read(folder)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tied llama", "gpt2 has learned positions"])
@pytest.mark.parametrize("count", [0, -1, 10**6, 10**30, "2", 2.0, True])
def test_a_number_of_layers_that_cannot_be(family: str, count: Any, tmp_path: Path) -> None:
    folder = save(make(family, dtype=torch.float32), tmp_path)
    key = "n_layer" if family.startswith("gpt2") else "num_hidden_layers"
    change(folder, "config.json", **{key: count})
    with pytest.raises(
        UsageError, match=rf"{key} is {count!r} in its config.json; it must be between 1 and the number of"
    ):
        load_policy(folder)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"vocab_size": 10**9}, r"asks for [\d,]{11,} parameters, and its weights hold [\d,]+$"),
        ({"hidden_size": 2**20}, r"asks for [\d,]{11,} parameters, and its weights hold [\d,]+$"),
        ({"num_hidden_layers": 1}, r"has 9 weights that config\.json does not ask for, first 'model\.layers\.1\."),
        ({"num_hidden_layers": 3}, r"lacks 9 of the weights that config\.json asks for, first 'model\.layers\.2\."),
    ],
)
def test_a_config_that_is_not_that_of_the_weights(entries: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    folder = save(make("untied llama", dtype=torch.float32), tmp_path)
    change(folder, "config.json", **entries)
    with pytest.raises(UsageError, match=sentence) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "[" * 10**5, "\ud800", '{"a": 1'])
def test_a_garbled_config_is_one_sentence(text: str, tmp_path: Path) -> None:
    folder = save(make("untied llama", dtype=torch.float32), tmp_path)
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match=r"config\.json' (cannot be read|must hold a JSON object)") as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("context", [8, 16, 40])
def test_ways_of_computing_are_held_to_each_other_in_a_context_however_short(context: int) -> None:
    shape = ModelConfig(layers=1, hidden_size=16, intermediate_size=24, heads=2, context=context)
    model = new_policy(shape, "0123456789+=", seed=0).model
    assert prefix_gap(model) < FINE


def test_a_prompt_with_a_character_that_has_no_token_is_refused() -> None:
    tokenizer = new_policy(ModelConfig(layers=1, hidden_size=16, heads=2), "ab", seed=0).tokenizer
    assert len(encode_prompt(tokenizer, "abba")) == 4
    with pytest.raises(UsageError, match="lacks a character of the prompt 'abc'"):
        encode_prompt(tokenizer, "abc")
