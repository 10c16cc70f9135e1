"""Addition of two whole numbers with a mixed number of digits.

A prompt reads ``"47+385="`` and the response is the sum in decimal digits, ``"432"``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated

from pydantic import Field

from rl.tasks.config import Frequency, TaskConfig
from rl.tasks.protocol import Prompt

# A response longer than this is wrong whatever it says; int() of a long string takes quadratic time.
LONGEST_ANSWER = 32

ANSWER = re.compile(r"[0-9]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The terms of one addition."""

    terms: tuple[int, int]

    @property
    def total(self) -> int:
        """The answer."""
        return sum(self.terms)


class Addition(TaskConfig):
    """``[task]`` with ``name = "addition"``: two terms, the shorter of one digit up to those of the longer, evenly."""

    in_process = True

    digits: Annotated[Mapping[Annotated[int, Field(ge=1, le=12)], Frequency], Field(min_length=1)]
    """Number of digits of the longer term, 1 to 12, to its relative frequency."""

    @property
    def alphabet(self) -> str:
        """Characters of prompts and demonstrations."""
        return "0123456789+="

    def propose(self, rng: Random) -> Prompt[Sum]:
        """Draw one addition."""
        (longest,) = rng.choices(list(self.digits), weights=list(self.digits.values()))
        terms = [_number(longest, rng), _number(rng.randint(1, longest), rng)]
        rng.shuffle(terms)
        first, second = terms
        low, high = sorted(terms)
        return Prompt(
            id=f"{low}+{high}",
            text=f"{first}+{second}=",
            difficulty=f"{longest} digits" if longest > 1 else "1 digit",
            problem=Sum(terms=(first, second)),
        )

    def demonstrate(self, prompt: Prompt[Sum], rng: Random, *, solved: bool) -> str:
        """Write the sum, or a random number between the longer term and twice that."""
        if solved:
            return str(prompt.problem.total)
        longer = max(prompt.problem.terms)
        return str(rng.randint(longer, 2 * longer))

    def verify(self, prompt: Prompt[Sum], response: str) -> bool | None:
        """Whether the response is the sum in ASCII digits, without sign, space or leading zero; None if no number."""
        if len(response) > LONGEST_ANSWER or not ANSWER.fullmatch(response):
            return None
        return response == str(prompt.problem.total)


def _number(digits: int, rng: Random) -> int:
    """A uniform number with exactly so many digits; zero counts as a one-digit number."""
    return rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)
