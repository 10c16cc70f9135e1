"""How far the sampler's probabilities are from the trainer's, and what corrects for it.

An engine computes with kernels, and perhaps with a precision, of its own. Where it draws a token with probability μ and
the trainer would have drawn it with π, the batch is a little off-policy. With d = ln π - ln μ, per token, π the policy
before the first update of the step:

* the mean of d and its largest absolute value say how far the two are apart;
* the mean of e^d - 1 - d estimates KL(μ ‖ π) without bias and is never negative (Schulman 2020, the estimator "k3");
* truncated importance sampling multiplies a token's gradient by min(e^d, cap).

With the torch sampler d is rounding, and every weight 1; with ``sampler.ahead`` it is the last update as well.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True, slots=True)
class Mismatch:
    """Sums over tokens, to which more are added.

    Attributes
    ----------
    log_ratio_sum, kl_sum, largest
        Sums of d and of e^d - 1 - d, and the largest absolute d, nats.
    truncated
        Tokens whose importance weight was cut.
    """

    tokens: int = 0
    log_ratio_sum: float = 0.0
    kl_sum: float = 0.0
    largest: float = field(default=0.0, metadata={"together": max})
    truncated: int = 0

    def add(self, log_ratio: Tensor, *, cap: float | None) -> None:
        """Count tokens with these d, shape (n,); ``cap`` is that of the importance weights, None without them."""
        exact = log_ratio.double()
        self.tokens += exact.numel()
        self.log_ratio_sum += exact.sum().item()
        self.kl_sum += (torch.expm1(exact) - exact).sum().item()
        self.largest = max(self.largest, exact.abs().max().item()) if exact.numel() else self.largest
        if cap is not None:
            self.truncated += int((exact.exp() > cap).sum())

    @property
    def mean(self) -> float | None:
        """Mean of d; None without tokens, and so are the following."""
        return self.log_ratio_sum / self.tokens if self.tokens else None

    @property
    def kl(self) -> float | None:
        """Estimate of KL(sampler ‖ trainer) per token, nats."""
        return self.kl_sum / self.tokens if self.tokens else None

    @property
    def max_abs(self) -> float | None:
        """Largest absolute d."""
        return self.largest if self.tokens else None

    @property
    def share_truncated(self) -> float | None:
        """Share of tokens whose importance weight was cut."""
        return self.truncated / self.tokens if self.tokens else None


def importance_weights(log_ratio: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(e^d, cap), of the shape of ``log_ratio``; no gradient flows through them."""
    return log_ratio.detach().exp().clamp(max=cap)
