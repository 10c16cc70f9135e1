"""Named prompt weightings ω(ρ).

A weighting multiplies the centred reward of a prompt: A = ω(ρ̂)(r - ρ̂). One function per formula; the registry adds
what a formula alone cannot say: its rules for all-wrong and all-right groups, where ω may be infinite and the
advantage is the limit of -ρω, respectively (1-ρ)ω, and its source. "The paper" is arXiv 2602.11128.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

PAPER = "Heckel, Soltanolkotabi, Thrampoulidis 2026, arXiv 2602.11128"
PLATEAU_THRESHOLD = 0.5


def rloo(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω = 1: REINFORCE with the mean reward as baseline; leave-one-out baselines multiply it by M/(M-1).

    Ahmadian et al. 2024, arXiv 2402.14740.
    """
    return np.ones_like(rho)


def grpo(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω = 1/√(ρ(1-ρ)): reward centred and divided by its standard deviation. Shao et al. 2024, arXiv 2402.03300."""
    return 1 / np.sqrt(rho * (1 - rho))


def linear_r(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω = 1/ρ, effective weight 1-ρ. The paper."""
    return 1 / rho


def sqrt_r(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω = 1/(ρ√(1-ρ)), effective weight √(1-ρ). The paper."""
    return 1 / (rho * np.sqrt(1 - rho))


def uniform_r(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω = 1/(ρ(1-ρ)), effective weight 1. The name is the paper's, the form our reconstruction."""
    return 1 / (rho * (1 - rho))


def plateau_r(rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """Effective weight min(1, (1-ρ)/(1-τ)) with τ = 1/2. The name is the paper's, the form our reconstruction."""
    return np.minimum(1 / (rho * (1 - rho)), 1 / (rho * (1 - PLATEAU_THRESHOLD)))


def power(rho: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    """ω = ρ^-a (1-ρ)^-b: holds RLOO (0,0), GRPO (½,½), Linear-R (1,0), Sqrt-R (1,½), Uniform-R (1,1)."""
    return rho**-a * (1 - rho) ** -b


@dataclasses.dataclass(frozen=True)
class Weighting:
    """A named weighting: callable on success probabilities, with its rules at the two ends.

    Parameters
    ----------
    name : str
        What the command line calls it.
    label : str
        What figures and tables call it; carries the word "reconstruction" where the form is ours.
    formula : str
        ω(ρ) for people.
    function : callable
        ω on arrays of success probabilities in (0, 1).
    all_wrong_advantage, all_right_advantage : float
        lim -ρω as ρ → 0 and lim (1-ρ)ω as ρ → 1; ±inf where the limit does not exist, which no table accepts. With
        `published_rules`, what the published method does instead.
    source : str
        Citation, or "derived", or "reconstruction".
    kinks : tuple of float
        Where ω is not smooth, for quadrature.
    leave_one_out : bool
        Whether a group of M responses multiplies ω by M/(M-1).
    published_rules : bool
        Whether the two advantages are the published method's and differ from the limits.
    """

    name: str
    label: str
    formula: str
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    all_wrong_advantage: float
    all_right_advantage: float
    source: str
    kinks: tuple[float, ...] = ()
    leave_one_out: bool = False
    published_rules: bool = False

    def __call__(self, rho: ArrayLike) -> NDArray[np.float64]:
        """ω(ρ), for ρ of any shape in (0, 1)."""
        return self.function(np.asarray(rho, dtype=np.float64))

    def effective(self, rho: ArrayLike) -> NDArray[np.float64]:
        """e(ρ) = ρ(1-ρ) ω(ρ): the coefficient on "mean score of correct minus mean score of wrong responses"."""
        rho = np.asarray(rho, dtype=np.float64)
        return rho * (1 - rho) * self.function(rho)

    def group_factor(self, group_size: int) -> float:
        """What a group of M responses multiplies ω by: M/(M-1) for leave-one-out baselines, else 1."""
        return group_size / (group_size - 1) if self.leave_one_out else 1.0


REGISTRY: dict[str, Weighting] = {
    weighting.name: weighting
    for weighting in (
        Weighting(
            "rloo",
            "RLOO",
            "1  (× M/(M-1) in a group)",
            rloo,
            0.0,
            0.0,
            "Ahmadian et al. 2024, arXiv 2402.14740",
            leave_one_out=True,
        ),
        Weighting("reinforce", "REINFORCE, mean baseline", "1", rloo, 0.0, 0.0, "Williams 1992"),
        Weighting("grpo", "GRPO", "1/√(ρ(1-ρ))", grpo, 0.0, 0.0, "Shao et al. 2024, arXiv 2402.03300"),
        Weighting("linear-r", "Linear-R", "1/ρ", linear_r, -1.0, 0.0, PAPER),
        Weighting("sqrt-r", "Sqrt-R", "1/(ρ√(1-ρ))", sqrt_r, -1.0, 0.0, f"{PAPER}; all-wrong rule derived"),
        Weighting(
            "uniform-r",
            "Uniform-R (reconstruction)",
            "1/(ρ(1-ρ))",
            uniform_r,
            -1.0,
            1.0,
            f"name: {PAPER}; form: reconstruction",
        ),
        Weighting(
            "plateau-r",
            "Plateau-R (reconstruction)",
            "min(1, 2(1-ρ))/(ρ(1-ρ))",
            plateau_r,
            -1.0,
            0.0,
            f"name: {PAPER}; form: reconstruction",
            kinks=(PLATEAU_THRESHOLD,),
        ),
    )
}
CHOICES = ", ".join([*REGISTRY, "power:a,b"])


def power_weighting(a: float, b: float) -> Weighting:
    """The two-parameter weighting ρ^-a (1-ρ)^-b, with its end rules taken as limits.

    Parameters
    ----------
    a, b : float
        Finite, in [-20, 20].

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """
    if not (math.isfinite(a) and math.isfinite(b) and max(abs(a), abs(b)) <= 20):
        raise ValueError(f"weighting 'power:a,b' needs a and b from -20 to 20, got {a},{b}")
    all_wrong = 0.0 if a < 1 else -1.0 if a == 1 else -math.inf
    all_right = 0.0 if b < 1 else 1.0 if b == 1 else math.inf
    name = f"power:{a!r},{b!r}"
    formula = f"ρ^-{a:g} (1-ρ)^-{b:g}"
    return Weighting(
        name, f"power {a:g}, {b:g}", formula, lambda rho: power(rho, a, b), all_wrong, all_right, "derived"
    )


def parse(text: str) -> Weighting:
    """The weighting of that name: one of the registry, or ``power:a,b``. `theory.catalogue` knows the rest.

    Raises
    ------
    ValueError
        With one sentence that names the choices.
    """
    if text in REGISTRY:
        return REGISTRY[text]
    name, _, arguments = text.partition(":")
    if name == "power":
        try:
            a, b = map(float, arguments.split(","))
        except ValueError:
            raise ValueError(f"weighting 'power:a,b' needs two numbers, got {text!r}") from None
        return power_weighting(a, b)
    raise ValueError(f"unknown weighting {text!r}; choose one of {CHOICES}")
