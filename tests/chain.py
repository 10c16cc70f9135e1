"""A policy so small that all its responses can be listed: what the tests of gradients enumerate."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Chain:
    """Up to ``longest`` tokens, each drawn from a softmax of the last one; token 0 ends. In float64."""

    def __init__(self, seed: int, *, tokens: int = 3, longest: int = 2) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn((tokens, tokens), generator=generator, dtype=torch.float64).requires_grad_()
        self.responses: list[tuple[int, ...]] = [
            response
            for length in range(1, longest + 1)
            for response in product(range(tokens), repeat=length)
            if 0 not in response[:-1] and (response[-1] == 0 or length == longest)
        ]

    def token_log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        owner: Sequence[int],
        responses: Sequence[Sequence[int]],
        *,
        temperature: float,
    ) -> Tensor:
        assert max(owner) < len(prompts)
        log_probs = torch.log_softmax(self.logits / temperature, dim=1)
        return pad_sequence([log_probs[[0, *each[:-1]], list(each)] for each in responses], batch_first=True)

    def told(self, response: Sequence[int]) -> list[float]:
        """Log-probabilities of the tokens of one response, as a sampler gives them."""
        return self.token_log_probs([(0,)], [0], [response], temperature=1.0)[0].detach().tolist()

    def response_log_probs(self) -> Tensor:
        """Of all responses there are."""
        owner = [0] * len(self.responses)
        return self.token_log_probs([(0,)], owner, self.responses, temperature=1.0).sum(dim=1)
