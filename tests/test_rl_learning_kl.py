"""The penalty on the divergence from a reference: its gradient by enumeration, the reference itself, and the loop.

In the small world all is float64: tolerances of 1e-12 are rounding over some hundred terms.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rl.train
from rl.config import Config, parse_config
from rl.errors import DivergenceError, UsageError
from rl.learning.config import KlConfig
from rl.learning.kl import Divergence, Penalty, baselines, to_come
from rl.learning.loss import Accumulated, accumulate_gradient, log_probs_of, penalties_of, rows_of
from rl.learning.reference import open_reference
from rl.models.config import LoraConfig
from rl.models.policy import Policy, load_policy, save_policy
from rl.records.metrics import StepRecord, read_metrics
from rl.run.checkpoint import open_policy
from rl.samplers.rollout import Batch, Completion, Group
from rl.tasks.protocol import Prompt
from rl.tasks.registry import build_teaching_task
from rl.train import train
from tests.amounts import some_of
from tests.chain import Chain
from tests.worlds import at_call, document, raising, tiny_policy

GROUP_SIZE = 3
PROMPT = Prompt(id="0", text="0", difficulty="", problem=None)
COEFFICIENT = 0.7
ROUNDING = 2e-6  # float32, log-probabilities of order 1: torch picks its products by who wants a gradient


pytestmark = pytest.mark.usefixtures("one_thread")


def batch_of(responses: Sequence[Sequence[int]], told: Callable[[Sequence[int]], Sequence[float]]) -> Batch:
    completions = tuple(
        Completion(tokens=tuple(response), log_probs=tuple(told(response)), text="", finished=True)
        for response in responses
    )
    return Batch(groups=(Group(prompt=PROMPT, prompt_tokens=(0,), completions=completions),))


def gradient(
    policy: Chain,
    reference: Chain,
    batch: Batch,
    advantages: np.ndarray | None = None,
    *,
    tokens: int = 99,
    baseline: bool = True,
    before: Chain | None = None,
    cap: float | None = None,
) -> tuple[Tensor, Accumulated]:
    """The gradient of an update, as `learn` computes it; without advantages that of the penalty alone."""
    if advantages is None:
        advantages = np.zeros((len(batch.groups), len(batch.groups[0].completions)))
    rows = rows_of(batch, advantages, every=True)
    told = log_probs_of(reference, rows, temperature=1.0, tokens_per_micro_batch=tokens)
    penalties = penalties_of(rows, told, KlConfig(coefficient=COEFFICIENT), tokens)
    if not baseline:
        penalties = [
            Penalty(
                coefficient=each.coefficient,
                reference=each.reference,
                baseline=torch.zeros_like(each.baseline),
            )
            for each in penalties
        ]
    old = None if before is None else log_probs_of(before, rows, temperature=1.0, tokens_per_micro_batch=tokens)
    policy.logits.grad = torch.zeros_like(policy.logits)
    accumulated = accumulate_gradient(
        policy,
        rows,
        responses=batch.responses,
        temperature=1.0,
        tokens_per_micro_batch=tokens,
        importance_cap=cap,
        before=old,
        penalties=penalties,
    )
    return policy.logits.grad, accumulated


def moments(actor: Chain, of: Callable[[list[tuple[int, ...]]], Tensor]) -> tuple[Tensor, float]:
    """Mean, and summed variance, over all outcomes of a group that ``actor`` draws."""
    chances = actor.response_log_probs().exp().tolist()
    total, squares = torch.zeros(3, 3, dtype=torch.float64), 0.0
    for outcome in product(range(len(chances)), repeat=GROUP_SIZE):
        chance = math.prod(chances[index] for index in outcome)
        value = of([actor.responses[index] for index in outcome])
        total += chance * value
        squares += chance * float((value**2).sum())
    return total, squares - float((total**2).sum())


def divergence(policy: Chain, reference: Chain) -> Tensor:
    """KL(π ‖ π_ref) of whole responses, by its definition."""
    own = policy.response_log_probs()
    return (own.exp() * (own - reference.response_log_probs().detach())).sum()


@pytest.mark.slow
@some_of("tokens", [5, 99], 1)
def test_the_expected_gradient_is_that_of_the_divergence_of_whole_responses(tokens: int) -> None:
    policy, reference = Chain(0), Chain(1)
    (expected,) = torch.autograd.grad(COEFFICIENT * divergence(policy, reference), policy.logits)
    actual, _ = moments(
        policy, lambda outcome: gradient(policy, reference, batch_of(outcome, policy.told), tokens=tokens)[0]
    )
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert float(expected.abs().max()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("distance", "share"), [(0.2, 1.2), (1.5, 0.8)])
def test_the_baseline_pays_where_the_two_are_apart(distance: float, share: float) -> None:
    """Groups of 16 with 30 tokens each: variance with it over variance without, estimated from 60 of them.

    Its own noise is 1/(M-1) of the variance; what it takes away outweighs that from a divergence of some 2/(M-1) on.
    """
    policy, reference = Chain(0, longest=1), Chain(1, longest=1)
    with torch.no_grad():
        reference.logits.copy_(policy.logits + distance * reference.logits)
        for each in (policy, reference):
            each.logits[:, 0] = -30  # no end: all responses are equally long
    table = torch.softmax(policy.logits, dim=1).detach().numpy()
    rng = np.random.default_rng(0)
    gradients: dict[bool, list[Tensor]] = {True: [], False: []}
    for _ in range(60):
        responses: list[list[int]] = [[] for _ in range(16)]
        for response in responses:
            for _ in range(30):
                response.append(int(rng.choice(3, p=table[response[-1] if response else 0])))
        batch = batch_of(responses, policy.told)
        for baseline, seen in gradients.items():
            seen.append(gradient(policy, reference, batch, baseline=baseline)[0].clone())
    scatter = {baseline: float(torch.stack(seen).var(dim=0).sum()) for baseline, seen in gradients.items()}
    assert scatter[True] < share * scatter[False]


@pytest.mark.slow
def test_a_sampler_that_tells_wrong_numbers_makes_a_worse_baseline_and_no_other_mean() -> None:
    policy, reference = Chain(0), Chain(1)
    (expected,) = torch.autograd.grad(COEFFICIENT * divergence(policy, reference), policy.logits)
    actual, _ = moments(
        policy,
        lambda outcome: gradient(policy, reference, batch_of(outcome, lambda each: [-3.0 * len(each)] * len(each)))[0],
    )
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_the_value_that_is_logged_has_the_divergence_for_its_mean() -> None:
    policy, reference = Chain(0), Chain(1)
    mean = length = 0.0
    for response, chance in zip(policy.responses, policy.response_log_probs().exp().tolist(), strict=True):
        _, accumulated = gradient(policy, reference, batch_of([response] * 2, policy.told))
        found = accumulated.divergence
        assert (found.responses, found.tokens) == (2, 2 * len(response))
        assert found.per_response is not None
        assert found.per_token == pytest.approx(found.per_response / len(response))
        assert found.per_response >= 0
        mean, length = mean + chance * found.per_response, length + chance * len(response)
    assert mean == pytest.approx(divergence(policy, reference).item(), abs=1e-12)
    # At a later update it is still of the policy that drew the responses.
    batch = batch_of(policy.responses[:3], policy.told)
    first, later = (gradient(each, reference, batch, before=policy)[1].divergence for each in (policy, Chain(2)))
    assert first == later
    assert (Divergence().per_token, Divergence().per_response) == (None, None)


def test_a_later_update_and_another_sampler_are_accounted_for_token_by_token() -> None:
    """Responses of one token, for which a token's ratio is all: the gradient is that of now, whoever has drawn them."""
    policy, reference, old, actor = (Chain(seed, longest=1) for seed in (2, 3, 4, 5))
    (expected,) = torch.autograd.grad(COEFFICIENT * divergence(policy, reference), policy.logits)
    for drawing, before, cap in ((old, old, None), (actor, None, 1e9), (actor, old, 1e9)):
        actual, _ = moments(
            drawing,
            lambda outcome, drawing=drawing, before=before, cap=cap: gradient(
                policy, reference, batch_of(outcome, drawing.told), before=before, cap=cap
            )[0],
        )
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tokens", [99, 6, 1])
def test_the_penalty_is_added_to_the_gradient_of_the_advantages(tokens: int) -> None:
    """Several groups, equal responses among them: against the sum over all responses, none of them merged."""
    policy, reference = Chain(6), Chain(7)
    rng = np.random.default_rng(0)
    groups = []
    for number in range(5):
        chosen = [policy.responses[index] for index in rng.integers(len(policy.responses), size=GROUP_SIZE)]
        (group,) = batch_of(chosen, policy.told).groups
        groups.append(Group(prompt=PROMPT, prompt_tokens=(number % 2,), completions=group.completions))
    batch = Batch(groups=tuple(groups))
    advantages = rng.standard_normal((5, GROUP_SIZE)) * rng.integers(0, 2, (5, GROUP_SIZE))
    plain = torch.zeros((), dtype=torch.float64)
    for group, row in zip(groups, advantages, strict=True):
        tokens_of = [each.tokens for each in group.completions]
        d = [np.array(policy.told(each)) - np.array(reference.told(each)) for each in tokens_of]
        for i, (response, advantage) in enumerate(zip(tokens_of, row, strict=True)):
            log_probs = policy.token_log_probs([(0,)], [0], [response], temperature=1.0)[0]
            for t in range(len(response)):
                weight = d[i][t:].sum() - np.mean([d[j][t:].sum() for j in range(GROUP_SIZE) if j != i])
                plain = plain - (advantage - COEFFICIENT * weight) * log_probs[t] / batch.responses
    (expected,) = torch.autograd.grad(plain, policy.logits)
    actual, accumulated = gradient(policy, reference, batch, advantages, tokens=tokens)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert accumulated.divergence.responses == batch.responses


def test_what_is_to_come() -> None:
    assert to_come(torch.tensor([[1.0, 2.0, 4.0], [1.0, 0.0, 0.0]])).tolist() == [[7, 6, 4], [1, 0, 0]]
    assert baselines([], []) == []


# The reference, and the loop.


@pytest.fixture(scope="module")
def table(table_file: Callable[[str, int], Path]) -> Path:
    return table_file("linear-r", GROUP_SIZE)


def settings(table: Path, **changes: Any) -> Config:
    world = {
        "task": {"name": "addition", "digits": {"1": 1}},
        "supervised": {"check_every": 3},
        "rollout": {"group_size": GROUP_SIZE},
        "optimizer": {"max_grad_norm": None},
        "kl": {"coefficient": 0.1},
        "training": {"steps": 4, "evaluate_every": 4, "checkpoint_every": 3},
    }
    return parse_config({**document(table, **world), **changes})


@pytest.fixture(scope="module")
def start(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "start"
    alphabet = build_teaching_task(settings(table).task).alphabet
    save_policy(tiny_policy(alphabet, seed=1, initializer_range=0.3), folder)
    return folder


def opened(config: Config, start: Path, checkpoint: Path | None) -> Policy:
    return open_policy(start, checkpoint, config.policy, config.lora, device=config.device, seed=config.seed)


def spoken(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy.token_log_probs([(3, 4), (5,)], [0, 1, 1], [(6, 1), (7,), (2, 3, 1)], temperature=0.8)


def test_with_lora_the_reference_is_the_policy_without_its_adapter(table: Path, start: Path) -> None:
    config = settings(table, lora={"rank": 2}, start_model=str(start))
    policy = opened(config, start, None)
    trained = list(policy.trained())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in policy.trained().values():
            parameter.add_(torch.randn(parameter.shape))
            parameter.grad = torch.ones_like(parameter)
    reference = open_reference(config.kl, config.lora, policy, start)
    assert reference is not None
    assert reference.policy is policy
    before = spoken(policy)
    plain = spoken(load_policy(start))
    told = reference.token_log_probs([(3, 4), (5,)], [0, 1, 1], [(6, 1), (7,), (2, 3, 1)], temperature=0.8)
    torch.testing.assert_close(told, plain, rtol=0, atol=ROUNDING)
    assert not told.requires_grad
    assert float((before - plain).abs().max()) > 0.1
    # The policy is as it was: adapter on, trained, gradients in their place.
    assert torch.equal(spoken(policy), before)
    assert list(policy.trained()) == trained
    assert all(
        parameter.grad is not None and bool((parameter.grad == 1).all()) for parameter in policy.trained().values()
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_second_model_is_frozen_and_equal_to_its_folder(table: Path, start: Path, checkpointing: bool) -> None:
    config = settings(
        table, start_model=str(start), policy={"gradient_checkpointing": checkpointing}, kl={"coefficient": 1.0}
    )
    policy = opened(config, start, None)
    reference = open_reference(config.kl, config.lora, policy, start)
    assert reference is not None
    told = spoken(reference.policy)
    torch.testing.assert_close(told, spoken(load_policy(start)), rtol=0, atol=ROUNDING)
    assert not reference.policy.trained()
    with torch.no_grad():
        next(iter(policy.trained().values())).add_(1.0)
    assert torch.equal(spoken(reference.policy), told)
    assert open_reference(KlConfig(), LoraConfig(), policy, start) is None


def test_a_reference_that_does_not_fit_is_refused(table: Path, start: Path, tmp_path: Path) -> None:
    policy = load_policy(start)
    save_policy(tiny_policy("abc", seed=0), tmp_path / "other")
    config = settings(table, kl={"coefficient": 1.0, "reference": str(tmp_path / "other")})
    with pytest.raises(UsageError, match=r"kl\.reference '.*other' has another tokenizer than the start model"):
        open_reference(config.kl, config.lora, policy, start)
    missing = settings(table, kl={"coefficient": 1.0, "reference": str(tmp_path / "nothing")})
    with pytest.raises(UsageError, match=r"kl\.reference '.*nothing' is no folder here"):
        train(missing, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl": {"coefficient": -0.1}}, r"config key 'kl\.coefficient' is -0\.1: it must be at least 0 and at"),
        ({"kl": {"reference": "start"}}, "reference goes with a coefficient above 0"),
        (
            {"rollout": {"dynamic_sampling": True}},
            r"kl\.coefficient above 0 does not go with rollout\.dynamic_sampling",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(table: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(table, **changes)


def steps_of(run: Path) -> tuple[StepRecord, ...]:
    return read_metrics(run / "metrics.jsonl").steps


@pytest.mark.slow
def test_a_run_with_a_penalty_stays_nearer_and_resumes_bit_for_bit(
    table: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option at once: another reference than the start model, mini-batches, epochs, clip, importance weights."""
    other = tmp_path / "other"
    shutil.copytree(start, other)
    policy = load_policy(other)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for parameter in policy.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    save_policy(policy, other)
    options = {
        "start_model": str(start),
        "policy": {"gradient_checkpointing": True},
        "sampler": {"importance_sampling": True},
        "optimizer": {"learning_rate": 1e-2, "mini_batches": 2, "epochs": 2, "clip_low": 0.2, "clip_high": 0.3},
    }
    runs: dict[str, float] = {}
    for name, coefficient in (("near", 3.0), ("far", 1e-6)):
        config = settings(table, **options, kl={"coefficient": coefficient, "reference": str(other)})
        train(config, tmp_path / name, quiet=True)
        records = steps_of(tmp_path / name)
        assert all(record.kl_per_token is not None and record.kl_per_token > 0 for record in records)
        assert all((record.kl_per_response or 0) >= (record.kl_per_token or 0) for record in records)
        assert all(record.distinct_responses > 0 for record in records)
        runs[name] = records[-1].kl_per_token or 0.0
    assert runs["near"] < 0.7 * runs["far"]

    config = settings(table, **options, kl={"coefficient": 3.0, "reference": str(other)})
    with monkeypatch.context() as patch:
        patch.setattr(rl.train, "learn", at_call(rl.train.learn, 4, raising(KeyboardInterrupt)))
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "again", quiet=True)
    train(config, tmp_path / "again", resume=True, quiet=True)
    for name in (
        "metrics.jsonl",
        "run.json",
        "model/model.safetensors",
        "checkpoints/step-000004/optimizer.safetensors",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()
    hashes = json.loads((tmp_path / "near" / "run.json").read_text())["kl_reference"].values()
    assert all(value.startswith("sha256:") for value in hashes)
    save_policy(load_policy(start), other)
    with pytest.raises(UsageError, match=r"'kl_reference\..*' was 'sha256:"):
        train(config, tmp_path / "again", resume=True, quiet=True)


@pytest.mark.slow
def test_the_start_model_is_the_reference_and_silent_responses_are_computed(table: Path, tmp_path: Path) -> None:
    """A model that was made by the run; at step 1 the policy is its reference."""
    for name, coefficient in (("with", 0.5), ("without", 0.0)):
        config = settings(
            table,
            weighting={"all_wrong": "off"},
            kl={"coefficient": coefficient},
            training={"steps": 1, "evaluate_every": 1, "checkpoint_every": 1},
        )
        train(config, tmp_path / name, quiet=True)
    (with_penalty,), (without,) = (steps_of(tmp_path / name) for name in ("with", "without"))
    assert without.all_wrong == 1.0  # it knows nothing, so no response has an advantage
    assert (without.distinct_responses, without.kl_per_token, without.kl_per_response) == (0, None, None)
    assert with_penalty.distinct_responses > 0
    assert with_penalty.kl_per_token == pytest.approx(0, abs=ROUNDING**2)


def test_a_divergence_that_is_not_finite_stops_the_run(
    table: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Divergence, "of", lambda *_, **__: Divergence(responses=1, tokens=1, total=math.inf))
    with pytest.raises(
        DivergenceError, match=r"step 1: the policy's and the reference's log-probabilities are too far"
    ):
        train(settings(table, start_model=str(start)), tmp_path / "run", quiet=True)
