r"""Numbers as people write them, and when two of them are the same number.

A numeral is one number: ``72``, ``1,000``, ``-3.5``, ``7.151e-8``, ``7.151 \times 10^{-8}``, ``2^{30}``, ``1/2``,
``\frac{1}{2}``, ``1\frac{1}{4}``, ``1 1/4``, ``0.1\overline{6}``, ``23_7`` (a numeral to the base 7) or one of them
with ``\%`` behind it (hundredths). Its value is an exact fraction. An expression that has to be computed is none.

Two numerals agree if their values are equal. A decimal may also stand, rounded, for a number that is written otherwise
and has more than six places: it must be within half a unit of the sixth place and within half a unit of the fourth
significant digit. So 0.333333 stands for 1/3 and 7.151e-8 for 1/13983816, while 0.333, 0.0 and 1.0000001 stand for
nothing but themselves.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

# Beyond these a number is no numeral: powers would take memory.
LARGEST_EXPONENT = 4000
LONGEST_POWER_BASE = 20

PLACES = 6
SIGNIFICANT_DIGITS = 4

GROUPED = r"[0-9]{1,3}(?P<separator>[, ])[0-9]{3}(?:(?P=separator)[0-9]{3})*"
DECIMAL = re.compile(rf"(?P<whole>{GROUPED}|[0-9]+)?(?P<point>\.(?P<places>[0-9]*))?")
EXPONENT = r"(?P<exponent>-?[0-9]+|\{\s*[-+]?\s*[0-9]+\s*\}|\([-+]?[0-9]+\))"
SCIENTIFIC = re.compile(
    rf"(?P<factor>[0-9., ]*[0-9.])(?:[eE](?P<short>[-+]?[0-9]+)|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*{EXPONENT})"
)
POWER = re.compile(rf"(?P<base>[0-9]+)\s*\^\s*{EXPONENT}")
ARGUMENT = r"(?:\{{(?P<{0}>[^{{}}]*(?:\{{[^{{}}]*\}}[^{{}}]*)*)\}}|\s*(?P<{0}_digit>[0-9]))"
FRACTION = re.compile(rf"\\frac\s*{ARGUMENT.format('over')}\s*{ARGUMENT.format('under')}")
SLASHED = re.compile(r"(?P<over>[^/]+)/(?P<under>[^/]+)")
MIXED = re.compile(r"(?P<whole>[0-9]+)(?:\s*(?P<latex>\\frac.*)|\s+(?P<over>[0-9]+)\s*/\s*(?P<under>[0-9]+))")
REPEATING = re.compile(r"(?P<whole>[0-9]*)\.(?P<places>[0-9]*)\\overline\s*\{(?P<period>[0-9]+)\}")
BASED = re.compile(
    r"(?:(?P<plain>[0-9][0-9A-Z]*)|\((?P<bracketed>[0-9A-Z]+)\))\s*_\s*(?:(?P<digit>[0-9])|\{(?P<base>.+)\})"
)
PERCENT = re.compile(r"\s*\\?%$")

BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Numeral:
    """One written number.

    Attributes
    ----------
    rounded
        Whether it is a decimal with a point or an exponent, which people write for a number that has more digits.
    composed
        Whether it is a fraction, a power or a repeating decimal, for which such a decimal may stand.
    """

    value: Fraction
    rounded: bool = False
    composed: bool = False


def agree(first: Numeral, second: Numeral) -> bool:
    """Whether two numerals are the same number, or one is the other rounded; see the top of this module."""
    if first.value == second.value:
        return True
    if first.rounded and second.composed:
        return stands_for(first.value, second.value)
    return second.rounded and first.composed and stands_for(second.value, first.value)


def stands_for(decimal: Fraction, exact: Fraction) -> bool:
    """Whether a decimal is another number, which needs more than six places, rounded to at least six of them."""
    if (exact * 10**PLACES).denominator == 1:
        return decimal == exact
    apart = abs(decimal - exact)
    return 2 * apart <= Fraction(1, 10**PLACES) and 2 * apart <= _unit_of_digit(abs(exact), SIGNIFICANT_DIGITS)


def _unit_of_digit(value: Fraction, digit: int) -> Fraction:
    """What one more in that significant digit adds to a positive value."""
    exponent = len(str(value.numerator)) - len(str(value.denominator))  # of the first digit, or one too many
    if Fraction(10) ** exponent > value:
        exponent -= 1
    return Fraction(10) ** (exponent - digit + 1)


def read_numeral(text: str) -> Numeral | None:
    """The numeral that the whole of a text is, without regard to blanks around it; None if it is none.

    Spacing commands of LaTeX must have become blanks before.
    """
    text = text.strip()
    if len(text) > 2 and text[0] + text[-1] in ("()", "{}") and not set("(){}") & set(text[1:-1]):
        if inner := text[1:-1].strip():
            return read_numeral(inner)
    elif percent := PERCENT.search(text):
        hundredths = read_numeral(text[: percent.start()])
        if hundredths is None or PERCENT.search(text[: percent.start()]):
            return None
        return replace(hundredths, value=hundredths.value / 100)
    sign = -1 if text[:1] == "-" else 1
    if text[:1] in ("-", "+"):
        text = text[1:].strip()
        if text[:1] in ("-", "+", "("):
            return None
    found = _first(text, *SIMPLE, *FRACTIONS, *OTHERS)
    return found and replace(found, value=sign * found.value)


def _first(text: str, *forms: "Form") -> Numeral | None:
    """What the first of some forms, which are matched by the whole of a text, makes of it."""
    found = (read(match) for pattern, read in forms if (match := pattern.fullmatch(text)))
    return next(filter(None, found), None)


def _decimal(match: re.Match[str]) -> Numeral | None:
    if not (match["whole"] or match["places"]):
        return None
    whole = (match["whole"] or "0").replace(match["separator"] or ",", "")
    places = match["places"] or ""
    return Numeral(value=Fraction(int(whole + places), 10 ** len(places)), rounded=bool(match["point"]))


def _exponent(said: str) -> int | None:
    said = re.sub(r"[(){}\s]", "", said)
    exponent = int(said) if len(said) < LONGEST_POWER_BASE else LARGEST_EXPONENT + 1
    return exponent if abs(exponent) <= LARGEST_EXPONENT else None


def _scientific(match: re.Match[str]) -> Numeral | None:
    factor = _first(match["factor"].strip(), (DECIMAL, _decimal))
    exponent = _exponent(match["short"] or match["exponent"])
    if not factor or exponent is None:
        return None
    return Numeral(value=factor.value * Fraction(10) ** exponent, rounded=True)


def _power(match: re.Match[str]) -> Numeral | None:
    base, exponent = match["base"], _exponent(match["exponent"])
    if len(base) > LONGEST_POWER_BASE or exponent is None or (int(base) == 0 and exponent <= 0):
        return None
    return Numeral(value=Fraction(int(base)) ** exponent, composed=True)


def _fraction(match: re.Match[str]) -> Numeral | None:
    given = match.groupdict()
    over, under = (_part(given[name] or given.get(f"{name}_digit")) for name in ("over", "under"))
    if over is None or not under:
        return None
    return Numeral(value=over / under, composed=True)


def _part(text: str | None) -> Fraction | None:
    """A numerator or denominator: a number without a bar of its own."""
    text = (text or "").strip()
    sign = -1 if text[:1] == "-" else 1
    found = _first(text.removeprefix("-").strip(), *SIMPLE)
    return sign * found.value if found else None


def _mixed(match: re.Match[str]) -> Numeral | None:
    part = _first(match["latex"] or f"{match['over']}/{match['under']}", *FRACTIONS)
    if part is None or not 0 < part.value < 1 or not re.sub(r"\\frac|[{}\s/]", "", match["latex"] or "0").isdecimal():
        return None
    return Numeral(value=int(match["whole"]) + part.value, composed=True)


def _repeating(match: re.Match[str]) -> Numeral:
    whole, places, period = match["whole"] or "0", match["places"], match["period"]
    tail = Fraction(int(period), 10 ** len(period) - 1)
    return Numeral(value=(int(whole + places) + tail) / 10 ** len(places), composed=True)


def _to_a_base(match: re.Match[str]) -> Numeral | None:
    said = match["digit"] or re.sub(r"\\(?:text|mathrm|textrm|mbox)|[{}\s]|base", "", match["base"])
    base = BASES.get(said.lower()) or (int(said) if said.isdecimal() and len(said) <= 2 else 0)
    if not 2 <= base <= 36:
        return None
    try:
        return Numeral(value=Fraction(int(match["plain"] or match["bracketed"], base)), composed=True)
    except ValueError:  # a digit that the base does not have
        return None


Form = tuple[re.Pattern[str], Callable[[re.Match[str]], Numeral | None]]
SIMPLE: tuple[Form, ...] = ((DECIMAL, _decimal), (SCIENTIFIC, _scientific), (POWER, _power))
FRACTIONS: tuple[Form, ...] = ((FRACTION, _fraction), (SLASHED, _fraction))
OTHERS: tuple[Form, ...] = ((MIXED, _mixed), (REPEATING, _repeating), (BASED, _to_a_base))
