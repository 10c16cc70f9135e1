"""Sequences that a model has read, kept as a key/value cache that grows and whose rows can be picked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class Prefix:
    """What a model has read and says after it.

    Attributes
    ----------
    last
        What it says after the last token of each sequence, shape (rows, features): logits if the model has an output
        layer, hidden states if it is the decoder below one.
    cache
        Keys and values of the tokens read.
    seen
        Shape (rows, length), 1 where the cache holds a token and 0 where it holds padding.
    position
        Shape (rows, 1), of the last token read, counted without padding.
    """

    def __init__(self, model: PreTrainedModel, cache: DynamicCache, last: Tensor, seen: Tensor, position: Tensor):
        self._model = model
        self.cache = cache
        self.seen = seen
        self.position = position
        self.last = last

    @classmethod
    def read(cls, model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> "Prefix":
        """Read P sequences of length ≥ 1, padded on the left so that all of them end in the same column."""
        tokens, seen = pad_left(sequences, device=model.device)
        positions = (seen.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        # Of a prompt only the logits after its end are wanted.
        only_last = {"logits_to_keep": 1} if model.get_output_embeddings() is not None else {}
        output = model(
            input_ids=tokens,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **only_last,
        )
        return cls(model, cache, said(output)[:, -1], seen, positions[:, -1:])

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named many times, or not at all."""
        self.cache.batch_select_indices(rows)
        self.seen = self.seen[rows]
        self.position = self.position[rows]
        self.last = self.last[rows]

    def extend(self, tokens: Tensor) -> Tensor:
        """Read more tokens, shape (rows, n), and return what is said after each, shape (rows, n, features)."""
        count = tokens.shape[1]
        self.seen = torch.cat([self.seen, self.seen.new_ones(tokens.shape)], dim=1)
        positions = self.position + torch.arange(1, count + 1, device=tokens.device)
        output = said(
            self._model(
                input_ids=tokens,
                attention_mask=self.seen,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
            )
        )
        self.position = positions[:, -1:]
        self.last = output[:, -1]
        return output


def pad_left(sequences: Sequence[Sequence[int]], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids of sequences of length ≥ 1 and where they are (1, else 0), both of shape (rows, longest)."""
    longest = max(len(sequence) for sequence in sequences)
    tokens = torch.tensor([[*[0] * (longest - len(each)), *each] for each in sequences], device=device)
    seen = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in sequences], device=device)
    return tokens, seen


def said(output: Any) -> Tensor:
    """Logits of a model's output, or the hidden states of one without an output layer."""
    return output.logits if "logits" in output else output.last_hidden_state
