"""Several updates a step: ratios, their clip, mini-batches and epochs.

Against enumeration of all outcomes of a group, against torch differentiating PPO's surrogate as it is written, and
through the loop. In the small world all is float64: tolerances of 1e-12 are rounding over some hundred terms.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rl.learning.update
import rl.train
from rl.config import Config, parse_config
from rl.errors import DivergenceError, UsageError
from rl.learning.loss import NO_CLIP, Accumulated, accumulate_gradient, cut, log_probs_of, rows_of
from rl.learning.ppo_clip import Clip, ClippedTokens
from rl.learning.update import Update, learn
from rl.models.policy import Policy, new_policy
from rl.records.metrics import read_metrics
from rl.samplers.rollout import Batch, Completion, Group
from rl.samplers.torch_sampler import TorchSampler
from rl.tasks.protocol import Prompt
from rl.train import train
from tests import worlds
from tests.amounts import some_of
from tests.chain import Chain
from weightopt.table import WeightTable, group_table

GROUP_SIZE = 3
PROMPT = Prompt(id="0", text="0", difficulty="", problem=None)
TABLE = group_table(
    lambda rho: 1 / rho, GROUP_SIZE, name="r", label="R", all_wrong_advantage=-1.0, all_right_advantage=0.0
)


pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(tokens: Sequence[int], log_probs: Sequence[float] | None = None) -> Completion:
    sampled = (0.0,) * len(tokens) if log_probs is None else tuple(log_probs)
    return Completion(tokens=tuple(tokens), log_probs=sampled, text="", finished=True)


def group(*completions: Completion, prompt: int = 0) -> Group:
    return Group(prompt=PROMPT, prompt_tokens=(prompt,), completions=completions)


def gradient(
    policy: Chain, old: Chain | None, batch: Batch, advantages: np.ndarray, *, tokens: int = 99, **options: Any
) -> tuple[Tensor, Accumulated]:
    """The gradient of an update that follows others, as `learn` computes it; of the first one without ``old``."""
    weighted = "importance_cap" in options or "clip" in options
    rows = rows_of(batch, advantages, weighted=weighted)
    before = None if old is None else log_probs_of(old, rows, temperature=1.0, tokens_per_micro_batch=tokens)
    policy.logits.grad = torch.zeros_like(policy.logits)
    accumulated = accumulate_gradient(
        policy,
        rows,
        responses=batch.responses,
        temperature=1.0,
        tokens_per_micro_batch=tokens,
        before=before,
        **options,
    )
    return policy.logits.grad, accumulated


def is_right(response: Sequence[int]) -> bool:
    return sum(response) % 2 == 1


def expected_gradient(policy: Chain, old: Chain) -> Tensor:
    """Of a later update, over all outcomes of a group that ``old`` draws."""
    chances = old.response_log_probs().exp().tolist()
    total = torch.zeros_like(policy.logits)
    for outcome in product(range(len(chances)), repeat=GROUP_SIZE):
        responses = [old.responses[index] for index in outcome]
        correct = np.array([[is_right(response) for response in responses]])
        advantages = TABLE.advantages(correct.sum(axis=1, keepdims=True), correct)
        batch = Batch(groups=(group(*map(drawn, responses)),))
        total += math.prod(chances[index] for index in outcome) * gradient(policy, old, batch, advantages)[0]
    return total


def mean_advantages(rho: float) -> tuple[float, float]:
    """Of a right and of a wrong response, when the others are right with probability ρ."""
    right, wrong = TABLE.advantage_correct, TABLE.advantage_wrong
    assert right is not None
    assert wrong is not None
    others = [math.comb(GROUP_SIZE - 1, k) * rho**k * (1 - rho) ** (GROUP_SIZE - 1 - k) for k in range(GROUP_SIZE)]
    return (
        math.fsum(p * right[k + 1] for k, p in enumerate(others)),
        math.fsum(p * wrong[k] for k, p in enumerate(others)),
    )


def test_a_later_update_has_the_weight_of_the_success_before_the_first_one() -> None:
    """Responses of one token: E = e(ρ_old) ∇ρ, the weight that of the policy that acted, the slope that of now."""
    policy, old = Chain(0, tokens=4, longest=1), Chain(1, tokens=4, longest=1)
    right = torch.tensor([is_right(response) for response in old.responses], dtype=torch.float64)
    before = (old.response_log_probs().exp() * right).sum().item()
    now = (policy.response_log_probs().exp() * right).sum()
    assert abs(before - now.item()) > 0.1
    (slope,) = torch.autograd.grad(-now, policy.logits)
    one, other = mean_advantages(before)
    torch.testing.assert_close(expected_gradient(policy, old), (one - other) * slope, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_later_update_climbs_what_the_old_policy_would_make_of_the_new_ones_next_token() -> None:
    """Responses of several tokens: E = ∇ Σ_t E_old[Σ_a π(a | y_<t) Q_old(y_<t, a)], prefixes and sequels being old.

    Q by recursion from the end of a response, prefixes from its start; the objective of Kakade and Langford (2002).
    """
    policy, old = Chain(2), Chain(3)
    chances = old.response_log_probs().exp()
    right = torch.tensor([is_right(response) for response in old.responses], dtype=torch.float64)
    one, other = mean_advantages((chances * right).sum().item())

    def value(response: Sequence[int]) -> float:
        return one if is_right(response) else other

    tables = torch.softmax(old.logits, dim=1).tolist()
    first = torch.tensor(
        [
            value((0,)) if token == 0 else sum(p * value((token, last)) for last, p in enumerate(tables[token]))
            for token in range(3)
        ],
        dtype=torch.float64,
    )
    pi = torch.softmax(policy.logits, dim=1)
    objective = (pi[0] * first).sum()
    for token in (1, 2):
        objective = objective + tables[0][token] * sum(pi[token, last] * value((token, last)) for last in range(3))
    (expected,) = torch.autograd.grad(-objective, policy.logits)
    torch.testing.assert_close(expected_gradient(policy, old), expected, rtol=0, atol=1e-12)
    # And that is not the weight times ∇ρ as long as the two policies differ; where they are one it is.
    (slope,) = torch.autograd.grad(-(policy.response_log_probs().exp() * right).sum(), policy.logits)
    assert float((expected - (one - other) * slope).abs().max()) > 1e-2
    (slope,) = torch.autograd.grad(-(old.response_log_probs().exp() * right).sum(), old.logits)
    torch.testing.assert_close(expected_gradient(old, old), (one - other) * slope, rtol=0, atol=1e-12)


def noisy_batch(old: Chain, seed: int) -> tuple[Batch, np.ndarray]:
    """Few distinct responses, so that equal ones have advantages of either sign; each has its sampler's noise."""
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(12):
        completions = []
        for index in rng.integers(len(old.responses), size=GROUP_SIZE):
            response = old.responses[index]
            told = old.token_log_probs([(0,)], [0], [response], temperature=1.0)[0].detach().numpy()
            completions.append(drawn(response, (told + 0.3 * rng.standard_normal(len(response))).tolist()))
        groups.append(group(*completions, prompt=number % 2))
    advantages = rng.standard_normal((12, GROUP_SIZE)) * rng.integers(0, 2, (12, GROUP_SIZE))
    return Batch(groups=tuple(groups)), advantages


@pytest.mark.slow
@some_of("tokens", [99, 6, 1], 2)
@pytest.mark.parametrize("cap", [None, 1.2])
@pytest.mark.parametrize(
    "clip", [NO_CLIP, Clip(low=0.2, high=0.2), Clip(low=0.3, high=0.5), Clip(high=0.1), Clip(low=0.1)]
)
def test_the_clip_is_that_of_the_surrogate_as_it_is_written(tokens: int, cap: float | None, clip: Clip) -> None:
    policy, old = Chain(4), Chain(5)
    with torch.no_grad():
        old.logits.copy_(policy.logits + 0.6 * old.logits)
    batch, advantages = noisy_batch(old, 0)
    surrogate = torch.zeros((), dtype=torch.float64)
    low, high = 1 - (clip.low or math.inf), 1 + (clip.high or math.inf)
    cut_off = counted = 0
    for each, row in zip(batch.groups, advantages, strict=True):
        for response, advantage in zip(each.completions, row, strict=True):
            now, then = (
                model.token_log_probs([(0,)], [0], [response.tokens], temperature=1.0)[0] for model in (policy, old)
            )
            ratios = (now - then.detach()).exp()
            for ratio, told, sampled in zip(ratios, then, response.log_probs, strict=True):
                weight = 1.0 if cap is None else min(math.exp(told.item() - sampled), cap)
                unclipped, clipped = ratio * advantage, ratio.clamp(low, high) * advantage
                surrogate = surrogate + weight * torch.minimum(unclipped, clipped) / batch.responses
                counted += advantage != 0
                cut_off += bool(clipped < unclipped)
    (expected,) = torch.autograd.grad(-surrogate, policy.logits)
    actual, accumulated = gradient(policy, old, batch, advantages, tokens=tokens, importance_cap=cap, clip=clip)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert accumulated.clipped == ClippedTokens(tokens=counted, clipped=cut_off)
    assert (cut_off > 0) == (clip != NO_CLIP)
    pairs = [row for row in rows_of(batch, advantages) if len({each.advantage > 0 for each in row.occurrences}) == 2]
    assert pairs, "equal responses must have advantages of either sign somewhere"


def test_equal_responses_whose_advantages_cancel_are_clipped_one_by_one() -> None:
    policy, old = Chain(6, longest=1), Chain(6, longest=1)
    with torch.no_grad():
        policy.logits[0, 1] += 1.0  # its ratio is above the bound, so only the wrong one still counts
    batch = Batch(groups=(group(drawn([1]), drawn([1]), drawn([2])),))
    advantages = np.array([[1.0, -1.0, 0.0]])
    assert rows_of(batch, advantages) == []
    actual, accumulated = gradient(policy, old, batch, advantages, clip=Clip(low=0.2, high=0.2))
    ratio = (policy.response_log_probs() - old.response_log_probs().detach()).exp()[1]
    assert ratio.item() > 1.2
    (expected,) = torch.autograd.grad(ratio / 3, policy.logits)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)
    assert accumulated.clipped.share == 0.5
    assert ClippedTokens().share is None


def test_where_nothing_has_moved_a_later_update_is_a_first_one() -> None:
    policy = Chain(7)
    batch, advantages = noisy_batch(policy, 1)
    for cap in (None, 1.2):
        first, plain = gradient(policy, None, batch, advantages, tokens=6, importance_cap=cap)
        later, accumulated = gradient(
            policy, policy, batch, advantages, tokens=6, importance_cap=cap, clip=Clip(low=0.2, high=0.2)
        )
        torch.testing.assert_close(later, first, rtol=0, atol=1e-14)
        assert accumulated.clipped.clipped == 0 < accumulated.clipped.tokens
        assert plain.clipped.tokens == 0
        # The mismatch is that of the policy that acted, whatever has become of it since.
        moved, after = gradient(Chain(8), policy, batch, advantages, tokens=6, importance_cap=cap)
        assert float((moved - first).abs().max()) > 1e-3
        assert after.mismatch == accumulated.mismatch


def test_the_clip_acts_beyond_its_bounds_and_on_one_side_only() -> None:
    ratio = torch.tensor([0.699, 0.701, 1.0, 1.249, 1.251])
    up, down = torch.ones(5), -torch.ones(5)
    clip = Clip(low=0.3, high=0.25)
    assert clip.acts(ratio, up).tolist() == [False, False, False, False, True]
    assert clip.acts(ratio, down).tolist() == [True, False, False, False, False]
    assert not clip.acts(ratio, torch.zeros(5)).any()
    assert not (NO_CLIP.acts(ratio, up) | NO_CLIP.acts(ratio, down)).any()


@pytest.mark.parametrize(("groups", "parts"), [(12, 4), (12, 1), (7, 3), (2, 4), (0, 2)])
def test_every_group_is_dealt_once(groups: int, parts: int) -> None:
    dealt = cut(groups, parts, seed=3)
    assert sorted(index for part in dealt for index in part) == list(range(groups))
    assert len(dealt) == parts
    sizes = [len(part) for part in dealt]
    assert max(sizes) - min(sizes) <= 1
    assert dealt == cut(groups, parts, seed=3)
    if parts == 1:
        assert dealt == [list(range(groups))]
    elif groups > 4:
        assert dealt != cut(groups, parts, seed=4)


# Through the loop.


def document(table: Path, **optimizer: Any) -> dict[str, Any]:
    return worlds.document(
        table,
        task={"name": "addition", "digits": {"1": 1}},
        supervised={"check_every": 3},
        rollout={"group_size": GROUP_SIZE},
        optimizer={"learning_rate": 3e-2, "max_grad_norm": None, **optimizer},
        training={"steps": 4, "evaluate_every": 4},
    )


@pytest.fixture(scope="module")
def table(table_file: Callable[[str, int], Path]) -> Path:
    return table_file("linear-r", GROUP_SIZE)


class Watching(torch.optim.AdamW):
    """Notes every gradient, and moves nothing."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.trained().values())
        self.seen: list[Tensor] = []

    def step(self, _: Any = None) -> None:  # type: ignore[override]
        parameters = self.param_groups[0]["params"]
        self.seen.append(torch.cat([parameter.grad.flatten() for parameter in parameters]).clone())


def test_the_gradients_of_the_parts_have_the_gradient_of_the_step_for_a_mean(table: Path) -> None:
    """Also where dynamic sampling has left fewer groups than parts: a part's denominator does not depend on it."""
    config = parse_config(document(table))
    policy = new_policy(config.model, "0123456789+=", seed=0)
    prompts = [Prompt(id=text, text=text, difficulty="", problem=None) for text in ("1+1=", "2+3=", "5+0=", "9+1=")]
    sample = TorchSampler(policy).sample(prompts, group_size=GROUP_SIZE, temperature=1.0, max_new_tokens=4, seed=0)
    advantages = np.random.default_rng(0).standard_normal((4, GROUP_SIZE))

    def updates(groups: int, step: int = 1, **optimizer: Any) -> tuple[list[Tensor], Update]:
        watching = Watching(policy)
        batch = Batch(groups=sample.groups[:groups])
        config = parse_config(document(table, **optimizer))
        return watching.seen, learn(
            policy, watching, batch, advantages[:groups], config.optimizer, config.rollout, step=step, seed=config.seed
        )

    for groups in (4, 1):
        (whole,), once = updates(groups)
        parts, cut_up = updates(groups, mini_batches=4)
        assert len(parts) == 4
        # float32: the same products, summed in another order
        torch.testing.assert_close(sum(parts) / 4, whole, rtol=1e-4, atol=1e-7)
        assert (cut_up.rows, cut_up.seen.mismatch.tokens) == (once.rows, once.seen.mismatch.tokens)
        norms = [float(part.norm()) for part in parts]
        assert cut_up.gradient_norms == pytest.approx(norms)
        assert cut_up.gradient_norm == max(cut_up.gradient_norms)
        again, later = updates(groups, mini_batches=2, epochs=2, clip_low=0.2)
        # Ratios are those of all updates but the first.
        every, first = later.seen.mismatch.tokens, updates(groups, mini_batches=2, clip_low=0.2)[1].seen.clipped.tokens
        assert later.seen.clipped.tokens == every // 2 + first
        torch.testing.assert_close(again[2:], again[:2], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(sum(again) / 4, whole, rtol=1e-4, atol=1e-7)
        assert len(again) == 4
    one, other = (updates(4, step, mini_batches=4)[0] for step in (1, 2))
    assert not all(map(torch.equal, one, other))  # dealt anew
    bound = sorted(norms)[-2]
    _, clipped = updates(1, mini_batches=4, max_grad_norm=0.5 * max(norms))
    assert bound == 0.0  # only one part had a group
    assert (clipped.clipped, clipped.clip_factor) == (1, pytest.approx(0.5))


def test_equal_responses_of_either_sign_are_computed_where_the_clip_may_part_them(table: Path) -> None:
    policy = new_policy(parse_config(document(table)).model, "0123456789+=", seed=0)
    same = (drawn([3, 1]), drawn([3, 1]), drawn([4]))
    batch = Batch(groups=(group(*same, prompt=5),))
    advantages = np.array([[1.0, -1.0, 0.0]])
    for options, rows in (({"epochs": 2}, 0), ({"epochs": 2, "clip_high": 0.2}, 1)):
        config = parse_config(document(table, **options))
        watching = Watching(policy)
        update = learn(policy, watching, batch, advantages, config.optimizer, config.rollout, step=1, seed=config.seed)
        assert update.rows == rows


@pytest.mark.slow
def test_a_run_with_several_updates_a_step_says_so(table: Path, tmp_path: Path) -> None:
    options = {"mini_batches": 2, "epochs": 2, "clip_low": 0.1, "clip_high": 0.2, "warmup_steps": 4}
    train(parse_config(document(table, **options)), tmp_path / "run", quiet=True)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record.updates_so_far for record in metrics.steps] == [4, 8, 12, 16]
    assert [record.learning_rate for record in metrics.steps] == pytest.approx([0.0075, 0.015, 0.0225, 0.03])
    assert [record.updates_so_far for record in metrics.evaluations] == [0, 16]
    assert any(0 < (record.ratio_clipped or 0) < 1 for record in metrics.steps)
    assert all((record.log_ratio_max or 0) < 1e-4 for record in metrics.steps)  # of the sampler's policy, not of later


def test_one_update_makes_no_further_pass(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pass that nothing needs")

    monkeypatch.setattr(rl.learning.update, "log_probs_of", refuse)
    train(parse_config(document(table)), tmp_path / "run", quiet=True)
    for record in read_metrics(tmp_path / "run" / "metrics.jsonl").steps:
        assert (record.updates_so_far, record.ratio_clipped, record.kl_per_token) == (record.step, None, None)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_in_a_later_update_leaves_the_last_checkpoint(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(document(table, mini_batches=2, epochs=2, clip_high=0.2))
    train(config, tmp_path / "whole", quiet=True)
    calls = 0

    def spoiled(policy: Policy, *arguments: Any, **options: Any) -> Accumulated:
        nonlocal calls
        calls += 1
        accumulated = accumulate_gradient(policy, *arguments, **options)
        if calls == 4 + 4 + 3:
            next(iter(policy.trained().values())).grad[0] = math.nan  # type: ignore[index]
        return accumulated

    with monkeypatch.context() as patch:
        patch.setattr(rl.learning.update, "accumulate_gradient", spoiled)
        with pytest.raises(DivergenceError, match=r"step 3: the gradient is not finite.*last checkpoint is intact"):
            train(config, tmp_path / "run", quiet=True)
    assert calls == 11
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl").steps) == 2
    train(config, tmp_path / "run", resume=True, quiet=True)
    for name in ("metrics.jsonl", "model/model.safetensors", "checkpoints/step-000004/optimizer.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"mini_batches": 3}, "optimizer.mini_batches = 3 must divide rollout.prompts_per_step = 4"),
        ({"mini_batches": 0}, "config key 'optimizer.mini_batches' is 0: it must be at least 1 and"),
        ({"clip_low": 0.2}, "clip_low and clip_high go with mini_batches or epochs above 1"),
        ({"epochs": 2, "clip_low": 1.5}, "config key 'optimizer.clip_low' is 1.5: it must be above 0 and at most 1"),
        ({"epochs": 2, "clip_high": 0.0}, "config key 'optimizer.clip_high' is 0.0: it must be above 0 and at"),
    ],
)
def test_what_makes_no_sense_is_refused(table: Path, optimizer: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_config(document(table, **optimizer))


def test_defaults_are_one_update_without_a_clip() -> None:
    settings = Config.model_fields["optimizer"].default
    assert (settings.updates, settings.clip_low, settings.clip_high) == (1, None, None)


def test_the_table_is_one_that_says_something() -> None:
    assert isinstance(TABLE, WeightTable)
    assert mean_advantages(0.4)[0] > 0 > mean_advantages(0.4)[1]
