"""The policy-gradient loss: advantages times log-probabilities, over one denominator.

    L = - (1/N) Σ_i A_i Σ_t log π(y_it | x_i, y_i,<t),        N = number of responses in the step

A_i already holds the prompt's weight, so anything else that multiplies a response changes the weighting: dividing by
the length of a response, by the tokens of a group or by the rows of a micro-batch would each be another, unasked-for
weight. `denominator` is the only place where a divisor is chosen, and it is the same for every response of a step, also
of a step that dynamic sampling could not fill: that one is a smaller step. What other trainers divide by is at hand as
`length_factors`, to compare with; the default is none.

Two things are exact savings. A response with advantage 0 has no part in the gradient and is not computed. Equal
responses to the same prompt have the same gradient and are computed once, with their advantages added. With importance
sampling (`rl.mismatch`) each occurrence i has weights w_it of its own, since an engine may give equal tokens not quite
equal probabilities; the coefficient of a token is then Σ_i A_i w_it, and the response is still computed once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from rl.config import RolloutConfig
from rl.mismatch import Mismatch, importance_weights
from rl.rollout import Batch


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
    """One of the responses that are equal.

    Attributes
    ----------
    advantage
        Its advantage.
    log_probs
        The sampler's log-probabilities of its tokens.
    """

    advantage: float
    log_probs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A distinct response to a prompt.

    Attributes
    ----------
    prompt
        Token ids of the prompt.
    response
        Token ids of the response, end token included.
    coefficient
        Sum of the advantages of all its occurrences.
    occurrences
        Those, at least one.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    coefficient: float
    occurrences: tuple[Occurrence, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accumulated:
    """What adding the gradient of a step has shown.

    Attributes
    ----------
    loss
        The loss; on-policy its gradient means something, its value does not.
    mismatch
        Between trainer and sampler, over the tokens of all occurrences of the rows.
    """

    loss: float
    mismatch: Mismatch


def denominator(config: RolloutConfig) -> int:
    """The N of the loss: all responses of a full step, those with advantage 0 included."""
    return config.prompts_per_step * config.group_size


def length_factors(batch: Batch, normaliser: Literal["step", "response", "group"]) -> np.ndarray | None:
    """What multiplies the advantages under a normaliser that looks at lengths; None if it does not, or has nothing to.

    With |y| tokens in a response, a loss that divides each response by its own tokens has the factor 1/|y|, and one
    that divides the sum over a group by the tokens of the group has M/Σ|y|; both before the division by all responses.

    Returns
    -------
    numpy.ndarray or None
        Shape (P, M), > 0.
    """
    if normaliser == "step" or not batch.groups:
        return None
    lengths = np.array(
        [[len(completion.tokens) for completion in group.completions] for group in batch.groups], dtype=np.float64
    )
    if normaliser == "response":
        return 1 / lengths
    return np.broadcast_to(1 / lengths.mean(axis=1, keepdims=True), lengths.shape)


def rows_of(batch: Batch, advantages: np.ndarray, *, weighted: bool = False) -> list[Row]:
    """Distinct responses with their coefficients; those whose advantages are or add up to 0 are left out.

    With importance weights advantages that add up to 0 need not cancel: ``weighted`` leaves out only those that are 0.

    Parameters
    ----------
    batch
        P groups of M responses.
    advantages
        Shape (P, M).
    """
    coefficients: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    occurrences: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Occurrence]] = {}
    for group, row in zip(batch.groups, advantages.tolist(), strict=True):
        for completion, advantage in zip(group.completions, row, strict=True):
            key = (group.prompt_tokens, completion.tokens)
            coefficients[key] = coefficients.get(key, 0.0) + advantage
            occurrence = Occurrence(advantage=advantage, log_probs=completion.log_probs)
            occurrences.setdefault(key, []).append(occurrence)
    return [
        Row(prompt=key[0], response=key[1], coefficient=coefficient, occurrences=tuple(occurrences[key]))
        for key, coefficient in coefficients.items()
        if (any(occurrence.advantage for occurrence in occurrences[key]) if weighted else coefficient)
    ]


def micro_batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Cut rows into pieces of at most so many tokens, padding included; a longer row stands alone.

    Rows are taken in order of length, so that little is padding, and rows of one prompt stay together.
    """
    piece: list[Row] = []
    longest_prompt = longest_response = 0
    for row in sorted(rows, key=lambda row: (len(row.prompt) + len(row.response), row.prompt)):
        longest_prompt = max(longest_prompt, len(row.prompt))
        longest_response = max(longest_response, len(row.response))
        if piece and (len(piece) + 1) * (longest_prompt + longest_response) > tokens:
            yield piece
            piece = []
            longest_prompt, longest_response = len(row.prompt), len(row.response)
        piece.append(row)
    if piece:
        yield piece


def accumulate_gradient(
    policy: LogProbs,
    rows: Sequence[Row],
    *,
    responses: int,
    temperature: float,
    tokens_per_micro_batch: int,
    importance_cap: float | None = None,
) -> Accumulated:
    """Add the gradient of the loss to the parameters of the policy.

    Parameters
    ----------
    policy
        The policy being trained.
    rows
        Output of `rows_of`; may be empty, and then nothing happens.
    responses
        The denominator of the step, from `denominator`.
    temperature
        Temperature at which the responses were sampled: log π is that of the policy that acted.
    tokens_per_micro_batch
        Bound on the tokens of one forward pass, ≥ 1.
    importance_cap
        ≥ 1: multiply the gradient of each token by min(π/μ, cap), π the policy's and μ the sampler's probability of
        it. None: do not.
    """
    loss = 0.0
    mismatch = Mismatch()
    for piece in micro_batches(rows, tokens_per_micro_batch):
        prompts = {row.prompt: None for row in piece}
        index = {prompt: number for number, prompt in enumerate(prompts)}
        log_probs = policy.token_log_probs(
            list(prompts),
            [index[row.prompt] for row in piece],
            [row.response for row in piece],
            temperature=temperature,
        )
        owner, sampled, written = _occurrences(piece, log_probs)
        log_ratio = (log_probs.detach()[owner] - sampled) * written
        mismatch.add(log_ratio[written], cap=importance_cap)
        if importance_cap is None:
            coefficients = log_probs.new_tensor([row.coefficient for row in piece])
            part = -(coefficients * log_probs.sum(dim=1)).sum() / responses
        else:
            advantages = log_probs.new_tensor([each.advantage for row in piece for each in row.occurrences])
            weighted = advantages.unsqueeze(1) * importance_weights(log_ratio, importance_cap)
            part = -(torch.zeros_like(log_probs).index_add(0, owner, weighted) * log_probs).sum() / responses
        part.backward()
        loss += part.item()
    return Accumulated(loss=loss, mismatch=mismatch)


def _occurrences(rows: Sequence[Row], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The row of each occurrence, shape (n,), and its sampled log-probabilities and where they are, (n, columns).

    ``like`` has the number of columns, type and device that are wanted; past the end of a response stand zeros.
    """
    columns = like.shape[1]
    owner = torch.tensor([number for number, row in enumerate(rows) for _ in row.occurrences], device=like.device)
    sampled = like.new_tensor(
        [
            [*occurrence.log_probs, *[0.0] * (columns - len(occurrence.log_probs))]
            for row in rows
            for occurrence in row.occurrences
        ]
    )
    lengths = torch.tensor([len(row.response) for row in rows], device=like.device)[owner]
    return owner, sampled, torch.arange(columns, device=like.device) < lengths.unsqueeze(1)
