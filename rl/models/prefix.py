"""Sequences that a model has read, kept as a key/value cache that grows and whose rows can be picked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class Prefix:
    """What a model has read and says after it.

    Attributes
    ----------
    last
        What it says after the last token of each sequence, shape (rows, features): logits if the model has an output
        layer, hidden states if it is the decoder below one.
    """

    def __init__(self, model: PreTrainedModel, cache: DynamicCache, last: Tensor, seen: Tensor, position: Tensor):
        self._model = model
        self._cache = cache
        self._seen = seen  # (rows, length), 1 where the cache holds a token and 0 where it holds padding
        self._position = position  # (rows, 1), of the last token read, counted without padding
        self.last = last

    @classmethod
    def read(cls, model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, room: int = 0) -> "Prefix":
        """Read P sequences of length ≥ 1, padded on the left so that all of them end in the same column.

        With ``room`` for tokens to come these are written into memory that is taken at once, without gradient only;
        more than that are added as without. A GPU gives none: memory that is never written to would be taken too.
        """
        tokens, seen = pad_left(sequences, device=model.device)
        positions = (seen.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        if room and model.device.type == "cpu":
            # Layers that forget, or that remember something else, are left alone.
            cache.layers = [_Roomy(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
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
        self._cache.batch_select_indices(rows)
        self._seen = self._seen[rows]
        self._position = self._position[rows]
        self.last = self.last[rows]

    def extend(self, tokens: Tensor) -> Tensor:
        """Read more tokens, shape (rows, n), and return what is said after each, shape (rows, n, features)."""
        count = tokens.shape[1]
        self._seen = torch.cat([self._seen, self._seen.new_ones(tokens.shape)], dim=1)
        positions = self._position + torch.arange(1, count + 1, device=tokens.device)
        output = said(
            self._model(
                input_ids=tokens,
                attention_mask=self._seen,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            )
        )
        self._position = positions[:, -1:]
        self.last = output[:, -1]
        return output


class _Roomy(DynamicLayer):
    """Keys and values of a layer with room for more, where a growing one is copied for every token.

    The room is made when rows are picked, since a prompt is read before it has as many rows as it is to have.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._held: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add some, shape (rows, heads, n, features)."""
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        if self._held is None or end > self._held[0].shape[2]:
            self._held = None
            return super().update(key_states, value_states, *args, **kwargs)
        for held, states in zip(self._held, (key_states, value_states), strict=True):
            held[:, :, begin:end] = states
        self.keys, self.values = (held[:, :, :end] for held in self._held)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        if self.keys is None or self.values is None:
            return
        length = self.keys.shape[2]
        capacity = self._held[0].shape[2] if self._held is not None else length + self._room
        keys, values = (
            states.new_empty(len(indices), states.shape[1], capacity, states.shape[3])
            for states in (self.keys, self.values)
        )
        torch.index_select(self.keys, 0, indices, out=keys[:, :, :length])
        torch.index_select(self.values, 0, indices, out=values[:, :, :length])
        self._held = keys, values
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]


def pad_left(sequences: Sequence[Sequence[int]], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids of sequences of length ≥ 1 and where they are (1, else 0), both of shape (rows, longest)."""
    longest = max(len(sequence) for sequence in sequences)
    tokens = torch.tensor([[*[0] * (longest - len(each)), *each] for each in sequences], device=device)
    seen = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in sequences], device=device)
    return tokens, seen


def said(output: Any) -> Tensor:
    """Logits of a model's output, or the hidden states of one without an output layer."""
    return output.logits if "logits" in output else output.last_hidden_state
