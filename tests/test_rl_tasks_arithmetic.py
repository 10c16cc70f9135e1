"""The verifier's parser: right on what it accepts, harmless on everything else."""

import ast
import operator
import re
import string
import tracemalloc
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.tasks.arithmetic import DEEPEST_BRACKETS, LONGEST_EXPRESSION, ExpressionError, evaluate
from tests.amounts import examples

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def python_value(text: str) -> Fraction:
    """An independent road: Python's own grammar, walked over fractions."""

    def walk(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp():
                return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
            case ast.Constant(value=int(value)):
                return Fraction(value)
        raise AssertionError(ast.dump(node))

    return walk(ast.parse(text, mode="eval").body)


numbers = st.integers(1, 999).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/", " + ", " / "]), inner, st.booleans()).map(
        lambda parts: f"({parts[0]}{parts[1]}{parts[2]})" if parts[3] else f"{parts[0]}{parts[1]}{parts[2]}"
    ),
    max_leaves=8,
)


@given(expressions)
@settings(deadline=None)
def test_agrees_with_pythons_grammar(text: str) -> None:
    try:
        expected = python_value(text)
    except ZeroDivisionError:
        with pytest.raises(ExpressionError):
            evaluate(text)
        return
    evaluation = evaluate(text)
    assert evaluation.value == expected
    assert evaluation.numbers == tuple(int(digits) for digits in re.findall("[0-9]+", text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", Fraction(7)),
        ("2-3-4", Fraction(-5)),
        ("24/4/2", Fraction(3)),
        ("2+3*4", Fraction(14)),
        ("(2+3)*4", Fraction(20)),
        ("1/3*3", Fraction(1)),
        ("8÷2×3", Fraction(12)),
        (" ( 8 - 2 ) / 4 ", Fraction(3, 2)),
        ("007", Fraction(7)),
    ],
)
def test_values(text: str, value: Fraction) -> None:
    assert evaluate(text).value == value


HOSTILE = [
    "",
    " ",
    "+",
    "1+",
    "*1",
    "-1",
    "+1",
    "1 2",
    "()",
    "(1",
    "1)",
    "1/0",
    "1/(2-2)",
    "2**9",
    "2^9",
    "9**9**9**9",
    "1e9",
    "0x10",
    "1_000",
    "1.5",
    "1//2",
    "3%2",
    "1=1",
    "1;2",
    "1\x00",
    "１+２",  # full-width digits: int() would read them
    "٣+٤",  # Arabic-Indic digits
    "²",
    "½",
    "1\u00a0+1",
    "1" * 10,
    "__import__('os').system('true')",
    "(lambda: 0)()",
    "f'{1}'",
    "exit()",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_refuses(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text)


def test_brackets_are_counted() -> None:
    assert evaluate("(" * DEEPEST_BRACKETS + "1" + ")" * DEEPEST_BRACKETS).value == 1
    with pytest.raises(ExpressionError, match="nested"):
        evaluate("(" * (DEEPEST_BRACKETS + 1) + "1" + ")" * (DEEPEST_BRACKETS + 1))


@pytest.mark.parametrize("text", ["(" * 2**20, "1+" * 2**19 + "1", "9" * 2**20, " " * 2**20, "x" * 2**20])
def test_a_megabyte_is_refused_before_it_is_read(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ExpressionError, match="longer"):
            evaluate(text)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < len(text) / 4  # reading it would copy it, or make a token of each character


@examples(
    60,
    3000,
    st.text(max_size=2 * LONGEST_EXPRESSION) | st.text(string.digits + "+-*/×÷() ", max_size=LONGEST_EXPRESSION),
)
def test_anything_else_is_an_expression_error(text: str) -> None:
    try:
        evaluation = evaluate(text)
    except ExpressionError:
        return
    # What is accepted has only symbols of the grammar, and values stay small: nine digits a number, 64 numbers.
    assert set(text) <= set(string.digits + "+-*/×÷() ")
    assert evaluation.value.numerator.bit_length() <= 64 * 30
    assert evaluation.numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("7\u22122", 5), ("7\u20132", 5), ("7\u00b72", 14), ("7\u22c52", 14), ("(1+2)\n*3", 9), ("1\t+\r\n2", 3)],
)
def test_signs_and_blanks_that_people_type(text: str, value: int) -> None:
    assert evaluate(text).value == value
    with pytest.raises(ExpressionError):
        evaluate(f"{text}\n7")
