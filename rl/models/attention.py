"""Attention on a CPU where several query heads share a key and a value head: those are not copied for each of them.

Transformers' plain implementation repeats keys and values for every query head. Here the query heads of a key head are
rows of one product: softmax(q kᵀ · scaling + mask) v and nothing else. A model that hands its attention more is
refused, and one that is not refused reads a few tokens in both ways first.
"""

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from rl.models.prefix import said

GROUPED = "grouped"

# What models hand over that changes nothing here: whatever it says is in the mask, or is for other implementations.
HARMLESS = {
    "position_ids",
    "sliding_window",
    "is_causal",
    "cache_position",
    "output_attentions",
    "use_cache",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
    "num_items_in_batch",
    "logits_to_keep",
}


def use_grouped_attention(model: PreTrainedModel) -> bool:
    """Let a model whose attention is "eager" compute it so, if that is any use and gives what it gave; whether it does.

    What a model does in its own implementation nobody tells, so it is asked to read a few tokens in both ways.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if heads is None or getattr(config, "num_key_value_heads", heads) in (None, heads):
        return False
    if not model._can_set_attn_implementation():  # asked for all the same, transformers would print a warning
        return False
    before = _reads(model)
    try:
        model.set_attn_implementation(GROUPED)
        same = torch.allclose(_reads(model), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    except (NotImplementedError, RuntimeError, ValueError):
        same = False
    if not same:
        model.set_attn_implementation("eager")
    return same


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """An attention function of transformers: softmax(q kᵀ · scaling + mask) v.

    Parameters
    ----------
    query
        Shape (rows, H, n, d).
    key, value
        Shape (rows, G, length, d), G a divisor of H.
    attention_mask
        Shape (rows or 1, 1, n, length), added to the scores; None: none.

    Returns
    -------
    tuple
        Shape (rows, n, H, d), and None for the weights.
    """
    # Caps, sinks, biases, blocks that are chosen: a short probe would not notice all of them.
    if strange := sorted(name for name, value in others.items() if value is not None and name not in HARMLESS):
        raise NotImplementedError(", ".join(strange))
    rows, heads, count, size = query.shape
    groups, length = key.shape[1:3]
    together = query.reshape(rows, groups, heads // groups * count, size)
    scores = torch.matmul(together, key.transpose(2, 3)).view(rows, heads, count, length)
    scores = scores * (size**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training)
    mixed = torch.matmul(weights.view(rows, groups, heads // groups * count, length), value)
    return mixed.view(rows, heads, count, value.shape[-1]).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)


@torch.no_grad()
def _reads(model: PreTrainedModel) -> Tensor:
    """Logits after a few tokens, the first of which is padding."""
    tokens = torch.arange(min(6, model.config.get_text_config().vocab_size), device=model.device).repeat(2, 1)
    seen = torch.ones_like(tokens)
    seen[0, 0] = 0
    return said(model(input_ids=tokens, attention_mask=seen, use_cache=False))[:, -1].float()
