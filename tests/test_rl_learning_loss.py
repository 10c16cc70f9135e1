"""An exact small world: all outcomes of a group enumerated, through the very functions the loop calls.

A prompt has a few possible responses of unequal length, written by a tabular autoregressive policy. For every outcome
of a group of M the success count, the table, the advantages, the rows, the micro-batches and the denominator of the
loop give a gradient; weighted with its probability, it must be the effective weight of the table times ∇ρ, prompt by
prompt. That weight comes from a binomial sum that shares no code with the loop. Everything is in float64, and the
tolerance 1e-10 is rounding over some ten thousand terms.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rl.learning.loss import Occurrence, Row, accumulate_gradient, denominator, micro_batches, rows_of
from rl.models.packing import PACKED, Layout
from rl.samplers.config import RolloutConfig
from rl.samplers.rollout import Batch, Completion, Group
from rl.step.advantage import weigh
from rl.step.success import judge
from rl.tasks.protocol import Prompt
from tests.amounts import some_of
from theory.catalogue import WEIGHTINGS
from weightopt import GroupProblem, Problem, solve
from weightopt.catalogue_tables import named_table
from weightopt.table import WeightTable, group_table

GROUP_SIZE = 3
END = 0
# Responses over the tokens {END, 1, 2}: one, two, three tokens, and one that runs into the limit without an end.
RESPONSES = ((END,), (1, END), (1, 1, END), (1, 2, END), (1, 1, 2), (2, END))
CORRECT = {0: {(1, END)}, 1: {(END,), (1, 2, END), (1, 1, 2)}}  # (1, 1, 2) has no end and is never correct


class TabularPolicy:
    """Next-token logits for every prompt and state; a state is the response so far."""

    STATES = ((), (1,), (1, 1))
    # Tokens that may follow: only such that every response above is a path, and no other is.
    ALLOWED: ClassVar = {(): (0, 1, 2), (1,): (0, 1, 2), (1, 1): (0, 2)}

    def __init__(self, prompts: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn((prompts, len(self.STATES), 3), generator=generator, dtype=torch.float64)
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
        self.calls.append(len(responses))
        rows = [
            torch.stack([self.log_prob(prompts[index][0], response, t, temperature) for t in range(len(response))])
            for index, response in zip(owner, responses, strict=True)
        ]
        return pad_sequence(rows, batch_first=True)

    def log_prob(self, prompt: int, response: Sequence[int], t: int, temperature: float) -> Tensor:
        state = tuple(response[:t])
        if state in ((2,), (1, 2)):  # after a 2 comes the end, for certain
            return torch.zeros((), dtype=torch.float64)
        allowed = self.ALLOWED[state]
        scores = self.logits[prompt, self.STATES.index(state), list(allowed)] / temperature
        return torch.log_softmax(scores, dim=0)[allowed.index(response[t])]

    def probability(self, prompt: int, response: Sequence[int], temperature: float = 1.0) -> Tensor:
        return torch.stack([self.log_prob(prompt, response, t, temperature) for t in range(len(response))]).sum().exp()


class TinyTask:
    """Judges by a list; the text of a response is its tokens."""

    alphabet = "012"

    def propose(self, rng: object) -> Prompt[int]:
        raise NotImplementedError

    def demonstrate(self, prompt: Prompt[int], rng: object, *, solved: bool) -> str:
        raise NotImplementedError

    def verify(self, prompt: Prompt[int], response: str) -> bool:
        tokens = tuple(int(token) for token in response)
        return tokens in {right[:-1] if right[-1] == END else right for right in CORRECT[prompt.problem]}


def completion(response: tuple[int, ...]) -> Completion:
    finished = response[-1] == END
    text = "".join(str(token) for token in (response[:-1] if finished else response))
    return Completion(tokens=response, log_probs=(0.0,) * len(response), text=text, finished=finished)


def is_correct(prompt: int, response: tuple[int, ...]) -> bool:
    return response in CORRECT[prompt] and response[-1] == END


def table(weighting: Callable[[np.ndarray], np.ndarray], all_wrong: float, all_right: float = 0.0) -> WeightTable:
    return group_table(
        weighting,
        GROUP_SIZE,
        name="test",
        label="test",
        all_wrong_advantage=all_wrong,
        all_right_advantage=all_right,
    )


TABLES = {
    "grpo": named_table(WEIGHTINGS["grpo"], GROUP_SIZE),
    "linear-r": named_table(WEIGHTINGS["linear-r"], GROUP_SIZE),
    "solved": solve(Problem(0.01, 0.9, "effective", budget=2.3)).table(GROUP_SIZE),
    "solved for the group": solve(
        GroupProblem(Problem(0.01, 0.9, "effective"), GROUP_SIZE, "ratio", "advantage-variance", "free", False)
    ).table(),
    "every rule on": table(lambda rho: 2 - rho, -0.7, 0.3),
}


def effective_weight(table: WeightTable, rho: float) -> float:
    """e in E[(1/M) Σ A_i ∇log π(y_i)] = e ∇ρ.

    A correct response has E[∇log π] = ∇ρ/ρ, a wrong one -∇ρ/(1-ρ), independently given the count K.
    """
    assert table.advantage_correct is not None
    assert table.advantage_wrong is not None
    size = GROUP_SIZE
    return math.fsum(
        math.comb(size, k)
        * rho**k
        * (1 - rho) ** (size - k)
        * (k * table.advantage_correct[k] / rho - (size - k) * table.advantage_wrong[k] / (1 - rho))
        / size
        for k in range(size + 1)
    )


@some_of("name", TABLES, 2)
@some_of("tokens_per_micro_batch", [9, 1, 10_000], 1)
def test_the_expected_gradient_is_the_effective_weight_times_the_gradient_of_success(
    name: str, tokens_per_micro_batch: int
) -> None:
    policy = TabularPolicy(prompts=2, seed=1)
    weights = TABLES[name]
    prompts = [Prompt(id=str(p), text=str(p), difficulty="", problem=p) for p in (0, 1)]

    expected = torch.zeros_like(policy.logits)
    for p in (0, 1):
        rho = torch.stack([policy.probability(p, response) for response in RESPONSES if is_correct(p, response)]).sum()
        (slope,) = torch.autograd.grad(rho, policy.logits)
        expected -= effective_weight(weights, rho.item()) * slope / len(prompts)  # the loss is to fall

    # Each prompt has logits of its own, so its group can be enumerated beside a fixed group of the other prompt: that
    # one counts in the denominator and fills micro-batches, and has no part in this prompt's gradient.
    actual = torch.zeros_like(policy.logits)
    total = 0.0
    for p in (0, 1):
        chances = {response: policy.probability(p, response).item() for response in RESPONSES}
        assert math.isclose(sum(chances.values()), 1.0, rel_tol=1e-12)
        bystander = Group(
            prompt=prompts[1 - p], prompt_tokens=(1 - p,), completions=(completion(RESPONSES[0]),) * GROUP_SIZE
        )
        for outcome in product(RESPONSES, repeat=GROUP_SIZE):
            chance = math.prod(chances[response] for response in outcome)
            group = Group(
                prompt=prompts[p], prompt_tokens=(p,), completions=tuple(completion(response) for response in outcome)
            )
            gradient = gradient_of(policy, Batch(groups=(group, bystander)), weights, tokens_per_micro_batch)
            actual[p] += chance * gradient[p]
            total += chance
    assert math.isclose(total, 2.0, rel_tol=1e-12)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    assert expected.abs().max() > 1e-3
    assert max(policy.calls) > 1 or tokens_per_micro_batch == 1


def gradient_of(
    policy: TabularPolicy,
    batch: Batch,
    weights: WeightTable,
    tokens: int,
    all_wrong_factor: float = 1.0,
) -> Tensor:
    """The gradient of one step, as the loop computes it."""
    advantages = weigh(weights, judge(batch, TinyTask()).correct, all_wrong_factor=all_wrong_factor)
    policy.logits.grad = torch.zeros_like(policy.logits)
    accumulate_gradient(
        policy,
        rows_of(batch, advantages),
        responses=denominator(RolloutConfig(prompts_per_step=len(batch.groups), group_size=GROUP_SIZE)),
        temperature=1.0,
        tokens_per_micro_batch=tokens,
    )
    return policy.logits.grad


def random_batch(seed: int, groups: int = 6) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        groups=tuple(
            Group(
                prompt=Prompt(id=str(p % 2), text=str(p % 2), difficulty="", problem=p % 2),
                prompt_tokens=(p % 2,),
                completions=tuple(completion(RESPONSES[i]) for i in rng.integers(len(RESPONSES), size=GROUP_SIZE)),
            )
            for p in range(groups)
        )
    )


def test_micro_batches_of_unequal_size_give_the_gradient_of_the_whole() -> None:
    policy = TabularPolicy(prompts=2, seed=0)
    batch = random_batch(0)
    whole = gradient_of(policy, batch, TABLES["every rule on"], 10_000)
    assert len(policy.calls) == 1
    policy.calls.clear()
    pieces = gradient_of(policy, batch, TABLES["every rule on"], 9)
    assert len(set(policy.calls)) > 1
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-14)  # the same sum in another order


def test_the_gradient_is_the_plain_sum_over_all_responses() -> None:
    """Against the formula without any saving: no merged rows, none left out, no micro-batches."""
    policy = TabularPolicy(prompts=2, seed=0)
    batch = random_batch(1)
    weights = TABLES["linear-r"]
    correct = judge(batch, TinyTask()).correct
    advantages = weights.advantages(correct.sum(axis=1, keepdims=True), correct)
    plain = torch.zeros((), dtype=torch.float64)
    for group, row in zip(batch.groups, advantages, strict=True):
        for response, advantage in zip(group.completions, row, strict=True):
            log_prob = policy.probability(group.prompt_tokens[0], response.tokens).log()
            plain = plain - advantage * log_prob / (len(batch.groups) * GROUP_SIZE)
    (expected,) = torch.autograd.grad(plain, policy.logits)
    torch.testing.assert_close(gradient_of(policy, batch, weights, 12), expected, rtol=0, atol=1e-14)


def test_permuting_prompts_changes_nothing() -> None:
    policy = TabularPolicy(prompts=2, seed=0)
    batch = random_batch(2)
    there = gradient_of(policy, batch, TABLES["grpo"], 10)
    back = gradient_of(policy, Batch(groups=batch.groups[::-1]), TABLES["grpo"], 10)
    torch.testing.assert_close(there, back, rtol=0, atol=1e-14)


def test_a_step_without_signal_has_no_rows() -> None:
    group = Group(
        prompt=Prompt(id="0", text="0", difficulty="", problem=0),
        prompt_tokens=(0,),
        completions=(completion((END,)),) * GROUP_SIZE,
    )
    batch = Batch(groups=(group,))
    correct = judge(batch, TinyTask()).correct
    assert rows_of(batch, TABLES["grpo"].advantages(correct.sum(axis=1, keepdims=True), correct)) == []
    (row,) = rows_of(batch, TABLES["linear-r"].advantages(correct.sum(axis=1, keepdims=True), correct))
    occurrence = Occurrence(advantage=-1.0, log_probs=(0.0,))
    assert row == Row(prompt=(0,), response=(END,), coefficient=-3.0, occurrences=(occurrence,) * 3)


LAYOUTS = {
    "packed": PACKED,
    "grid": Layout(kind="grid", slot=0.05, pair=0.001),
    "padded": Layout(kind="padded"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_micro_batches_keep_to_their_budget(name: str) -> None:
    rng = np.random.default_rng(0)
    rows = [
        Row(prompt=(int(n),) * int(p), response=tuple(range(int(r))), coefficient=1.0, occurrences=())
        for n, p, r in rng.integers(1, (4, 20, 20), size=(200, 3))
    ]

    def computed(piece: list[Row]) -> float:
        wide, long = (
            max(len(each) for each in some) for some in zip(*((r.prompt, r.response) for r in piece), strict=True)
        )
        if name == "padded":
            return len(piece) * (wide + long)
        prompts = {row.prompt for row in piece}
        tokens = sum(map(len, prompts)) + sum(len(row.response) for row in piece)
        if name == "packed":
            return tokens
        slots = len(prompts) * wide + len(piece) * (wide + long)
        return tokens + 0.05 * slots + 0.001 * (len(prompts) * wide**2 + len(piece) * long * (wide + long))

    pieces = micro_batches(rows, 64, layout=LAYOUTS[name])
    assert sorted((row for piece in pieces for row in piece), key=repr) == sorted(rows, key=repr)
    assert all(computed(piece) <= 64 or len(piece) == 1 for piece in pieces)
    # Nor is a piece cut before it has to be.
    assert all(computed([*piece, after[0]]) > 64 for piece, after in itertools.pairwise(pieces))


def test_a_group_is_split_where_one_long_response_would_pad_all_others() -> None:
    """As a reasoning model writes: most responses are short, one of each group is not."""
    rows = [
        Row(prompt=(group,) * 20, response=tuple(range(400 if one == 0 else one)), coefficient=1.0, occurrences=())
        for group in range(8)
        for one in range(16)
        if one != 1
    ]
    layout = LAYOUTS["grid"]
    pieces = micro_batches(rows, 6000, layout=layout)
    # Together they are 4,312 tokens; as rows of 420 the attention of the 120 alone would take 22,680.
    assert len(pieces) == 2
    # Where it makes no fewer pieces the rows of one prompt stay together, in the order of packed texts.
    even = [row for row in rows if len(row.response) in (14, 15)]
    assert micro_batches(even, 1000, layout=layout) == micro_batches(even, 1000)


# What each option does to the expected gradient: one prompt, all outcomes of its group, through the loop's functions.


def group_of(outcome: Sequence[tuple[int, ...]], prompt: int = 1) -> Group:
    return Group(
        prompt=Prompt(id=str(prompt), text=str(prompt), difficulty="", problem=prompt),
        prompt_tokens=(prompt,),
        completions=tuple(completion(response) for response in outcome),
    )


def ascent(policy: TabularPolicy, weights: WeightTable, *, only_mixed: bool = False, **options: Any) -> Tensor:
    """Expected gradient of -loss with respect to the logits of prompt 1, weighted sums over all outcomes."""
    chances = {response: policy.probability(1, response).item() for response in RESPONSES}
    total = torch.zeros_like(policy.logits)
    for outcome in product(RESPONSES, repeat=GROUP_SIZE):
        right = sum(is_correct(1, response) for response in outcome)
        if not only_mixed or 0 < right < GROUP_SIZE:
            chance = math.prod(chances[response] for response in outcome)
            total -= chance * gradient_of(policy, Batch(groups=(group_of(outcome),)), weights, 10_000, **options)
    return total[1]


def slope_of(policy: TabularPolicy, value: Callable[[tuple[int, ...]], float]) -> Tensor:
    """Gradient of E[value(y)] over the responses y to prompt 1."""
    mean = torch.stack([value(response) * policy.probability(1, response) for response in RESPONSES]).sum()
    return torch.autograd.grad(mean, policy.logits)[0][1]


def success_of(policy: TabularPolicy) -> float:
    return sum(policy.probability(1, response).item() for response in RESPONSES if is_correct(1, response))


def success_slope(policy: TabularPolicy) -> Tensor:
    return slope_of(policy, lambda response: float(is_correct(1, response)))


def binomial(n: int, k: int, rho: float) -> float:
    return math.comb(n, k) * rho**k * (1 - rho) ** (n - k)


def rules(weights: WeightTable, rho: float, factor: float = 1.0) -> float:
    """What the two rules add to the effective weight, when an all-wrong or all-right group has no other advantage."""
    size = GROUP_SIZE
    return -factor * weights.all_wrong_advantage * (1 - rho) ** (size - 1) + weights.all_right_advantage * rho ** (
        size - 1
    )


@some_of("name", ["linear-r", "every rule on"], 1)
@some_of("factor", [0.25, 0.0, 1.0], 1)
def test_the_all_wrong_factor_scales_one_term_of_the_effective_weight(name: str, factor: float) -> None:
    policy, weights = TabularPolicy(prompts=2, seed=1), TABLES[name]
    rho = success_of(policy)
    off = effective_weight(weights, rho) + weights.all_wrong_advantage * (1 - rho) ** (GROUP_SIZE - 1)
    expected = (off - factor * weights.all_wrong_advantage * (1 - rho) ** (GROUP_SIZE - 1)) * success_slope(policy)
    torch.testing.assert_close(ascent(policy, weights, all_wrong_factor=factor), expected, rtol=0, atol=1e-10)


def test_dynamic_sampling_divides_all_prompts_by_one_number() -> None:
    """A kept group is one of prompt p with chance q_p m_p / Σ q m, m the chance of a mixed group, and its expected
    gradient is that of a drawn group over m_p. So a slot of the batch has Σ q_p e_p ∇ρ_p / Σ q m: no prompt gains on
    another.
    """
    weights = TABLES["linear-r"]
    parts, mixed = [], []
    for seed in (1, 2):  # two prompts, of which each has a policy of its own
        policy = TabularPolicy(prompts=2, seed=seed)
        rho = success_of(policy)
        mixed.append(1 - rho**GROUP_SIZE - (1 - rho) ** GROUP_SIZE)
        kept = ascent(policy, weights, only_mixed=True) / mixed[-1]  # given that the group is mixed
        e = effective_weight(weights, rho) + weights.all_wrong_advantage * (1 - rho) ** (GROUP_SIZE - 1)
        parts.append((kept, e * success_slope(policy)))
    assert abs(mixed[0] - mixed[1]) > 0.02
    shares = (0.3, 0.7)
    total = sum(share * chance for share, chance in zip(shares, mixed, strict=True))
    for (kept, drawn), share, chance in zip(parts, shares, mixed, strict=True):
        torch.testing.assert_close((share * chance / total) * kept, share * drawn / total, rtol=0, atol=1e-10)


def test_no_group_changes_the_weight_of_another() -> None:
    policy = TabularPolicy(prompts=2, seed=0)
    groups = (group_of([(1, 2, END), (2, END), (1, 1, 2)]), group_of([(1, END), (END,), (2, END)], prompt=0))
    both = gradient_of(policy, Batch(groups=groups), TABLES["linear-r"], 10_000)
    alone = [gradient_of(policy, Batch(groups=(group,)), TABLES["linear-r"], 10_000) for group in groups]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2, rtol=0, atol=1e-14)
