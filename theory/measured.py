"""Quantities known from measurement: positive values at success probabilities, interpolated between them."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Measured:
    """A positive function of success probability through given points.

    Its logarithm is linear in log-odds between neighbouring points, so a power law in ρ or 1-ρ is met exactly at the
    points and closely between them; beyond the first and the last point it keeps their value.

    Parameters
    ----------
    rho : tuple of float
        Success probabilities in (0, 1), strictly increasing, at least 2.
    value : tuple of float
        Positive, same length.

    Raises
    ------
    ValueError
        If that does not hold.
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


def _distance(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Difference of log-odds, with all its digits."""
    return np.log1p((high - low) / (low * (1 - high)))
