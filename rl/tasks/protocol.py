"""What a task is: a source of prompts, a format to demonstrate and an exact verifier."""

from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

ProblemT = TypeVar("ProblemT")


@dataclass(frozen=True, kw_only=True)
class Prompt(Generic[ProblemT]):
    """One question put to the policy.

    Attributes
    ----------
    id
        Canonical name of the problem: equal for two prompts that ask the same thing in another order.
    text
        What the policy reads, in characters of the task's alphabet.
    difficulty
        Name of the stratum the problem was drawn from, e.g. ``"3 numbers"``.
    problem
        What the verifier needs, in the task's own type.
    """

    id: str
    text: str
    difficulty: str
    problem: ProblemT


class Task(Protocol[ProblemT]):
    """A family of problems with verifiable answers.

    ``alphabet`` holds every character of a prompt and of a demonstration, each once.
    """

    @property
    def alphabet(self) -> str:
        """Characters of prompts and demonstrations."""
        ...

    def propose(self, rng: Random) -> Prompt[ProblemT]:
        """Draw one solvable problem."""
        ...

    def demonstrate(self, prompt: Prompt[ProblemT], rng: Random, *, solved: bool) -> str:
        """Write a response in the right format: a correct one, or a random one that is mostly wrong."""
        ...

    def verify(self, prompt: Prompt[ProblemT], response: str) -> bool:
        """Judge a response; any string is allowed, and takes time bounded by a constant plus its length."""
        ...
