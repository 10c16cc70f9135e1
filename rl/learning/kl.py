"""The divergence from a reference policy, and its gradient.

With d_t = log π(y_t) - log π_ref(y_t) and y drawn from π, KL(π ‖ π_ref) of whole responses is E[Σ_t d_t]. Since the
mean of ∇log π is 0 after every prefix, its gradient is

    E[Σ_t G_t ∇log π(y_t)],        G_t = Σ_{s ≥ t} d_s: what is still to come.

From G_t of response i of a group is taken the mean over the M-1 other responses of what they have to come at t (0 if
they have ended): independent of response i, so the mean stays and the variance falls. It is computed from the
sampler's log-probabilities, which are known before any pass; the mean of a baseline is 0 whatever it is made of.

What is logged is e^-d - 1 + d (Schulman 2020, "Approximating KL divergence", the estimator "k3"): its mean is
KL(π ‖ π_ref) exactly, and it is never negative. Other trainers differentiate it token by token, and that is not the
gradient of the above but of KL(π_ref ‖ π) of the next token, over prefixes that are held.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalty:
    """What the divergence adds to the gradient of the tokens of a micro-batch: R distinct responses, n occurrences.

    Attributes
    ----------
    coefficient
        What the divergence is multiplied by, > 0.
    reference
        Log-probabilities of the reference, shape (R, columns).
    baseline
        What is taken from G_t, shape (n, columns).
    """

    coefficient: float
    reference: Tensor
    baseline: Tensor

    def weights(self, log_probs: Tensor, owner: Tensor) -> Tensor:
        """What ∇log π of every token is multiplied by in the gradient of the penalty, shape (n, columns).

        Parameters
        ----------
        log_probs
            The policy's, shape (R, columns), without gradient.
        owner
            The distinct response of each occurrence, shape (n,).
        """
        return self.coefficient * (to_come(log_probs - self.reference)[owner] - self.baseline)


def to_come(values: Tensor) -> Tensor:
    """Sum of each value and those to the right of it, shape (..., columns)."""
    return values.flip(-1).cumsum(-1).flip(-1)


def baselines(estimates: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """Mean over the other responses of a group of what they have to come.

    Parameters
    ----------
    estimates
        d of every token, shapes (n, columns), zero past the end of a response. All M ≥ 2 responses of a group are
        among them.
    groups
        The number of the group of each row.

    Returns
    -------
    list of torch.Tensor
        Of the same shapes.
    """
    coming = [to_come(estimate) for estimate in estimates]
    if not coming:
        return []
    owners = [torch.tensor(numbers, device=each.device) for numbers, each in zip(groups, coming, strict=True)]
    count = 1 + max(max(numbers) for numbers in groups)
    totals = coming[0].new_zeros(count, max(each.shape[1] for each in coming))
    members = coming[0].new_zeros(count)
    for owner, each in zip(owners, coming, strict=True):
        totals[:, : each.shape[1]].index_add_(0, owner, each)
        members.index_add_(0, owner, torch.ones_like(each[:, 0]))
    return [
        (totals[owner, : each.shape[1]] - each) / (members[owner].unsqueeze(1) - 1)
        for owner, each in zip(owners, coming, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """Sums over sampled tokens, from which KL(π ‖ π_ref) is estimated, π the policy before the step's first update.

    Attributes
    ----------
    total
        Sum of e^-d - 1 + d, nats.
    """

    responses: int = 0
    tokens: int = 0
    total: float = 0.0

    @classmethod
    def of(cls, log_ratio: Tensor, *, responses: int) -> "Divergence":
        """Of all tokens of so many responses, with these d, shape (tokens,)."""
        exact = log_ratio.double()
        return cls(responses=responses, tokens=exact.numel(), total=(torch.expm1(-exact) + exact).sum().item())

    @property
    def per_token(self) -> float | None:
        """Nats; None without tokens, and so is the following."""
        return self.total / self.tokens if self.tokens else None

    @property
    def per_response(self) -> float | None:
        """Nats."""
        return self.total / self.responses if self.responses else None
