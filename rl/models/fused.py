"""A decoding step of Llama and its kin in fewer operations than transformers takes, with the same result.

Of a small model on a CPU more than half of a step is not products of matrices but some 70 operations a layer on a few
numbers each; of a larger one a good part is copies of keys and values that heads and responses share. Here projections
of the same input are one product, positions are turned in three operations, and keys and values are written in place.
Those of a prompt stand once, and its whole group looks at them in one product, unless the prompt is so short that a
copy for each response is cheaper.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from rl.models.prefix import Prefix

# Tokens of the longest prompt up to which each response gets a copy of its keys and values.
SHORT = 16

# Tokens of each response for which memory is taken at a time.
ROOM = 8


class Continuations:
    """Responses to prompts, one more token of each at a time, of a model that `fits` and has read the prompts.

    Attributes
    ----------
    last
        The logits after the last token of each response, shape (rows, vocabulary).
    """

    def __init__(self, model: PreTrainedModel, prefix: Prefix) -> None:
        self._output: Any = model.get_output_embeddings()
        self._decoder: Any = model.base_model
        attentions = [layer.self_attn for layer in self._decoder.layers]
        self._projections = [_joint([each.q_proj, each.k_proj, each.v_proj]) for each in attentions]
        self._size: int = attentions[0].head_dim
        self._shared_heads: int = model.config.num_key_value_heads
        self._heads: int = model.config.num_attention_heads
        self._position, self.last = prefix.position, prefix.last
        device, length = prefix.seen.device, prefix.seen.shape[1]
        # Queries are scaled while they are turned.
        self._scale = torch.ones(self._heads + self._shared_heads, 1, 1, device=device)
        self._scale[: self._heads] = attentions[0].scaling
        autocast = torch.is_autocast_enabled(device.type)
        # As rounding a whole cache for every token would have it.
        dtype = torch.get_autocast_dtype(device.type) if autocast else model.dtype
        # Of shape (shared heads, rows or prompts, tokens, size), keys and values of a layer.
        cached: list[Any] = prefix.cache.layers
        read = [[states.transpose(0, 1).to(dtype) for states in (each.keys, each.values)] for each in cached]
        hidden = torch.zeros(prefix.seen.shape, device=device).masked_fill_(prefix.seen == 0, -torch.inf)
        self._mask = hidden if bool((prefix.seen == 0).any()) else None  # (rows or prompts, tokens)
        self._shared = length > SHORT
        self._owner = torch.arange(len(self.last), device=device)  # the prompt of each row
        self._written = 0 if self._shared else length
        self._prompts = [[states.contiguous() for states in two] for two in read] if self._shared else []
        self._own = [[states[:, :, : self._written] for states in two] for two in read]
        self.select(self._owner)

    def select(self, rows: Tensor) -> None:
        """Keep these rows, ascending; a row may be named many times, or not at all."""
        self._owner, self._position, self.last = (each[rows] for each in (self._owner, self._position, self.last))
        self._move(rows)
        if self._shared:
            self._arrange()

    def _move(self, rows: Tensor) -> None:
        """Put keys and values of these rows where there is room for more tokens.

        There is never much room: the time to read them goes with the memory over which they are spread.
        """
        self._capacity = self._written + ROOM
        written = slice(0, self._written)
        for two in self._own:
            for number, states in enumerate(two):
                two[number] = states.new_empty(len(states), len(rows), self._capacity, self._size)
                torch.index_select(states[:, :, written], 1, rows, out=two[number][:, :, written])
        if self._mask is not None and not self._shared:
            self._mask = F.pad(self._mask[rows, written], (0, ROOM))

    def extend(self, tokens: Tensor) -> None:
        """Add a token to each response, shape (rows, 1)."""
        decoder = self._decoder
        self._position = self._position + 1
        hidden = decoder.embed_tokens(tokens.squeeze(1))
        cos, sin = (each.squeeze(1) for each in decoder.rotary_emb(hidden, self._position))
        half = self._size // 2
        cos, sin = cos * self._scale, torch.cat([-sin[:, :half], sin[:, half:]], dim=1) * self._scale
        if self._written == self._capacity:
            self._move(torch.arange(len(tokens), device=tokens.device))
        self._written += 1
        for number, (layer, projection) in enumerate(zip(decoder.layers, self._projections, strict=True)):
            heads = F.linear(_normed(layer.input_layernorm, hidden), *projection)
            heads = heads.to(cos.dtype).view(len(tokens), -1, self._size).transpose(0, 1)
            hidden = hidden + layer.self_attn.o_proj(self._attend(number, self._turn(layer, heads, cos, sin), heads))
            mlp, normed = layer.mlp, _normed(layer.post_attention_layernorm, hidden)
            hidden = hidden + mlp.down_proj(mlp.act_fn(mlp.gate_proj(normed)).mul_(mlp.up_proj(normed)))
        self.last = self._output(_normed(decoder.norm, hidden))

    def _turn(self, layer: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries and keys at their positions, shape (heads and shared heads, rows, size)."""
        looking, half = heads[: len(cos)], self._size // 2
        if hasattr(layer.self_attn, "q_norm"):
            norms = layer.self_attn.q_norm, layer.self_attn.k_norm
            parts = looking.split([self._heads, self._shared_heads])
            looking = torch.cat([_normed(norm, part) for norm, part in zip(norms, parts, strict=True)])
        swapped = torch.cat([looking[..., half:], looking[..., :half]], dim=2)
        return swapped.mul_(sin).addcmul_(looking, cos)

    def _attend(self, number: int, turned: Tensor, heads: Tensor) -> Tensor:
        """Write down the new keys and values, and look at all; shape (rows, features)."""
        shared, count, end = self._shared_heads, heads.shape[1], self._written
        keys, values = self._own[number]
        keys[:, :, end - 1] = turned[self._heads :]
        values[:, :, end - 1] = heads[len(turned) :]
        queries = turned[: self._heads].view(shared, -1, count, self._size).transpose(1, 2)
        queries = queries.reshape(shared * count, -1, self._size)
        scores = torch.bmm(queries, keys.flatten(0, 1)[:, :end].transpose(1, 2))
        if self._shared:
            of_prompt, told = (states.flatten(0, 1) for states in self._prompts[number])
            length, each = told.shape[1], queries.shape[1]
            looks = torch.bmm(self._by_prompt(queries), of_prompt.transpose(1, 2))
            if self._mask is not None:
                looks.view(shared, len(self._mask), -1, length).add_(self._mask[:, None])
            shares = torch.softmax(torch.cat([self._by_row(looks, each), scores], dim=2), dim=2)
            found = torch.bmm(shares[..., length:], values.flatten(0, 1)[:, :end])
            found = found + self._by_row(torch.bmm(self._by_prompt(shares[..., :length]), told), each)
        else:
            if self._mask is not None:
                scores.view(shared, count, -1, end).add_(self._mask[:, None, :end])
            found = torch.bmm(torch.softmax(scores, dim=2), values.flatten(0, 1)[:, :end])
        return found.view(shared, count, -1, self._size).transpose(0, 1).reshape(count, -1)

    def _by_prompt(self, states: Tensor) -> Tensor:
        """From (heads * rows, n, ...) to (heads * prompts, most rows of a prompt * n, ...)."""
        if self._slots is not None:
            states = states.unflatten(0, (self._shared_heads, -1)).index_select(1, self._slots).flatten(0, 1)
        return states.reshape(self._shared_heads * self._count, -1, states.shape[-1])

    def _by_row(self, states: Tensor, each: int) -> Tensor:
        """Back again, with ``each`` = n."""
        states = states.view(self._shared_heads, -1, each, states.shape[-1])
        if self._slots is not None:
            states = states.index_select(1, self._place)
        return states.flatten(0, 1)

    def _arrange(self) -> None:
        """Find the place of each row among those of its prompt, and forget the prompts that have none."""
        owners, self._owner, counts = torch.unique(self._owner, return_inverse=True, return_counts=True)
        if len(owners) < self._prompts[0][0].shape[1]:
            for two in self._prompts:
                two[:] = [states.index_select(1, owners) for states in two]
            self._mask = None if self._mask is None else self._mask[owners]
        self._count, most = len(owners), int(counts.max())
        rows = torch.arange(len(self._owner), device=owners.device)
        self._place = self._owner * most + rows - (counts.cumsum(0) - counts)[self._owner]
        self._slots = None
        if len(rows) < self._count * most:
            self._slots = rows.new_zeros(self._count * most).index_copy_(0, self._place, rows)


def _joint(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of some layers with the same input, one below the other."""
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return torch.cat([layer.weight for layer in layers]), bias


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    """What the layer's root mean square norm gives."""
    squares = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32).square_()
    return hidden * squares.div_(hidden.shape[-1]).add_(norm.variance_epsilon).rsqrt_() * norm.weight
