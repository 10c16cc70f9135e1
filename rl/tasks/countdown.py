"""Countdown: reach a target from given numbers by arithmetic, each number at most once.

A prompt reads ``"3 7 25=46:"`` and a correct response is ``"25+3*7"``; so is ``"7*3+25"``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from rl.tasks import arithmetic
from rl.tasks.config import ANY_OPERATOR, Frequency, Operator, TaskConfig
from rl.tasks.protocol import Prompt
from weightopt.settings import Integer

# How tightly an operator binds; a number binds tightest.
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
ATOM = 3
OPERATIONS = {"+": add, "-": sub, "*": mul, "/": truediv}

# Draws of numbers for one arrangement of operators before another arrangement is tried: some, such as two divisions of
# small numbers, hardly ever give a whole target.
DRAWS_PER_PLAN = 64


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of one problem, its target, and an expression that reaches it."""

    given: tuple[int, ...]
    target: int
    solution: str


class Countdown(TaskConfig):
    """``[task]`` with ``name = "countdown"``: problems solvable by an expression that uses all of their numbers.

    Numbers and targets begin at 1, and a target is never one of the numbers, so that no response without arithmetic is
    right.
    """

    in_process = True

    numbers: Annotated[Mapping[Annotated[int, Field(ge=2, le=6)], Frequency], Field(min_length=1)]
    """How many numbers are given, 2 to 6, to the relative frequency of such problems."""
    largest_number: Annotated[Integer, Field(ge=4, le=1000)]
    """The largest number given."""
    largest_target: Annotated[Integer, Field(ge=10, le=100_000)]
    """The largest target."""
    operators: Annotated[Mapping[Operator, Frequency], Field(min_length=1)] = ANY_OPERATOR
    """Operator to the relative frequency with which problems are built from it."""
    habits: Annotated[Mapping[Operator, Frequency], Field(min_length=1)] = ANY_OPERATOR
    """Operator to the relative frequency with which the demonstrations of a new model use it."""
    strata: Literal["numbers", "operators"] = "numbers"
    """What counts as a problem's difficulty: how many numbers, or the operators of the solution it was built from."""

    @property
    def alphabet(self) -> str:
        """Characters of prompts and demonstrations."""
        return "0123456789+-*/() =:"

    def propose(self, rng: Random) -> Prompt[Numbers]:
        """Draw one problem."""
        (count,) = rng.choices(list(self.numbers), weights=list(self.numbers.values()))
        while True:
            plan = _plan(count, self.operators, rng)
            for _ in range(DRAWS_PER_PLAN):
                given = [rng.randint(1, self.largest_number) for _ in range(count)]
                built = _build(plan, given)
                if built is None or built.value.denominator != 1 or not 1 <= built.value <= self.largest_target:
                    continue
                target = int(built.value)
                if target not in given:
                    rng.shuffle(given)
                    used = "".join(sorted(set(built.text) & set(PRECEDENCE)))
                    return Prompt(
                        id=f"{' '.join(map(str, sorted(given)))}={target}",
                        text=f"{' '.join(map(str, given))}={target}:",
                        difficulty=used if self.strata == "operators" else f"{count} numbers",
                        problem=Numbers(given=tuple(given), target=target, solution=built.text),
                    )

    def demonstrate(self, prompt: Prompt[Numbers], rng: Random, *, solved: bool) -> str:
        """Write the known solution, or a random expression that uses every number once and defies no rule."""
        if solved:
            return prompt.problem.solution
        while True:
            given = list(prompt.problem.given)
            rng.shuffle(given)
            built = _build(_plan(len(given), self.habits, rng), given)
            if built is not None:
                return built.text

    def verify(self, prompt: Prompt[Numbers], response: str) -> bool | None:
        """Whether the response is worth the target and uses each given number at most once; None if no expression."""
        try:
            evaluation = arithmetic.evaluate(response)
        except arithmetic.ExpressionError:
            return None
        problem = prompt.problem
        return evaluation.value == problem.target and Counter(evaluation.numbers) <= Counter(problem.given)


@dataclass(frozen=True, slots=True)
class _Expression:
    """An expression as written, its value, and how tightly its outermost operator binds."""

    text: str
    value: Fraction
    precedence: int


# The order in which numbers are combined and the operators used, without the numbers: each move takes the expressions
# at two positions out of the list, joins them and appends the result.
Plan = list[tuple[int, int, str]]


def _plan(count: int, operators: Mapping[Operator, float], rng: Random) -> Plan:
    chosen = rng.choices(list(operators), weights=list(operators.values()), k=count - 1)
    places = (rng.sample(range(left), 2) for left in range(count, 1, -1))
    return [(first, second, operator) for (first, second), operator in zip(places, chosen, strict=True)]


def _build(plan: Plan, given: Sequence[int]) -> _Expression | None:
    """Fill in the numbers; None if that divides by zero."""
    parts = [_Expression(str(number), Fraction(number), ATOM) for number in given]
    for first, second, operator in plan:
        joined = _join(parts[first], parts[second], operator)
        if joined is None:
            return None
        parts = [part for position, part in enumerate(parts) if position not in (first, second)]
        parts.append(joined)
    return parts[0]


def _join(left: _Expression, right: _Expression, operator: str) -> _Expression | None:
    """Write ``left operator right`` with the brackets it needs and no others; None if that divides by zero."""
    if operator == "/" and not right.value:
        return None
    value, precedence = OPERATIONS[operator](left.value, right.value), PRECEDENCE[operator]
    binds_from_left = operator in "-/"  # a-(b+c) and a/(b*c) need their brackets, a+(b-c) and a*(b/c) do not
    first = f"({left.text})" if left.precedence < precedence else left.text
    brackets = right.precedence < precedence or (binds_from_left and right.precedence == precedence)
    second = f"({right.text})" if brackets else right.text
    return _Expression(f"{first}{operator}{second}", value, precedence)
