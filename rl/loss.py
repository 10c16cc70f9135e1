"""The policy-gradient loss: advantages times log-probabilities, over one denominator.

    L = - (1/N) Σ_i A_i Σ_t log π(y_it | x_i, y_i,<t),        N = number of responses in the step

A_i already holds the prompt's weight, so anything else that multiplies a response changes the weighting: dividing by
the length of a response, by the tokens of a group or by the rows of a micro-batch would each be another, unasked-for
weight. `denominator` is the only place where a divisor is chosen, and it is the same for every response of a step, also
of a step that dynamic sampling could not fill: that one is a smaller step. What other trainers divide by is at hand as
`length_factors`, to compare with; the default is none.

Two things are exact savings. A response with advantage 0 has no part in the gradient and is not computed. Equal
responses to the same prompt have the same gradient and are computed once, with their advantages added.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from rl.config import RolloutConfig
from rl.rollout import Batch


class LogProbs(Protocol):
    """Something differentiable that knows the log-probabilities of tokens; see `rl.model.Policy.token_log_probs`."""

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
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    coefficient: float


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


def rows_of(batch: Batch, advantages: np.ndarray) -> list[Row]:
    """Distinct responses with their coefficients; those whose advantages are or add up to 0 are left out.

    Parameters
    ----------
    batch
        P groups of M responses.
    advantages
        Shape (P, M).
    """
    coefficients: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    for group, row in zip(batch.groups, advantages.tolist(), strict=True):
        for completion, advantage in zip(group.completions, row, strict=True):
            key = (group.prompt_tokens, completion.tokens)
            coefficients[key] = coefficients.get(key, 0.0) + advantage
    return [
        Row(prompt=prompt, response=response, coefficient=coefficient)
        for (prompt, response), coefficient in coefficients.items()
        if coefficient
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
    policy: LogProbs, rows: Sequence[Row], *, responses: int, temperature: float, tokens_per_micro_batch: int
) -> float:
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

    Returns
    -------
    float
        The loss; on-policy its gradient means something, its value does not.
    """
    loss = 0.0
    for piece in micro_batches(rows, tokens_per_micro_batch):
        prompts = {row.prompt: None for row in piece}
        index = {prompt: number for number, prompt in enumerate(prompts)}
        log_probs = policy.token_log_probs(
            list(prompts),
            [index[row.prompt] for row in piece],
            [row.response for row in piece],
            temperature=temperature,
        )
        coefficients = torch.tensor([row.coefficient for row in piece], dtype=log_probs.dtype)
        part = -(coefficients * log_probs.sum(dim=1)).sum() / responses
        part.backward()
        loss += part.item()
    return loss
