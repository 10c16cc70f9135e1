"""Texts that begin alike, laid end to end in one row without padding, and the attention among them.

Every beginning that texts share is computed once: what several prompts begin with (`shared_beginnings`), the prompt of
a group, and, where attention can be told, what its responses begin with. A row is made of *segments*, runs of tokens
that have one context, the segments before them; a response is read without its last token, whose successor nobody asks
for. Only attention knows of this; whatever else a model does, it does token by token.

On a GPU in half precision attention is torch's variable-length kernel, and each response a segment. Elsewhere, and
where there is none, queries and keys are spread over grids with padding, one for segments of each depth. There the
responses to a prompt may be one segment, a tree, in which a token sees those it follows: it has fewer tokens and copies
of its prompt, and more pairs of them. Whichever holds less memory is taken.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from rl.models.activations import Kept, Widths
from rl.models.prefix import said, shared_beginnings

# What the kernel can do.
KERNEL_TYPES = (torch.bfloat16, torch.float16)
KERNEL_WIDTH = 256

PREFIX = "packed_"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How texts are learnt from, and what that takes.

    Attributes
    ----------
    kind
        ``"packed"``: without padding. ``"grid"``: without any but for attention. ``"padded"``: each text with its
        prompt and padding.
    slot, pair
        On a grid what a place of a key, and a pair of places of a query and a key, take, in tokens: of the memory that
        a backward pass holds, and a pair of the time where that is more.
    """

    kind: Literal["packed", "grid", "padded"]
    slot: float = 0.0
    pair: float = 0.0

    def size(self, tokens: int, grids: Sequence[tuple[int, int, int]]) -> float:
        """What tokens take together with grids of so many rows, the longest context and the longest segment."""
        slots = sum(rows * (wide + long) for rows, wide, long in grids)
        return tokens + self.slot * slots + self.pair * sum(r * long * (wide + long) for r, wide, long in grids)


PACKED = Layout(kind="packed")


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Where each of T tokens stands among the slots that attention reads; one that is a context stands in several.

    Attributes
    ----------
    token
        The token of each slot, shape (slots,); of one that is padding any.
    slot
        A slot of each token, shape (T,).
    copies
        Some tokens of contexts, shape (n,), their other slots, (most, n), and which of those there are, (most, n): a
        few times, so that tokens with many copies and tokens with few are apart.
    """

    token: Tensor
    slot: Tensor
    copies: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()

    def spread(self, values: Tensor) -> Tensor:
        """Values of tokens, shape (T, ...), as values of slots, shape (slots, ...)."""
        return _Spread.apply(values, self)

    def collect(self, values: Tensor) -> Tensor:
        """Values of slots as values of tokens; each token has one slot."""
        return _Pick.apply(values, self.slot)


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Tokens that have one context.

    Attributes
    ----------
    parent
        The segment that they follow; -1: they begin a text.
    after
        Of each token the place of the one before it in the segment, -1: the end of the parent. None: it is a chain.
    """

    tokens: Sequence[int]
    parent: int
    after: Sequence[int] | None = None

    def depths(self) -> np.ndarray:
        """How many tokens of the segment each follows, shape (n,)."""
        depths = np.arange(len(self.tokens))
        if self.after is not None:
            for place, before in enumerate(self.after):
                depths[place] = depths[before] + 1 if before >= 0 else 0
        return depths

    def seen(self, long: int) -> np.ndarray:
        """Which places each sees, its own and those that it follows, shape (long, long); ``long`` is at least n."""
        if self.after is None:
            return np.tri(long, dtype=bool)
        seen, depths, after = np.eye(long, dtype=bool), self.depths(), np.array(self.after, dtype=int)
        for depth in range(1, int(depths.max(initial=0)) + 1):
            places = np.flatnonzero(depths == depth)
            seen[places] |= seen[after[places]]
        return seen


@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """Segments of one depth as padded rows.

    Attributes
    ----------
    segments
        Their numbers, shape (rows,).
    wide, long
        Longest context, and longest segment.
    queries, keys
        Slots: (rows, long) and (rows, wide + long).
    """

    segments: np.ndarray
    wide: int
    long: int
    queries: slice
    keys: slice


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """All segments as padded rows, level after level."""

    levels: tuple[Level, ...]
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
    layout
        On a grid the responses to a prompt may be a tree.

    Attributes
    ----------
    tokens, positions
        What a model is given, shape (1, T).
    before, after
        Places, among the T, after which a token is asked for, and that token, shape (n,); see `answers`.
    is_tree
        Whether the responses to a prompt are one segment.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        responses: Sequence[Sequence[int]],
        *,
        device: torch.device,
        layout: Layout = PACKED,
    ) -> None:
        self._device = device
        self._masks: dict[tuple[int, int | None, torch.dtype], Tensor] = {}
        self._segments, ends = _prompts(prompts)
        branches = _branches(owner, responses, ends, layout, wide=max(map(len, prompts)))
        self.is_tree = len(branches) < len(responses)
        first = len(self._segments)
        self._segments += [segment for segment, _ in branches]
        self._length = np.array([len(each.tokens) for each in self._segments])
        self._begin = self._length.cumsum() - self._length
        self._lines: list[list[int]] = []  # what each follows
        for each in self._segments:
            self._lines.append([*self._lines[each.parent], each.parent] if each.parent >= 0 else [])
        self._context = np.array([self._length[line].sum() for line in self._lines], dtype=int)
        self._depth = np.array([len(line) for line in self._lines])
        self._depth[first:] = self._depth[:first].max() + 1  # responses apart, as they are longer or shorter
        tokens = [token for each in self._segments for token in each.tokens]
        depths = np.concatenate([each.depths() for each in self._segments])
        self.tokens = self._sent(np.array([tokens]))
        self.positions = self._sent((self._context.repeat(self._length) + depths)[None])
        # The first token of a response follows the end of its context.
        before: list[np.ndarray] = [np.zeros(0, dtype=int)] * len(responses)
        for number, (_, places) in enumerate(branches, start=first):
            parent = self._segments[number].parent
            last = self._begin[parent] + self._length[parent] - 1
            for which, steps in places.items():
                own = np.asarray(steps)
                before[which] = np.where(own < 0, last, self._begin[number] + own)
        pairs = np.stack([np.concatenate(before), np.array([token for each in responses for token in each])])
        self._asked = None
        if self.is_tree:  # what is asked for several times is answered once
            pairs, asked = np.unique(pairs, axis=1, return_inverse=True)
            self._asked = self._sent(asked.reshape(-1))
        self.before, self.after = (self._sent(np.ascontiguousarray(each)) for each in pairs)

    def _sent(self, numbers: np.ndarray) -> Tensor:
        return sent(torch.from_numpy(numbers), self._device)

    def read(self, model: PreTrainedModel) -> Tensor:
        """What a model that is packed says after each token, shape (T, features)."""
        # Transformers takes a mask of four dimensions as it is, and makes none of its own.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self._device)
        output = model(
            input_ids=self.tokens, attention_mask=mask, position_ids=self.positions, use_cache=False, packed=self
        )
        return said(output)[0]

    def answers(self, values: Tensor) -> Tensor:
        """What was answered once, shape (n, ...), for each token of the responses, one response after the other."""
        return values if self._asked is None else _Pick.apply(values, self._asked)

    @cached_property
    def kernel(self) -> tuple[Places, tuple[Tensor, Tensor, int, int]]:
        """For the variable-length kernel: the places of keys, and where sequences of queries and keys begin.

        The kernel lets the last query look at the last key, the one before it at all but that, and so on.
        """
        there = self._length > 0  # a response of a single token asks nothing
        keys = np.where(there, self._context + self._length, 0)
        begin = keys.cumsum() - keys
        places = self._places(begin + self._context, int(keys.sum()), context=begin)
        ends = [self._sent(np.append(0, each[there].cumsum()).astype(np.int32)) for each in (self._length, keys)]
        return places, (ends[0], ends[1], int(self._length.max()), int(keys.max()))

    @cached_property
    def grid(self) -> Grid:
        """For attention of padded rows."""
        levels: list[Level] = []
        asking, seen, own = np.zeros((3, len(self._segments)), dtype=int)
        queries = keys = 0
        for depth in range(self._depth.max() + 1):
            some = np.flatnonzero((self._depth == depth) & (self._length > 0))
            if not len(some):
                continue
            wide, long, numbers = int(self._context[some].max()), int(self._length[some].max()), np.arange(len(some))
            asking[some], seen[some] = queries + numbers * long, keys + numbers * (wide + long)
            own[some] = seen[some] + wide
            begun, queries, keys = (queries, keys), queries + len(some) * long, keys + len(some) * (wide + long)
            slots = slice(begun[0], queries), slice(begun[1], keys)
            levels.append(Level(segments=some, wide=wide, long=long, queries=slots[0], keys=slots[1]))
        asked, answered = self._places(asking, queries), self._places(own, keys, context=seen)
        return Grid(levels=tuple(levels), queries=asked, keys=answered)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attend: "Attend", window: int | None) -> Tensor:
        """Attention by way of the grid; shapes (T, heads, features), those of keys with fewer heads perhaps."""
        grid = self.grid
        asking, *seen = grid.queries.spread(query), grid.keys.spread(key), grid.keys.spread(value)
        answers = []
        for level in grid.levels:
            lengths = (level.long, level.wide + level.long, level.wide + level.long)
            slots = (level.queries, level.keys, level.keys)
            given = [
                each[some].unflatten(0, (-1, length)).transpose(1, 2)
                for each, some, length in zip((asking, *seen), slots, lengths, strict=True)
            ]
            answers.append(attend(*given, self._mask(level, window, query.dtype)).transpose(1, 2).flatten(0, 1))
        return grid.queries.collect(torch.cat(answers))

    def _mask(self, level: Level, window: int | None, dtype: torch.dtype) -> Tensor:
        """What is added for each query and key, 0 or -∞; shape (rows or 1, 1, long, wide + long). Computed once.

        Padding sees itself: what a kernel answers to a query that sees nothing may be not-a-number.
        """
        known = level.queries.start, window, dtype
        if known in self._masks:
            return self._masks[known]
        segments = [self._segments[number] for number in level.segments]
        if all(each.after is None for each in segments):
            places = torch.arange(level.long, device=self._device)
            seen, depths = (places.unsqueeze(1) >= places).unsqueeze(0), places.unsqueeze(0)
        else:
            seen = self._sent(np.stack([each.seen(level.long) for each in segments]))
            depths = self._sent(np.stack([np.pad(d, (0, level.long - len(d))) for d in (s.depths() for s in segments)]))
        if window is not None:
            seen = seen & (depths.unsqueeze(2) - depths.unsqueeze(1) < window)
        if level.wide:
            context = self._sent(self._context[level.segments]).view(-1, 1, 1)
            first = torch.arange(level.wide, device=self._device)
            before = (first < context).expand(-1, level.long, -1)
            if window is not None:
                before = before & (context + depths.unsqueeze(2) - first < window)
            seen = torch.cat([before, seen.expand(len(segments), -1, -1)], dim=2)
        mask = torch.zeros(seen.shape, dtype=dtype, device=self._device).masked_fill_(~seen, -torch.inf).unsqueeze(1)
        self._masks[known] = mask
        return mask

    def _places(self, own: np.ndarray, slots: int, *, context: np.ndarray | None = None) -> Places:
        """Places of tokens: those of a segment begin at slot ``own``, and those of its context at slot ``context``."""
        slot = own.repeat(self._length) + _count(self._length)
        token = np.zeros(slots, dtype=int)
        token[slot] = np.arange(len(slot))
        copies = []
        if context is not None:
            pairs = [(number, each) for number in np.flatnonzero(self._length) for each in self._lines[number]]
            who, which = np.array(pairs, dtype=int).reshape(-1, 2).T
            begin = context[who] + self._context[which]  # the slot of the first token of each copy
            times = np.bincount(which, minlength=len(self._length))
            rank = np.array(_ranks(which.tolist()), dtype=int)
            # Those with up to 1, 2, 4, 8, ... copies together: no more than half is padding.
            bucket = np.ceil(np.log2(np.maximum(times, 1))).astype(int)
            for each in np.unique(bucket[which]):
                some = np.flatnonzero((bucket == each) & (times > 0))
                tokens = self._begin[some].repeat(self._length[some]) + _count(self._length[some])
                column = np.zeros(len(self._length), dtype=int)
                column[some] = self._length[some].cumsum() - self._length[some]
                mine = np.flatnonzero(bucket[which] == each)
                length = self._length[which[mine]]
                rows, at = rank[mine].repeat(length), column[which[mine]].repeat(length) + _count(length)
                others = begin[mine].repeat(length) + _count(length)
                where, there = np.zeros((2, times[some].max(), len(tokens)), dtype=int)
                where[rows, at], there[rows, at] = others, 1
                token[others] = tokens[at]
                copies.append(tuple(map(self._sent, (tokens, where, there.astype(bool)))))
        return Places(token=self._sent(token), slot=self._sent(slot), copies=tuple(copies))


def _prompts(prompts: Sequence[Sequence[int]]) -> tuple[list[Segment], list[int]]:
    """Segments of prompts, what several begin with once, and the segment that each ends in."""
    segments: list[Segment] = []
    ends = [0] * len(prompts)
    for members, length in shared_beginnings(prompts):
        parent = -1
        if length:
            parent = len(segments)
            segments.append(Segment(tokens=prompts[members[0]][:length], parent=-1))
        for each in members:
            ends[each] = len(segments)
            segments.append(Segment(tokens=prompts[each][length:], parent=parent))
    return segments, ends


Branch = tuple[Segment, dict[int, Sequence[int]]]


def _branches(
    owner: Sequence[int], responses: Sequence[Sequence[int]], ends: Sequence[int], layout: Layout, *, wide: int
) -> list[Branch]:
    """Segments of responses, and by response the place in its segment of what is before each token, -1 its context.

    Each is a segment of its own; or all of a prompt are one, where that takes less. ``wide`` is the longest prompt.
    """
    alone: list[Branch] = [
        (Segment(tokens=response[:-1], parent=ends[who]), {number: range(-1, len(response) - 1)})
        for number, (who, response) in enumerate(zip(owner, responses, strict=True))
    ]
    if layout.kind != "grid":
        return alone
    groups: dict[int, list[int]] = {}
    for number, who in enumerate(owner):
        groups.setdefault(who, []).append(number)
    trees = [_tree({number: responses[number] for number in some}, ends[who]) for who, some in groups.items()]

    def size(branches: list[Branch]) -> float:
        lengths = [len(segment.tokens) for segment, _ in branches]
        return layout.size(sum(lengths), [(len(lengths), wide, max(lengths))])

    return trees if size(trees) < size(alone) else alone


def _tree(responses: Mapping[int, Sequence[int]], parent: int) -> Branch:
    """The responses to a prompt as one segment: what they begin with stands once."""
    places: dict[tuple[int, int], int] = {}
    before: dict[int, Sequence[int]] = {}
    for number, response in responses.items():
        here, steps = -1, [-1]
        for token in response[:-1]:
            here = places.setdefault((here, token), len(places))
            steps.append(here)
        before[number] = steps
    return Segment(tokens=[token for _, token in places], parent=parent, after=[each for each, _ in places]), before


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
        for tokens, slots, there in places.copies:
            own[tokens] += (grad[slots] * there.view(*there.shape, *[1] * (grad.dim() - 1))).sum(dim=0)
        return own, None


class _Pick(torch.autograd.Function):
    """Some of n values, each as often as it is named; on a CPU their gradients are added up in one order."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, values: Tensor, places: Tensor
    ) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(values)
        return values[places]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,), (places,) = grads, ctx.saved_tensors
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_add_(0, places, grad), None


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


def layout_of(model: PreTrainedModel, dtype: torch.dtype, *, lora: bool = False) -> Layout:
    """How texts are laid out in a model that computes in this type."""
    if not is_packed(model):
        return Layout(kind="padded")
    widths = Widths.of(model.config)
    states = torch.empty(0, 1, widths.queries // widths.heads, dtype=dtype, device=model.device)
    plain = _attention(model) != PREFIX + "sdpa"
    if not plain and _has_kernel(states, states, states):
        return PACKED
    kept = Kept.of(widths, "eager" if plain else "grid", bf16=dtype == torch.bfloat16, lora=lora)
    # Two multiplications for each feature of a query, and one for each weight that a token is multiplied by.
    weights = widths.hidden * (2 * widths.queries + 2 * widths.keys + 3 * widths.intermediate)
    pair = max(kept.pair / kept.token, 2 * widths.queries / weights)
    return Layout(kind="grid", slot=kept.slot / kept.token, pair=pair)


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
    if not plain and not packed.is_tree and _has_kernel(query, key, value):
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


def _count(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., of each length."""
    return np.arange(lengths.sum()) - (lengths.cumsum() - lengths).repeat(lengths)


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
