"""Mismatch and truncated importance sampling: against enumeration, against the plain sum, and 1 with the torch sampler.

In the small world all is float64: tolerances of 1e-12 are rounding over some hundred terms.
"""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rl.learning.loss import Accumulated, accumulate_gradient, rows_of
from rl.learning.mismatch import Mismatch, importance_weights
from rl.samplers.rollout import Batch, Completion, Group
from rl.samplers.torch_sampler import TorchSampler
from rl.tasks.protocol import Prompt
from tests.worlds import tiny_policy
from weightopt.table import group_table

GROUP_SIZE = 3
PROMPT = Prompt(id="0", text="0", difficulty="", problem=None)
RLOO = group_table(
    lambda rho: 1 + 0 * rho, GROUP_SIZE, name="r", label="R", all_wrong_advantage=0.0, all_right_advantage=0.0
)


class Bandit:
    """Tokens drawn independently of one another from one softmax; a response is any number of them."""

    def __init__(self, seed: int, tokens: int = 4) -> None:
        self.logits = torch.randn(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.logits.requires_grad_()
        self.calls: list[int] = []

    def token_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        responses: Sequence[Sequence[int]],
        *,
        temperature: float,
    ) -> Tensor:
        assert len(owner) == len(responses)
        assert max(owner) < len(prompts)
        self.calls.append(len(responses))
        log_probs = torch.log_softmax(self.logits / temperature, dim=0)
        return pad_sequence([log_probs[list(response)] for response in responses], batch_first=True)


def gradient(
    policy: Bandit,
    batch: Batch,
    advantages: np.ndarray,
    *,
    cap: float | None,
    temperature: float = 1.0,
    tokens: int = 99,
) -> tuple[Tensor, Accumulated]:
    policy.logits.grad = torch.zeros_like(policy.logits)
    accumulated = accumulate_gradient(
        policy,
        rows_of(batch, advantages, weighted=cap is not None),
        responses=batch.responses,
        temperature=temperature,
        tokens_per_micro_batch=tokens,
        importance_cap=cap,
    )
    return policy.logits.grad, accumulated


def drawn(tokens: Sequence[int], log_probs: Sequence[float]) -> Completion:
    return Completion(tokens=tuple(tokens), log_probs=tuple(log_probs), text="", finished=True)


@pytest.mark.parametrize("cap", [1e9, 1.2])
def test_the_expected_gradient_is_that_of_the_policy_though_another_one_sampled(cap: float) -> None:
    """All groups of three one-token responses, drawn by μ; with A = r - K/M by hand, for one response:

    E = Σ_y μ(y) min(π(y)/μ(y), C) (1 - 1/M) (r(y) - ρ_μ) ∇log π(y),        which without a cap is (1 - 1/M) ∇ρ_π.
    """
    policy, other = Bandit(0), Bandit(1)
    right = np.array([True, False, True, False])
    pi = torch.softmax(policy.logits, dim=0)
    mu = torch.softmax(other.logits, dim=0).detach()

    def expected_by_enumeration(cap: float | None) -> Tensor:
        total = torch.zeros_like(policy.logits)
        for outcome in product(range(4), repeat=GROUP_SIZE):
            completions = tuple(drawn([token], [math.log(mu[token])]) for token in outcome)
            batch = Batch(groups=(Group(prompt=PROMPT, prompt_tokens=(0,), completions=completions),))
            correct = right[np.array([outcome])]
            advantages = RLOO.advantages(correct.sum(axis=1, keepdims=True), correct)
            total += math.prod(mu[token].item() for token in outcome) * gradient(policy, batch, advantages, cap=cap)[0]
        return total

    reward = torch.tensor(right, dtype=torch.float64)
    weight = mu * (pi.detach() / mu).clamp(max=cap) * (1 - 1 / GROUP_SIZE) * (reward - (mu * reward).sum())
    (expected,) = torch.autograd.grad(-(weight * torch.log_softmax(policy.logits, dim=0)).sum(), policy.logits)
    if cap == 1e9:
        (slope,) = torch.autograd.grad(-(pi * reward).sum() * (1 - 1 / GROUP_SIZE), policy.logits)
        torch.testing.assert_close(expected, slope, rtol=0, atol=1e-12)
    else:
        assert float((pi.detach() / mu).max()) > cap
    torch.testing.assert_close(expected_by_enumeration(cap), expected, rtol=0, atol=1e-12)
    assert float((expected_by_enumeration(None) - expected).abs().max()) > 1e-2


def noisy_batch(policy: Bandit, seed: int, noise: float) -> tuple[Batch, np.ndarray]:
    """Few distinct responses, so that many are equal; each occurrence with a sampler's log-probabilities of its own."""
    rng = np.random.default_rng(seed)
    responses = [(0,), (1, 0), (2, 1, 1), (3, 3)]
    log_probs = torch.log_softmax(policy.logits.detach() / 0.7, dim=0).numpy()
    groups = [
        Group(
            prompt=PROMPT,
            prompt_tokens=(number % 2,),
            completions=tuple(
                drawn(response, (log_probs[list(response)] + noise * rng.standard_normal(len(response))).tolist())
                for response in (responses[index] for index in rng.integers(len(responses), size=GROUP_SIZE))
            ),
        )
        for number in range(8)
    ]
    return Batch(groups=tuple(groups)), rng.standard_normal((8, GROUP_SIZE)) * rng.integers(0, 2, (8, GROUP_SIZE))


@pytest.mark.parametrize("tokens", [99, 6, 1])
def test_merged_rows_give_the_plain_sum_over_all_responses(tokens: int) -> None:
    policy = Bandit(2)
    batch, advantages = noisy_batch(policy, 0, noise=0.5)
    cap, plain, ratios = 1.5, torch.zeros((), dtype=torch.float64), []
    for group, row in zip(batch.groups, advantages, strict=True):
        for response, advantage in zip(group.completions, row, strict=True):
            for token, sampled in zip(response.tokens, response.log_probs, strict=True):
                log_prob = torch.log_softmax(policy.logits / 0.7, dim=0)[token]
                ratios.append(log_prob.exp().item() / math.exp(sampled))
                plain = plain - advantage * min(ratios[-1], cap) * log_prob / batch.responses
    (expected,) = torch.autograd.grad(plain, policy.logits)
    assert min(ratios) < 1 < cap < max(ratios)
    actual, accumulated = gradient(policy, batch, advantages, cap=cap, temperature=0.7, tokens=tokens)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert math.isclose(accumulated.loss, plain.item(), abs_tol=1e-12)
    assert sum(policy.calls) <= 8  # two prompts, four responses: each distinct one is computed once at most


def test_advantages_that_cancel_leave_what_their_weights_differ_by() -> None:
    policy = Bandit(3)
    log_prob = torch.log_softmax(policy.logits, dim=0)[1].item()
    completions = (drawn([1], [log_prob - 0.1]), drawn([1], [log_prob + 0.1]))
    batch = Batch(groups=(Group(prompt=PROMPT, prompt_tokens=(0,), completions=completions),))
    assert rows_of(batch, np.array([[1.0, -1.0]])) == []
    assert rows_of(batch, np.zeros((1, 2)), weighted=True) == []
    actual, _ = gradient(policy, batch, np.array([[1.0, -1.0]]), cap=10.0)
    (slope,) = torch.autograd.grad(torch.log_softmax(policy.logits, dim=0)[1], policy.logits)
    torch.testing.assert_close(actual, -(math.exp(0.1) - math.exp(-0.1)) / 2 * slope, rtol=0, atol=1e-12)


def test_what_is_recorded_is_what_the_tokens_say() -> None:
    policy = Bandit(4)
    batch, advantages = noisy_batch(policy, 1, noise=0.3)
    _, accumulated = gradient(policy, batch, advantages, cap=1.25, temperature=0.7, tokens=6)
    computed = {(row.prompt, row.response) for row in rows_of(batch, advantages, weighted=True)}
    log_probs = torch.log_softmax(policy.logits.detach() / 0.7, dim=0).numpy()
    d = np.concatenate(
        [
            log_probs[list(response.tokens)] - response.log_probs
            for group in batch.groups
            for response in group.completions
            if (group.prompt_tokens, response.tokens) in computed
        ]
    )
    mismatch = accumulated.mismatch
    assert mismatch.tokens == len(d)
    assert mismatch.mean == pytest.approx(d.mean(), abs=1e-12)
    assert mismatch.max_abs == pytest.approx(np.abs(d).max(), abs=1e-12)
    assert mismatch.kl == pytest.approx((np.exp(d) - 1 - d).mean(), abs=1e-12)
    assert mismatch.share_truncated == (np.exp(d) > 1.25).mean() > 0
    _, without = gradient(policy, batch, advantages, cap=None, temperature=0.7)
    assert without.mismatch.share_truncated == 0
    nothing = Mismatch()
    nothing.add(torch.zeros(0), cap=2.0)
    assert (nothing.mean, nothing.max_abs, nothing.kl, nothing.share_truncated) == (None,) * 4


def test_the_divergence_is_estimated_without_bias() -> None:
    """Its mean over μ, by enumeration, is KL(μ ‖ π) by its definition."""
    pi, mu = (torch.log_softmax(Bandit(seed).logits.detach(), dim=0) for seed in (5, 6))
    total = 0.0
    for token in range(len(mu)):
        mismatch = Mismatch()
        mismatch.add((pi - mu)[token : token + 1], cap=None)
        assert mismatch.kl is not None
        assert mismatch.kl >= 0
        total += mu[token].exp().item() * mismatch.kl
    assert total == pytest.approx((mu.exp() * (mu - pi)).sum().item(), abs=1e-12)


def test_no_gradient_flows_through_the_weights() -> None:
    log_ratio = torch.tensor([-1.0, 0.0, 5.0], requires_grad=True)
    weights = importance_weights(log_ratio, 2.0)
    assert not weights.requires_grad
    torch.testing.assert_close(weights, torch.tensor([math.exp(-1), 1.0, 2.0]))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_with_the_torch_sampler_every_weight_is_one(temperature: float) -> None:
    policy = tiny_policy(layers=2, context=32, initializer_range=0.3)
    prompts = [Prompt(id=text, text=text, difficulty="", problem=None) for text in ("a", "abba", "bbb")]
    batch = TorchSampler(policy).sample(prompts, group_size=8, temperature=temperature, max_new_tokens=6, seed=0)
    advantages = np.random.default_rng(0).standard_normal((3, 8))
    gradients = []
    for cap in (None, 2.0):
        policy.model.zero_grad()
        accumulated = accumulate_gradient(
            policy,
            rows_of(batch, advantages, weighted=cap is not None),
            responses=24,
            temperature=temperature,
            tokens_per_micro_batch=60,
            importance_cap=cap,
        )
        # float32: a cached forward pass against a batched one, log-probabilities of order 1
        assert accumulated.mismatch.max_abs is not None
        assert accumulated.mismatch.max_abs < 1e-5
        gradients.append(torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    assert float(gradients[0].abs().max()) > 1e-2
