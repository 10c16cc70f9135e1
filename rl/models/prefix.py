"""Sequences that a model has read, kept as a key/value cache that grows and whose rows can be picked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

# Others may count columns, padding too: windows of GPT-Neo and biases of MPT do.
KIN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)

# Tokens that texts have to begin with in common for these to be read once: apart, short texts take fewer operations.
SHORTEST = 16


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
        """Read P sequences of length ≥ 1, padded on the left so that all of them end in the same column.

        What several begin with is read once, where that makes fewer tokens; the rest of each is then padded so too.
        """
        parts = _parts(sequences) if fits(model) else None
        if parts is None:
            return cls._read(model, sequences)
        beginnings, owner, rests = parts
        prefix = cls._read(model, beginnings)
        prefix.select(torch.tensor(owner, device=model.device))
        prefix.extend(*pad_left(rests, device=model.device), last=True)
        return prefix

    @classmethod
    def _read(cls, model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> "Prefix":
        tokens, seen = pad_left(sequences, device=model.device)
        nothing = seen[:, :0]
        prefix = cls(model, DynamicCache(config=model.config), nothing, nothing, seen.new_full((len(seen), 1), -1))
        prefix.extend(tokens, seen, last=True)
        return prefix

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named many times, or not at all."""
        self.cache.batch_select_indices(rows)
        self.seen = self.seen[rows]
        self.position = self.position[rows]
        self.last = self.last[rows]

    def extend(self, tokens: Tensor, seen: Tensor | None = None, *, last: bool = False) -> Tensor:
        """Read more tokens, shape (rows, n), and return what is said after each, shape (rows, n, features).

        Parameters
        ----------
        seen
            Shape (rows, n), 1 for a token and 0 for padding, which stands on the left; None: all are tokens.
        last
            Return only what is said after the last.
        """
        seen = self.seen.new_ones(tokens.shape) if seen is None else seen
        positions = (self.position + seen.cumsum(dim=1)).clamp(min=0)
        self.seen = torch.cat([self.seen, seen], dim=1)
        only_last = {"logits_to_keep": 1} if last and self._model.get_output_embeddings() is not None else {}
        output = said(
            self._model(
                input_ids=tokens,
                attention_mask=self.seen,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                **only_last,
            )
        )
        self.position = positions[:, -1:]
        self.last = output[:, -1]
        return output


def fits(model: PreTrainedModel) -> bool:
    """Whether each layer of a model is known to look at all tokens before, wherever padding stands among them."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    whole = kinds == {"full_attention"} and getattr(model.config, "sliding_window", None) is None
    return type(model) in KIN and whole


def _parts(texts: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], list[int], list[Sequence[int]]] | None:
    """Beginnings, the one of each text, and what follows it there; None if that is not fewer tokens with padding."""
    sets = shared_beginnings(texts)
    after = [len(texts[each]) - length for members, length in sets if length for each in members]
    if not after or min(map(len, texts)) == 1:
        return None
    beginnings, owner, rests = [], [0] * len(texts), list(texts)
    for members, length in sets:
        # A text that shares nothing is parted too: its rest is no longer than those of others.
        length = length or max(1, len(texts[members[0]]) - max(after))
        beginnings.append(texts[members[0]][:length])
        for each in members:
            owner[each], rests[each] = len(beginnings) - 1, texts[each][length:]
    parted = sum(len(some) * max(map(len, some)) for some in (beginnings, rests))
    return (beginnings, owner, rests) if parted < len(texts) * max(map(len, texts)) else None


def shared_beginnings(texts: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
    """Sets of texts that begin alike: the indices of each set, and how many tokens it shares, 0 or at least `SHORTEST`.

    No text is shared whole. A text joins those next to it in alphabetical order if more is saved then, in all.
    """
    known = [tuple(text) for text in texts]
    sets: list[tuple[list[int], int]] = []
    for index in sorted(range(len(known)), key=known.__getitem__):
        if sets:
            members, length = sets[-1]
            last, text = known[members[-1]], known[index]
            most = min(len(last), len(text)) - 1
            alike = min(length, next((n for n in range(most) if last[n] != text[n]), most))
            if alike >= SHORTEST and alike * len(members) >= length * (len(members) - 1):
                sets[-1] = [*members, index], alike
                continue
        sets.append(([index], len(known[index])))
    return [(members, length if len(members) > 1 else 0) for members, length in sets]


def pad_left(sequences: Sequence[Sequence[int]], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids of sequences of length ≥ 1 and where they are (1, else 0), both of shape (rows, longest)."""
    longest = max(len(sequence) for sequence in sequences)
    tokens = torch.tensor([[*[0] * (longest - len(each)), *each] for each in sequences], device=device)
    seen = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in sequences], device=device)
    return tokens, seen


def said(output: Any) -> Tensor:
    """Logits of a model's output, or the hidden states of one without an output layer."""
    return output.logits if "logits" in output else output.last_hidden_state
