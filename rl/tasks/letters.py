"""Rewrite a word as its first letter says: reversed, sorted, rotated, each letter the next one, or as it is.

A prompt reads ``"Rbdca="`` and the response is ``"acdb"``. The kind of a problem is one character of its prompt, and
all kinds want different words, so an answer shows which rewriting it is: a task with kinds by construction, for the
study of how kinds compete (`sim.habits`). A start model that was shown random rewritings can do each and tells none
apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from rl.tasks.config import Frequency, TaskConfig
from rl.tasks.protocol import Prompt
from weightopt.settings import Integer

Rewriting = Literal["reverse", "sort", "rotate", "next", "copy"]

LETTERS = "abcdefgh"

REWRITINGS: Mapping[Rewriting, Callable[[str], str]] = {
    "reverse": lambda word: word[::-1],
    "sort": lambda word: "".join(sorted(word)),
    "rotate": lambda word: word[1:] + word[0],
    "next": lambda word: word.translate(str.maketrans(LETTERS, LETTERS[1:] + LETTERS[0])),
    "copy": lambda word: word,
}
MARKS: Mapping[Rewriting, str] = {"reverse": "R", "sort": "S", "rotate": "T", "next": "N", "copy": "C"}


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word, and what is to be done with it."""

    word: str
    kind: Rewriting

    @property
    def answer(self) -> str:
        """The word that is right."""
        return REWRITINGS[self.kind](self.word)


class Letters(TaskConfig):
    """``[task]`` with ``name = "letters"``."""

    in_process = True

    letters: Annotated[Integer, Field(ge=3, le=16)] = 4
    """Letters of a word, drawn from a to h."""
    kinds: Annotated[Mapping[Rewriting, Frequency], Field(min_length=1)]
    """What problems ask for, to the relative frequency of each."""
    habits: Annotated[Mapping[Rewriting, Frequency], Field(min_length=1)]
    """What the demonstrations of a new model do, whatever the problem asks for, to the relative frequency of each."""

    @property
    def alphabet(self) -> str:
        """Characters of prompts and demonstrations."""
        return LETTERS + "".join(MARKS.values()) + "="

    def propose(self, rng: Random) -> Prompt[Word]:
        """Draw one word that all rewritings make different words of."""
        (kind,) = rng.choices(list(self.kinds), weights=list(self.kinds.values()))
        while True:
            word = "".join(rng.choices(LETTERS, k=self.letters))
            if len({rewrite(word) for rewrite in REWRITINGS.values()}) == len(REWRITINGS):
                text = f"{MARKS[kind]}{word}="
                return Prompt(id=text, text=text, difficulty=kind, problem=Word(word=word, kind=kind))

    def demonstrate(self, prompt: Prompt[Word], rng: Random, *, solved: bool) -> str:
        """Write the answer, or the word rewritten as the habits have it."""
        if solved:
            return prompt.problem.answer
        (kind,) = rng.choices(list(self.habits), weights=list(self.habits.values()))
        return REWRITINGS[kind](prompt.problem.word)

    def verify(self, prompt: Prompt[Word], response: str) -> bool | None:
        """Whether the response is the word that is asked for; None if it is no word of that length."""
        if len(response) != self.letters or not set(response) <= set(LETTERS):
            return None
        return response == prompt.problem.answer
