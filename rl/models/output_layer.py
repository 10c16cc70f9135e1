"""The output layer, applied to a few tokens at a time: the logits of a whole batch are never in memory.

For a vocabulary of 49,152 or 151,936 the logits of a micro-batch outweigh everything else that a forward pass holds.
Here hidden states are turned into log-probabilities of the chosen tokens piece by piece, and each piece computes its
logits again when its gradient is asked for. Values are those of the whole computation, gradients too but for the order
in which the pieces are added up.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rl.models.prefix import said


class OutputLayer:
    """The layer of a causal language model that turns hidden states into logits, apart from the rest.

    Attributes
    ----------
    decoder
        The rest: its outputs are the hidden states.
    vocabulary
        Number of logits a token.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.decoder: PreTrainedModel = model.base_model  # type: ignore[assignment]
        self._linear: Callable[[Tensor], Tensor] | None = model.get_output_embeddings()
        self._transform = _transform(model)
        self.vocabulary: int = model.config.get_text_config().vocab_size
        self.separable = self._gives_the_logits_of(model)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, shape (..., features) to (..., vocabulary)."""
        assert self._linear is not None
        return self._transform(self._linear(hidden))

    def log_probs(self, hidden: Tensor, tokens: Tensor, *, temperature: float, at_once: int) -> Tensor:
        """Log-probabilities of tokens, with gradient.

        Parameters
        ----------
        hidden
            Shape (n, features).
        tokens
            Shape (n,), the token that follows each hidden state.
        temperature
            > 0; logits are divided by it.
        at_once
            Bound on the logits in memory, ≥ 1; those of one token are always whole.

        Returns
        -------
        torch.Tensor
            Shape (n,).
        """

        def piece(hidden: Tensor, tokens: Tensor) -> Tensor:
            return chosen_log_probs(self.logits(hidden), tokens, temperature)

        rows = max(1, at_once // self.vocabulary)
        pieces = zip(hidden.split(rows), tokens.split(rows), strict=True)
        # Nothing in a piece is random.
        return torch.cat([checkpoint(piece, *each, use_reentrant=False, preserve_rng_state=False) for each in pieces])

    @torch.no_grad()
    def _gives_the_logits_of(self, model: PreTrainedModel) -> bool:
        """Whether decoder and layer, one after the other, do what the model does: models may transform their logits."""
        if self._linear is None or self.decoder is model:
            return False
        tokens = torch.arange(min(4, self.vocabulary), device=model.device).unsqueeze(0)
        whole = said(model(input_ids=tokens, use_cache=False))
        parts = self.logits(said(self.decoder(input_ids=tokens, use_cache=False)))
        return parts.shape == whole.shape and torch.allclose(parts, whole, rtol=1e-4, atol=1e-4)


def chosen_log_probs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of tokens, shape (...), from logits, shape (..., vocabulary); in float32 or better."""
    return log_probs_at(logits, temperature).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def log_probs_at(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of all tokens; bfloat16 has two to three digits, too few to divide and to normalise in."""
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, dim=-1)


def _transform(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """What the model is known to do with its logits; whether that is all it does, the probe shows."""
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:  # Gemma
        return lambda logits: torch.tanh(logits / cap) * cap
    divisor = getattr(config, "logits_scaling", None)
    if divisor:  # Granite
        return lambda logits: logits / divisor
    factor = getattr(config, "logit_scale", None)
    if factor:  # Cohere
        return lambda logits: logits * factor
    return lambda logits: logits
