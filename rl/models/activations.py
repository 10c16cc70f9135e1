"""What a decoder layer of transformers keeps for its backward pass, by what it is kept for."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

FP32, BF16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Features of a token in the residual stream, in an MLP, of the queries of all heads and of their keys; heads."""

    hidden: int
    intermediate: int
    queries: int
    keys: int
    heads: int

    @classmethod
    def of(cls, about: PreTrainedConfig) -> "Widths":
        """From a configuration of transformers."""
        text = about.get_text_config()
        heads = text.num_attention_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // heads
        return cls(
            hidden=text.hidden_size,
            intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            queries=heads * head,
            keys=(getattr(text, "num_key_value_heads", None) or heads) * head,
            heads=heads,
        )


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes of one layer.

    Attributes
    ----------
    token
        For a token: of each of two norms its input, in float32, and if its weight is trained what that is multiplied
        by. The inputs of the products, which autocast casts anew for each: three of them read the first norm, two the
        second. Queries, and what attention makes of them, twice where a fused kernel works on padded rows. The MLP's
        two products, the activation of one, and the product of both.
    slot
        For a place of a key and its value: they stand once for each row that sees them, and where a fused kernel works
        on padded rows with as many heads as the queries.
    pair
        For a query and a key that it is multiplied with: with plain attention the probability.
    """

    token: float
    slot: float
    pair: float

    @classmethod
    def of(cls, widths: Widths, attention: str, *, bf16: bool, lora: bool) -> "Kept":
        """``attention`` is ``"eager"``, ``"grid"`` (fused, on padded rows) or ``"packed"`` (fused, any lengths)."""
        at = BF16 if bf16 else FP32
        norms = 2 * (FP32 + (0 if lora else FP32)) * widths.hidden
        inputs = (5 if bf16 else 2) * at * widths.hidden
        asked = (2 + (attention == "grid") + (lora and bf16)) * at * widths.queries
        return cls(
            token=norms + inputs + asked + 4 * at * widths.intermediate,
            slot=2 * at * (widths.queries if attention == "grid" else widths.keys),
            pair=widths.heads * (FP32 + (BF16 if bf16 else 0)) if attention == "eager" else 0.0,
        )
