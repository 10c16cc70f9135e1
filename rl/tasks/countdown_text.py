"""Countdown for models that know language: the problems of `rl.tasks.countdown`, asked in words.

Without examples the prompt is an instruction: think first, then give the expression in ``<answer> </answer>``, as in
TinyZero (github.com/Jiayi-Pan/TinyZero). With examples it is a list of solved problems whose last line is left open,
for small models that complete better than they obey; the answer is the first line of the response. In both an answer
is right if it uses every number exactly once and is worth the target, and nothing is given for the form.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from random import Random
from typing import Annotated

from pydantic import Field, model_validator

from rl.tasks import arithmetic
from rl.tasks.config import ANY_OPERATOR, Frequency, Operator, TextTaskConfig
from rl.tasks.countdown import Countdown, Numbers
from rl.tasks.extraction import extract
from rl.tasks.protocol import Prompt
from weightopt.settings import Integer

# Problems drawn for one example: the first with operators that no example before it has, else the first.
DRAWS_PER_EXAMPLE = 100


class CountdownText(TextTaskConfig):
    """``[task]`` with ``name = "countdown-text"``; the defaults are TinyZero's three and four numbers.

    No example is ever asked. In a chat the instruction ends as it is, else where a solution begins.
    """

    in_process = True

    numbers: Annotated[Mapping[Annotated[int, Field(ge=2, le=6)], Frequency], Field(min_length=1)] = {3: 1.0, 4: 1.0}
    """How many numbers are given, 2 to 6, to the relative frequency of such problems."""
    largest_number: Annotated[Integer, Field(ge=4, le=1000)] = 99
    """The largest number given."""
    largest_target: Annotated[Integer, Field(ge=10, le=100_000)] = 100
    """The largest target."""
    operators: Annotated[Mapping[Operator, Frequency], Field(min_length=1)] = ANY_OPERATOR
    """Operator to the relative frequency with which problems are built from it."""
    examples: Annotated[Integer, Field(ge=0, le=16)] = 0
    """Solved problems before an open last line, for which rollout.stop = ["\\n"] saves tokens; 0 is an instruction."""

    @model_validator(mode="after")
    def _one_manner(self) -> "CountdownText":
        if self.examples and self.chat:
            raise ValueError("examples are a text to be continued and chat is a conversation: set one of them")
        return self

    @cached_property
    def problems(self) -> Countdown:
        """The problems, without words."""
        keys = {"numbers", "largest_number", "largest_target", "operators"}
        return Countdown(name="countdown", **self.model_dump(include=keys))

    def propose(self, rng: Random) -> Prompt[Numbers]:
        """Draw one problem that is none of the examples."""
        while (prompt := self.problems.propose(rng)).id in self._shown:
            pass
        return replace(prompt, text=self._ask(prompt.problem))

    def verify(self, prompt: Prompt[Numbers], response: str) -> bool | None:
        """Whether the answer is worth the target and uses each number exactly once; None if no expression is found."""
        answer = extract("line" if self.examples else "tags", response, longest=arithmetic.LONGEST_EXPRESSION)
        try:
            evaluation = arithmetic.evaluate(answer or "")
        except arithmetic.ExpressionError:
            return None
        problem = prompt.problem
        return evaluation.value == problem.target and Counter(evaluation.numbers) == Counter(problem.given)

    def _ask(self, problem: Numbers) -> str:
        if self.examples:
            examples = [example.problem for example in self._solved[len(problem.given)]]
            return "".join([*(f"{_line(example)} {example.solution}\n" for example in examples), _line(problem)])
        numbers = ", ".join(map(str, problem.given))
        task = (
            f"Find an arithmetic expression that is worth {problem.target} and uses each of the numbers {numbers} "
            "exactly once. Allowed are +, -, *, / and brackets. Think first, step by step. Then write the expression "
            "alone between <answer> and </answer>, for example <answer>(1 + 2) / 3</answer>."
        )
        return task if self.chat else f"Problem: {task}\nSolution: Let us think step by step.\n"

    @cached_property
    def _solved(self) -> Mapping[int, tuple[Prompt[Numbers], ...]]:
        """The examples for each count of numbers: the same in every run, with operators as varied as can be found."""
        return {
            count: _choose_examples(self.problems.model_copy(update={"numbers": {count: 1.0}}), self.examples)
            for count in self.problems.numbers
        }

    @cached_property
    def _shown(self) -> frozenset[str]:
        return frozenset(example.id for examples in self._solved.values() for example in examples)


def _choose_examples(source: Countdown, count: int) -> tuple[Prompt[Numbers], ...]:
    rng = Random(0)
    chosen: list[Prompt[Numbers]] = []
    for _ in range(count):
        shown = {_operators(example) for example in chosen}
        drawn = [source.propose(rng) for _ in range(DRAWS_PER_EXAMPLE)]
        chosen.append(next((example for example in drawn if _operators(example) not in shown), drawn[0]))
    return tuple(chosen)


def _operators(example: Prompt[Numbers]) -> frozenset[str]:
    return frozenset(example.problem.solution) & frozenset("+-*/")


def _line(problem: Numbers) -> str:
    # The target again, and an equals sign: of the wordings tried this one made SmolLM2-135M solve most (docs/log.md).
    return f"Make {problem.target} from {', '.join(map(str, problem.given))}: {problem.target} ="
