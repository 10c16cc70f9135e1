"""The output layer, applied to a few tokens at a time: the logits of a whole batch are never in memory.

For a vocabulary of 49,152 or 151,936 the logits of a micro-batch outweigh everything else that a forward pass holds.
Here hidden states are turned into log-probabilities of the chosen tokens piece by piece, and each piece computes its
logits again when its gradient is asked for; with one piece they are kept, and it can be asked for once. Values are
those of the whole computation, gradients too but for the order in which the pieces are added up.

With z = logits/T the gradient of log p(y) with respect to z is [y] - p. It is written over the logits, a few rows at a
time: what autograd would do is read and write ten times as much memory, which on a CPU is a quarter of learning.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from rl.models.prefix import said

# Logits that are worked on at a time, on a CPU: in float32 they stay in its cache.
IN_CACHE = 2**18
ROWS_OF_WEIGHT = 2048


class OutputLayer:
    """The layer of a causal language model that turns hidden states into logits, apart from the rest.

    Whether it is ``separable`` is tried out on the model, unless somebody says who has tried.

    Attributes
    ----------
    decoder
        The rest: its outputs are the hidden states.
    vocabulary
        Number of logits a token.
    separable
        Whether the layer is a linear one, and decoder and layer, one after the other, do what the model does.
    transforms
        Whether the model caps, divides or multiplies its logits.
    """

    def __init__(self, model: PreTrainedModel, *, separable: bool | None = None) -> None:
        self.decoder: PreTrainedModel = model.base_model  # type: ignore[assignment]
        layer = model.get_output_embeddings()
        # Not what is derived from it, such as an adapter's: that one adds something.
        self._linear = layer if type(layer) is torch.nn.Linear else None
        self._transform = _transform(model)
        self.transforms = self._transform is not None
        self.vocabulary: int = model.config.get_text_config().vocab_size
        self.separable = self._gives_the_logits_of(model) if separable is None else separable

    def log_probs(self, hidden: Tensor, tokens: Tensor, *, temperature: float, at_once: int) -> Tensor:
        """Log-probabilities of tokens, with gradient, of a layer that is ``separable``.

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
            Shape (n,); in float32 or better.
        """
        assert self._linear is not None
        rows = max(1, at_once // self.vocabulary)
        # In parts of one size: a remainder of a single token would take as long as many.
        pieces = max(1, -(-len(hidden) // rows))
        return _ChosenLogProbs.apply(
            hidden, self._linear.weight, self._linear.bias, tokens, self._transform, temperature, pieces
        )

    @torch.no_grad()
    def _gives_the_logits_of(self, model: PreTrainedModel) -> bool:
        """Whether the parts do what the model does: models may transform their logits."""
        if self._linear is None or self.decoder is model:
            return False
        tokens = torch.arange(min(4, self.vocabulary), device=model.device).unsqueeze(0)
        whole = said(model(input_ids=tokens, use_cache=False))
        parts = self._linear(said(self.decoder(input_ids=tokens, use_cache=False)))
        if self._transform is not None:
            parts = self._transform(parts)
        return parts.shape == whole.shape and torch.allclose(parts, whole, rtol=1e-4, atol=1e-4)


def chosen_log_probs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of tokens, shape (...), from logits, shape (..., vocabulary); in float32 or better."""
    return log_probs_at(logits, temperature).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def log_probs_at(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of all tokens; bfloat16 has two to three digits, too few to divide and to normalise in."""
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, dim=-1)


class _ChosenLogProbs(torch.autograd.Function):
    """Log-probabilities of tokens, shape (n,), from hidden states, shape (n, features), in pieces.

    Under autocast the product with the weight is computed in its precision. The gradient of the weight is added up in
    the precision that the weight is held in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        transform: Callable[[Tensor], Tensor] | None,
        temperature: float,
        pieces: int,
    ) -> Tensor:
        device = hidden.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        if whole := transform is None and whole_rows(device):
            # Divided before the product and not after it: then nothing goes over the logits for that.
            hidden, bias = hidden / temperature, None if bias is None else bias / temperature
        narrow, kept = hidden.to(precision), None
        # log p = (z[y] - top) - log Σ exp(z - top): added up, the last two would lose the digits of the second.
        top = hidden.new_empty(len(hidden), dtype=torch.promote_types(precision, torch.float32))
        normaliser, log_probs = torch.empty_like(top), torch.empty_like(top)
        with torch.autocast(device, enabled=False):
            factors = [weight.to(precision), None if bias is None else bias.to(precision)]
            for part in _parts(len(hidden), pieces):
                linear = F.linear(narrow[part], *factors)
                logits = linear if transform is None else transform(linear)
                for block in () if whole else blocks_of(logits):
                    scaled = logits[block].to(top.dtype) / temperature
                    here = slice(part.start + block.start, part.start + block.stop)
                    top[here] = scaled.amax(dim=1)
                    chosen = scaled.sub_(top[here].unsqueeze(1)).gather(1, tokens[here].unsqueeze(1)).squeeze(1)
                    normaliser[here] = scaled.exp_().sum(dim=1).log_()
                    log_probs[here] = chosen - normaliser[here]
                if whole:
                    every = torch.log_softmax(logits.to(top.dtype), dim=1)
                    log_probs[part] = every.gather(1, tokens[part].unsqueeze(1)).squeeze(1)
                    del every
                if pieces == 1:
                    kept = linear
                del linear, logits  # or the next piece would be made beside this one
        ctx.save_for_backward(narrow, weight, bias, tokens, log_probs if whole else top, normaliser, kept)
        ctx.whole = whole
        ctx.transform, ctx.temperature, ctx.pieces, ctx.hidden_dtype = transform, temperature, pieces, hidden.dtype
        return log_probs

    @staticmethod
    @once_differentiable  # takes the names off the parameters
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        narrow, weight, bias, tokens, top, normaliser, kept = ctx.saved_tensors
        factors = [weight.to(narrow.dtype), None if bias is None else bias.to(narrow.dtype)]
        to_hidden = torch.empty_like(narrow) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for part in _parts(len(narrow), ctx.pieces):
            linear = F.linear(narrow[part], *factors) if kept is None else kept
            left = narrow[part]
            if ctx.whole:
                # The factor of a token goes to what is small: hidden states, and their gradient.
                factor = -grads[0][part]
                to_linear = _away_from_chosen(linear, tokens[part], top[part])
                if to_hidden is not None:
                    scale = (factor / ctx.temperature).unsqueeze(1)
                    to_hidden[part] = (F.linear(to_linear, factors[0].t()) * scale).to(narrow.dtype)
                left = (left * factor.unsqueeze(1)).to(narrow.dtype)
                if to_bias is not None:
                    to_bias += (factor / ctx.temperature).to(to_linear.dtype) @ to_linear
            else:
                to_linear = _gradient_of_linear(
                    linear, tokens[part], (top[part], normaliser[part]), grads[0][part], ctx.transform, ctx.temperature
                )
                if to_hidden is not None:
                    to_hidden[part] = F.linear(to_linear, factors[0].t())
                if to_bias is not None:
                    to_bias += to_linear.sum(dim=0)
            if to_weight is not None:
                # On a CPU a few rows at a time, so that what is added is still in the cache.
                rows = ROWS_OF_WEIGHT if to_weight.device.type == "cpu" else len(to_weight)
                for start in range(0, len(to_weight), rows):
                    some = slice(start, start + rows)
                    to_weight[some] += F.linear(to_linear[:, some].t(), left.t())
            del linear, to_linear, left
        return (None if to_hidden is None else to_hidden.to(ctx.hidden_dtype), to_weight, to_bias, *[None] * 4)


def whole_rows(device: str) -> bool:
    """Whether softmax has a kernel that reads logits once or twice: on a GPU, where that is what takes the time."""
    return device != "cpu"


def _away_from_chosen(logits: Tensor, tokens: Tensor, log_probs: Tensor) -> Tensor:
    """The probabilities less [y]: softmax rounds them to the type of the logits, and a p[y] near 1 would lose all of
    p[y] - 1."""
    parts = torch.softmax(logits, dim=1)
    return parts.scatter_(1, tokens.unsqueeze(1), torch.expm1(log_probs).to(parts.dtype).unsqueeze(1))


def _gradient_of_linear(
    linear: Tensor,
    tokens: Tensor,
    normaliser: tuple[Tensor, Tensor],
    grad: Tensor,
    transform: Callable[[Tensor], Tensor] | None,
    temperature: float,
) -> Tensor:
    """The gradient with respect to what the linear layer gave, written over it where nothing transforms it."""
    if transform is None:
        return _gradient_of_logits(linear, linear, tokens, normaliser, grad / temperature, temperature)
    with torch.enable_grad():
        leaf = linear.detach().requires_grad_()
        logits = transform(leaf)
    into = torch.empty_like(linear)
    to_logits = _gradient_of_logits(logits.detach(), into, tokens, normaliser, grad / temperature, temperature)
    return torch.autograd.grad(logits, leaf, to_logits)[0]


def _gradient_of_logits(
    logits: Tensor, into: Tensor, tokens: Tensor, normaliser: tuple[Tensor, Tensor], grad: Tensor, temperature: float
) -> Tensor:
    """Write -g (p - [y]) into ``into``, row by row, and return that; it may be ``logits``."""
    top, log_sum = (each.unsqueeze(1) for each in normaliser)
    for block in blocks_of(logits):
        part = logits[block].to(top.dtype).div(temperature).sub_(top[block]).sub_(log_sum[block]).exp_()
        part.scatter_add_(1, tokens[block].unsqueeze(1), part.new_full((len(part), 1), -1.0))
        into[block] = part.mul_(-grad[block].unsqueeze(1))
    return into


def _parts(count: int, pieces: int) -> Iterator[slice]:
    """Slices of ``count`` things in ``pieces`` parts of about the same size."""
    for number in range(pieces):
        yield slice(count * number // pieces, count * (number + 1) // pieces)


def blocks_of(logits: Tensor) -> Iterator[slice]:
    """Slices of rows, shape (n, vocabulary), to be worked on one after the other: on a CPU so many as fit its cache."""
    rows = max(1, IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    for start in range(0, len(logits), rows):
        yield slice(start, min(start + rows, len(logits)))


def _transform(model: PreTrainedModel) -> Callable[[Tensor], Tensor] | None:
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
    return None
