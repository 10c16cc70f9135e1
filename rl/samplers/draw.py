"""Drawing a token from logits."""

import torch
from torch import Tensor

from rl.errors import DivergenceError
from rl.models.output_layer import blocks_of, log_probs_at

# Tokens from which on a vocabulary is drawn from by inverting sums: torch.multinomial asks for a random number a token,
# one after the other, and at 49,152 tokens that took a quarter of the time of sampling.
MANY = 1024
BLOCK = 128


def draw(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one token per row of ``logits``, shape (rows, vocabulary); tokens and their log-probabilities, (rows,).

    At temperature 0 it is the likeliest, with log-probability 0.

    Raises
    ------
    DivergenceError
        If the logits do not make a distribution.
    """
    if logits.shape[-1] < MANY or temperature == 0:
        if not torch.isfinite(logits.amax(dim=-1)).all():
            raise DivergenceError("the logits of the policy are not finite")
        if temperature == 0:
            return logits.argmax(dim=-1), logits.new_zeros(len(logits), dtype=torch.float32)
        log_probs = log_probs_at(logits, temperature)
        tokens = torch.multinomial(log_probs.exp(), num_samples=1, generator=generator)
        return tokens.squeeze(1), log_probs.gather(1, tokens).squeeze(1)
    uniform = torch.rand(len(logits), 1, dtype=torch.float64, device=logits.device, generator=generator)
    drawn = [_invert(logits[some], temperature, uniform[some]) for some in blocks_of(logits)]
    tokens, log_probs = (torch.cat(each) for each in zip(*drawn, strict=True))
    if not torch.isfinite(log_probs).all():
        raise DivergenceError("the logits of the policy are not finite")
    return tokens, log_probs


def _invert(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens at which the distribution functions reach ``uniform``, (rows, 1), and their log-probabilities."""
    size = logits.shape[1]
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    top = scaled.amax(dim=1, keepdim=True)
    likelihoods = scaled.sub_(top).exp()
    if size % BLOCK:
        likelihoods = torch.nn.functional.pad(likelihoods, (0, -size % BLOCK))
    # First the block, then the index in it. In float32 the sum of many would lose the rare ones; that of a block may.
    blocks = likelihoods.view(len(likelihoods), -1, BLOCK)
    sums = torch.nn.functional.pad(blocks.sum(dim=2).cumsum(dim=1, dtype=torch.float64), (1, 0))
    threshold = uniform * sums[:, -1:]
    block = _first_above(sums[:, 1:], threshold)
    inside = blocks.take_along_dim(block.unsqueeze(2), dim=1).squeeze(1).cumsum(dim=1, dtype=torch.float64)
    # As a share of the block, whose sum in float32 is another than that in float64.
    begin, end = sums.gather(1, block), sums.gather(1, block + 1)
    index = _first_above(inside, (threshold - begin) / (end - begin) * inside[:, -1:])
    tokens = (block * BLOCK + index).clamp(max=size - 1)
    log_probs = scaled.gather(1, tokens) - sums[:, -1:].log().to(scaled.dtype)
    return tokens.squeeze(1), log_probs.squeeze(1)


def _first_above(sums: Tensor, threshold: Tensor) -> Tensor:
    """Index of the first that exceeds the threshold, shape (rows, n) and (rows, 1) to (rows, 1).

    What adds nothing to the sums never does. The last index stands in where rounding leaves none.
    """
    return torch.searchsorted(sums.contiguous(), threshold, right=True).clamp(max=sums.shape[1] - 1)
