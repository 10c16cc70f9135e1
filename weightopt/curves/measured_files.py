"""Reading measured functions of the success probability: two-column CSV files, checked line by line."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path
from typing import NoReturn

import numpy as np

from theory.clocks import TABULATED, Clock, Tabulated, parse
from theory.dynamics import MOBILITIES, Mobility
from theory.log_linear import LogLinear
from weightopt.columns import number, separated_by
from weightopt.curves.problem import Problem
from weightopt.errors import ProblemError
from weightopt.files import read_file

COARSE = 0.04  # change of the time without every second row from where a table is coarse: its own error is about 1 %
MAX_CHARACTERS = 100_000
MAX_LINES = 200  # more are noise rather than shape: a kink each, for every integral to be split at


def read_clock(text: str, start: float, target: float) -> Clock | str:
    """A clock from its name on the command line; ``csv:FILE``, ``tokens:FILE`` and ``tokens-effective:FILE`` are read.

    Parameters
    ----------
    text
        A name that `theory.clocks.parse` knows, or one of the three with the path of a CSV file.
    start, target
        Success probabilities that the file must cover.

    Raises
    ------
    ProblemError
        With the line and column that is wrong.
    """
    kind, _, path = text.partition(":")
    if kind in TABULATED:
        column = "tokens" if kind.startswith("tokens") else "cost"
        return Tabulated(kind, Path(path).name, _read("clock", path, column, start, target))
    try:
        return parse(text)
    except ValueError as error:
        more = ", ".join(f"{kind}:FILE" for kind in TABULATED)
        choices = f", or {more}" if str(error).startswith("unknown") else ""
        raise ProblemError("clock", f"is not usable: {error}{choices}") from None


def coarseness(problem: Problem) -> float:
    """By how much the best time without constraints changes, relatively, without every second row of the clock.

    Between rows the logarithm of the cost is taken as linear in log-odds, with an error of the square of their
    distance: a quarter of this is left with all rows. First and last row stay, and of the two ways to leave out
    the larger change counts; of two rows one mean is made. 0 for a clock that was not measured.

    Parameters
    ----------
    problem
        With any clock.
    """
    clock = problem.clock
    if not isinstance(clock, Tabulated):
        return 0.0
    rows = list(zip(clock.measured.rho, clock.measured.value, strict=True))
    if len(rows) == 2:
        mean = math.sqrt(rows[0][1] * rows[1][1])
        fewer = [[(rho, mean) for rho, _ in rows]]
    else:
        fewer = [[rows[0], *rows[first:-1:2], rows[-1]] for first in (1, 2)]
    return max(
        abs(_least_time(problem, LogLinear(*zip(*some, strict=True))) / _least_time(problem, None) - 1)
        for some in fewer
    )


def _least_time(problem: Problem, measured: LogLinear | None) -> float:
    """(∫√f dm)²/B, with another measured clock where one is given."""
    if measured is not None:
        clock = dataclasses.replace(problem.clock, measured=measured)  # pyright: ignore[reportArgumentType]
        problem = Problem(
            problem.start,
            problem.target,
            clock,
            problem.mobility,
            problem.budget,
            budget_density=problem.budget_density,
        )
    points = problem.panels()
    return float(np.sum(points.weight * np.sqrt(problem.cost_density(points.rho)))) ** 2 / problem.budget


def read_mobility(text: str, start: float, target: float) -> Mobility:
    """A mobility from its name, or from ``csv:FILE`` with columns rho and mobility; errors as `read_clock`."""
    kind, _, path = text.partition(":")
    if kind == "csv":
        measured = _read("mobility", path, "mobility", start, target)
        return Mobility(f"csv:{Path(path).name}", 0, measured)
    if text not in MOBILITIES:
        raise ProblemError("mobility", f"must be one of {', '.join(MOBILITIES)}, csv:FILE, got {text[:40]!r}")
    return MOBILITIES[text]


def read_density(path: str, start: float, target: float) -> LogLinear:
    """A budget density from a CSV file with columns rho and density; errors as `read_clock`."""
    return _read("budget_density", path, "density", start, target)


def _read(field: str, path: str, column: str, start: float, target: float) -> LogLinear:
    def refuse(sentence: str) -> NoReturn:
        raise ProblemError(field, f"file {path}: {sentence}")

    try:
        text = read_file(path, MAX_CHARACTERS).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text))
        rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        refuse(f"cannot be read ({error.strerror}); give a CSV file with the columns rho,{column}")
    except (ValueError, csv.Error):
        refuse(f"is not CSV text; give two columns, rho,{column}")
    if len(text) > MAX_CHARACTERS:
        refuse(f"is too large for at most {MAX_LINES} lines of numbers; average finer measurements into bins")
    if not rows or [name.strip() for name in rows[0][1]] != ["rho", column]:
        refuse(f"line 1 must be the header rho,{column}{separated_by(rows[0][1] if rows else [])}")
    if not 2 <= len(rows) - 1 <= MAX_LINES:
        refuse(
            f"must have from 2 to {MAX_LINES} lines of numbers under its header; average finer measurements into bins"
        )
    points: list[tuple[float, float]] = []
    for line, row in rows[1:]:
        if len(row) != 2:
            refuse(f"line {line} has {len(row)} columns, must have 2")
        numbers = []
        for name, text in zip(("rho", column), row, strict=True):
            try:
                numbers.append(number(text))
            except ValueError:
                refuse(f"line {line}, column {name}: {text.strip()[:40]!r} is not a number")
        rho, value = numbers
        if not 0 < rho < 1:
            refuse(f"line {line}, column rho: must lie in (0, 1), is {rho:g}")
        if points and not rho > points[-1][0]:
            refuse(f"line {line}, column rho: must be larger than in the line before, is {rho!r}")
        if not 1e-30 <= value <= 1e30:
            refuse(f"line {line}, column {column}: must be positive, from 1e-30 to 1e30, is {value:g}")
        points.append((rho, value))
    if not (points[0][0] <= start and points[-1][0] >= target):
        refuse(
            f"column rho must cover start to target, {start:g} to {target:g}; "
            f"it runs from {points[0][0]:g} to {points[-1][0]:g}"
        )
    return LogLinear(tuple(rho for rho, _ in points), tuple(value for _, value in points))
