"""Exact value of an arithmetic expression that a stranger wrote.

The grammar, over ASCII digits only::

    expression = term   { ("+" | "-" | "−" | "–") term }
    term       = factor { ("*" | "×" | "·" | "⋅" | "/" | "÷") factor }
    factor     = number | "(" expression ")"

There is no sign, no power and no name. Blanks, tabs and ends of lines may stand between symbols. The length of the
text, the depth of its brackets and the size of its numbers are bounded before any arithmetic is done. Values are
fractions, so division is exact.
"""

from dataclasses import dataclass
from fractions import Fraction

LONGEST_EXPRESSION = 128
DEEPEST_BRACKETS = 16
MOST_DIGITS = 9

DIGITS = frozenset("0123456789")
MINUS = frozenset("-\u2212\u2013")  # hyphen, minus sign, and the dash that is often typed for it
TIMES = frozenset("*×·\u22c5")
OVER = frozenset("/÷")
BLANKS = frozenset(" \t\r\n")


class ExpressionError(ValueError):
    """The text is not an expression of the grammar, is too large, or divides by zero."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an expression is worth and what it is made of.

    Attributes
    ----------
    value
        Exact value.
    numbers
        Every number written in the expression, in order, repeats included.
    """

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(text: str) -> Evaluation:
    """Evaluate any text exactly.

    Raises
    ------
    ExpressionError
        If the text is longer than 128 characters, nests brackets deeper than 16, writes a number of more than nine
        digits, divides by zero, or is not of the grammar above. Nothing else is ever raised.

    Examples
    --------
    >>> evaluate("(8 - 2) / 4").value
    Fraction(3, 2)
    """
    if len(text) > LONGEST_EXPRESSION:
        raise ExpressionError(f"longer than {LONGEST_EXPRESSION} characters")
    parser = _Parser(text)
    value = parser.expression(depth=0)
    if parser.next_symbol():
        raise ExpressionError(f"unexpected {parser.next_symbol()!r}")
    return Evaluation(value=value, numbers=tuple(parser.numbers))


class _Parser:
    """Recursive descent; one method per line of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.numbers: list[int] = []

    def next_symbol(self) -> str:
        """The next character that is not a blank, without taking it; empty at the end."""
        while self.text[self.position : self.position + 1] in BLANKS:
            self.position += 1
        return self.text[self.position : self.position + 1]

    def expression(self, depth: int) -> Fraction:
        value = self.term(depth)
        while (symbol := self.next_symbol()) == "+" or symbol in MINUS:
            self.position += 1
            operand = self.term(depth)
            value = value + operand if symbol == "+" else value - operand
        return value

    def term(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while (symbol := self.next_symbol()) in TIMES or symbol in OVER:
            self.position += 1
            operand = self.factor(depth)
            if symbol in TIMES:
                value *= operand
            elif operand:
                value /= operand
            else:
                raise ExpressionError("division by zero")
        return value

    def factor(self, depth: int) -> Fraction:
        symbol = self.next_symbol()
        if symbol in DIGITS:
            return Fraction(self.number())
        if symbol != "(":
            raise ExpressionError(f"expected a number or a bracket, found {symbol!r}")
        if depth == DEEPEST_BRACKETS:
            raise ExpressionError(f"brackets nested deeper than {DEEPEST_BRACKETS}")
        self.position += 1
        value = self.expression(depth + 1)
        if self.next_symbol() != ")":
            raise ExpressionError("a bracket is not closed")
        self.position += 1
        return value

    def number(self) -> int:
        start = self.position
        while self.text[self.position : self.position + 1] in DIGITS:
            self.position += 1
        digits = self.text[start : self.position]
        if len(digits) > MOST_DIGITS:
            raise ExpressionError(f"a number of more than {MOST_DIGITS} digits")
        self.numbers.append(int(digits))
        return self.numbers[-1]
