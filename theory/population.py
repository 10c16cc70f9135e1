"""Many prompts under one budget per step: path lengths, step budgets, and the flow of a shared weighting.

In log-odds θ a weight is a speed, dθ_i/dt = ω_i. A budget on each step bounds a norm of these speeds, so that the time
to go along a path, at unit budget, is the length of the path: mean|dx_i| or the root of mean dx_i² in the coordinate x
that makes the norm flat,

    weight   mean ω          x = θ             = ln(ρ/(1-ρ))
    kl       mean ρ(1-ρ)ω²   x = φ = 2 asin √ρ    because dφ = √(ρ(1-ρ)) dθ
    square   mean ω²         x = θ

No choice of weights, prompt by prompt and step by step, is faster than the straight distance from the start to the
nearest point at which mean ρ has reached its target; it is attained by going there straight. Derived. A step η moves a
prompt by a KL of η²/2 ρ(1-ρ)ω² to leading order, which is what the second budget counts.

A *shared* weighting ω(ρ) moves every prompt along one and the same curve: with H(θ) = ∫ dθ/ω, H(θ_i) grows by the same
amount τ for every prompt. For ln ω piecewise linear in θ, the interpolation of weight tables, H and its inverse are
elementary, so a population's path is exact and only its length needs quadrature.

Where a prompt counts as solved. GRPO, Sqrt-R and Uniform-R reach ρ = 1 in finite time; in log-odds that is an infinite
way, so that the first and third budget would be spent on prompts that have nothing left to learn. A prompt with
1-ρ ≤ δ is therefore *solved*: it has no weight, costs no budget, and stays where it is. That is what happens in
training, where a group whose M responses are all right, (1-δ)^M of the groups of such a prompt, has no gradient. ω = 0
beyond 1-δ is a weighting like any other, hence the bound over all weights holds for it unchanged.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.special import betaincinv, betaln, expit, exprel, gammaln

Array = NDArray[np.float64]
TINY = 1e-9  # ln(1+z)/z is 1 to rounding below this
NEAR = 1e-2  # below it exprel' is summed as a series, whose next term is 1e-13


@dataclasses.dataclass(frozen=True)
class StepBudget:
    """A norm of the weights of all prompts in one step.

    Attributes
    ----------
    name
        What the command line calls it.
    reading
        One line for people.
    exponent
        p of the norm (mean g ω^p)^(1/p). 1 or 2.
    coordinate_name
        x, in which the norm of the speeds is flat; "angle" is φ = 2 asin √ρ. "log-odds" or "angle".
    """

    name: str
    reading: str
    exponent: Literal[1, 2]
    coordinate_name: Literal["log-odds", "angle"]

    def coordinate(self, theta: ArrayLike) -> Array:
        """x of log-odds of any shape."""
        theta = np.asarray(theta, dtype=np.float64)
        # asin √ρ = atan e^(θ/2): no digits lost near ρ = 1.
        return theta if self.coordinate_name == "log-odds" else 2 * np.arctan(np.exp(theta / 2))

    def slope(self, theta: ArrayLike) -> Array:
        """dx/dθ at log-odds of any shape."""
        theta = np.asarray(theta, dtype=np.float64)
        return np.ones_like(theta) if self.coordinate_name == "log-odds" else np.sqrt(expit(theta) * expit(-theta))

    def success(self, x: ArrayLike) -> Array:
        """ρ at coordinates of any shape."""
        x = np.asarray(x, dtype=np.float64)
        return expit(x) if self.coordinate_name == "log-odds" else np.sin(x / 2) ** 2

    def norm(self, change: Array, share: Array) -> Array:
        """(Σ share |dx|^p)^(1/p) over the last axis.

        Parameters
        ----------
        change
            Shape (..., n). Changes or speeds of the coordinate.
        share
            Shape (n,). Share of each prompt in the population, sum 1.
        """
        if self.exponent == 1:
            return np.abs(change) @ share
        return np.sqrt(change**2 @ share)


BUDGETS = {
    budget.name: budget
    for budget in (
        StepBudget("weight", "mean weight ω", 1, "log-odds"),
        StepBudget("kl", "root mean ρ(1-ρ)ω², the KL of a step", 2, "angle"),
        StepBudget("square", "root mean squared weight ω²", 2, "log-odds"),
    )
}


class LogLinearFlow:
    """The flow dθ/dτ = ω(θ) of a weighting whose logarithm is linear in log-odds between knots, in closed form.

    On a piece where ln ω = l + s(θ-θ_0) it takes from θ_0 to θ the time e^-l (1 - e^(-s(θ-θ_0)))/s, and conversely
    θ = θ_0 - ln(1 - s e^l τ)/s. The flow stops at the last knot.

    Times are counted from where each prompt starts and not from the first knot: weights may span many powers of ten,
    and in one common H the short times of the fast prompts would drown in the long ones of the slow.

    Parameters
    ----------
    theta
        Shape (k,). Knots in log-odds, increasing, k ≥ 2.
    log_weight
        Shape (k,). ln ω there.
    start
        Shape (n,). Log-odds of the prompts at τ = 0, between the first and the last knot.
    """

    def __init__(self, theta: Array, log_weight: Array, start: Array) -> None:
        self.theta, self.log_weight, self.start = theta, log_weight, start
        self.width = np.diff(theta)
        self.slope = np.diff(log_weight) / self.width
        pieces = np.exp(-log_weight[:-1]) * self.width * exprel(-self.slope * self.width)
        self._first, ahead = self._piece(start)
        self._start_log_weight = log_weight[self._first] + self.slope[self._first] * ahead
        left = self.width[self._first] - ahead
        rest = np.exp(-self._start_log_weight) * left * exprel(-self.slope[self._first] * left)
        at = np.arange(pieces.size)
        first = self._first[:, None]
        times = np.where(at > first, pieces, np.where(at == first, rest[:, None], 0.0))
        self._reached = np.cumsum(times, axis=1)  # (n, k-1): when each prompt is at the end of each piece
        self._clock = np.cumsum(pieces)  # the common H at the ends of the pieces

    @property
    def stop(self) -> Array:
        """Flow time at which each prompt is at the last knot, shape (n,)."""
        return self._reached[:, -1]

    def _piece(self, theta: Array) -> tuple[NDArray[np.intp], Array]:
        piece = np.clip(np.searchsorted(self.theta, theta, side="right") - 1, 0, self.slope.size - 1)
        return piece, theta - self.theta[piece]

    def position(self, tau: Array) -> tuple[Array, Array]:
        """Log-odds and ω at flow times τ ≥ 0 of shape (m,), each of shape (m, n); ω is 0 where the flow has stopped."""
        last = self.slope.size - 1
        prompt = np.arange(self.start.size)
        # The common H says about which piece a prompt is on, its own times which.
        guess = np.searchsorted(
            self._clock, self._clock[self._first] - self._reached[prompt, self._first] + tau[:, None]
        )
        piece = np.clip(guess, self._first, last)
        while True:
            behind = (piece < last) & (self._reached[prompt, piece] <= tau[:, None])
            before = (piece > self._first) & (self._reached[prompt, piece - 1] > tau[:, None])
            if not (np.any(behind) or np.any(before)):
                break
            piece = piece + behind - before
        begun = piece == self._first
        slope = self.slope[piece]
        origin = np.where(begun, self.start, self.theta[piece])
        log_weight = np.where(begun, self._start_log_weight, self.log_weight[piece])
        since = np.where(begun, 0.0, self._reached[prompt, piece - 1])
        stopped = tau[:, None] >= self.stop
        ahead = np.where(stopped, 0.0, tau[:, None] - since) * np.exp(log_weight)
        z = np.maximum(-slope * ahead, -1 + 1e-15)  # rounding must not step over the pole behind the last knot
        small = np.abs(z) < TINY
        ahead = ahead * np.where(small, 1.0, np.log1p(z) / np.where(small, 1.0, z))
        theta = np.where(stopped, self.theta[-1], np.minimum(origin + ahead, self.theta[piece + 1]))
        return theta, np.where(stopped, 0.0, np.exp(log_weight + slope * ahead))

    def pull_back(self, theta: Array, value: Array) -> Array:
        """Σ value ∂H(θ)/∂l over all entries, H(θ) = ∫ dθ/ω from the first knot, l the knots' log-weights; shape (k,).

        With E = exprel and E' its derivative a piece of width Δ has H = Δ e^(-l_k) E(l_k - l_(k+1)), and the part of it
        up to a share u the same with uΔ and u(l_k - l_(k+1)).

        Parameters
        ----------
        theta, value
            Of the same shape.
        """
        size = self.slope.size
        piece, ahead = self._piece(theta.ravel())
        value = value.ravel()
        here = np.exp(-self.log_weight[piece]) * ahead * value
        z = -self.slope[piece] * ahead
        turn = here * (ahead / self.width[piece]) * _exprel_slope(z)
        at = np.bincount(piece, turn - here * exprel(z), size)
        after = np.bincount(piece, -turn, size)
        # Every piece below a point is crossed whole.
        whole = np.concatenate([np.cumsum(np.bincount(piece, value, size)[::-1])[::-1][1:], [0.0]])
        z = -self.slope * self.width
        here = np.exp(-self.log_weight[:-1]) * self.width * whole
        turn = here * _exprel_slope(z)
        return np.append(at + turn - here * exprel(z), 0.0) + np.concatenate([[0.0], after - turn])


def _exprel_slope(z: Array) -> Array:
    """d/dz (e^z - 1)/z = ((z-1)e^z + 1)/z²."""
    near = np.abs(z) < NEAR
    far = np.where(near, 1.0, z)
    series = 1 / 2 + z * (1 / 3 + z * (1 / 8 + z * (1 / 30 + z * (1 / 144 + z / 840))))
    return np.where(near, series, ((far - 1) * np.exp(far) + 1) / far**2)


def beta_midpoints(a: float, b: float, count: int) -> Array:
    """The Beta(a, b) distribution as `count` equal prompts: its quantiles at (k+½)/count, rising; shape (count,)."""
    return betaincinv(a, b, (np.arange(count) + 0.5) / count)


def beta_binomial_log_likelihood(a: float, b: float, counts: Array) -> float:
    """ln P of a histogram of successes when ρ ~ Beta(a, b) and K ~ Bin(M, ρ), P(K) = C(M,K) B(K+a, M-K+b)/B(a, b).

    Parameters
    ----------
    a, b
        Positive.
    counts
        Shape (M+1,). Groups with K correct, K = 0..M.
    """
    size = counts.size - 1
    k = np.arange(size + 1)
    choose = gammaln(size + 1) - gammaln(k + 1) - gammaln(size - k + 1)
    return float(counts @ (choose + betaln(k + a, size - k + b) - betaln(a, b)))
