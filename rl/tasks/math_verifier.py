"""Whether a mathematical answer equals the reference, judged by math-verify.

math-verify (github.com/huggingface/Math-Verify) reads LaTeX into sympy and compares there, which can take any time: its
own limits need the main thread, so they are off and the verifier runs in `rl.verification.pool`. It is shown the answer
alone, not the whole response, so that no number in passing can count as the answer.
"""

import logging
from dataclasses import dataclass
from typing import Any

from rl.tasks.extraction import Form, extract
from rl.tasks.protocol import Prompt

# Longer answers count as unreadable: the patterns of math-verify take more than linear time.
LONGEST_ANSWER = 256


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the answer to a problem is, in LaTeX or as a plain number."""

    answer: str


class MathVerifier:
    """Judges answers against the reference of their prompt.

    Parameters
    ----------
    form
        Where in a response the answer stands.

    Raises
    ------
    ModuleNotFoundError
        If math-verify is not installed.
    """

    def __init__(self, form: Form) -> None:
        import math_verify

        logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its limits are off
        self._library = math_verify
        self._form: Form = form
        # Compiles its patterns and fills the tables of its parser, once and not for every answer.
        for text in ("1{,}000", "\\frac{1}{2}", "(1, \\sqrt{2})", "x^2"):
            self._equal(text, text)

    def verify(self, prompt: Prompt[Reference], response: str) -> bool | None:
        """Whether the answer equals the reference; None if none stands in the form asked for or it has no meaning."""
        answer = extract(self._form, response, longest=LONGEST_ANSWER)
        return None if answer is None else self._equal(prompt.problem.answer, answer)

    def _equal(self, reference: str, answer: str) -> bool | None:
        found = self._parse(answer)
        if self._library.verify(self._parse(reference), found, timeout_seconds=None):
            return True
        # What math-verify cannot read it gives back as text.
        return False if any(not isinstance(each, str) for each in found) else None

    def _parse(self, text: str) -> list[Any]:
        return self._library.parse(f"\\boxed{{{text}}}", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
