"""Engines: one update of every prompt of a population, each a log-odds θ; all with one signature.

    engine(log_odds, rng) -> Tally        in place

`FiniteSample` draws K ~ Bin(M, ρ) for each prompt and makes the step that `theory.finite_group` describes. `MeanField`
makes the expected step, θ += η u(ρ), and `LargeGroup` the step of infinitely many responses, θ += η ω(ρ), which is the
KL-proximal update exactly. Both are the Euler scheme of dθ/dt = u, of first order in η at a fixed time η·steps; the
mean of `FiniteSample` differs from `MeanField` at the same order, because u is not linear.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sim import kernels
from sim.errors import UsageError
from sim.kernels import LOG_ODDS_LIMIT
from sim.weighting import PromptWeights
from theory.finite_group import StepModel, speed

CHUNK = 1 << 20  # probabilities Bin(K; M, ρ) computed at once, which bounds memory
WORTH_A_THREAD = 1 << 20  # responses in a step that keep a thread busy for longer than it takes to start
NOTHING = np.empty(0)
NO_COUNTS = np.empty(0, np.int64)


class Tally(NamedTuple):
    """What one update cost and met: groups drawn, and all-wrong and all-right ones among those used.

    An engine that draws nothing gives expectations, which need not be whole.
    """

    groups: float
    all_wrong: float
    all_right: float


class Engine(Protocol):
    """One update of a population, in place."""

    def __call__(self, log_odds: NDArray[np.float64], rng: np.random.Generator) -> Tally:
        """Advance every prompt once.

        Parameters
        ----------
        log_odds
            Shape (n,), C-contiguous. θ of each prompt, within ±36; changed in place.
        rng
            Asked for one 64-bit word a step by what draws, for nothing by what does not.
        """
        ...


class FiniteSample:
    """The step of groups that are drawn: K ~ Bin(M, ρ), exact to 2^-63 in probability.

    Parameters
    ----------
    weights
        Weight by K, at the scale that the step size multiplies.
    step_size
        η > 0.
    step_model
        `theory.finite_group`. "ratio" or "outcome".
    most_groups
        Dynamic sampling: groups drawn for a prompt until one is mixed, at most so many, the last of which is used as it
        is. 1: none is drawn again.
    threads
        Changes no number.
    """

    def __init__(
        self,
        weights: PromptWeights,
        step_size: float,
        step_model: StepModel = "ratio",
        most_groups: int = 1,
        threads: int = 0,
    ) -> None:
        self.group_size = weights.group_size
        self._most = most_groups
        self._ratio = step_model == "ratio"
        self._threads = threads
        correct, wrong = step_size * weights.correct, -step_size * weights.wrong
        share = np.arange(self.group_size + 1) / self.group_size
        if self._ratio:
            self._correct, self._wrong = share * correct, (1 - share) * wrong
        else:  # an outcome that was not seen does not move; its entry in the table is 0 already
            self._correct, self._wrong = np.where(share > 0, correct, 0.0), np.where(share < 1, wrong, 0.0)

    def __call__(self, log_odds: NDArray[np.float64], rng: np.random.Generator) -> Tally:
        """As `Engine`."""
        key = step_key(rng)

        def part(start: int, stop: int) -> tuple[int, int, int]:
            return kernels.advance(
                log_odds[start:stop],
                start,
                key,
                self.group_size,
                self._most,
                self._ratio,
                self._correct,
                self._wrong,
                NO_COUNTS,
            )

        return in_threads(part, log_odds.size, self.group_size, self._threads)


class MeanField:
    """The expected step of groups of M: θ += η u(ρ), with dynamic sampling if asked for; arguments as `FiniteSample`.

    With q the probability of a mixed group and m groups at most, u = (1-(1-q)^m)/q · u_mixed + (1-q)^(m-1) · u_uniform.
    """

    def __init__(
        self, weights: PromptWeights, step_size: float, step_model: StepModel = "ratio", most_groups: int = 1
    ) -> None:
        self._step_size, self._most = step_size, most_groups
        self._model: StepModel = step_model
        self._size = weights.group_size
        ends = np.isin(np.arange(self._size + 1), (0, self._size))
        self._mixed = (np.where(ends, 0, weights.correct), np.where(ends, 0, weights.wrong))
        self._uniform = (np.where(ends, weights.correct, 0), np.where(ends, weights.wrong, 0))

    def __call__(self, log_odds: NDArray[np.float64], rng: np.random.Generator) -> Tally:  # noqa: ARG002
        """As `Engine`."""
        groups = all_wrong = all_right = 0.0
        prompts = max(1, CHUNK // self._size)
        for start in range(0, log_odds.size, prompts):
            theta = log_odds[start : start + prompts]
            rho, failure = expit(theta), expit(-theta)
            wrong, right = failure**self._size, rho**self._size
            again = (wrong + right) ** (self._most - 1)  # every group before the last was uniform
            # 1 + (1-q) + ... : expected groups, also where 1-q is 1 in all digits.
            drawn = sum((wrong + right) ** j for j in range(1, self._most)) + 1.0
            velocity = drawn * speed(rho, *self._mixed, self._model)
            velocity += again * speed(rho, *self._uniform, self._model)
            np.clip(theta + self._step_size * velocity, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT, out=theta)
            groups += float(np.sum(drawn)) if self._most > 1 else theta.size
            all_wrong += float(np.sum(again * wrong))
            all_right += float(np.sum(again * right))
        return Tally(groups, all_wrong, all_right)


class LargeGroup:
    """The proximal step of infinitely many responses, θ += η ω(ρ); it counts one group of the nominal size a prompt.

    Raises
    ------
    UsageError
        If the weights exist for groups only.
    """

    def __init__(self, weights: PromptWeights, step_size: float) -> None:
        if weights.curve is None:
            raise UsageError(
                f"weighting {weights.name!r} is a rule for groups, not a curve: choose engine 'mean-field' or "
                "'finite-sample'"
            )
        self._curve, self._step_size = weights.curve, step_size

    def __call__(self, log_odds: NDArray[np.float64], rng: np.random.Generator) -> Tally:  # noqa: ARG002
        """As `Engine`."""
        # The largest number below 1 stands for 1, where a weight may be infinite.
        rho = np.minimum(expit(log_odds), 1 - 2**-53)
        np.clip(log_odds + self._step_size * self._curve(rho), -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT, out=log_odds)
        return Tally(float(log_odds.size), 0.0, 0.0)


def sample_groups(
    log_odds: NDArray[np.float64], group_size: int, rng: np.random.Generator, most_groups: int = 1, threads: int = 0
) -> tuple[NDArray[np.int64], Tally]:
    """K ~ Bin(M, σ(θ)) for every prompt, and what drawing it cost; arguments as `FiniteSample`."""
    key, successes = step_key(rng), np.empty(log_odds.size, np.int64)

    def part(start: int, stop: int) -> tuple[int, int, int]:
        return kernels.advance(
            log_odds[start:stop], start, key, group_size, most_groups, True, NOTHING, NOTHING, successes[start:stop]
        )

    return successes, in_threads(part, log_odds.size, group_size, threads)


def step_key(rng: np.random.Generator) -> np.uint64:
    """The key of a step's streams: one word of the caller's generator."""
    return rng.integers(0, 2**64, dtype=np.uint64)


def in_threads(part: Callable[[int, int], tuple[int, int, int]], prompts: int, group_size: int, threads: int) -> Tally:
    """Add up what `part(start, stop)` returns over ranges that cover the prompts, one a thread (0: one a core)."""
    wanted = threads or os.cpu_count() or 1
    count = max(1, min(wanted, prompts * group_size // WORTH_A_THREAD))
    cuts = [prompts * i // count for i in range(count + 1)]
    if count == 1:
        return Tally(*part(0, prompts))
    with ThreadPoolExecutor(count) as pool:
        parts = list(pool.map(part, cuts[:-1], cuts[1:]))
    return Tally(*(sum(column) for column in zip(*parts, strict=True)))
