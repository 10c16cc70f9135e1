"""Quantities known from measurement: positive values at success probabilities, interpolated between them."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import log_odds


@dataclasses.dataclass(frozen=True)
class Measured:
    """A positive function of success probability through given points.

    Its logarithm is linear in log-odds between neighbouring points, so a power law in ρ or 1-ρ is met exactly at the
    points and closely between them; beyond the first and the last point it keeps their value.

    Parameters
    ----------
    rho
        Success probabilities in (0, 1), strictly increasing, at least 2.
    value
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
        theta = np.interp(log_odds(rho), log_odds(np.array(self.rho)), np.log(self.value))
        return np.exp(theta)
