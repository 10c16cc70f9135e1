"""Where in a response its answer stands. Each rule reads the text once; none of them gives it a meaning."""

from collections.abc import Callable, Mapping
from typing import Literal

Form = Literal["boxed", "hashes", "tags", "line", "whole"]

BOX = "\\boxed{"
HASHES = "####"
OPENING, CLOSING = "<answer>", "</answer>"


def boxed(text: str) -> str | None:
    """What stands between the braces of the last ``\\boxed{…}``; None if there is none or its brace is not closed."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    start += len(BOX)
    depth, position = 1, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1  # what is escaped neither opens nor closes
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                return text[start:position]
        position += 1
    return None


def after_hashes(text: str) -> str | None:
    """The rest of the line after the last ``####``; None if there is none."""
    _, found, rest = text.rpartition(HASHES)
    return first_line(rest) if found else None


def in_tags(text: str) -> str | None:
    """What stands between the last ``</answer>`` and the ``<answer>`` before it; None without such a pair."""
    end = text.rfind(CLOSING)
    start = text.rfind(OPENING, 0, max(end, 0))
    return text[start + len(OPENING) : end] if start >= 0 else None


def first_line(text: str) -> str:
    """The text up to its first newline."""
    return text.partition("\n")[0]


RULES: Mapping[Form, Callable[[str], str | None]] = {
    "boxed": boxed,
    "hashes": after_hashes,
    "tags": in_tags,
    "line": first_line,
    "whole": lambda text: text,
}


def extract(form: Form, text: str, *, longest: int) -> str | None:
    """The answer in ``text`` without the blanks around it.

    Returns
    -------
    str or None
        None if the form is not kept, if the answer is empty or longer than ``longest`` characters, or if it holds a
        decimal digit outside ASCII: libraries take such digits for numbers, and nobody has asked for them.
    """
    found = RULES[form](text)
    answer = (found or "").strip()
    if not answer or len(answer) > longest:
        return None
    if any(character.isdecimal() and not character.isascii() for character in answer):
        return None
    return answer
