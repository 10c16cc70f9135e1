"""Whether a mathematical answer equals the reference.

The answer alone is judged, not the whole response, so that no number in passing can count. It is first read by the
rules of `rl.tasks.math_answer`. Numbers are compared by those of `rl.tasks.numerals`, exactly, and words as words. What
is left, expressions, equations, sets, intervals and matrices, goes to `rl.tasks.expressions`.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rl.tasks import math_answer, numerals
from rl.tasks.extraction import Form, extract
from rl.tasks.math_answer import EQUALS, Reading, compact, split_outside_brackets
from rl.tasks.numerals import read_numeral
from rl.tasks.protocol import Prompt

# Longer answers count as unreadable: parsers and patterns take more than linear time.
LONGEST_ANSWER = 256
MOST_LINKS = 6

# Pairs that take the ways of common answers through parser and sympy. Both keep what they have worked out, and every
# process that judges an answer starts from there.
WARM_UP = (
    (r"\frac{3\sqrt{5}}{7}", r"3\sqrt{5}/7"),
    (r"4\sqrt{6}", r"5\sqrt{6}"),
    (r"(2,\sqrt{3})", r"\left(2,\sqrt{5}\right)"),
    ("x^2+5x+6", "(x+2)(x+3)"),
    ("2x-3y=5", "2x=3y+7"),
    (r"[2,\sqrt{5})", r"[2,\sqrt{5}]"),
    (r"\frac{3\pi}{4}", r"\frac{5\pi}{4}"),
    ("2+3i", "2-3i"),
    (r"(-\infty,2)\cup(2,\infty)", r"x<2 \text{ or } x>2"),
    (r"\{2,3,5\}", "2,3,7"),
    ("x>2", r"(2,\infty)"),
    (r"2\pi+\sin{x}", r"2^{x}\cdot 3"),
    (r"\begin{pmatrix} 2 & 3 \\ 5 & 7 \end{pmatrix}", r"\begin{pmatrix} 2 & 3 \\ 5 & 8 \end{pmatrix}"),
)

APPROXIMATELY = re.compile(r"\\(?:approx|simeq|doteq)(?![A-Za-z])")
NAME = re.compile(r"[^0-9+*/<>-]*[A-Za-z][^+*/<>=]*")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the answer to a problem is, in LaTeX or as a plain number."""

    answer: str


class MathVerifier:
    """Judges answers, which stand in a response as ``form`` says, against the reference of their prompt.

    Raises
    ------
    ModuleNotFoundError
        If math-verify is not installed.
    """

    def __init__(self, form: Form) -> None:
        import math_verify  # noqa: F401 - so that its absence has its name

        from rl.tasks import expressions

        self._expressions: Any = expressions
        self._form: Form = form
        for wanted, given in WARM_UP:
            self.equal(wanted, given)

    def verify(self, prompt: Prompt[Reference], response: str) -> bool | None:
        """Whether the answer equals the reference; None if none stands in the form asked for or it has no meaning."""
        answer = extract(self._form, response, longest=LONGEST_ANSWER)
        return None if answer is None else self.equal(prompt.problem.answer, answer)

    def equal(self, reference: str, answer: str) -> bool | None:
        """Whether an answer equals a reference; None if the answer cannot be read."""
        wanted = math_answer.read(reference, lone_letters=False) or math_answer.as_it_stands(reference)
        number = wanted.numeral
        given = math_answer.read(answer, lone_letters=number is not None)
        if given is None:
            return None
        if compact(given.text) == compact(wanted.text):
            return True
        if wanted.unit and given.unit and wanted.unit != given.unit:
            return False
        if (said := _words_agree(wanted, given)) is not None:
            return said
        if number and (numeral := given.numeral):
            return numerals.agree(number, numeral)
        return self._equal(wanted.mathematics, given.mathematics)

    def _equal(self, wanted: str, given: str) -> bool | None:
        ratios = math_answer.ratio(wanted), math_answer.ratio(given)
        if ratios[0] and ratios[1]:
            return math_answer.equal_ratios(ratios[0], ratios[1])
        if ratios[0] or ratios[1]:
            return False if ratios[1] or read_numeral(given) else None
        if (said := _same_members(wanted, given)) is not None:
            return said
        parts = split_outside_brackets(given, math_answer.ALTERNATIVE)
        for part in parts:
            if len(links := split_outside_brackets(part, EQUALS)) > 1 and not self._is_true(links):
                return False
        if len(parts) == 1:
            given, *decimals = split_outside_brackets(given, APPROXIMATELY)
            if decimals and not self._are_rounded(given, decimals):
                return None
            wanted, given = _values(wanted, given)
            numbers = read_numeral(wanted), read_numeral(given)
            if numbers[0] and numbers[1]:
                return numerals.agree(numbers[0], numbers[1])
        return self._expressions.equal(wanted, given)

    def _is_true(self, links: list[str]) -> bool:
        """Whether the members of a chain of equations that are numbers are worth the same."""
        if len(links) > MOST_LINKS or not all(links):
            return False
        values = [value for link in links if (value := self._number(link)) is not None]
        return all(self._expressions.same(values[0], value) for value in values[1:])

    def _are_rounded(self, exact: str, decimals: list[str]) -> bool:
        """Whether each of some decimals is a value, or that of an equation, rounded to the places it shows."""
        value = self._number(split_outside_brackets(exact, EQUALS)[-1])
        value = None if value is None else self._expressions.fraction(value)
        for decimal in decimals:
            reading = math_answer.read(decimal, lone_letters=False)
            numeral = reading.numeral if reading else None
            if value is None or numeral is None:
                return False
            places = len(reading.mathematics.partition(".")[2]) if reading and numeral.rounded else 0
            if 2 * abs(value - numeral.value) > Fraction(1, 10**places):
                return False
        return True

    def _number(self, text: str) -> Any:
        """The value of a text without unknowns; None if it has some or cannot be read."""
        reading = math_answer.read(text, lone_letters=False)
        if reading is None:
            return None
        numeral = reading.numeral
        return self._expressions.rational(numeral.value) if numeral else self._expressions.number(reading.mathematics)


def _words_agree(wanted: Reading, given: Reading) -> bool | None:
    """Whether two answers in words are the same; None if the reference is not one in words."""
    words = math_answer.as_words(wanted.text)
    if words is None:
        return None
    letters = sum(map(len, words))
    if (letters > 2 or wanted.worded or words == ("no",)) and words == math_answer.as_words(given.text):
        return True
    return False if wanted.worded and letters > 1 else None


def _same_members(wanted: str, given: str) -> bool | None:
    """Whether two points, intervals or lists of numerals are the same; None if they are not both of one kind.

    Point and interval member by member, since an interval whose ends are in the wrong order is the empty set for sympy.
    """
    (brackets, first), (others, second) = math_answer.members(wanted), math_answer.members(given)
    if not first or len(first) != len(second) or bool(brackets) != bool(others):
        return None
    if brackets:
        said = [_same_member(one, other) for one, other in zip(first, second, strict=True)]
        return None if None in said else brackets == others and all(said)
    lists = [[numeral for member in side if (numeral := read_numeral(member))] for side in (first, second)]
    if not all(len({numeral.value for numeral in each}) == len(first) for each in lists):
        return None  # something else is among them, or one twice, which a set does not count
    ordered = [sorted(each, key=lambda numeral: numeral.value) for each in lists]
    return all(numerals.agree(one, other) for one, other in zip(*ordered, strict=True))


def _same_member(wanted: str, given: str) -> bool | None:
    if compact(wanted).removeprefix("+") == compact(given).removeprefix("+"):
        return True
    one, other = read_numeral(wanted), read_numeral(given)
    return numerals.agree(one, other) if one and other else None


def _values(wanted: str, given: str) -> tuple[str, str]:
    """The two sides without the names that they give to one value."""
    target, found = (split_outside_brackets(text, EQUALS) for text in (wanted, given))
    named = len(target) == 2 and NAME.fullmatch(target[0])
    if len(found) > 1:
        if NAME.fullmatch(found[-1]) and read_numeral(found[0]):
            found.reverse()  # 5 = x
        if len(target) == 1:
            return wanted, found[-1]
        if named and compact(target[0]) == compact(found[0]):
            return target[1], found[-1]
    elif named:
        return target[1], given
    return wanted, given
