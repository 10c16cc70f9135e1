"""Dynamics of a prompt's success probability under a weighting, in the population limit.

dρ/dt = κ(ρ) ω(ρ), where the mobility κ says how the policy is updated. Time under a clock c is ∫ c/(κ ω) dρ, the
update budget is ∫ ω dρ (arXiv 2602.11128 for the natural mobility).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from theory.clocks import Clock
from theory.log_linear import LogLinear
from theory.quadrature import integrate, log_odds
from theory.special import expit

Weight = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class Mobility:
    """κ(ρ) = m(ρ) (ρ(1-ρ))^exponent, with m = 1 unless it was measured.

    Parameters
    ----------
    name
        What the command line calls it.
    exponent
        1 for the KL-proximal (mirror, natural-gradient) step, 2 for plain gradient flow on a single logit, 0 where
        κ = m.
    measured
        m(ρ), where it was measured.
    """

    name: str
    exponent: int
    measured: LogLinear | None = None

    @property
    def kinks(self) -> tuple[float, ...]:
        """Where κ is not smooth."""
        return () if self.measured is None else self.measured.kinks

    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """κ(ρ), any shape."""
        value = (rho * (1 - rho)) ** self.exponent
        return value if self.measured is None else value * self.measured(rho)


NATURAL = Mobility("natural", 1)
SOFTMAX_GRADIENT = Mobility("softmax-gradient", 2)
MOBILITIES = {mobility.name: mobility for mobility in (NATURAL, SOFTMAX_GRADIENT)}


def proximal_step(rho: NDArray[np.float64], weight: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """One KL-proximal update π⁺ ∝ π exp(η A): logit ρ⁺ = logit ρ + η ω, exactly.

    Parameters
    ----------
    rho
        Any shape, in (0, 1).
    weight
        ω at ``rho``, of the same shape.
    step
        η.
    """
    return expit(log_odds(rho) + step * weight)


def cost_density(rho: NDArray[np.float64], clock: Clock, mobility: Mobility) -> NDArray[np.float64]:
    """f = c/κ: the time to cross dρ at unit weight. The optimal weighting is proportional to √f (Cauchy-Schwarz)."""
    return clock(rho) / mobility(rho)


def crossing_time(
    weight: Weight,
    clock: Clock,
    mobility: Mobility,
    start: float,
    target: float,
    breaks: Iterable[float] = (),
) -> float:
    """T[ω] = ∫ c/(κ ω) dρ from `start` to `target`, by quadrature split at `breaks` (kinks of ω)."""
    return integrate(lambda rho: cost_density(rho, clock, mobility) / weight(rho), start, target, breaks)


def update_budget(weight: Weight, start: float, target: float, breaks: Iterable[float] = ()) -> float:
    """B = ∫ ω dρ from `start` to `target`: the surrogate's gain, and the accumulated KL of the steps up to η/2."""
    return integrate(weight, start, target, breaks)
