"""Loops that pay the clocks of `theory.clocks`: what each costs for a unit of progress, by drawing responses.

All prompts stand at one success probability ρ, and nothing moves: a loop makes many steps, each from there, and counts
what they cost and how far in log-odds they would move a prompt. Cost over progress is then to be c(ρ)/u(ρ), with c the
clock and u the unconditional speed of a group, or ω for loops that learn from single responses.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from sim.engine import sample_groups
from sim.weighting import PromptWeights
from theory.clocks import VARIANCE, Affine, Clock, Mixed, Refill, Success, Tabulated

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Paid:
    """What steps cost and how far they move.

    Attributes
    ----------
    cost
        Shape (steps,), in units of the clock.
    progress
        Shape (steps,). Mean change of a prompt's log-odds, over the step size.
    """

    cost: Array
    progress: Array

    @property
    def price(self) -> float:
        """Cost of a unit of progress: the ratio of the means."""
        return float(self.cost.mean() / self.progress.mean())

    @property
    def error(self) -> float:
        """Standard error of the price, to first order."""
        apart = self.cost / self.cost.mean() - self.progress / self.progress.mean()
        return self.price * float(np.std(apart, ddof=1)) / math.sqrt(apart.size)


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens of right and of wrong responses: exponentially distributed, with these means."""

    right: float
    wrong: float

    def of_groups(self, correct: NDArray[np.int64], group_size: int, rng: np.random.Generator) -> Array:
        """Tokens of groups with so many correct responses, of the same shape."""
        return self.right * rng.standard_gamma(correct) + self.wrong * rng.standard_gamma(group_size - correct)


def moves(weights: PromptWeights, rho: float) -> Array:
    """How far a group with K correct moves log-odds under the ratio step, shape (M+1,), over the step size."""
    share = np.arange(weights.group_size + 1) / weights.group_size
    return share * weights.correct / rho - (1 - share) * weights.wrong / (1 - rho)


def pay(
    clock: Clock,
    weights: PromptWeights,
    rho: float,
    rng: np.random.Generator,
    *,
    steps: int,
    prompts: int,
    refill: bool = False,
    lengths: Lengths | None = None,
) -> Paid:
    """Run the loop that pays a clock.

    Parameters
    ----------
    clock
        Any clock. For measured tokens `lengths` must have its mean at ρ.
    weights
        Table for groups, or with its curve for loops that learn from single responses.
    rho
        Where all prompts stand, in (0, 1).
    rng
        Drives every draw.
    steps, prompts
        Steps, and prompts in each of them.
    refill
        For clocks that a fixed batch and a refilled one pay alike: the refilled one.
    lengths
        Tokens of responses.

    Returns
    -------
    Paid
        By step.
    """
    if "until-success" in clock.loops or "until-both" in clock.loops:
        return _single_responses(clock, weights, rho, rng, steps, prompts, lengths)
    return _groups(clock, weights, rho, rng, steps, prompts, refill, lengths)


def _groups(
    clock: Clock,
    weights: PromptWeights,
    rho: float,
    rng: np.random.Generator,
    steps: int,
    prompts: int,
    refill: bool,
    lengths: Lengths | None,
) -> Paid:
    """Loops that learn from groups: a fixed batch, or groups drawn until enough of them are kept."""
    size, count = weights.group_size, steps * prompts
    keep = np.zeros(size + 1, dtype=bool)
    keep[1 : size + isinstance(clock, Success)] = True  # a success is enough for that one
    refill = refill or clock == VARIANCE or isinstance(clock, Refill | Mixed | Success)
    place = np.full(count, logit(rho))
    drawn, tokens = np.zeros(count), np.zeros(count)
    correct, open_ = np.zeros(count, np.int64), np.arange(count)
    while open_.size:
        correct[open_], _ = sample_groups(place[: open_.size], size, rng)
        drawn[open_] += 1
        if lengths is not None:
            tokens[open_] += lengths.of_groups(correct[open_], size, rng) / size
        open_ = open_[~keep[correct[open_]]] if refill else open_[:0]
    moved = moves(weights, rho)[correct]
    drawn, tokens, moved = (x.reshape(steps, prompts).mean(axis=1) for x in (drawn, tokens, moved))
    if isinstance(clock, Refill):
        return Paid(clock.draw * drawn + clock.update, moved)
    if isinstance(clock, Mixed | Success):
        # The thought experiment: the loss is divided by the groups drawn, so that a kept group moves no further.
        return Paid(drawn, moved / drawn)
    if isinstance(clock, Tabulated):
        spent = tokens if lengths is not None else _measured(clock, rho, rng, steps, prompts)
        return Paid(spent, moved)
    if clock == VARIANCE:  # half of what an update costs
        return Paid(np.full(steps, 0.5), moved)
    return Paid(drawn, moved)


def _measured(clock: Tabulated, rho: float, rng: np.random.Generator, steps: int, prompts: int) -> Array:
    """Costs of updates that vary around what was measured."""
    return float(clock(np.asarray(rho))) * rng.standard_exponential((steps, prompts)).mean(axis=1)


def _single_responses(
    clock: Clock,
    weights: PromptWeights,
    rho: float,
    rng: np.random.Generator,
    steps: int,
    prompts: int,
    lengths: Lengths | None,
) -> Paid:
    """Loops that draw until a success, or until a success and afresh until a failure, and learn from these alone.

    A success of advantage ρω moves log-odds by ω, its share of what is learnt from being 1; a pair with advantages
    ±2ρ(1-ρ)ω, each of share 1/2, by as much.
    """
    assert weights.curve is not None
    omega = float(weights.curve(np.asarray(rho)))
    shape = (steps, prompts)
    draws = rng.geometric(rho, shape).astype(np.float64)
    moved = np.full(steps, rho * omega / rho)
    if "until-both" in clock.loops:
        draws += rng.geometric(1 - rho, shape)
        advantage = 2 * rho * (1 - rho) * omega
        moved = np.full(steps, advantage / 2 / rho + advantage / 2 / (1 - rho))
    cost = draws
    if clock.name == "failures":
        cost = draws - 1
    elif isinstance(clock, Tabulated):
        assert lengths is not None
        cost = lengths.wrong * rng.standard_gamma(draws - 1) + lengths.right * rng.standard_exponential(shape)
    elif isinstance(clock, Affine):
        cost = clock.update + clock.response * draws
    return Paid(cost.mean(axis=1), moved)
