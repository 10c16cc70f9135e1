"""PPO's ratio and its clip: for updates that follow the first one of a step.

The responses of a step were drawn by the policy as it was before the step's first update, π_old. With π the policy that
is about to be updated and r = π/π_old of a token, the surrogate of that token is

    min(r A, clip(r, 1 - low, 1 + high) A)        (Schulman et al. 2017, arXiv 1707.06347, equation 7, token by token)

Its gradient is r A ∇log π, or nothing: where A > 0 and r > 1 + high, and where A < 0 and r < 1 - low. At the first
update r is 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """How far the ratio may move before a token has no gradient any more.

    Attributes
    ----------
    low
        In (0, 1]: ratios below 1 - low have none where A < 0; None: no bound.
    high
        > 0: ratios above 1 + high have none where A > 0; None: no bound.
    """

    low: float | None = None
    high: float | None = None

    def acts(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """Where the gradient is cut, of the common shape of both."""
        above = torch.zeros_like(ratio, dtype=torch.bool) if self.high is None else ratio > 1 + self.high
        below = torch.zeros_like(ratio, dtype=torch.bool) if self.low is None else ratio < 1 - self.low
        return (above & (advantages > 0)) | (below & (advantages < 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClippedTokens:
    """Tokens whose advantage is not 0, at each update they had a part in, and those whose gradient was cut."""

    tokens: int = 0
    clipped: int = 0

    @classmethod
    def of(cls, acts: Tensor, counted: Tensor) -> "ClippedTokens":
        """Where the clip acts, among the tokens that count."""
        return cls(tokens=int(counted.sum()), clipped=int((acts & counted).sum()))

    @property
    def share(self) -> float | None:
        """Share of tokens whose gradient was cut; None without tokens."""
        return self.clipped / self.tokens if self.tokens else None
