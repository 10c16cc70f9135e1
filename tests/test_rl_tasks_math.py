"""Mathematical answers: each stated rule, both ways, with siblings that are generated; nothing is right for two."""

import re
from collections.abc import Iterator
from fractions import Fraction
from random import Random

import pytest

from rl.tasks import expressions, math_answer, numerals
from rl.tasks.math_verifier import MathVerifier
from tests.amounts import some_of

# Reference, answer, whether it is right.
JUDGED = [
    ("72", "72.", True),
    ("72", "72,", True),
    ("72", "$72.", True),
    ("72", "**72**", True),
    ("72", "€72", True),
    ("72", "72€", True),
    ("1000", "1,000.", True),
    ("72", r"\underline{72}", True),
    ("72", "72 dollars", True),
    ("72", "72 eggs", True),
    ("72", "72 people", True),
    ("72", r"\text{72 apples}", True),
    ("72", "72 apples and 3 pears", False),
    ("72", "71.", False),
    (r"\frac{1}{13983816}", "0.0", False),
    (r"\frac{1}{13983816}", "0.0000001", False),
    (r"\frac{1}{13983816}", "7.151e-8", True),
    (r"\frac{1}{2^{30}}", "0.0", False),
    (r"\frac{1}{2^{60}}", r"\frac{1}{2^{1000}}", False),
    ("23_7", "23_8", False),
    ("R", "r", False),
    ("5", r"5\%", False),
    ("0.05", r"5\%", True),
    ("5", "6=5", False),
    ("5", r"5 \text{ (or 6)}", False),
    ("1:2", r"\frac12", False),
    ("0.00001", "10^{-5}", True),
    (r"(3,\infty)", "x>3", True),
    ("i", r"\sqrt{-1}", True),
    (r"\frac54", "1 1/4", True),
    # More of the same kinds.
    ("5", r"\neg 5", False),
    ("3x+2c", "3x+2", False),
    ("5m", "5", False),
    (r"72\text{ cm}", "72 m", False),
    (r"72\text{ cm}", "72 centimeters", True),
    ("50", r"50\%", False),
    (r"50\%", r"\frac12", True),
    ("2516_8", "2516", False),
    ("10:30", "1:3", False),
    ("1:2", "2:4", True),
    ("6:00 p.m.", "6:00 am", False),
    ("x > 3", r"(3,\infty)", True),
    (r"[2,5)", r"2 \le x < 5", True),
    (r"(-\infty,-1)\cup(1,\infty)", r"x<-1 \text{ or } x>1", True),
    (r"\sqrt{10^{40}+1}", "10^{20}", False),
    (r"(\frac{1}{13983816},1)", "(0.0,1)", False),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}", True),
    (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix}", True),
    (r"\frac53", r"\frac53 \approx 1.67", True),
    ("5", r"5 \approx 6", False),
    (r"\text{A and B}", "B, A", True),
    (r"\text{(B)}", "B.", True),
    (r"\text{(B)}", "b", False),
    (r"\text{yes}", "Yes.", True),
    ("1", "1.0000001", False),
    (r"\frac13", "0.333333", True),
    (r"\frac13", "0.333", False),
    ("5000000", "5 million", True),
    ("5", "5 million", False),
    ("9\\pi", "9\\pi cm^2", True),
    ("-4", "(2i)^2", True),
    ("[4,1)", "[5,1)", False),
    ("[2,1]", "(2,1)", False),
    (r"(1,\infty)", r"(1,+\infty)", True),
    ("(1,0)", "(1,000)", False),
    ("1,1,2", "2,1,2", True),
]

# Cases of each kind; a comparison of two expressions takes up to 0.2 s.
COUNT = 8


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier("boxed")


@pytest.mark.parametrize(("reference", "answer", "right"), JUDGED)
def test_judged_by_hand(verifier: MathVerifier, reference: str, answer: str, right: bool) -> None:
    assert (verifier.equal(reference, answer) is True) == right


WORDS = (
    "boxes",
    "km",
    "litres",
    "hours",
    "marbles",
    "square feet",
    "miles per hour",
    "euros",
    "goats",
    "pieces of cake",
)
HEDGES = (
    "{a} or {b}", "{a} (or {b})", r"{a} \text{{ or }} {b}", "{a}, {b}", "{a} and {b}", "{a} {b}", "{a}|{b}",
    r"{a} \lor {b}",
    r"{a}\quad {b}",
    r"{a} \to {b}", r"\cancel{{{b}}} {a}", r"{a}\phantom{{{b}}}", "{a} not {b}", "not {a}", "about {a}",
    "{a} maybe", "{a}...", "{a}?",
    "~~{a}~~", r"{a} \ne {b}", "{a}<{b}", r"{a} \equiv {b}", r"{a} \pm {b}", "{a}:{b}",
    "{a} to {b}", "{a} apples {b} pears", r"{a}\text{{ ({b})}}", r"{a}\text{{{b}}}", r"{a} \& {b}", "{a} # {b}",
    "{a};{b}",
    r"{{{a}, {b}}}", r"\boxed{{{a}}} \boxed{{{b}}}", "{a} if x else {b}",
)  # fmt: skip


def kinds() -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Kind, reference, answers that are right and answers that are wrong."""
    rng = Random(7)
    for _ in range(COUNT):
        n = rng.randint(11, 999)
        other = n + rng.choice([-1, 1, 10])
        mark = rng.choice(".,;:")
        yield "closing", f"{n}", [f"{n}{mark}", f"${n}${mark}"], [f"{other}{mark}", f"{n}..", f"{n}!"]
        left, right = rng.choice([("**", "**"), ("__", "__"), ("`", "`"), (r"\textbf{", "}"), (r"\mathbf{", "}"),
                                  (r"\fbox{", "}"), ("<b>", "</b>"), (r"\(", r"\)"), ('"', '"')])  # fmt: skip
        yield "decoration", f"{n}", [f"{left}{n}{right}", f"{left}{n}.{right}"], [f"{left}{other}{right}", f"~~{n}~~"]
        sign = rng.choice("$€£¥₹")
        yield "currency", f"{n}", [f"{sign}{n}", f"{sign} {n}.00", f"{n}{sign}"], [f"{sign}{other}", f"-{sign}{n}"]
        unit = rng.choice(WORDS)
        yield "units", f"{n}", [f"{n} {unit}", rf"{n}\text{{ {unit}}}", rf"\text{{{n} {unit}}}."], [
            f"{other} {unit}", f"{n} {unit} or {other}", f"{n} {unit} and {other} more", f"{n} less", f"{n}x",
        ]  # fmt: skip
        power = rng.randint(8, 40)
        tiny, near = Fraction(1, 3**power), Fraction(1, 3**power + 3 ** (power - 2))
        yield "tiny", rf"\frac{{1}}{{3^{{{power}}}}}", [f"1/{3**power}", f"{float(tiny):.6e}"], [
            "0.0", "0", f"{float(near):.6e}", f"1/{3**power + 1}", rf"\frac{{1}}{{3^{{{power + 1}}}}}",
        ]  # fmt: skip
        yield "percent", f"{n}", [rf"{n}00\%"], [rf"{n}\%", f"{n} percent"]
        base = rng.randint(3, 9)
        digits = f"{rng.randint(1, base - 1)}{rng.randint(0, base - 1)}"
        yield "bases", f"{digits}_{base}", [f"{digits}_{{{base}}}", str(int(digits, base))], [
            f"{digits}_{base + 1}", digits, f"{digits}9_{base}",
        ]  # fmt: skip
        name = rng.choice("ABCDFGHKLMNPQRSTUVWXYZ")
        yield "case", name, [f"${name}$.", rf"\mathbf{{{name}}}"], [name.lower(), f"2{name}"]
        yield "chains", f"{n}", [f"x={n}", f"{n - 3}+3={n}", f"x={n - 3}+3={n}", f"{n}=x"], [
            f"{other}={n}", f"{n}={other}", f"x={other}={n}", f"{n}={other}={n}",
        ]  # fmt: skip
        yield "hedges", f"{n}", [f"({n})"], [each.format(a=n, b=other) for each in rng.sample(HEDGES, 5)]
        first, second = rng.randint(2, 9), rng.randint(11, 59)
        yield "ratios", f"{second}:{first}", [f"{second} to {first}", f"{second}: {first}"], [
            rf"\frac{{{second}}}{{{first}}}", f"{first}:{second}", f"{second}",
        ]  # fmt: skip
        whole, over, under = rng.randint(1, 9), rng.randint(1, 6), rng.choice([7, 11, 13])
        yield "mixed", rf"\frac{{{whole * under + over}}}{{{under}}}", [
            f"{whole} {over}/{under}", rf"{whole}\frac{{{over}}}{{{under}}}",
        ], [f"{whole} {over + 1}/{under}", f"{whole}{over}/{under}", f"{whole * over}/{under}"]  # fmt: skip
        yield "intervals", rf"({n},\infty)", [f"x>{n}", f"{n}<x", rf"x \in ({n},\infty)"], [
            rf"x \ge {n}", f"x<{n}", f"x>{other}", rf"[{n},\infty)",
        ]  # fmt: skip
        yield "imaginary", f"{n}i", [rf"{n}\sqrt{{-1}}", rf"\sqrt{{-{n * n}}}"], [f"{n}", f"-{n}i", f"{other}i"]


CASES = list(kinds())


@pytest.mark.slow
@some_of("kind", sorted({case[0] for case in CASES}), lambda kind: kind != "intervals")
def test_siblings_of_each_kind(verifier: MathVerifier, kind: str) -> None:
    cases = [case[1:] for case in CASES if case[0] == kind]
    assert len({answer for _, right, wrong in cases for answer in (*right, *wrong)}) >= 20
    for reference, right, wrong in cases:
        assert [a for a in right if verifier.equal(reference, a) is not True] == [], reference
        assert [a for a in wrong if verifier.equal(reference, a) is True] == [], reference


@pytest.mark.slow
@pytest.mark.parametrize("hedge", HEDGES)
def test_no_hedge_is_right_for_two_references(verifier: MathVerifier, hedge: str) -> None:
    answer = hedge.format(a=5, b=6)
    assert sum(verifier.equal(reference, answer) is True for reference in ("5", "6", "56", "0.05", "5,6")) <= 1


@pytest.mark.slow
def test_members_are_compared_as_the_grammar_does(verifier: MathVerifier) -> None:
    """Points, intervals with their ends in order, and lists of numerals, right and wrong: two roads, one answer."""
    rng, said = Random(5), []
    for _ in range(24):
        low, high = sorted(rng.sample(range(-9, 10), 2))
        brackets = rng.choice([("(", ")"), ("[", ")"), ("[", "]"), ("", ""), (r"\{", r"\}")])
        wanted = f"{brackets[0]}{low},{high}{brackets[1]}"
        low, high = low + rng.choice([0, 0, 0, -1]), high + rng.choice([0, 0, 1])
        members = [rf"\frac{{{2 * low}}}{{2}}", f"{high}.0"]
        if not brackets[0].startswith(("(", "[")):
            rng.shuffle(members)
        given = f"{brackets[0]} {members[0]} , {members[1]}{brackets[1]}"
        said.append(verifier.equal(wanted, given))
        assert said[-1] == expressions.equal(wanted, given), (wanted, given)
    assert {True, False} == set(said)


def test_decimals_stand_for_what_has_more_places() -> None:
    for number, decimal, agrees in [
        ("1/3", "0.333333", True),
        ("1/3", "0.3333335", True),
        ("1/3", "0.333334", False),
        ("1/8", "0.125", True),
        ("1/8", "0.1250001", False),
        ("1/2^{30}", "9.313226e-10", True),
        ("1/2^{30}", "9.31e-10", False),
        ("0.333333", "0.3333333", False),
    ]:
        first, second = numerals.read_numeral(number), numerals.read_numeral(decimal)
        assert first is not None
        assert second is not None
        assert numerals.agree(first, second) == numerals.agree(second, first) == agrees, (number, decimal)


def test_numerals_have_the_value_of_pythons_own_reading() -> None:
    rng = Random(3)
    for _ in range(300):
        value = Fraction(rng.randint(-(10**6), 10**6), 10 ** rng.randint(0, 4))
        for text in (f"{float(value)!r}", f"{value.numerator}/{value.denominator}", f"{float(value):e}"):
            found = numerals.read_numeral(text)
            assert found is not None
            assert found.value == Fraction(text)
    for text in (
        "1_0",
        "٣",
        "１２",
        "1e99999",
        "10^{99999}",
        "9^{9^9}",
        "--1",
        "5 6",
        "1,00",
        "29_7",
        "",
        ".",
        "nan",
        "inf",
    ):
        assert numerals.read_numeral(text) is None


def test_any_text_is_read_in_bounded_time_and_says_no_more_than_it_has() -> None:
    rng = Random(1)
    pieces = [
        "72",
        "$",
        "**",
        r"\text{",
        "}",
        "{",
        r"\boxed{",
        "=",
        ".",
        " ",
        "cm",
        "^2",
        "or",
        "%",
        r"\%",
        "€",
        "(",
        ")",
        ":",
    ]
    for _ in range(5000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 40)))[:256]
        found = math_answer.read(text, lone_letters=True)
        if found is not None and (numeral := found.numeral) is not None:
            assert set(map(int, re.findall("[0-9]+", text))) >= {72}
            assert (
                numeral.value in {Fraction(int("72" * n), d) for n in range(1, 41) for d in (1, 100)}
                or ":" in text
                or "^" in text
                or "." in text
            )
