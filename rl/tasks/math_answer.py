r"""How a mathematical answer is read before anything computes with it.

The rules, each applied to references and answers alike unless it says otherwise:

===================  ==================================================================================================
decoration           Bold, underlines, boxes, dollar signs of LaTeX, quotation marks, a leading ``=`` and one closing
                     ``.`` ``,`` ``;`` or ``:`` say nothing. Struck out text and ``...`` are not dropped.
words before         Only "the answer is" and its like; "about", "not" and "at least" make an answer unreadable.
units                A currency sign, or words behind a number, say what is counted and not how much. Where both sides
                     name a unit of measure they must name the same. Words that change the number ("million") are
                     read, words that take it back, compare or offer another ("or", "not", "less") are unreadable, and
                     so is another number. A single letter is a name and no unit, but in ``\text`` or behind a blank.
percent              ``5\%`` is 0.05 and not 5.
names                ``x = 5`` names what 5 is the value of. ``R`` and ``r`` are different names.
chains               ``a = b = c`` is c if a and b are worth the same; ``a \approx b`` is a if b is a, rounded.
ratios               ``1:2`` equals 2:4 and no fraction; 5:30 may be a time of day and equals only itself.
words                A reference in words is compared as words, without regard to case and order of a list.
===================  ==================================================================================================
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from rl.tasks.extraction import closing_brace
from rl.tasks.numerals import Numeral, read_numeral

CHARACTERS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-", "\ufe63": "-", "\u00d7": r"\times ",
        "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00f7": r"\div ", "\u2044": "/", "\u2215": "/", "\u03c0": r"\pi ",
        "\u221e": r"\infty ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u2248": r"\approx ",
        "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2208": r"\in ", "\u00b0": r"^\circ ", "\u00ba": r"^\circ ",
        "\u00b2": "^2", "\u00b3": "^3", "\u00bd": r"\frac{1}{2}", "\u00bc": r"\frac{1}{4}", "\u00be": r"\frac{3}{4}",
        "\u2153": r"\frac{1}{3}", "\u2154": r"\frac{2}{3}", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "~": " ",
        "\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\t": " ", "\n": " ", "\r": " ",
    }
)  # fmt: skip

# Commands of LaTeX that set type, and those that make room.
FONTS = (
    "text|textbf|textit|textrm|textsf|texttt|textnormal|textup|emph|mathbf|mathrm|mathit|mathsf|mathtt|mathnormal|"
    "boldsymbol|bm|underline|uline|boxed|fbox|framebox|mbox|hbox|ensuremath"
)
WORDED = {"text", "textbf", "textit", "textrm", "textsf", "texttt", "textnormal", "textup", "emph", "mbox", "hbox"}
ROOM = re.compile(r"(?<!\\)\\(?:[,;: ]|quad(?![A-Za-z])|qquad(?![A-Za-z])|thinspace(?![A-Za-z])|enspace(?![A-Za-z]))")
NOTHING = re.compile(
    r"(?<!\\)\\(?:!|(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|displaystyle|textstyle|large|Large|huge|bfseries|bf|rm|it|limits)"
    r"(?![A-Za-z]))"
)
SAME = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"√\s*([0-9]+|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:leq|leqslant|leqq)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant|geqq)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\(?:degree|degrees)(?![A-Za-z])"), r"^\\circ "),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\s*(?:\\text\s*\{\s*|\b)(?:percentage|percent|per cent|pct)(?![A-Za-z])(?:\s*\})?"), r"\\%"),
    (re.compile(r"\\euro(?:\{\})?(?![A-Za-z])"), "€"),
    (re.compile(r"\\(?:pounds|textsterling)(?:\{\})?(?![A-Za-z])"), "£"),
)  # fmt: skip

PAIRS = (
    ("**", "**"), ("__", "__"), ("``", "``"), ("$$", "$$"), (r"\(", r"\)"), (r"\[", r"\]"), ("<b>", "</b>"),
    ("<strong>", "</strong>"), ("<u>", "</u>"), ("<i>", "</i>"), ("<em>", "</em>"), ("*", "*"), ("`", "`"),
    ("$", "$"), ('"', '"'), ("'", "'"), ("_", "_"),
)  # fmt: skip
COMMAND = re.compile(rf"\\({FONTS})\s*\{{|\\(?:textcolor|colorbox)\s*\{{[A-Za-z]+\}}\s*\{{|\{{")
COLOUR = re.compile(r"\\color\s*\{[A-Za-z]+\}\s*")
INTRODUCTION = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|result|solution)"
    r"(?:\s+is\s*:?|\s*:|\s*=)\s*(?=\S)",
    re.IGNORECASE,
)

CURRENCIES = "$€£¥₹₩₽₺₫₴₱฿"
CURRENCY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}

# Units of measure; each group begins with the name that it is compared by. Whatever else is counted is not compared.
UNITS = (
    "mm millimeter millimeters millimetre millimetres; cm centimeter centimeters centimetre centimetres; m meter "
    "meters metre metres; km kilometer kilometers kilometre kilometres; inch in inches; foot ft feet; yard yd "
    "yards; mile mi miles; mg milligram milligrams; g gram grams; kg kilogram kilograms kilo kilos; ounce oz "
    "ounces; lb lbs; ton tons tonne tonnes; ml milliliter milliliters millilitre millilitres; l liter liters litre "
    "litres; gallon gal gallons; quart qt quarts; pint pt pints; cup cups; second s sec secs seconds; minute min "
    "mins minutes; hour h hr hrs hours; day days; week wk weeks; month months; year yr yrs years; dollar dollars "
    "usd bucks; cent cents; euro euros eur; pound pounds; yen jpy; rupee rupees rs inr; degree degrees deg; radian "
    "rad radians; am; pm; mph; kph kmph; acre acres; hectare ha hectares"
)
MEASURES = {name: group.split()[0] for group in UNITS.split(";") for name in group.split()}
LONE_LETTERS = frozenset("mgshlL")  # that may be a unit outside \text, behind a blank

MULTIPLIERS = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

# Words behind a number that are no unit: they take it back, change it, compare it or bring another.
NOT_A_UNIT = (
    "or nor and not no none never neither isn't aint wrong false incorrect untrue maybe perhaps possibly probably "
    "likely approximately approx about around roughly nearly almost circa guess guessing unsure uncertain unknown but "
    "if unless except than then else otherwise instead rather versus vs either both less more fewer greater smaller "
    "larger bigger lower higher under over above below within least most minimum maximum plus minus times divided "
    "multiplied by squared cubed factorial mod modulo base power root double twice thrice triple half halves third "
    "thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths "
    "hundredth hundredths thousandth thousandths reciprocal inverse negative positive negated zero one two three four "
    "five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty "
    "thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion equals equal is are was "
    "be to through until till between from infinity infinite nan pi sin cos tan log ln exp sqrt cot sec csc max gcd "
    "lcm det"
)
NO_UNITS = frozenset(NOT_A_UNIT.split())

UNIT_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
LONGEST_UNIT = 8  # words
SUPERSCRIPT = r"(?:\s*\^\s*(?:\{\s*[234]\s*\}|[234]))?"
SET_UNIT = re.compile(
    rf"(?:\s|^)*\\(?:text|textrm|textbf|textit|mathrm|mbox|hbox|operatorname)\s*\{{([^{{}}]*)\}}({SUPERSCRIPT})\s*$"
)
PLAIN_UNIT = re.compile(rf"(?<![A-Za-z\\])(\s*)([A-Za-z](?:[A-Za-z' ./-]|\([A-Za-z ]*\))*?)({SUPERSCRIPT})\s*$")
BRACKETED_UNIT = re.compile(r"\s*\(([A-Za-z ]+)\)\s*$")
DEGREES = re.compile(
    r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))\s*(?:(?:\\(?:text|mathrm)\s*\{\s*)?([CFK])(?:\s*\})?)?\s*$"
)
SIGN_BEFORE = re.compile(rf"^\s*(-?)\s*(?:US|USD|AU|CA|NZ|HK|A|C)?\s*\\?([{re.escape(CURRENCIES)}])\s*(?=[-0-9.\\(])")
SIGN_BEHIND = re.compile(rf"(?<=[0-9}})])\s*\\?([{re.escape(CURRENCIES)}])\s*$")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an answer says.

    Attributes
    ----------
    text, mathematics
        The answer without decoration, and that without its unit.
    unit
        The unit of measure, or None.
    worded
        Whether the text was set as words.
    """

    text: str
    mathematics: str
    unit: str | None
    worded: bool

    @property
    def numeral(self) -> Numeral | None:
        """The number that it is, if it is one that need not be computed."""
        return read_numeral(self.mathematics)


def read(answer: str, *, lone_letters: bool) -> Reading | None:
    r"""Read an answer by the rules above; None if it takes back, or leaves open, what it says.

    ``lone_letters`` says whether a single letter behind a blank, as in ``72 m``, may be a unit.
    """
    text, worded = undecorated(answer)
    split = _split_unit(text, lone_letters=lone_letters) if text else None
    return split and Reading(text=text, mathematics=split[0], unit=split[1], worded=worded)


def as_it_stands(reference: str) -> Reading:
    """A reference that has no answer's form: nothing but itself, or what equals it as an expression, is right."""
    text, worded = undecorated(reference)
    return Reading(text=text, mathematics=text, unit=None, worded=worded)


def undecorated(answer: str) -> tuple[str, bool]:
    """The answer without what only decorates it, and whether it was set as words."""
    if "~~" in answer:  # struck out in Markdown
        return answer, False
    text = NOTHING.sub("", ROOM.sub(" ", answer.translate(CHARACTERS)))
    for pattern, same in SAME:
        text = pattern.sub(same, text)
    text, worded = text.strip(), False
    while True:
        before = text
        text = INTRODUCTION.sub("", text, count=1) if INTRODUCTION.match(text) else text
        text = COLOUR.sub("", text, count=1) if COLOUR.match(text) else text
        if text[:1] == "=":
            text = text[1:].strip()
        if text[-1:] in (".", ",", ";", ":") and text[-2:-1] not in ("\\", ".", ",", ";", ":"):
            text = text[:-1].strip()
        for opening, closing in PAIRS:
            inner = text[len(opening) : -len(closing)]
            if text.startswith(opening) and text.endswith(closing) and inner.strip() and closing not in inner:
                text = inner.strip()
                break
        match = COMMAND.match(text)
        if match and closing_brace(text, match.end()) == len(text) - 1:
            worded = worded or match[1] in WORDED
            text = text[match.end() : -1].strip()
        if text == before:
            return text, worded


def _split_unit(text: str, *, lone_letters: bool) -> tuple[str, str | None] | None:
    """A text without its unit, and the unit; None if words behind a number are no unit."""
    if match := SIGN_BEFORE.match(text):
        rest = _split_unit(match[1] + text[match.end() :], lone_letters=lone_letters)
        return rest and (rest[0], CURRENCY.get(match[2]))
    if match := SIGN_BEHIND.search(text):
        return text[: match.start()].strip(), CURRENCY.get(match[1])
    if match := DEGREES.search(text):
        return text[: match.start()].strip(), "degree" + (match[1] or "")
    if match := SET_UNIT.search(text):
        body, words = text[: match.start()].strip(), match[1]
        if not body:
            return text, None
        return _with_words(text, body, words, match[2], surely=True)
    if match := BRACKETED_UNIT.search(text):
        body = text[: match.start()].strip()
        if len(match[1].strip()) > 1 and read_numeral(body):
            return _with_words(text, body, match[1], "", surely=True)
    if (match := PLAIN_UNIT.search(text)) and match.start():
        body, words = text[: match.start()].strip(), match[2]
        blank = bool(match[1]) or text[match.start() - 1 : match.start()] == " "
        known = words.strip(" .").lower() in MEASURES and len(words.strip(" .")) > 1
        letter = len(words.strip()) == 1 and words.strip() in LONE_LETTERS and blank and lone_letters
        several = blank and len(words.strip()) > 2 and read_numeral(body) is not None
        if (body[-1:] in set("0123456789})]") or body.endswith("\\pi")) and (known or letter or several):
            return _with_words(text, body, words, match[3], surely=several)
    return text, None


def _with_words(text: str, body: str, phrase: str, power: str, *, surely: bool) -> tuple[str, str | None] | None:
    words = UNIT_WORD.findall(phrase.replace(".", "").lower())
    rest = UNIT_WORD.sub("", phrase.replace(".", ""))
    if not words and not rest.strip():
        return body, None
    if not words or body.endswith(("=", "<", ">", "+", "-", "*", ",", "^", "_", "(")):
        return None if surely and read_numeral(body) is not None else (text, None)
    multiplier = MULTIPLIERS.get(words[0], 1)
    if multiplier > 1:
        words = words[1:]
        numeral = read_numeral(body)
        if numeral is None:
            return None
        body = written(numeral.value * multiplier)
    if not NO_UNITS.isdisjoint(words) or rest.strip(" /()") or len(words) > LONGEST_UNIT:
        # A list may have words between its members; alone behind a number they leave it open.
        return None if surely and read_numeral(body) is not None else (text, None)
    if not words:
        return body, None
    area = "square" in words or "sq" in words or "2" in power
    solid = "cubic" in words or "cu" in words or "3" in power
    measures = [MEASURES[word] for word in words if word in MEASURES]
    unit = " ".join(measures) + ("^2" if area else "^3" if solid else "") if measures else None
    return body, unit


def written(value: Fraction) -> str:
    """A fraction in LaTeX."""
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


# The structure of an answer.

OPENING, CLOSED = "([{", ")]}"
EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)|\\equiv(?![A-Za-z])")
COMMA, MEMBER = re.compile(","), re.compile(r"(?!0[0-9]).+")
ALTERNATIVE = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])|[;,]")


def split_outside_brackets(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The parts of a text between matches of a pattern that stand in no bracket."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        match = pattern.match(text, position) if depth <= 0 else None
        if match and match.end() > match.start():
            parts.append(text[start:position].strip())
            start = position = match.end()
            continue
        if character == "\\":
            position += 1
            depth += {"{": 1, "}": -1}.get(text[position : position + 1], 0)
        elif character in OPENING:
            depth += 1
        elif character in CLOSED:
            depth -= 1
        position += 1
    return [*parts, text[start:].strip()]


def members(text: str) -> tuple[str, list[str]]:
    r"""Brackets and members of a point or interval, as ``(a,b)`` or ``[a,b)``, or of a list, as ``a,b`` or ``\{a,b\}``.

    A list has no brackets. No members if the text is none of these, holds further brackets, or may have grouped digits.
    """
    brackets = text[:1] + text[-1:]
    if text[:2] == r"\{" and text[-2:] == r"\}":
        brackets, text = "", text[2:-2]
    elif brackets in ("()", "[]", "(]", "[)"):
        text = text[1:-1]
    else:
        brackets = ""
    parts = split_outside_brackets(text, COMMA)
    if len(parts) < 2 or set("()[]") & set(text) or read_numeral(text) or not all(map(MEMBER.fullmatch, parts)):
        return "", []
    return brackets, parts


def ratio(text: str) -> tuple[str, ...] | None:
    """The members of ``a:b`` or ``a to b``; None if the text is no ratio."""
    plain = re.sub(r"\s*(?:\\(?:text|mathrm)\s*\{\s*to\s*\}|(?<![A-Za-z\\])to(?![A-Za-z]))\s*", ":", text)
    members = split_outside_brackets(plain, re.compile(r":(?!=)"))
    if not 2 <= len(members) <= 6 or not all(members):
        return None
    return tuple(members)


TIME_OF_DAY = re.compile(r"[0-9]{1,2}:[0-5][0-9](?::[0-5][0-9])?")


def equal_ratios(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether two ratios are in proportion; members that are no numerals must be written alike."""
    if len(first) != len(second):
        return False
    if [compact(member) for member in first] == [compact(member) for member in second]:
        return True
    if any(TIME_OF_DAY.fullmatch(":".join(members)) for members in (first, second)):
        return False
    values = [[read_numeral(member) for member in members] for members in (first, second)]
    ones, others = ([each.value for each in side if each] for side in values)
    if len(ones) < len(first) or len(others) < len(first) or not all(ones) or not all(others):
        return False
    return all(one * others[0] == other * ones[0] for one, other in zip(ones, others, strict=True))


def compact(text: str) -> str:
    """The text without blanks, which in mathematics say nothing."""
    return re.sub(r"\s+", "", text)


def as_words(text: str) -> tuple[str, ...] | None:
    """The words of a text, items of a list in order; None if it is no text of words."""
    plain = re.sub(rf"\\(?:{FONTS})\s*\{{([^{{}}]*)\}}", r"\1", text)
    if re.search(r"[0-9\\^_=<>+*/{}$|]", plain):
        return None
    items = [re.sub(r"[^\w'-]+", " ", item).strip() for item in re.split(r"[,;]|(?<!\w)(?:and|&)(?!\w)", plain)]
    items = [item if len(item) == 1 else item.casefold() for item in items if item]
    return tuple(sorted(items)) or None
