"""Ways of computing a model that have to agree: with fused and with plain attention, with checkpoints, with a cache.

A fused kernel that does not know what a model asks of its attention, such as a cap on its logits, leaves it out in
silence; trainer and sampler then agree with each other and neither with the model. So every model is computed both
ways, once, when it is opened, in float32 however it is held (`widened`): rounding to bfloat16 may be as large as what
is left out. Gaps are in nats, between log-probabilities of a token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rl.models.fused import Continuations
from rl.models.packing import Packed, layout_of, pack, unpack
from rl.models.prefix import Prefix

PLAIN = "eager"
ROWS, TOKENS = 2, 32  # of the sequences on which two ways are compared
LONGEST = 1024  # sequences that are longer than a sliding window, up to this

# Nats by which log-probabilities of a token may differ: rounding of float32 in some dozens of layers (SmolLM2's 30 make
# 6e-5). What a kernel leaves out shows as more: of SmolLM2's attention a cap of 200 on its logits 0.03, one of 50 0.5.
# Under autocast logits of unlikely tokens are rounded to an eighth or worse, so there it is the typical gap of packed
# texts that is held to a bound (SmolLM2's is 0.021, its largest 0.26).
FINE, TYPICAL = 1e-3, 0.1


def attention_gap(model: PreTrainedModel, used: str) -> float:
    """Between the attention that a model was opened with and the plain one; 0 where it is the plain one."""
    if used == PLAIN:
        return 0.0
    fused = _log_probs(model)
    model.set_attn_implementation(PLAIN)
    try:
        return _distance(fused, _log_probs(model))
    finally:
        model.set_attn_implementation(used)


def packed_gap(model: PreTrainedModel, *, typical: bool = False) -> float:
    """Between texts that are laid end to end, two responses that begin alike among them, and whole texts read alone.

    The largest gap, or with ``typical`` the root of the mean square.
    A model may differ, or raise whatever it raises, that does not let attention be exchanged, or asks more of it.
    """
    first, second = _tokens(model).tolist()
    half, quarter = len(first) // 2, len(first) // 4
    # Prompts that begin alike, if the context leaves room, and responses that do.
    prompts, owner = [[*first[:half], second[0]], [*first[:half], *second[1:4]]], [0, 1, 1]
    responses = [first[half + 1 :], second[half + 3 :], [*second[half + 3 : -quarter], *first[:quarter]]]
    autocast = torch.is_autocast_enabled(model.device.type)
    pack(model)
    try:
        layout = layout_of(model, torch.get_autocast_dtype(model.device.type) if autocast else model.dtype)
        packed = Packed(prompts, owner, responses, device=model.device, layout=layout)
        with torch.no_grad():
            said = torch.log_softmax(packed.read(model)[packed.before].float(), dim=-1)
            said = packed.answers(said)
    finally:
        unpack(model)
    apart = []
    for who, response in zip(owner, responses, strict=True):
        whole = torch.tensor([[*prompts[who], *response]], device=model.device)
        apart.append(_log_probs(model, whole)[0, len(prompts[who]) - 1 : -1])
    return _distance(said, torch.cat(apart), typical=typical)


def checkpointing_gap(model: PreTrainedModel) -> float:
    """Between layers that are told to train and those that are not: what dropout in them does."""
    plain = _log_probs(model)
    with layers_checkpointed(model):
        return _distance(plain, _log_probs(model))


@contextmanager
def widened(model: PreTrainedModel) -> Iterator[None]:
    """Compute in float32 with weights that are held in bfloat16; those of one layer at a time are both."""
    held: dict[torch.nn.Parameter, Tensor] = {}

    def widen(module: torch.nn.Module, *_: Any) -> None:
        for each in module.parameters(recurse=False):
            held[each] = each.data
            each.data = each.data.float()

    def narrow(module: torch.nn.Module, *_: Any) -> None:
        for each in module.parameters(recurse=False):
            each.data = held.pop(each)

    hooks = [
        hook
        for module in model.modules()
        if any(each.itemsize < torch.float32.itemsize for each in module.parameters(recurse=False))
        for hook in (module.register_forward_pre_hook(widen), module.register_forward_hook(narrow))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for each, data in held.items():  # where a computation has failed
            each.data = data


@contextmanager
def layers_checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Let the layers forget what they hold; they do so only while they think they are trained, and dropout must not."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def prefix_gap(model: PreTrainedModel) -> float:
    """Between responses that share what was read of their prompt and whole texts read at once.

    A model that keeps more of what it has read than keys and values by position, such as one with a recurrent state,
    may differ, or raise whatever it raises.
    """
    tokens = _tokens(model)[:, :TOKENS]
    half, short = tokens.shape[1] // 2, max(1, tokens.shape[1] // 8)  # fewer where the model's context is shorter
    first, second = tokens.tolist()
    # Prompts of two lengths that begin alike, the second of which has two responses.
    prompts = [[*first[:half], *second[:short]], [*first[:half], *second[short : 3 * short]]]
    with torch.no_grad():
        prefix = Prefix.read(model, prompts)
        prefix.select(torch.tensor([1, 0, 1], device=model.device))
        ends = tokens[[1, 0, 0], -2 * short :]
        shared = torch.log_softmax(prefix.extend(ends).float(), dim=-1)
        whole = [[*prompts[row], *end] for row, end in zip((1, 0, 1), ends.tolist(), strict=True)]
        apart = [_log_probs(model, torch.tensor([each], device=model.device))[0, -ends.shape[1] :] for each in whole]
    return max(_distance(one, other) for one, other in zip(shared, apart, strict=True))


@torch.no_grad()
def continuation_gap(model: PreTrainedModel) -> float:
    """Between the decoding step of `rl.models.fused`, which has to fit the model, and that of transformers."""
    rows = _tokens(model)[:, :TOKENS].tolist()
    read = [Prefix.read(model, [rows[0][:3], rows[1][:-3]]) for _ in range(2)]
    ways = read[0], Continuations(model, read[1])
    gap = 0.0
    for column in (-3, -2):
        for way in ways:
            way.select(torch.tensor([0, 0, 1], device=model.device))
            way.extend(torch.tensor([[rows[0][column]], [rows[1][column]], [rows[1][column]]], device=model.device))
        gap = max(gap, _distance(*(torch.log_softmax(way.last.float(), dim=-1) for way in ways)))
    return gap


def _distance(first: Tensor, second: Tensor, *, typical: bool = False) -> float:
    apart = (first - second).abs()
    gap = float(apart.square().mean().sqrt() if typical else apart.max())
    return gap if gap == gap else float("inf")


def _tokens(model: PreTrainedModel) -> Tensor:
    """The same random tokens each time, shape (rows, length): longer than a sliding window that is not very long."""
    text = model.config.get_text_config()
    window = getattr(text, "sliding_window", None) or 0
    length = min(max(TOKENS, window + 8), LONGEST, getattr(text, "max_position_embeddings", None) or LONGEST)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(text.vocab_size, (ROWS, length), generator=generator).to(model.device)


@torch.no_grad()
def _log_probs(model: PreTrainedModel, tokens: Tensor | None = None) -> Tensor:
    """Of the next token after each, shape (rows, length, vocabulary), float32."""
    tokens = _tokens(model) if tokens is None else tokens
    output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    return torch.log_softmax(output.logits.float(), dim=-1)
