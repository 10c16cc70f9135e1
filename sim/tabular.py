"""The tabular world: each prompt has a softmax policy over V answers, of which the first C are correct.

Responses are sampled from the policy, so the noise of wrong answers and the push on all-wrong groups are real: a push
lowers the answers that were seen, and with many wrong answers what they lose goes mostly to other wrong ones. With two
answers the ``ratio`` and ``outcome`` moves are those of `sim.engine.FiniteSample` in distribution.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sim import kernels
from sim.engine import Tally, in_threads, step_key
from sim.weighting import PromptWeights
from sim.world import Gradient
from theory.finite_group import StepModel
from theory.quadrature import log_odds

MOVES = {("natural", "ratio"): 0, ("natural", "outcome"): 1, ("vanilla", "ratio"): 2}


class Tabular:
    """Prompts with V answers each.

    Parameters
    ----------
    rho
        Shape (n,). Success probabilities at the start, in (0, 1).
    group_size
        M.
    step_size
        η > 0.
    answers, right
        V ≥ 2 and C, from 1 to V-1.
    spread
        How unequal the answers are at the start: the standard deviation of the logits within the correct and within the
        wrong answers, ≥ 0.
    rng
        For those logits.
    gradient
        "natural" or "vanilla".
    step_model
        Of the natural gradient, see `sim.kernels.advance_answers`. "ratio" or "outcome".
    most_groups, threads
        As `sim.engine.FiniteSample`.
    """

    def __init__(
        self,
        rho: NDArray[np.float64],
        group_size: int,
        step_size: float,
        *,
        answers: int,
        right: int,
        spread: float,
        rng: np.random.Generator,
        gradient: Gradient = "natural",
        step_model: StepModel = "ratio",
        most_groups: int = 1,
        threads: int = 0,
    ) -> None:
        self.group_size = group_size
        self._step_size, self._right, self._most, self._threads = step_size, right, most_groups, threads
        self._move = MOVES[gradient, step_model]
        logits = spread * rng.standard_normal((rho.size, answers))
        # The weights of the correct answers sum to ρ/(1-ρ), those of the wrong ones to 1.
        logits[:, :right] += (log_odds(rho) - np.logaddexp.reduce(logits[:, :right], axis=1))[:, None]
        logits[:, right:] -= np.logaddexp.reduce(logits[:, right:], axis=1)[:, None]
        logits -= logits.max(axis=1, keepdims=True)
        self._logits = np.maximum(logits, -kernels.LOG_ODDS_LIMIT)

    @property
    def prompts(self) -> int:
        """As `World`."""
        return self._logits.shape[0]

    def use(self, weights: PromptWeights) -> None:
        """As `World`."""
        self._weights = weights

    def advance(self, rng: np.random.Generator) -> Tally:
        """As `World`."""
        key = step_key(rng)

        def part(start: int, stop: int) -> tuple[int, int, int]:
            return kernels.advance_answers(
                self._logits[start:stop],
                start,
                key,
                self._right,
                self.group_size,
                self._most,
                self._move,
                self._step_size,
                self._weights.correct,
                self._weights.wrong,
            )

        return in_threads(part, self.prompts, self.group_size + self._logits.shape[1], self._threads)

    def success(self) -> NDArray[np.float64]:
        """As `World`."""
        weight = np.exp(self._logits)
        return weight[:, : self._right].sum(axis=1) / weight.sum(axis=1)

    def state(self) -> Mapping[str, NDArray[np.float64]]:
        """As `World`."""
        return {"logits": self._logits}
