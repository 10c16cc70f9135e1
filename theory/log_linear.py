"""Functions of success probability whose logarithm is linear in log-odds θ between given points, and their flow.

Measured costs, weight tables and solved weightings are such functions. A weighting ω that all prompts share moves each
of them along one and the same curve: with H(θ) = ∫ dθ/ω, H(θ_i) grows by the same amount τ for every prompt. For ln ω
piecewise linear in θ, H and its inverse are elementary, so the path of a population is exact.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import log_odds
from theory.special import exprel

Array = NDArray[np.float64]
NIL = 1e-300  # in place of 0, where ln(1+z)/z is 0/0
NEAR = 1e-2  # below it exprel' is summed as a series, whose next term is 1e-13


@dataclasses.dataclass(frozen=True)
class LogLinear:
    """A positive function of success probability through given points.

    Its logarithm is linear in log-odds between neighbouring points, so that it follows a power law in ρ or 1-ρ exactly
    at the points and closely between them. Beyond the first and the last point it is constant.

    Parameters
    ----------
    rho
        Success probabilities in (0, 1), strictly increasing, at least 2.
    value
        Positive, from 1e-30 to 1e30, as many as ``rho``.

    Raises
    ------
    ValueError
        If a value is out of range, or the points do not increase.
    """

    rho: tuple[float, ...]
    value: tuple[float, ...]

    def __post_init__(self) -> None:
        rho, value = np.array(self.rho), np.array(self.value)
        if rho.ndim != 1 or rho.shape != value.shape or rho.size < 2:
            raise ValueError("measured values need at least 2 points, one value each")
        if not (rho[0] > 0 and rho[-1] < 1 and np.all(np.diff(rho) > 0)):
            raise ValueError("success probabilities must be strictly increasing within (0, 1)")
        if not np.all((value >= 1e-30) & (value <= 1e30)):
            raise ValueError("measured values must be positive, from 1e-30 to 1e30")

    @property
    def kinks(self) -> tuple[float, ...]:
        """Where the slope jumps: at the points."""
        return self.rho

    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """The value at success probabilities of any shape in (0, 1)."""
        points, logarithm = np.array(self.rho), np.log(self.value)
        at = np.clip(rho, points[0], points[-1])
        left = np.clip(np.searchsorted(points, at, side="right") - 1, 0, points.size - 2)
        # Differences of log-odds to the point on the left: two points may be close and the values far apart.
        share = _distance(points[left], at) / _distance(points[:-1], points[1:])[left]
        return np.exp(logarithm[left] + share * np.diff(logarithm)[left])


def _distance(low: Array, high: Array) -> Array:
    """Difference of log-odds, with all its digits also where the two are close."""
    apart = log_odds(high) - log_odds(low)
    close = apart < 1  # beyond, the quotient below may exceed the largest float and the difference loses nothing
    quotient = np.where(close, high - low, 0.0) / (low * np.where(close, 1 - high, 1.0))
    return np.where(close, np.log1p(quotient), apart)


class LogLinearFlow:
    """The flow dθ/dτ = ω(θ) of a weighting whose logarithm is linear in log-odds between knots, in closed form.

    On a piece where ln ω = l + s(θ-θ_0) the way from θ_0 to θ takes the time e^-l (1 - e^(-s(θ-θ_0)))/s, and conversely
    θ = θ_0 - ln(1 - s e^l τ)/s. The flow stops at the last knot.

    The time of each prompt counts from its own start, not from the first knot. Weights may span many powers of ten, and
    in one common H the rounding of the slow prompts' long times would swamp the short times of the fast ones.

    Parameters
    ----------
    theta
        Shape (k,). Knots in log-odds, increasing, k ≥ 2.
    log_weight
        Shape (k,). ln ω there.
    start
        Shape (n,). Log-odds of the prompts at τ = 0, between the first and the last knot.

    Attributes
    ----------
    stop
        Shape (n,). Flow time at which each prompt is at the last knot.
    """

    def __init__(self, theta: Array, log_weight: Array, start: Array) -> None:
        self.theta, self.log_weight, self.start = theta, log_weight, start
        self.width = np.diff(theta)
        self.slope = np.diff(log_weight) / self.width
        pieces = np.exp(-log_weight[:-1]) * self.width * exprel(-self.slope * self.width)
        self._weight = np.exp(log_weight)
        self._first, ahead = self._piece(start)
        self._start_weight = np.exp(log_weight[self._first] + self.slope[self._first] * ahead)
        left = self.width[self._first] - ahead
        rest = left * exprel(-self.slope[self._first] * left) / self._start_weight
        # When each prompt is at each knot, 0 at those that it has behind it; shape (n, k), in one row.
        begun = np.zeros((start.size, theta.size))
        np.multiply(pieces, np.arange(pieces.size) > self._first[:, None], out=begun[:, 1:])
        begun[np.arange(start.size), self._first + 1] = rest
        np.cumsum(begun, axis=1, out=begun)
        self._begun, self._row = begun.ravel(), np.arange(start.size) * theta.size
        self.stop = begun[:, -1].copy()
        self._clock = np.cumsum(pieces)  # the common H at the ends of the pieces
        self._ahead_of_start = self._clock[self._first] - self._begun[self._row + self._first + 1]

    def _piece(self, theta: Array) -> tuple[NDArray[np.intp], Array]:
        piece = np.clip(np.searchsorted(self.theta, theta, side="right") - 1, 0, self.slope.size - 1)
        return piece, theta - self.theta[piece]

    def position(self, tau: Array) -> tuple[Array, Array]:
        """Log-odds and ω at flow times τ ≥ 0 of shape (m,), each of shape (m, n); ω is 0 where the flow has stopped."""
        last, tau = self.slope.size - 1, tau[:, None]
        # The common H says about which piece a prompt is on, its own times which.
        piece = np.maximum(self._first, np.minimum(last, np.searchsorted(self._clock, self._ahead_of_start + tau)))
        while True:
            at = piece + self._row
            since, until = self._begun.take(at), self._begun.take(at + 1)
            behind, before = (until <= tau) & (piece < last), (since > tau) & (piece > self._first)
            if not (behind.any() or before.any()):
                break
            piece = piece + behind - before
        begun = piece == self._first
        slope = self.slope.take(piece)
        weight = np.where(begun, self._start_weight, self._weight.take(piece))
        ahead = weight * (np.minimum(tau, self.stop) - since)
        # ln(1+z)/z is exact but at 0; rounding must not step over the pole behind the last knot.
        z = np.maximum(-slope * ahead, -1 + 1e-15)
        z[z == 0] = NIL
        ahead *= np.log1p(z) / z
        theta = np.minimum(np.where(begun, self.start, self.theta.take(piece)) + ahead, self.theta.take(piece + 1))
        weight = weight * np.exp(slope * ahead)
        stopped = tau >= self.stop
        theta[stopped], weight[stopped] = self.theta[-1], 0.0
        return theta, weight

    def pull_back(self, theta: Array, value: Array) -> Array:
        """Σ value ∂H(θ)/∂l over all entries, H(θ) = ∫ dθ/ω from the first knot, l the knots' log-weights; shape (k,).

        With E = exprel, a piece of width Δ contributes Δ e^(-l_k) E(l_k - l_(k+1)) to H. Its part up to a share u
        contributes the same with uΔ for Δ and u(l_k - l_(k+1)) for the argument of E.

        Parameters
        ----------
        theta, value
            Ends θ and factors of the sum, of the same shape.
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
