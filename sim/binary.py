"""The world of two outcomes: each prompt is a log-odds of its own, moved by an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sim.engine import Engine, Tally
from sim.kernels import LOG_ODDS_LIMIT
from sim.weighting import PromptWeights
from theory.quadrature import log_odds


class Binary:
    """Prompts without anything in common.

    Parameters
    ----------
    rho
        Shape (n,). Success probabilities at the start, in (0, 1).
    group_size
        M.
    build
        From weights to the engine.
    """

    def __init__(self, rho: NDArray[np.float64], group_size: int, build: Callable[[PromptWeights], Engine]) -> None:
        self.group_size = group_size
        self._build = build
        self._log_odds = np.clip(log_odds(rho), -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)

    @property
    def prompts(self) -> int:
        """As `World`."""
        return self._log_odds.size

    def use(self, weights: PromptWeights) -> None:
        """As `World`."""
        self._engine = self._build(weights)

    def advance(self, rng: np.random.Generator) -> Tally:
        """As `World`."""
        return self._engine(self._log_odds, rng)

    def success(self) -> NDArray[np.float64]:
        """As `World`."""
        return expit(self._log_odds)

    def state(self) -> Mapping[str, NDArray[np.float64]]:
        """As `World`."""
        return {"log_odds": self._log_odds}
