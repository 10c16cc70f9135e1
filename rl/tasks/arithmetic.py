"""Exact value of an arithmetic expression that a stranger wrote.

The grammar, over ASCII digits only::

    expression = term   { ("+" | "-" | "−" | "–") term }
    term       = factor { ("*" | "×" | "·" | "⋅" | "/" | "÷") factor }
    factor     = number | "(" expression ")"

There is no sign, no power and no name. Blanks, tabs and ends of lines may stand between symbols. The length of the
text, the depth of its brackets and the size of its numbers are bounded before any arithmetic is done. Values are
fractions, so division is exact.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_EXPRESSION = 128
DEEPEST_BRACKETS = 16
MOST_DIGITS = 9

SYMBOL = re.compile(r"[0-9]+|[^0-9 \t\r\n]")
# A minus sign, and the dash that is often typed for it; signs of multiplication and division.
PLAIN = str.maketrans("\u2212\u2013×·\u22c5÷", "--***/")


class ExpressionError(ValueError):
    """The text is not an expression of the grammar, is too large, or divides by zero."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The exact value of an expression, and every number written in it, in order, repeats included."""

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
    parser = _Parser(text.translate(PLAIN))
    value = parser.expression(depth=0)
    if parser.next:
        raise ExpressionError(f"unexpected {parser.next!r}")
    return Evaluation(value=value, numbers=tuple(parser.numbers))


class _Parser:
    """Recursive descent; one method per line of the grammar."""

    def __init__(self, text: str) -> None:
        self.symbols = iter(SYMBOL.findall(text))
        self.next = next(self.symbols, "")  # empty at the end
        self.numbers: list[int] = []

    def take(self) -> str:
        """The next symbol, which the one behind it follows."""
        taken, self.next = self.next, next(self.symbols, "")
        return taken

    def expression(self, depth: int) -> Fraction:
        value = self.term(depth)
        while self.next in ("+", "-"):
            value = value + self.term(depth) if self.take() == "+" else value - self.term(depth)
        return value

    def term(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while self.next in ("*", "/"):
            operator, operand = self.take(), self.factor(depth)
            if operator == "/" and not operand:
                raise ExpressionError("division by zero")
            value = value * operand if operator == "*" else value / operand
        return value

    def factor(self, depth: int) -> Fraction:
        symbol = self.take()
        if symbol.isascii() and symbol.isdigit():
            if len(symbol) > MOST_DIGITS:
                raise ExpressionError(f"a number of more than {MOST_DIGITS} digits")
            self.numbers.append(int(symbol))
            return Fraction(self.numbers[-1])
        if symbol != "(":
            raise ExpressionError(f"expected a number or a bracket, found {symbol!r}")
        if depth == DEEPEST_BRACKETS:
            raise ExpressionError(f"brackets nested deeper than {DEEPEST_BRACKETS}")
        value = self.expression(depth + 1)
        if self.take() != ")":
            raise ExpressionError("a bracket is not closed")
        return value
