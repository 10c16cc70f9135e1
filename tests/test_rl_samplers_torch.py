"""The torch sampler and the policy's log-probabilities, against the plain forward pass of transformers."""

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from rl.errors import DivergenceError, UsageError
from rl.models.config import PolicyConfig
from rl.models.policy import Policy, load_policy, save_policy
from rl.samplers import draw, torch_sampler
from rl.samplers.rollout import Batch, Completion
from rl.samplers.torch_sampler import TorchSampler
from rl.tasks.protocol import Prompt
from tests.worlds import tiny_policy

PROMPTS = tuple(Prompt(id=text, text=text, difficulty="", problem=None) for text in ("a", "abba", "ba", "bbbbbbb"))


@pytest.fixture(scope="module")
def policy() -> Policy:
    # Large initial weights: the next-token distributions are far from uniform.
    return tiny_policy(layers=2, context=32, initializer_range=0.5)


def sample(policy: Policy, *, group_size: int = 8, temperature: float = 1.0, tokens: int = 12, seed: int = 0) -> Batch:
    return TorchSampler(policy).sample(
        PROMPTS, group_size=group_size, temperature=temperature, max_new_tokens=tokens, seed=seed
    )


def plain_log_probs(policy: Policy, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """One sequence, no padding, no cache."""
    tokens = torch.tensor([[*prompt, *response]])
    log_probs = torch.log_softmax(policy.model(input_ids=tokens, use_cache=False).logits, dim=-1)
    return log_probs[0, len(prompt) - 1 : -1].gather(-1, torch.tensor(response).unsqueeze(-1)).squeeze(-1)


def test_log_probs_are_those_of_a_full_forward_pass(policy: Policy) -> None:
    batch = sample(policy)
    assert {len(completion.tokens) for group in batch.groups for completion in group.completions} >= {1, 2, 12}
    for group in batch.groups:
        for completion in group.completions:
            with torch.no_grad():
                expected = plain_log_probs(policy, group.prompt_tokens, completion.tokens)
            # float32, sums of a few dozen terms of order 1
            np.testing.assert_allclose(completion.log_probs, expected, rtol=0, atol=1e-5)


def test_completions_say_how_they_ended(policy: Policy) -> None:
    completions = [completion for group in sample(policy).groups for completion in group.completions]
    assert {completion.finished for completion in completions} == {True, False}
    for completion in completions:
        assert completion.finished == (completion.tokens[-1] in policy.end_tokens)
        assert completion.finished or len(completion.tokens) == 12
        assert policy.end_tokens[0] not in completion.tokens[:-1]
        assert policy.encode(completion.text) == completion.tokens[: -1 if completion.finished else None]


def test_every_end_token_that_the_model_lists_ends_a_response(tmp_path: Path, policy: Policy) -> None:
    """As in models that converse: the tokenizer has one end token, and the model writes another."""
    save_policy(policy, tmp_path)
    end, other = policy.end_tokens[0], policy.encode("b")[0]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [other, end, 1000]}))
    several = load_policy(tmp_path)
    assert several.end_tokens == (end, other)
    assert several.end_names == ["<end>", "b"]
    sampler = TorchSampler(several, stop=("aaa",))
    assert sampler.ends == ("<end>", "b", "aaa")
    batch = sampler.sample(PROMPTS, group_size=64, temperature=1.0, max_new_tokens=12, seed=0)
    last = Counter[int]()
    for completion in (each for group in batch.groups for each in group.completions):
        assert not {end, other} & set(completion.tokens[:-1])
        if completion.tokens[-1] in (end, other):
            last[completion.tokens[-1]] += 1
            assert completion.finished
            assert several.encode(completion.text) == completion.tokens[:-1]
    assert set(last) == {end, other}
    # The list outlives a checkpoint, and a model with the tokenizer's alone ends at that alone.
    save_policy(several, tmp_path / "again")
    assert load_policy(tmp_path / "again").end_tokens == (end, other)
    assert policy.end_tokens == (end,)


@pytest.mark.slow
def test_samples_follow_the_distribution(policy: Policy) -> None:
    """Frequencies against probabilities enumerated with the plain forward pass; the cut-off is a p-value of 1e-4."""
    longest, draws = 3, 4000
    (end,) = policy.end_tokens
    letters = policy.encode("ab")
    # The tokenizer's padding token is a token like any other to the model, and may be drawn.
    letters = (*letters, policy.tokenizer.get_vocab()[str(policy.tokenizer.pad_token)])
    outcomes = [(*body, end) for n in range(longest) for body in product(letters, repeat=n)]
    outcomes += list(product(letters, repeat=longest))
    batch = sample(policy, group_size=draws, tokens=longest, seed=11)
    for group in batch.groups:
        with torch.no_grad():
            chances = [
                math.exp(plain_log_probs(policy, group.prompt_tokens, outcome).sum().item()) for outcome in outcomes
            ]
        assert sum(chances) == pytest.approx(1.0, abs=1e-5)
        counts = Counter(completion.tokens for completion in group.completions)
        assert set(counts) <= set(outcomes)
        # Rare outcomes are pooled, as the chi-square approximation wants at least five expected in a cell.
        common = [index for index, chance in enumerate(chances) if chance * draws >= 5]
        observed = [counts[outcomes[index]] for index in common]
        expected = [chances[index] * draws for index in common]
        observed.append(draws - sum(observed))
        expected.append(draws - sum(expected))
        statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True) if e > 1e-3)
        assert stats.chi2.sf(statistic, len(common)) > 1e-4


def test_temperature_zero_is_generate_without_sampling(policy: Policy) -> None:
    batch = sample(policy, group_size=1, temperature=0.0, tokens=8)
    for group in batch.groups:
        (completion,) = group.completions
        tokens = torch.tensor([group.prompt_tokens])
        model: Any = policy.model
        generated = model.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=8, do_sample=False
        )
        assert completion.tokens == tuple(generated[0, len(group.prompt_tokens) :].tolist())
        assert set(completion.log_probs) == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize("size", [draw.MANY, 1500])
def test_draws_from_many_tokens_follow_the_distribution(size: int) -> None:
    """The cut-off is a p-value of 1e-4; rare tokens count as one."""
    draws = 40_000
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(1, size, generator=generator)
    logits[0, -1] = 5.0  # beside the padding of the last block
    tokens, log_probs = draw.draw(logits.expand(draws, -1), 1.0, generator)
    expected = draws * torch.softmax(logits[0].double(), dim=0)
    counts = torch.bincount(tokens, minlength=size).double()
    rare = expected < 5
    seen, wanted = (torch.cat([each[~rare], each[rare].sum().unsqueeze(0)]).numpy() for each in (counts, expected))
    assert stats.chisquare(seen, wanted).pvalue > 1e-4
    torch.testing.assert_close(log_probs, torch.log_softmax(logits, dim=1)[0, tokens])


def test_when_responses_leave_the_batch_changes_nothing(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def completions(crowded: float) -> list[Completion]:
        monkeypatch.setattr(torch_sampler, "CROWDED", crowded)
        batch = TorchSampler(policy).sample(PROMPTS, group_size=16, temperature=1.0, max_new_tokens=12, seed=4)
        return [completion for group in batch.groups for completion in group.completions]

    at_once, usual, never = completions(1.0), completions(torch_sampler.CROWDED), completions(0.0)
    assert len({len(completion.tokens) for completion in at_once}) > 3
    for others in (usual, never):
        for one, other in zip(at_once, others, strict=True):
            assert (one.tokens, one.text, one.finished) == (other.tokens, other.text, other.finished)
            assert one.log_probs == pytest.approx(other.log_probs, rel=1e-5, abs=1e-5)  # float32


def test_what_is_impossible_is_not_drawn_from_many_and_no_distribution_is_said() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.full((300, draw.MANY + 1), -math.inf)
    logits[:, 5] = logits[:, -1] = 1.0
    tokens, log_probs = draw.draw(logits, 0.5, generator)
    assert set(tokens.tolist()) == {5, draw.MANY}
    torch.testing.assert_close(log_probs, torch.full((300,), -math.log(2)))
    for value in (math.nan, math.inf):
        logits[7, 3] = value
        with pytest.raises(DivergenceError):
            draw.draw(logits, 1.0, generator)


def test_weights_rounded_once_give_what_autocast_gives(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = replace(policy, settings=PolicyConfig(precision="bf16"))
    weights = {name: 1.25 * weight for name, weight in policy.published_weights().items()}

    def batches(temperature: float) -> list[Batch]:
        sampler = TorchSampler(rounded)
        found = []
        for _ in range(2):
            found.append(sampler.sample(PROMPTS, group_size=8, temperature=temperature, max_new_tokens=12, seed=0))
            sampler.publish(weights)
        return found

    once = {temperature: batches(temperature) for temperature in (1.0, 0.0)}
    monkeypatch.setattr(torch_sampler, "_round_linear_layers", lambda _: None)
    assert once == {temperature: batches(temperature) for temperature in (1.0, 0.0)}
    assert once[1.0][0] != once[1.0][1]


def test_temperature_scales_the_logits(policy: Policy) -> None:
    batch = sample(policy, temperature=2.5)
    groups = batch.groups
    owner = [index for index, group in enumerate(groups) for _ in group.completions]
    responses = [completion.tokens for group in groups for completion in group.completions]
    with torch.no_grad():
        log_probs = policy.token_log_probs([group.prompt_tokens for group in groups], owner, responses, temperature=2.5)
    sampled = [completion.log_probs for group in groups for completion in group.completions]
    for row, expected in zip(log_probs, sampled, strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected, rtol=0, atol=1e-5)
        assert not row[len(expected) :].any()


def test_gradient_through_the_shared_prompt_is_that_of_the_plain_forward_pass(policy: Policy) -> None:
    groups = sample(policy, group_size=3).groups
    owner = [index for index, group in enumerate(groups) for _ in group.completions]
    responses = [completion.tokens for group in groups for completion in group.completions]
    factors = torch.linspace(-1, 1, len(responses))
    shared = policy.token_log_probs([group.prompt_tokens for group in groups], owner, responses).sum(dim=1)
    plain = torch.stack(
        [
            plain_log_probs(policy, groups[index].prompt_tokens, response).sum()
            for index, response in zip(owner, responses, strict=True)
        ]
    )
    parameters = list(policy.model.parameters())
    for one, other in zip(
        torch.autograd.grad((factors * shared).sum(), parameters),
        torch.autograd.grad((factors * plain).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_seed_decides(policy: Policy) -> None:
    assert sample(policy, seed=1) == sample(policy, seed=1)
    assert sample(policy, seed=1) != sample(policy, seed=2)


def test_the_sampler_keeps_its_weights_until_it_is_told(policy: Policy) -> None:
    trained = tiny_policy(seed=4, layers=2, context=32, initializer_range=0.5)
    sampler = TorchSampler(trained)
    settings = {"group_size": 4, "temperature": 1.0, "max_new_tokens": 6, "seed": 0}
    before = sampler.sample(PROMPTS, **settings)
    trained.model.load_state_dict(policy.model.state_dict())
    assert sampler.sample(PROMPTS, **settings) == before
    sampler.publish(trained.model.state_dict())
    assert sampler.sample(PROMPTS, **settings) == TorchSampler(policy).sample(PROMPTS, **settings)


def test_a_saved_policy_opens_with_transformers(policy: Policy, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_policy(policy, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    tokens = tokenizer("abba", return_tensors="pt")
    torch.testing.assert_close(model(**tokens).logits, policy.model(**tokens).logits)
    assert tokenizer.decode(tokenizer("abba")["input_ids"]) == "abba"
    again = load_policy(tmp_path)
    assert sample(again) == sample(policy)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder with"):
        load_policy(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be read"):
        load_policy(tmp_path)


def test_a_context_that_is_too_short_is_refused(policy: Policy) -> None:
    with pytest.raises(UsageError, match=r"a prompt of 7 tokens and 26 new ones .* context of 32"):
        sample(policy, tokens=26)


def test_logits_that_are_not_finite_stop_the_sampling() -> None:
    broken = tiny_policy(seed=0, context=32)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(math.nan)
    with pytest.raises(DivergenceError, match="not finite"):
        sample(broken)


def test_a_new_policy_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    tiny_policy(seed=7)
    assert torch.equal(torch.rand(3), expected)
