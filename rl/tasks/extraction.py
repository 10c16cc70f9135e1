"""Where in a response its answer stands. Each rule reads the text once; none of them gives it a meaning."""

import re
from collections.abc import Callable, Mapping
from typing import Literal

Form = Literal["boxed", "hashes", "tags", "line", "whole"]

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
# What a box without braces holds: up to a blank or the end of a formula, with the arguments of commands.
UNBRACED = re.compile(r"(?:\\[A-Za-z]+(?:\{[^{}]*\})*|[^\s$\\{}])+")
WORD = re.compile(r"[A-Za-z]{2,}[.,;:]?")  # such as that after "in a \\boxed"
HASHES = "####"
OPENING, CLOSING = "<answer>", "</answer>"


def boxed(text: str) -> str | None:
    r"""What the last ``\boxed{…}`` or ``\fbox{…}`` holds; None if there is none or its brace is not closed.

    Blanks may stand before the brace. Without one, as in ``\boxed 2$``, it holds what comes next up to a blank or the
    end of the formula.
    """
    start, unbraced = None, None
    for box in BOX.finditer(text):
        if text[box.end() : box.end() + 1] == "{":
            start, unbraced = box.end() + 1, None
        elif (found := UNBRACED.match(text, box.end())) and not WORD.fullmatch(found[0]):
            unbraced = found[0].rstrip(".,;:")
    if unbraced or start is None:
        return unbraced
    end = closing_brace(text, start)
    return text[start:end] if end >= 0 else None


def closing_brace(text: str, start: int) -> int:
    """Where the brace closes that was opened just before; -1 if it does not."""
    depth, position = 1, start
    while position < len(text):
        if text[position] == "\\":
            position += 1  # what is escaped neither opens nor closes
        elif text[position] in "{}":
            depth += 1 if text[position] == "{" else -1
            if not depth:
                return position
        position += 1
    return -1


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
