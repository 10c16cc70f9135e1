"""What a task is: a source of prompts, and who judges the responses to them.

Most tasks do both in one object. Where the verifier is somebody else's library it is an object of its own, which lives
in another process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar, runtime_checkable

ProblemT = TypeVar("ProblemT")


@dataclass(frozen=True, kw_only=True)
class Prompt(Generic[ProblemT]):
    """One question put to the policy.

    Attributes
    ----------
    id
        Canonical name of the problem: equal for two prompts that ask the same thing in another order.
    text
        What the policy reads, all of it: the chat template, where one is used, has been filled in. A special token
        stands in it under its name.
    difficulty
        Name of the stratum the problem was drawn from, e.g. ``"3 numbers"``.
    problem
        What the verifier needs, in the task's own type.
    """

    id: str
    text: str
    difficulty: str
    problem: ProblemT


class Verifier(Protocol[ProblemT]):
    """Something that judges responses."""

    def verify(self, prompt: Prompt[ProblemT], response: str) -> bool | None:
        """Judge a response: whether it is right, or None if no answer can be read in it, which counts as wrong.

        Any string is allowed. A pure function: neither the responses judged before nor their order play a part.
        """


@runtime_checkable
class GeneratedTask(Protocol[ProblemT]):
    """A task whose problems are made one after the other, without end."""

    def propose(self, rng: Random) -> Prompt[ProblemT]:
        """Draw one solvable problem."""
        ...


@runtime_checkable
class ListedTask(Protocol[ProblemT]):
    """A task with a given list of problems; no name of a problem stands on both sides."""

    @property
    def training(self) -> Sequence[Prompt[ProblemT]]:
        """Problems to train on, at least one, each name once."""
        ...

    @property
    def held_out(self) -> Sequence[Prompt[ProblemT]]:
        """Problems to evaluate on, each name once."""
        ...


Task = GeneratedTask[ProblemT] | ListedTask[ProblemT]


@runtime_checkable
class TeachingTask(GeneratedTask[ProblemT], Verifier[ProblemT], Protocol[ProblemT]):
    """A task written in few characters that can show a new model its format; any other task needs a start model."""

    @property
    def alphabet(self) -> str:
        """Every character of a prompt and of a demonstration, each once."""
        ...

    def demonstrate(self, prompt: Prompt[ProblemT], rng: Random, *, solved: bool) -> str:
        """Write a response in the right format: a correct one, or a random one that is mostly wrong."""
        ...
