"""What a weighting is: the records that the pages of `theory.handbook` fill in.

Three kinds. A `Weighting` is a function ω(ρ) that multiplies the centred reward of a prompt, A = ω(ρ̂)(r - ρ̂). A
`GroupScheme` gives the advantages of a group directly, for rules that no ω(K/M) expresses. A `Family` makes either of
them from the parameters in its name (``tsallis:0.75``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Advantages = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class Formula:
    """A function of success probability, and the same formula as text: a test reads the text and compares values."""

    text: str
    function: Callable[[Array], Array]

    def __call__(self, rho: ArrayLike) -> Array:
        """The values at success probabilities of any shape in (0, 1)."""
        return self.function(np.asarray(rho, dtype=np.float64))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighting:
    """A named weighting: callable on success probabilities, with its rules for all-wrong and all-right groups.

    At the two ends ω may be infinite. The advantage there is the limit of -ρω as ρ → 0, respectively of (1-ρ)ω as
    ρ → 1, unless the published method does otherwise.

    Parameters
    ----------
    name, label
        What the command line calls it, and what figures and tables call it. The label carries the word
        "reconstruction" where the form is ours.
    weight
        ω(ρ).
    effective_formula
        e(ρ) = ρ(1-ρ) ω(ρ) for people.
    surrogate
        h(ρ) with h' = ω, up to a constant: the objective whose gradient the weighting follows. None where it has no
        closed form.
    source
        Citation, or "derived", or "reconstruction".
    all_wrong_advantage, all_right_advantage
        Advantage of a response in an all-wrong and in an all-right group, 0 unless stated; ±inf where the limit does
        not exist, which no table accepts.
    note
        What else the published method does, or how its code differs.
    kinks
        Where ω is not smooth, for quadrature.
    leave_one_out
        Whether a group of M responses multiplies ω by M/(M-1).
    published_rules
        Whether the two advantages are the published method's and not the limits.
    draws_again
        Whether the published method draws uniform groups again, so that they have no advantage at all.
    """

    name: str
    label: str
    weight: Formula
    effective_formula: str
    surrogate: Formula | None
    source: str
    all_wrong_advantage: float = 0.0
    all_right_advantage: float = 0.0
    note: str = ""
    kinks: tuple[float, ...] = ()
    leave_one_out: bool = False
    published_rules: bool = False
    draws_again: bool = False

    def __call__(self, rho: ArrayLike) -> Array:
        """ω(ρ), for ρ of any shape in (0, 1)."""
        return self.weight(rho)

    def effective(self, rho: ArrayLike) -> Array:
        """e(ρ) = ρ(1-ρ) ω(ρ): the coefficient on "mean score of correct minus mean score of wrong responses"."""
        rho = np.asarray(rho, dtype=np.float64)
        return rho * (1 - rho) * self.weight(rho)

    def group_factor(self, group_size: int) -> float:
        """What a group of M responses multiplies ω by: M/(M-1) for leave-one-out baselines, else 1."""
        return group_size / (group_size - 1) if self.leave_one_out else 1.0

    @property
    def formula(self) -> str:
        """ω(ρ) for people."""
        return self.weight.text

    @property
    def all_wrong_rule(self) -> str:
        """Advantage in an all-wrong group, and where that number comes from."""
        return self._rule(self.all_wrong_advantage)

    @property
    def all_right_rule(self) -> str:
        """Advantage in an all-right group, and where that number comes from."""
        return self._rule(self.all_right_advantage)

    def _rule(self, advantage: float) -> str:
        if self.draws_again:
            return "group is drawn again"
        if not math.isfinite(advantage):
            return "no finite limit: to be stated"
        return f"{advantage:g} ({'published' if self.published_rules else 'limit'})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupScheme:
    """Advantages for groups of M responses, by the number K of correct ones: callable on M.

    The difference A⁺-A⁻ plays the part of the weight: A = (A⁺-A⁻)(r - K/M) + b_K, with a shift b_K that is common to
    the group. For constant A⁺ and A⁻ the shift is a baseline: it changes the variance of the gradient, not its mean.

    Parameters
    ----------
    name, label
        What the command line calls it, and what figures and tables call it.
    formula
        The advantages for people.
    function
        From M to the pair (correct, wrong), shape (M+1,) each, with correct[K] ≥ wrong[K] for K = 1..M-1.
    limit
        What correct - wrong at K = ρM tends to as M grows.
    all_wrong_rule, all_right_rule
        Advantage in uniform groups, for people.
    source, note
        Citation, and what else the published method does or how this differs from a formula.
    minimum_size
        Smallest M, at least 2.
    """

    name: str
    label: str
    formula: str
    function: Callable[[int], Advantages]
    limit: Weighting
    all_wrong_rule: str
    all_right_rule: str
    source: str
    note: str = ""
    minimum_size: int = 2

    def __call__(self, group_size: int) -> Advantages:
        """Advantages of a correct and of a wrong response, shape (M+1,) each.

        The two entries that no response can have, correct at K = 0 and wrong at K = M, are 0.

        Raises
        ------
        ValueError
            If `group_size` is below `minimum_size`.
        """
        if group_size < self.minimum_size:
            raise ValueError(
                f"weighting {self.name!r} needs groups of at least {self.minimum_size} responses, got {group_size}"
            )
        correct, wrong = self.function(group_size)
        correct[0], wrong[-1] = 0.0, 0.0
        return correct, wrong


@dataclasses.dataclass(frozen=True)
class Family:
    """Weightings or schemes with parameters in their name: callable on the parameters.

    Parameters
    ----------
    name, parameters
        What stands before and behind the colon, for people.
    build
        From the numbers to the member; raises ValueError with one sentence if they are out of range.
    example
        Parameters of the member that the catalogue shows.
    span
        Smallest and largest value of a single parameter; None where `build` checks.
    whole
        Whether the parameters are whole numbers.
    batch
        Whether the parameters are statistics of a batch.
    bare
        Whether the name without parameters stands for the example.
    """

    name: str
    parameters: str
    build: Callable[..., Weighting | GroupScheme]
    example: tuple[float, ...]
    span: tuple[float, float] | None = None
    whole: bool = False
    batch: bool = False
    bare: bool = True

    def __call__(self, *numbers: float) -> Weighting | GroupScheme:
        """The member with those parameters; ValueError with one sentence if one is out of range."""
        if self.span is not None:
            (value,), (low, high) = numbers, self.span
            if not low <= value <= high:  # refuses not-a-number too
                given = str(value)[:40] if isinstance(value, int) else f"{value:g}"  # :g fails for very long integers
                allowed = f"{self.parameters} from {low:g} to {high:g}"
                raise ValueError(f"weighting '{self.name}:{self.parameters}' needs {allowed}, got {given}")
        return self.build(*numbers)

    def parse(self, arguments: str) -> Weighting | GroupScheme:
        """The member whose parameters are written behind the colon; errors as for a call."""
        try:
            numbers = [int(word) if self.whole else float(word) for word in arguments.split(",")]
        except ValueError:
            numbers = []
        fits = len(numbers) == len(self.example) or self.parameters.endswith(",...")
        if not numbers or not fits:
            count = "numbers" if len(self.example) > 1 else "one whole number" if self.whole else "one number"
            raise ValueError(f"weighting '{self.name}:{self.parameters}' needs {count}, got {arguments[:40]!r}")
        return self(*numbers)
