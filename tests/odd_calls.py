"""Odd calls of the command line, for the tests that throw thousands of them: drawing, calling, judging how each ended.

The numbers of an answer are judged by `tests.independent`.
"""

import contextlib
import functools
import io
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from tests.amounts import SETTINGS
from weightopt import cli

RARE = 0.02  # share of solves that may end "not certified", an honest answer that should be rare
LONGEST = 700  # characters that are still one sentence
COUNTS: Counter[str] = Counter()  # cases by test, and how they ended

NONSENSE = ("", " ", "nan", "inf", "-inf", "-1", "0", "1", "1e400", "-0.0", "0x1", "1e-320", "½", "٠٫٥", "1,5", "None")
NONSENSE += ("1e308", "5e-324", "x" * 300, "0.5\n", "9" * 400, "\u202e1", "true", "[b]0.5[/b]", "--", "2", "1e-12")


class Run(NamedTuple):
    status: int
    out: str
    err: str


@functools.cache
def command():
    """The commands of this package, built once: building them takes longer than most of the calls."""
    return typer.main.get_command(cli.app)


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """An empty folder to be in, and the command line without the commands of other packages."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_add_commands", lambda _: None)
        patch.setattr(cli, "app", command())
        os.chdir(path)
        yield Path(path)
        left = [name for name in os.listdir() if name.endswith((".tmp", ".partial"))]
        os.chdir(before)
        assert not left


def run(*arguments) -> Run:
    """Call the command line; warnings are errors here, so that what it prints is all that a user would see."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["weightopt", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = argv
    return Run(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def outcome(kind: str, ended: Run) -> bool:
    """Whether it was an answer; anything else must be one sentence."""
    COUNTS[kind] += 1
    COUNTS[f"{kind}: status {ended.status}"] += 1
    if ended.status == 0:
        assert ended.err == "" or ended.err.startswith("weightopt: warning: the table of clock "), ended
        return True
    assert ended.status in (1, 2), ended
    assert ended.out == ""
    assert ended.err.startswith("weightopt: "), ended
    assert ended.err.endswith(".\n")
    assert ended.err.count("\n") == 1
    assert len(ended.err) < LONGEST
    assert "Traceback" not in ended.err
    assert "Error" not in ended.err.replace("SolverError", "")
    if ended.status == 1:
        assert "not certified" in ended.err, ended
    return False


def fuzz(kind: str, few: int, many: int, *drawn: st.SearchStrategy[Any], refusals: int = 2):
    """Make a law a test of a few cases, and a slow one of many; ``refusals`` is the exit status of a refusal.

    Either way there must be answers and refusals among the cases, and hardly any that is neither.
    """

    def test_of(law: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("cases", [few, pytest.param(many, marks=pytest.mark.slow)])
        def test(cases: int) -> None:
            COUNTS.clear()
            settings(SETTINGS, max_examples=cases)(given(*drawn)(law))()
            assert COUNTS[kind] >= cases
            assert COUNTS[f"{kind}: status 0"] >= 0.05 * cases  # neither all refused
            assert COUNTS[f"{kind}: status {refusals}"] >= 0.05 * cases  # nor all answered
            if refusals == 2:
                assert COUNTS[f"{kind}: status 1"] <= RARE * cases

        test.__name__, test.__doc__ = law.__name__, law.__doc__
        return test

    return test_of


# What a case asks for -------------------------------------------------------------------------------------------------


def reals(low, high):
    return st.floats(low, high, allow_nan=False).map(lambda x: round(x, 6))


START = st.one_of(reals(-13.8, 2.0), st.sampled_from([-9.2, -4.6, 0.0]))  # in log-odds: from 1e-6
WIDTH = st.one_of(reals(0.02, 9.0), st.sampled_from([0.1, 1e-3, 7.0]))
CLOCKS = st.sampled_from(["regular", "effective", "failures", "mixed:2", "mixed:16", "affine:1,0.5", "affine:0,2"])
BAD_CLOCKS = ("mixed:1", "mixed:x", "affine:1", "affine:0,0", "affine:nan,1", "affine:1e31,0", "csv:", "csv:absent.csv")
BAD_CLOCKS += ("tokens:.", "Regular", "mixed:70000", "affine:-1,2", "sgv:x", "tokens-effective:\x00")


@st.composite
def ends(draw):
    """Start and target, sound and not too close to 0 and 1 for the trapezoids of this file."""
    low = draw(START)
    start, target = float(f"{expit(low):.12g}"), float(f"{expit(low + draw(WIDTH)):.12g}")
    return start, target


def corrupt(draw, options: dict[str, Any], names: tuple[str, ...], special: tuple[str, ...] = ()) -> bool:
    """Replace one or two of the options by nonsense in two cases of five; whether it did."""
    if draw(st.integers(0, 4)) < 3:
        return False
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)):
        options[name] = draw(st.sampled_from(NONSENSE + (special if name == "clock" else ())))
    return True


def words(options: dict[str, Any]) -> list[str]:
    """Options as arguments; True is a flag, a list its words."""
    arguments = []
    for name, value in options.items():
        arguments.append("--" + name.replace("_", "-"))
        if value is not True:
            arguments += [str(x) for x in value] if isinstance(value, list) else [str(value)]
    return arguments


EXPONENTS = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.5]), st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
    min_size=1,
    max_size=2,
)
NUMBERS = st.lists(reals(0, 1), min_size=1, max_size=4)

GROUP_OPTIONS = ("start", "target", "clock", "budget", "group_size", "step_model", "budget_kind", "shape", "all_wrong")


@st.composite
def group_options(draw, largest: int = 12):
    start, target = draw(ends())
    options: dict[str, Any] = {"start": start, "target": target, "clock": draw(CLOCKS)}
    options["group_size"] = draw(st.integers(2, largest))
    for name, choices in (
        ("step_model", ("ratio", "outcome")),
        ("budget_kind", ("drift", "advantage-variance")),
        ("shape", ("free", "convex", "nonincreasing")),
        ("mobility", ("natural", "softmax-gradient")),
        ("budget", (0.25, 4.0, 1e9, 1e-9)),
    ):
        if draw(st.booleans()):
            options[name] = draw(st.sampled_from(choices))
    return options
