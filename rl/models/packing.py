"""Texts that share their prompts, laid end to end in one row without padding, and the attention among them.

A row holds P prompts and then R responses, each without its last token, whose successor nobody asks for. Every token is
computed once: a response looks at the keys and values of its prompt, which stand there once for all responses. Only
attention knows of this; whatever else a model does, it does token by token.

On a GPU in half precision attention is torch's variable-length kernel. Elsewhere, and where there is none, queries and
keys are spread over a grid with padding for the length of it: one for prompts and one for responses.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from rl.models.prefix import said

# What the kernel can do.
KERNEL_TYPES = (torch.bfloat16, torch.float16)
KERNEL_WIDTH = 256

PREFIX = "packed_"

# How texts are learnt from: without padding, without any but for attention, or each with its prompt and padding.
Layout = Literal["packed", "grid", "padded"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Where each of T tokens stands among the slots that attention reads; a prompt's stand in several.

    Attributes
    ----------
    token
        The token of each slot, shape (slots,); of one that is padding any.
    slot
        A slot of each token, shape (T,).
    more
        The other slots of the tokens of prompts, shape (most, prompt tokens).
    used
        Which of those there are, 1 or 0.
    """

    token: Tensor
    slot: Tensor
    more: Tensor
    used: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """Values of tokens, shape (T, ...), as values of slots, shape (slots, ...)."""
        return _Spread.apply(values, self)

    def collect(self, values: Tensor) -> Tensor:
        """Values of slots as values of tokens; each token has one slot."""
        return _Collect.apply(values, self.slot)


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Texts as padded rows, for attention that needs them so: P prompts, then R responses.

    Attributes
    ----------
    queries, keys
        Slots: first (P, longest prompt), then (R, longest response) of queries and (R, longest prompt + longest
        response) of keys.
    """

    queries: Places
    keys: Places


class Packed:
    """P prompts of length ≥ 1 and R responses to them in one row.

    Parameters
    ----------
    prompts, responses
        Token ids, each of length ≥ 1.
    owner
        For each response the index of its prompt, length R.

    Attributes
    ----------
    tokens, positions
        What a model is given, shape (1, T).
    before
        Places, among the T, of the token before each token of the responses, one response after the other.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        responses: Sequence[Sequence[int]],
        *,
        device: torch.device,
    ) -> None:
        self._device = device
        self._owner = torch.tensor(owner)
        self._prompt = torch.tensor([len(each) for each in prompts])
        self._response = torch.tensor([len(each) - 1 for each in responses])
        self._begin = _before(torch.cat([self._prompt, self._response]))
        row = [*(token for each in prompts for token in each), *(token for each in responses for token in each[:-1])]
        self.tokens = sent(torch.tensor([row]), device)
        after = self._prompt[self._owner].repeat_interleave(self._response)
        self._positions = torch.cat([_count(self._prompt), _count(self._response) + after])
        self.positions = sent(self._positions.unsqueeze(0), device)
        # The first token of a response follows the end of the prompt.
        place = _count(self._response + 1)
        last = (self._begin[: len(prompts)] + self._prompt - 1)[self._owner].repeat_interleave(self._response + 1)
        own = self._begin[len(prompts) :].repeat_interleave(self._response + 1) + place - 1
        self.before = sent(torch.where(place == 0, last, own), device)

    def read(self, model: PreTrainedModel) -> Tensor:
        """What a model that is packed says after each token, shape (T, features)."""
        # Transformers takes a mask of four dimensions as it is, and makes none of its own.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self._device)
        output = model(
            input_ids=self.tokens, attention_mask=mask, position_ids=self.positions, use_cache=False, packed=self
        )
        return said(output)[0]

    @cached_property
    def kernel(self) -> tuple[Places, tuple[Tensor, Tensor, int, int]]:
        """For the variable-length kernel: the places of keys, and where sequences of queries and keys begin.

        The kernel lets the last query look at the last key, the one before it at all but that, and so on.
        """
        # A response of a single token asks nothing, so its prompt has no copy among the keys.
        seen = torch.where(self._response > 0, self._prompt[self._owner] + self._response, 0)
        lengths, keys = torch.cat([self._prompt, self._response]), torch.cat([self._prompt, seen])
        begin = _before(keys)
        places = self._places(
            begin[: len(self._prompt)], begin[len(self._prompt) :], self._prompt[self._owner], int(keys.sum())
        )
        there = lengths > 0
        ends = [sent(F.pad(each[there].cumsum(0), (1, 0)).int(), self._device) for each in (lengths, keys)]
        return places, (ends[0], ends[1], int(lengths.max()), int(keys[there].max()))

    @cached_property
    def grid(self) -> Grid:
        """For attention of padded rows."""
        wide, long = self._sizes
        prompts = torch.arange(len(self._prompt)) * wide
        first, numbers = len(self._prompt) * wide, torch.arange(len(self._owner))
        none = torch.zeros_like(numbers)
        return Grid(
            queries=self._places(prompts, first + numbers * long, none, first + len(numbers) * long, shared=False),
            keys=self._places(
                prompts, first + numbers * (wide + long), none + wide, first + len(numbers) * (wide + long)
            ),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attend: "Attend", window: int | None) -> Tensor:
        """Attention by way of the grid; shapes (T, heads, features), those of keys with fewer heads perhaps."""
        rows, (wide, long) = len(self._prompt), self._sizes
        spread = [self.grid.queries.spread(query), self.grid.keys.spread(key), self.grid.keys.spread(value)]
        cut = rows * wide
        prompts = [each[:cut].unflatten(0, (rows, wide)).transpose(1, 2) for each in spread]
        said = [attend(*prompts, self._mask(window, query.dtype)[0]).transpose(1, 2).flatten(0, 1)]
        if long:
            lengths = (long, wide + long, wide + long)
            responses = [
                each[cut:].unflatten(0, (len(self._owner), length)).transpose(1, 2)
                for each, length in zip(spread, lengths, strict=True)
            ]
            said.append(attend(*responses, self._mask(window, query.dtype)[1]).transpose(1, 2).flatten(0, 1))
        return self.grid.queries.collect(torch.cat(said))

    @property
    def _sizes(self) -> tuple[int, int]:
        """Longest prompt, and longest response without its last token."""
        return int(self._prompt.max()), int(self._response.max())

    def _mask(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What is added for each query and key, 0 or -∞; shapes (1, 1, wide, wide) and (R, 1, long, wide + long).

        Computed once.
        """
        masks = self.__dict__.setdefault("_masks", {})
        if (window, dtype) not in masks:
            wide, long = self._sizes
            # Padding stands on the right, where no query that counts can see it: but for that of prompts.
            prompt = sent(self._prompt[self._owner], self._device).view(-1, 1, 1)
            first, then = (torch.arange(length, device=self._device) for length in (wide, long))
            real = (first < prompt).expand(-1, long, -1)
            within, own = (each.unsqueeze(1) >= each for each in (first, then))
            if window is not None:
                real = real & (prompt + then.unsqueeze(1) - first < window)
                within, own = (
                    each & (place.unsqueeze(1) - place < window) for each, place in ((within, first), (own, then))
                )
            responses = torch.cat([real, own.expand(len(self._owner), -1, -1)], dim=2)
            masks[window, dtype] = tuple(
                torch.zeros(seen.shape, dtype=dtype, device=self._device).masked_fill_(~seen, -torch.inf)
                for seen in (within.view(1, 1, wide, wide), responses.unsqueeze(1))
            )
        return masks[window, dtype]

    def _places(self, prompts: Tensor, responses: Tensor, after: Tensor, slots: int, *, shared: bool = True) -> Places:
        """Places of tokens: rows begin at slots ``prompts`` and ``responses``, of the latter own tokens ``after`` that.

        With ``shared`` a response's row begins with its prompt.
        """
        total = int(self._prompt.sum())
        of_prompts = prompts.repeat_interleave(self._prompt) + _count(self._prompt)
        own = (responses + after).repeat_interleave(self._response) + _count(self._response)
        slot = torch.cat([of_prompts, own])
        token = torch.zeros(slots, dtype=torch.long)
        token[slot] = torch.arange(len(slot))
        more = used = torch.zeros(0, total, dtype=torch.long)
        if shared:
            rank = torch.tensor(_ranks(self._owner.tolist()))
            length = self._prompt[self._owner] * (self._response > 0)
            others = responses.repeat_interleave(length) + _count(length)
            which = self._begin[: len(self._prompt)][self._owner].repeat_interleave(length) + _count(length)
            token[others] = which
            more, used = torch.zeros(2, int(rank.max()) + 1, total, dtype=torch.long)
            more[rank.repeat_interleave(length), which] = others
            used[rank.repeat_interleave(length), which] = 1
        return Places(
            **{
                name: sent(each, self._device)
                for name, each in {"token": token, "slot": slot, "more": more, "used": used}.items()
            }
        )


Attend = Callable[..., Tensor]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, values: Tensor, places: Places
    ) -> Tensor:
        ctx.places = places
        return values[places.token]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,), places = grads, ctx.places
        # Gathered and not scattered: always added up in the same order, also on a GPU.
        own = grad[places.slot]
        if len(places.more):
            used = places.used.to(grad.dtype).view(*places.used.shape, *[1] * (grad.dim() - 1))
            own[: places.more.shape[1]] += (grad[places.more] * used).sum(dim=0)
        return own, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, values: Tensor, slot: Tensor
    ) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.slots = len(values)
        return values[slot]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,), (slot,) = grads, ctx.saved_tensors
        values = grad.new_zeros(ctx.slots, *grad.shape[1:])
        values[slot] = grad
        return values, None


def pack(model: PreTrainedModel) -> None:
    """Teach a model's attention what packed texts are; what it is given beside those it computes as before."""
    if not is_packed(model):
        model.set_attn_implementation(PREFIX + _attention(model))


def unpack(model: PreTrainedModel) -> None:
    """Give a model back the attention that it had."""
    if is_packed(model):
        model.set_attn_implementation(_attention(model).removeprefix(PREFIX))


def is_packed(model: PreTrainedModel) -> bool:
    """Whether a model's attention is that of packed texts."""
    return _attention(model).startswith(PREFIX)


def _attention(model: PreTrainedModel) -> str:
    """Name of the implementation that a model's attention has; of a model that has none an empty one."""
    return model.config._attn_implementation or ""


def layout_of(model: PreTrainedModel, dtype: torch.dtype) -> Layout:
    """How texts are laid out in a model that computes in this type."""
    if not is_packed(model):
        return "padded"
    text = model.config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = torch.empty(0, 1, size, dtype=dtype, device=model.device)
    return "packed" if _attention(model) == PREFIX + "sdpa" and _has_kernel(heads, heads, heads) else "grid"


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    plain: bool,
    packed: Packed | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it: shapes (1, heads, T, features), and (1, T, heads, features) of the answer.

    What a model asks for beyond this, such as a cap, is left out: `rl.models.agreement` finds those models.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if packed is None:
        return _products(query, key, value, attention_mask, scale=scale, cap=softcap).transpose(1, 2).contiguous(), None
    query, key, value = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (each.to(torch.get_autocast_dtype(query.device.type)) for each in (query, key, value))
    if not plain and _has_kernel(query, key, value):
        places, sizes = packed.kernel
        answer = _kernel(query, places.spread(key), places.spread(value), sizes, scale, sliding_window)
    else:
        attend = partial(_products, scale=scale, cap=softcap) if plain else partial(_fused, scale=scale)
        answer = packed.attend(query, key, value, attend, sliding_window)
    return answer.unsqueeze(0), None


def _products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float, cap: float | None
) -> Tensor:
    """Plain products of matrices; heads that share keys look at them together, which are then not copied."""
    rows, heads, length, _ = query.shape
    shared = (query * scale).unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    scores = (shared @ key.transpose(2, 3)).view(rows, heads, length, -1)
    wide = torch.promote_types(scores.dtype, torch.float32)
    if cap:
        scores = torch.tanh(scores / cap) * cap
    if mask is not None:
        scores = scores + mask
    shares = torch.softmax(scores, dim=-1, dtype=wide).to(value.dtype)
    together = shares.view(rows, key.shape[1], -1, shares.shape[-1]) @ value
    return together.view(rows, heads, length, -1)


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scale: float) -> Tensor:
    """Torch's own choice of a kernel."""
    times = query.shape[1] // key.shape[1]
    if times > 1:
        key, value = (each.repeat_interleave(times, dim=1) for each in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def _has_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the variable-length kernel can do it."""
    same = query.dtype == key.dtype == value.dtype and query.shape[-1] == value.shape[-1]
    fits = query.dtype in KERNEL_TYPES and query.shape[-1] % 8 == 0 and query.shape[-1] <= KERNEL_WIDTH
    return query.is_cuda and same and fits and _is_recent(query.device) and varlen() is not None


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, sizes: tuple[Tensor, Tensor, int, int], scale: float, window: int | None
) -> Tensor:
    attend = varlen()
    assert attend is not None
    options: dict[str, Any] = {"scale": scale, "window_size": (-1 if window is None else window - 1, 0)}
    if (times := query.shape[1] // key.shape[1]) > 1:
        if _knows("enable_gqa"):
            options["enable_gqa"] = True
        else:
            key, value = (each.repeat_interleave(times, dim=1) for each in (key, value))
    return attend(query.contiguous(), key.contiguous(), value.contiguous(), *sizes, **options)


@cache
def _is_recent(device: torch.device) -> bool:
    """Whether a card is an Ampere or a later one, as the kernel asks for."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def varlen() -> Callable[..., Tensor] | None:
    """Torch's variable-length attention; None where it has none, or one without windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    # With what is asked for here the answer is one tensor.
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None  # type: ignore[return-value]


@cache
def _knows(option: str) -> bool:
    """Whether the kernel has an option; torch adds some with every version."""
    attend = varlen()
    return attend is not None and option in inspect.signature(attend).parameters


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; a card gets it without anybody waiting for what it is busy with."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _count(lengths: Tensor) -> Tensor:
    """0, 1, ..., of each length."""
    return torch.arange(int(lengths.sum())) - _before(lengths).repeat_interleave(lengths)


def _before(lengths: Tensor) -> Tensor:
    """Sum of the lengths before each."""
    return lengths.cumsum(0) - lengths


def _ranks(owner: Sequence[int]) -> list[int]:
    """Which of its owner's each is, from 0."""
    seen: dict[int, int] = {}
    ranks = []
    for each in owner:
        ranks.append(seen.get(each, 0))
        seen[each] = ranks[-1] + 1
    return ranks


def _register(plain: str, fused: str) -> None:
    """Make both kinds known under their names, with the masks that they need where nothing is packed."""
    usual = AttentionInterface()[fused]

    def products(_: torch.nn.Module, *given: Any, **options: Any) -> tuple[Tensor, None]:
        return packed_attention(*given, plain=True, **options)

    def fastest(
        module: torch.nn.Module, *given: Any, packed: Packed | None = None, **options: Any
    ) -> tuple[Tensor, None]:
        if packed is None:
            return usual(module, *given, **options)
        return packed_attention(*given, plain=False, packed=packed, **options)

    for name, attend in ((plain, products), (fused, fastest)):
        AttentionInterface.register(PREFIX + name, attend)
        AttentionMaskInterface.register(PREFIX + name, AttentionMaskInterface()[name])


_register("eager", "sdpa")
