"""Published advantages that a weighting ω(K/M) cannot express: by sign of the reward, or as a library codes them.

A scheme maps a group size M to two arrays of length M+1, the advantage of a correct and of a wrong response by the
number K correct. The two entries that no response can have (correct at K = 0, wrong at K = M) are 0. The difference
A⁺-A⁻ plays the part of the weight: A = (A⁺-A⁻)(r - K/M) + b_K with a shift b_K common to the group. For constant A⁺
and A⁻ the shift is a baseline: it changes the variance of the gradient and not its mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from theory.weightings import Weighting

Advantages = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class GroupScheme:
    """Advantages for groups: callable on a group size.

    Parameters
    ----------
    name : str
        What the command line calls it.
    label : str
        What figures and tables call it.
    formula : str
        The advantages for people.
    function : callable
        From M to the pair (correct, wrong), shape (M+1,) each, with correct[K] ≥ wrong[K] for K = 1..M-1.
    limit : Weighting
        What correct - wrong at K = ρM tends to as M grows.
    all_wrong_rule, all_right_rule : str
        Advantage in uniform groups, for people.
    source : str
        Citation.
    note : str
        What else the published method does, or how this differs from a formula.
    minimum_size : int
        Smallest M, at least 2.
    """

    name: str
    label: str
    formula: str
    function: Callable[[int], Advantages]
    limit: Weighting
    all_wrong_rule: str
    all_right_rule: str
    source: str
    note: str = ""
    minimum_size: int = 2

    def __call__(self, group_size: int) -> Advantages:
        """Advantages of a correct and of a wrong response, shape (M+1,) each.

        Raises
        ------
        ValueError
            If `group_size` is below `minimum_size`.
        """
        if group_size < self.minimum_size:
            raise ValueError(
                f"weighting {self.name!r} needs groups of at least {self.minimum_size} responses, got {group_size}"
            )
        correct, wrong = self.function(group_size)
        correct[0], wrong[-1] = 0.0, 0.0  # no response of such a group has that outcome
        return correct, wrong


def constant(group_size: int, correct: float, wrong: float) -> Advantages:
    """A⁺ and A⁻ whatever the group: PSR (1, 0), NSR (0, -1), W-REINFORCE (λ, -1). arXiv 2506.01347."""
    return np.full(group_size + 1, correct), np.full(group_size + 1, wrong)


def sample_standardised(group_size: int, epsilon: float) -> Advantages:
    """A = (r - K/M)/(s+ε), s the sample standard deviation (ddof = 1): GRPO as coded in TRL and verl."""
    share = np.arange(group_size + 1) / group_size
    scale = 1 / (np.sqrt(share * (1 - share) * group_size / (group_size - 1)) + epsilon)
    return scale * (1 - share), 0.0 - scale * share  # 0.0 - x: no negative zero


def virtual_success(group_size: int) -> Advantages:
    """NGRPO: mean and sample standard deviation (ddof = 1) of the group with one more, correct, response.

    Mean m = (K+1)/(M+1) and s² = (K+1)(M-K)/(M(M+1)): an all-wrong group gets -1/√(M+1). An all-right group has s = 0
    and gets 0. Nan et al. 2025, arXiv 2509.18851.
    """
    correct = np.arange(group_size + 1)
    mean = (correct + 1) / (group_size + 1)
    deviation = np.sqrt((correct + 1) * (group_size - correct) / (group_size * (group_size + 1)))
    deviation[-1] = np.inf
    return (1 - mean) / deviation, -mean / deviation


def _none_correct(wrong: NDArray[np.float64], size: int, draws: int) -> NDArray[np.float64]:
    """C(wrong, draws)/C(size, draws): no correct one among `draws` of `size` responses, `wrong` of them wrong."""
    product = np.ones_like(wrong)
    for taken in range(draws):
        product *= np.maximum(wrong - taken, 0) / (size - taken)
    return product


def pass_at_k_unbiased(group_size: int, k: int) -> Advantages:
    """PKPO, the estimator "leave one out minus one": what each response adds to the best of k-1 others.

    A⁺ = k C(M-K, k-1)/C(M-1, k-1), the chance that k-1 others all fail, and A⁻ = 0: a wrong response adds nothing.
    Its expectation is k(1-ρ)^(k-1) exactly, for every M ≥ k. Walder and Karkhanis 2025, arXiv 2505.15201.
    """
    wrong = np.arange(group_size, -1, -1, dtype=np.float64)
    return k * _none_correct(wrong, group_size - 1, k - 1), np.zeros(group_size + 1)


def pass_at_k_standardised(group_size: int, k: int) -> Advantages:
    """Pass@k training, analytic form: pass@k of all k-subsets, centred and divided by its standard deviation.

    With R = 1-C(M-K, k)/C(M, k) and σ = √(R(1-R)), A⁺ = (1-R)/σ and A⁻ = (1-R-C(M-K-1, k-1)/C(M-1, k-1))/σ; 0 where
    σ = 0, which includes every group with fewer than k wrong responses. Chen et al. 2025, arXiv 2508.10751.
    """
    wrong = np.arange(group_size, -1, -1, dtype=np.float64)
    failed = _none_correct(wrong, group_size, k)
    deviation = np.sqrt(failed * (1 - failed))
    deviation[deviation == 0] = np.inf
    return failed / deviation, (failed - _none_correct(wrong - 1, group_size - 1, k - 1)) / deviation
