r"""Mathematical expressions: from text to sympy, and whether two of them are equal.

Text is read by the grammar of latex2sympy2-extended, the whole of it or nothing: no number is fished out of what the
grammar does not take, no unit is dropped, capitals are kept. Numbers are equal if they share `DIGITS` digits. All else
is compared by math-verify (github.com/huggingface/Math-Verify) with as many digits as the smallest number in it needs.

Both libraries take any time on some texts, so this runs in `rl.verification.pool` only.
"""

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import math_verify
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy import Eq, Float, I, Rational, Symbol, Union, simplify
from sympy.core.relational import Relational

from rl.tasks import numerals
from rl.tasks.math_answer import split_outside_brackets
from rl.tasks.numerals import Numeral, read_numeral

logging.getLogger("math_verify").setLevel(
    logging.CRITICAL
)  # it warns that its limits are off, which need a main thread

# Digits that two values must share to be equal, and the most that are spent on one near to zero.
DIGITS, MOST_DIGITS = 60, 400

IMAGINARY = re.compile(
    r"(?<![A-Za-z\\])i(?![A-Za-z])|\\mathrm\{i\}|\\imath(?![A-Za-z])|\\sqrt\s*\{\s*-|\\mathbb\s*\{C\}"
)
OR = re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:text|mathrm|mbox)\s*\{\s*or\s*\}")

# What the grammar would drop, or add up as a mixed number, without a word.
UNREADABLE = re.compile(
    r"(?<![_^])[0-9]\s+\.?[0-9]|[\"'#@`?]|\\phantom|\\ldots|\\dots|\\cdots|\.\.|[0-9.]\s*\\?%\s*[0-9(\\]"
)
PERCENT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*\\?%")
EXPONENT = re.compile(r"(?<=[0-9.])[eE]([-+]?[0-9]+)(?![0-9A-Za-z.])")
MIXED = re.compile(r"(?<![0-9.])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)(?![0-9.])")
THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")

# Words that were not set as words: the grammar would take them for products of their letters.
PROSE = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{4,}(?![A-Za-z])")
SET_WORDS = re.compile(r"\\(?:text[a-z]*|math[a-z]+|mbox|hbox|operatorname|begin|end)\s*\{[^{}]*\}")
FUNCTIONS = frozenset({"sqrt", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "infinity", "infty"})

NORMAL_FORM = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none")
CONVERSION = ConversionConfig(lowercase_symbols=False)


def equal(wanted: str, given: str) -> bool | None:
    """Whether an expression equals the one that is wanted; None if it cannot be read."""
    if prose(given) - prose(wanted) - FUNCTIONS:
        return None
    is_complex = bool(IMAGINARY.search(wanted) or IMAGINARY.search(given))
    found = _read(given, is_complex)
    if found is None:
        return None
    target = _read(wanted, is_complex)
    if target is None:
        return False
    if isinstance(target, Symbol) or isinstance(found, Symbol):
        return bool(target == found)
    for text, other in ((given, target), (wanted, found)):
        numeral = read_numeral(text)
        if numeral and getattr(other, "is_number", False) and (value := fraction(other)) is not None:
            return _is_numeral(other, value, numeral)
    return same(target, found)


def number(text: str) -> Any:
    """The value of an expression without unknowns; None if it has some or cannot be read."""
    expression = parse(text, bool(IMAGINARY.search(text)))
    return expression if getattr(expression, "is_number", False) else None


def rational(value: Fraction) -> Any:
    """A fraction in sympy."""
    return Rational(value.numerator, value.denominator)


def fraction(value: Any) -> Fraction | None:
    """A real number in sympy to `DIGITS` digits, exactly; None if it has no value."""
    try:
        return Fraction(str(value.evalf(DIGITS)))
    except (ValueError, ZeroDivisionError):
        return None


def same(first: Any, second: Any) -> bool:
    """Whether two expressions are equal."""
    if first == second:
        return True
    if (said := _same_number(first, second)) is not None:
        return said
    return bool(
        math_verify.verify(
            [first], [second], timeout_seconds=None, allow_set_relation_comp=True, **_precision(first, second)
        )
    )


def prose(text: str) -> set[str]:
    """The words in a text that were not set as words."""
    return set(PROSE.findall(SET_WORDS.sub(" ", text)))


@lru_cache(maxsize=64)
def parse(text: str, is_complex: bool) -> Any:
    """The expression that the whole of a text is; None if the grammar does not take it."""
    text = THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = EXPONENT.sub(r" \\cdot 10^{\1}", MIXED.sub(r"\1\\frac{\2}{\3}", text))
    if UNREADABLE.search(text) or ("&" in text and r"\begin" not in text):
        return None
    text = normalize_latex(PERCENT.sub(r"\\frac{\1}{100}", text), NORMAL_FORM)
    try:
        found: Any = latex2sympy(text, is_real=not is_complex, normalization_config=None, conversion_config=CONVERSION)
    except Exception:  # its grammar and its converter raise whatever comes up
        return None
    # math-verify compares names of several letters without regard to case: their capitals are marked.
    names: dict[Any, Any] = {
        each: Symbol("".join(f"{c}_capital" if c.isupper() else c for c in each.name), **each.assumptions0)
        for each in getattr(found, "free_symbols", ())
        if len(each.name) > 1 and not each.name.islower()
    }
    if is_complex:
        names |= {each: I for each in getattr(found, "free_symbols", ()) if each.name == "i"}
    return found.xreplace(names) if names else found


def _read(text: str, is_complex: bool) -> Any:
    """`parse`, and inequalities with "or" between them as the set that they describe."""
    parts = split_outside_brackets(text, OR)
    relations = [parse(part, is_complex) for part in parts] if len(parts) > 1 else []
    if relations and all(isinstance(each, Relational) and not isinstance(each, Eq) for each in relations):
        try:
            return Union(*(each.as_set() for each in relations))
        except (NotImplementedError, ValueError, TypeError):
            return None
    return parse(text, is_complex)


def _same_number(first: Any, second: Any) -> bool | None:
    """Whether two numbers share `DIGITS` digits; None if they are none, are decimals, or too near to zero to tell."""
    if not all(getattr(each, "is_number", False) and not each.atoms(Float) for each in (first, second)):
        return None
    parts = [each.evalf(2 * DIGITS).as_real_imag() for each in (first, second)]
    if not all(part.is_Float or part.is_Integer for each in parts for part in each):
        return None
    sizes = [max(abs(part) for part in each) for each in parts]
    if min(sizes) < Rational(1, 10**DIGITS):
        return None
    apart = max(abs(one - other) for one, other in zip(*parts, strict=True))
    return bool(apart * 10**DIGITS <= max(sizes))


def _is_numeral(other: Any, value: Fraction, numeral: Numeral) -> bool:
    """Whether a numeral is a number that has to be computed, and has that value, or is that number rounded."""
    apart = abs(value - numeral.value)
    if apart * 10 ** (DIGITS // 2) <= abs(numeral.value):
        return bool(simplify(rational(numeral.value) - other) == 0) or apart * 10 ** (DIGITS - 2) <= abs(numeral.value)
    return numeral.rounded and not other.atoms(Float) and numerals.stands_for(numeral.value, value)


def _precision(*things: Any) -> dict[str, Any]:
    """Places of decimals, and digits, with which math-verify tells the smallest number in them from zero."""
    sizes = [abs(value) for thing in things for value in _numbers(thing) if value]
    zeros = max((len(str(size.denominator)) - len(str(size.numerator)) for size in sizes), default=0)
    zeros = min(max(zeros, 0), MOST_DIGITS)
    return {
        "float_rounding": max(numerals.PLACES, numerals.SIGNIFICANT_DIGITS + zeros) if zeros else numerals.PLACES,
        "numeric_precision": DIGITS + zeros,
    }


def _numbers(thing: Any) -> list[Fraction]:
    """The values in a number, a set, a tuple, an interval, a matrix or an equation."""
    if getattr(thing, "is_number", False):
        value = fraction(thing)
        return [] if value is None else [value]
    return [value for part in getattr(thing, "args", ()) for value in _numbers(part)]
