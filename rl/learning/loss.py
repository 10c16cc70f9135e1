"""The policy-gradient loss: advantages times log-probabilities, over one denominator.

    L = - (1/N) Σ_i A_i Σ_t log π(y_it | x_i, y_i,<t),        N = number of responses in the step

A_i already holds the prompt's weight, so anything else that multiplies a response changes the weighting: dividing by
the length of a response, by the tokens of a group or by the rows of a micro-batch would each be another, unasked-for
weight. `denominator` is the only place where a divisor is chosen, and it is the same for every response of a step, also
of a step that dynamic sampling could not fill: that one is a smaller step.

Two things are exact savings. A response with advantage 0 has no part in the gradient and is not computed. Equal
responses to the same prompt have the same gradient and are computed once, with their advantages added. With importance
sampling (`rl.learning.mismatch`) each occurrence i has weights w_it of its own, since an engine may give equal tokens
not quite equal probabilities; the coefficient of a token is then Σ_i A_i w_it, and the response is still computed once.

A step may make several updates, each from a part of its groups (`cut`) with a denominator of its own. At those after
the first the policy π is no longer π_old, the one that acted, and a token has the weight w_it r_t, r = π/π_old; the
clip (`rl.learning.ppo_clip`) looks at r and at the sign of each A_i. A penalty on the divergence from a reference
(`rl.learning.kl`) takes its own part from A_i, token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from random import Random
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rl.learning.config import KlConfig
from rl.learning.kl import Divergence, Penalty, baselines
from rl.learning.mismatch import Mismatch, importance_weights
from rl.learning.ppo_clip import Clip, ClippedTokens
from rl.models.packing import PACKED, Layout, sent
from rl.samplers.config import RolloutConfig
from rl.samplers.rollout import Batch

NO_CLIP = Clip()


class LogProbs(Protocol):
    """Something differentiable that knows the log-probabilities of tokens; see `rl.models.policy`."""

    def token_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        responses: Sequence[Sequence[int]],
        *,
        temperature: float,
    ) -> Tensor:
        """Log-probability of each token, shape (R, longest response), zero past the end of a response."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Occurrence:
    """One of the responses that are equal; ``log_probs`` are the sampler's, of its tokens."""

    advantage: float
    log_probs: tuple[float, ...]
    group: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A distinct response to a prompt, as token ids, end token included.

    Attributes
    ----------
    coefficient
        Sum of the advantages of all its occurrences, of which there is at least one.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    coefficient: float
    occurrences: tuple[Occurrence, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accumulated:
    """What adding the gradient of an update has shown.

    Attributes
    ----------
    loss
        Its gradient means something, its value does not.
    mismatch
        Between trainer and sampler, over the tokens of all occurrences of the rows.
    divergence
        From the reference; without a penalty it counts nothing.
    """

    loss: float = 0.0
    mismatch: Mismatch = field(default_factory=Mismatch)
    clipped: ClippedTokens = field(default_factory=ClippedTokens)
    divergence: Divergence = field(default_factory=Divergence)

    def plus(self, other: "Accumulated") -> "Accumulated":
        """Both together."""
        return _together(self, other)


def _together(one: Any, other: Any) -> Any:
    """Two numbers or records added up; a field that is no sum says in its metadata how two of it become one."""
    if not is_dataclass(one):
        return one + other
    both = ((each, getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    return type(one)(**{each.name: each.metadata.get("together", _together)(*two) for each, *two in both})  # type: ignore[operator]


def denominator(config: RolloutConfig, *, parts: int = 1) -> int:
    """The N of the loss: all responses of a full step, or of an equal part of it, those with advantage 0 included."""
    return config.prompts_per_step * config.group_size // parts


def cut(groups: int, parts: int, *, seed: int) -> list[list[int]]:
    """Share groups out among the parts of a step: indices of the groups of each, in numbers that differ by one at most.

    A single part keeps their order; several are dealt in an order drawn from ``seed``. With fewer groups than parts, as
    dynamic sampling may leave, some are empty.
    """
    order = list(range(groups))
    if parts > 1:
        Random(seed).shuffle(order)
    return [part.tolist() for part in np.array_split(np.array(order, dtype=np.intp), parts)]


def rows_of(batch: Batch, advantages: np.ndarray, *, weighted: bool = False, every: bool = False) -> list[Row]:
    """Distinct responses with their coefficients; those whose advantages are or add up to 0 are left out.

    Parameters
    ----------
    advantages
        Shape (P, M).
    weighted
        Leave out only those whose advantages are all 0: with importance weights, or with a clip, advantages that add up
        to 0 need not cancel.
    every
        Leave out none.
    """
    coefficients: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    occurrences: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Occurrence]] = {}
    for number, (group, row) in enumerate(zip(batch.groups, advantages.tolist(), strict=True)):
        for completion, advantage in zip(group.completions, row, strict=True):
            key = (group.prompt_tokens, completion.tokens)
            coefficients[key] = coefficients.get(key, 0.0) + advantage
            occurrence = Occurrence(advantage=advantage, log_probs=completion.log_probs, group=number)
            occurrences.setdefault(key, []).append(occurrence)
    return [
        Row(prompt=key[0], response=key[1], coefficient=coefficient, occurrences=tuple(occurrences[key]))
        for key, coefficient in coefficients.items()
        if every or (any(occurrence.advantage for occurrence in occurrences[key]) if weighted else coefficient)
    ]


def micro_batches(rows: Sequence[Row], tokens: int, *, layout: Layout = PACKED) -> list[list[Row]]:
    """Cut rows into pieces of at most so many tokens; a longer row stands alone.

    Parameters
    ----------
    layout
        How they are computed, `rl.models.policy.Policy.layout`. Packed: a prompt counts once in a piece, and the rows
        of one prompt stay together. On a grid what attention holds counts as well, as so many tokens. Padded: each row
        counts with its prompt and as if it were as long as the longest. Rows are taken in order of length where little
        is padding then and it makes fewer pieces.
    """
    by_length = sorted(rows, key=lambda row: (len(row.prompt) + len(row.response), row.prompt))
    if layout.kind == "padded":
        return _cut(by_length, tokens, layout)
    longest: dict[tuple[int, ...], int] = {}
    for row in rows:
        longest[row.prompt] = max(longest.get(row.prompt, 0), len(row.response))
    by_prompt = sorted(rows, key=lambda row: (len(row.prompt) + longest[row.prompt], row.prompt, len(row.response)))
    together = _cut(by_prompt, tokens, layout)
    return together if layout.kind == "packed" else min(together, _cut(by_length, tokens, layout), key=len)


def _cut(rows: Sequence[Row], tokens: int, layout: Layout) -> list[list[Row]]:
    """In this order."""
    pieces: list[list[Row]] = []
    prompts: set[tuple[int, ...]] = set()
    count = wide = long = 0
    for row in rows:
        new = 0 if row.prompt in prompts else len(row.prompt)
        count, wide, long = count + new + len(row.response), max(wide, len(row.prompt)), max(long, len(row.response))
        members = len(pieces[-1]) + 1 if pieces else 1
        if layout.kind == "padded":
            size = members * (wide + long)
        else:
            size = layout.size(count, [(len(prompts) + (new > 0), 0, wide), (members, wide, long)])
        if not pieces or size > tokens:
            pieces.append([])
            prompts = set()
            wide, long = len(row.prompt), len(row.response)
            count = wide + long
        pieces[-1].append(row)
        prompts.add(row.prompt)
    return pieces


def deal(rows: Sequence[Row], processes: int) -> list[list[Row]]:
    """Share rows out among processes, all those of a prompt to one of them, and about as many tokens to each.

    Groups are dealt from the largest to the smallest, each to who has least. A process may get none.
    """
    if processes == 1:
        return [list(rows)]
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.prompt, []).append(row)
    tokens = {prompt: len(prompt) + sum(len(row.response) for row in group) for prompt, group in groups.items()}
    hands: list[list[Row]] = [[] for _ in range(processes)]
    held = [0] * processes
    for prompt in sorted(groups, key=lambda prompt: -tokens[prompt]):
        least = held.index(min(held))
        hands[least] += groups[prompt]
        held[least] += tokens[prompt]
    return hands


@torch.no_grad()
def log_probs_of(
    policy: LogProbs, rows: Sequence[Row], *, temperature: float, tokens_per_micro_batch: int, layout: Layout = PACKED
) -> list[Tensor]:
    """Log-probabilities of the tokens of rows, without gradient: for each micro-batch of them, shape (R, columns)."""
    pieces = micro_batches(rows, tokens_per_micro_batch, layout=layout)
    return [token_log_probs(policy, piece, temperature) for piece in pieces]


def penalties_of(
    rows: Sequence[Row],
    reference: Sequence[Tensor],
    config: KlConfig,
    tokens_per_micro_batch: int,
    *,
    layout: Layout = PACKED,
) -> list[Penalty]:
    """What the divergence from a reference adds to the gradient, for each micro-batch of rows.

    Parameters
    ----------
    rows
        Output of `rows_of` with ``every``: the baseline of a response is made from the others of its group.
    reference
        What the reference says of them, from `log_probs_of`.
    """
    pieces = micro_batches(rows, tokens_per_micro_batch, layout=layout)
    estimates = []
    for piece, log_probs in zip(pieces, reference, strict=True):
        owner, sampled, written = _occurrences(piece, log_probs)
        estimates.append((sampled - log_probs[owner]) * written)
    groups = [[occurrence.group for row in piece for occurrence in row.occurrences] for piece in pieces]
    return [
        Penalty(coefficient=config.coefficient, reference=log_probs, baseline=baseline)
        for log_probs, baseline in zip(reference, baselines(estimates, groups), strict=True)
    ]


def accumulate_gradient(
    policy: LogProbs,
    rows: Sequence[Row],
    *,
    responses: int,
    temperature: float,
    tokens_per_micro_batch: int,
    layout: Layout = PACKED,
    importance_cap: float | None = None,
    before: Sequence[Tensor] | None = None,
    clip: Clip = NO_CLIP,
    penalties: Sequence[Penalty] | None = None,
) -> Accumulated:
    """Add the gradient of the loss to the parameters of the policy.

    Parameters
    ----------
    rows
        From `rows_of`; without any nothing happens.
    responses
        The denominator of the update, from `denominator`.
    temperature
        At which the responses were sampled: log π is that of the policy that acted.
    tokens_per_micro_batch, layout
        See `micro_batches`.
    importance_cap
        ≥ 1: multiply the gradient of each token by min(π_old/μ, cap), π_old the policy's probability of it before the
        first update of the step and μ the sampler's. None: do not.
    before
        Log-probabilities under π_old, from `log_probs_of`: multiply the gradient of each token by π/π_old. None: the
        policy is π_old.
    clip
        Bounds on π/π_old.
    penalties
        From `penalties_of`.
    """
    accumulated = Accumulated()
    # Looked at when all is under way: who looks waits for a GPU, which then waits for the next micro-batch.
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    plain = importance_cap is None and before is None and penalties is None
    for number, piece in enumerate(micro_batches(rows, tokens_per_micro_batch, layout=layout)):
        log_probs = token_log_probs(policy, piece, temperature)
        now = log_probs.detach()
        old = now if before is None else before[number]
        owner, sampled, written = _occurrences(piece, log_probs)
        clipped, divergence = ClippedTokens(), Divergence()
        log_ratio = (old[owner] - sampled) * written
        if plain:
            coefficients = sent(
                torch.tensor([row.coefficient for row in piece], dtype=log_probs.dtype), log_probs.device
            )
            part = -(coefficients * log_probs.sum(dim=1)).sum() / responses
        else:
            advantages = log_probs.new_tensor([each.advantage for row in piece for each in row.occurrences])
            weights = advantages.unsqueeze(1).expand(log_ratio.shape)
            ratio = (now - old).exp()[owner]
            if before is not None:
                acts = clip.acts(ratio, weights)
                clipped = ClippedTokens.of(acts, written & (weights != 0))
                weights = weights * ratio.masked_fill(acts, 0)
            if penalties is not None:
                weights = weights - penalties[number].weights(now, owner) * ratio
                d = old - penalties[number].reference
                divergence = Divergence.of(d[owner][written], responses=len(owner))
            if importance_cap is not None:
                weights = weights * importance_weights(log_ratio, importance_cap)
            part = -(torch.zeros_like(log_probs).index_add(0, owner, weights) * log_probs).sum() / responses
        part.backward()
        kept.append((part.detach(), log_ratio, written))
        accumulated = accumulated.plus(Accumulated(clipped=clipped, divergence=divergence))
    for part, log_ratio, written in kept:
        mismatch = Mismatch()
        mismatch.add(log_ratio[written], cap=importance_cap)
        accumulated = accumulated.plus(Accumulated(loss=part.item(), mismatch=mismatch))
    return accumulated


def token_log_probs(policy: LogProbs, piece: Sequence[Row], temperature: float) -> Tensor:
    """Log-probabilities of the tokens of a micro-batch, shape (R, columns)."""
    return policy.token_log_probs(*texts_of(piece), temperature=temperature)


def texts_of(piece: Sequence[Row]) -> tuple[list[Sequence[int]], list[int], list[Sequence[int]]]:
    """Prompts, the prompt of each response, and responses."""
    index = {prompt: number for number, prompt in enumerate(dict.fromkeys(row.prompt for row in piece))}
    return list(index), [index[row.prompt] for row in piece], [row.response for row in piece]


def _occurrences(rows: Sequence[Row], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The row of each occurrence, shape (n,), and its sampled log-probabilities and where they are, (n, columns).

    ``like`` has the number of columns, type and device that are wanted; past the end of a response stand zeros.
    """
    columns = like.shape[1]
    owner = sent(torch.tensor([number for number, row in enumerate(rows) for _ in row.occurrences]), like.device)
    padded = [
        [*occurrence.log_probs, *[0.0] * (columns - len(occurrence.log_probs))]
        for row in rows
        for occurrence in row.occurrences
    ]
    sampled = sent(torch.tensor(padded, dtype=like.dtype), like.device)
    lengths = sent(torch.tensor([len(row.response) for row in rows]), like.device)[owner]
    return owner, sampled, torch.arange(columns, device=like.device) < lengths.unsqueeze(1)
