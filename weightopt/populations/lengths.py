"""What a response costs: mean length of right and of wrong answers as functions of the success probability.

A response to a prompt of success ρ has c(ρ) = ρ·right(ρ) + (1-ρ)·wrong(ρ) tokens on average. Where wrong answers are
longer, as those of reasoning models are, a batch becomes cheaper as success rises.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from theory.log_linear import LogLinear
from weightopt.columns import number, separated_by
from weightopt.errors import ProblemError
from weightopt.files import read_file
from weightopt.populations.metrics import Run, plain, read_run

Array = NDArray[np.float64]
SHORTEST, LONGEST = 1e-3, 1e9
MAX_ROWS = 200
MAX_BYTES = 1 << 20
HEADERS = (["rho", "right", "wrong"], ["rho", "tokens"])
ENOUGH = 100  # right and wrong responses each, from which a run's mean length is taken


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Mean lengths in tokens; between the points ln of a length is linear in log-odds, beyond them it is constant.

    Parameters
    ----------
    source
        Where they come from, for people.
    rho
        Success probabilities in (0, 1), strictly increasing, 1 to 200.
    right, wrong
        Mean length there of the right and of the wrong responses, 1e-3 to 1e9.

    Raises
    ------
    ProblemError
        If a parameter is out of range.
    """

    source: str
    rho: tuple[float, ...]
    right: tuple[float, ...]
    wrong: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source.isprintable():
            raise ProblemError("tokens", "must have one line of text as its source")
        for values, low, high in (
            (self.rho, 0.0, 1.0),
            (self.right, SHORTEST, LONGEST),
            (self.wrong, SHORTEST, LONGEST),
        ):
            if not isinstance(values, tuple) or not 1 <= len(values) <= MAX_ROWS or len(values) != len(self.rho):
                raise ProblemError("tokens", f"must be lists of equal length from 1 to {MAX_ROWS}")
            if not all(type(value) is float and low <= value <= high for value in values):
                raise ProblemError("tokens", f"must hold success probabilities and lengths from {SHORTEST:g} to 1e9")
        if not (self.rho[0] > 0 and self.rho[-1] < 1 and np.all(np.diff(self.rho) > 0)):
            raise ProblemError("tokens", "must have success probabilities in (0, 1) that increase")

    def __call__(self, rho: Array) -> Array:
        """c(ρ) at success probabilities in (0, 1), any shape."""
        right, wrong = (curve(rho) for curve in self._curves)
        return rho * right + (1 - rho) * wrong

    @cached_property
    def _curves(self) -> tuple[LogLinear, LogLinear]:
        rho, right, wrong = self.rho, self.right, self.wrong
        if rho[0] == rho[-1]:  # one point stands for all success probabilities
            rho, right, wrong = (rho[0] / 2, *rho), right * 2, wrong * 2
        return LogLinear(rho, right), LogLinear(rho, wrong)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
            if key[0] != "_"
        }

    @classmethod
    def from_dict(cls, values: Any) -> Lengths:
        """What `to_dict` described; raises ProblemError if a key is missing, unknown or out of range."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or sorted(values) != sorted(names):
            raise ProblemError("tokens", f"must hold {', '.join(names)}")
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


def read_lengths(path: str) -> Lengths:
    """Lengths from a CSV file, columns rho,right,wrong or rho,tokens, or from a run: its folder or metrics.jsonl.

    Raises
    ------
    ProblemError
        With what is wrong.
    """
    if Path(path).is_dir() or path.endswith(".jsonl"):
        run = read_run(path, option="tokens")
        lengths = run_lengths(run)
        if lengths is None:
            run.refuse("does not state the lengths of right and of wrong responses; give --tokens a CSV file")
        return lengths
    return _read_csv(path)


def run_lengths(run: Run) -> Lengths | None:
    """Lengths from all steps of a run that state them, as functions of K/M; None where too few responses do.

    Neighbouring K are taken together until they hold 100 right and 100 wrong responses. Lengths may have drifted while
    the run went on: this is the mean over all its steps.
    """
    steps = [step for step in run.steps if step.right is not None and step.group_size == run.steps[-1].group_size]
    if not steps:
        return None
    size = steps[0].group_size
    groups = np.sum([step.histogram for step in steps], axis=0)
    k = np.arange(size + 1)
    responses = np.array([groups * k, groups * (size - k)])
    tokens = np.array([sum(step.right for step in steps), sum(step.wrong for step in steps)])  # pyright: ignore[reportCallIssue, reportArgumentType]
    points: list[tuple[float, float, float]] = []
    first = 0
    for last in range(1, size + 2):
        held, rest = responses[:, first:last].sum(axis=1), responses[:, last:].sum(axis=1)
        # What is left over at the end must be enough for a point of its own.
        if held.min() < ENOUGH or (last <= size and rest.min() < ENOUGH):
            continue
        spent = tokens[:, first:last].sum(axis=1)
        rho = (float(groups[first:last] @ k[first:last]) / groups[first:last].sum() + 0.5) / (size + 1)
        points.append((float(rho), float(spent[0] / held[0]), float(spent[1] / held[1])))
        first = last
    if not points or min(min(point[1:]) for point in points) < SHORTEST:
        return None
    rho, right, wrong = zip(*points, strict=True)
    return Lengths(f"{run.name}, {len(steps)} step{'s' * (len(steps) > 1)}", rho, right, wrong)


def _read_csv(path: str) -> Lengths:
    def refuse(sentence: str) -> NoReturn:
        raise ProblemError("tokens", f"file {path}: {sentence}")

    try:
        data = read_file(path, MAX_BYTES)
        rows = [(line, row) for line, row in enumerate(csv.reader(io.StringIO(data.decode("utf-8-sig"))), 1) if row]
    except OSError as error:
        refuse(f"cannot be read ({error.strerror}); give a CSV file rho,right,wrong or the folder of a run")
    except (ValueError, csv.Error):
        refuse("is not CSV text; give the columns rho,right,wrong, or rho,tokens")
    header = [name.strip() for name in rows[0][1]] if rows else []
    if header not in HEADERS:
        refuse(f"line 1 must be the header rho,right,wrong or rho,tokens{separated_by(rows[0][1] if rows else [])}")
    if not 1 <= len(rows) - 1 <= MAX_ROWS:
        refuse(f"must have from 1 to {MAX_ROWS} lines of numbers under its header, has {len(rows) - 1}")
    found = [_row(refuse, header, line, row) for line, row in rows[1:]]
    for (line, _), before, after in zip(rows[2:], found, found[1:], strict=False):
        if not before[0] < after[0]:
            refuse(f"line {line}, column rho: must be larger than on the line before, is {after[0]:g}")
    rho, right, wrong = zip(*((values[0], values[1], values[-1]) for values in found), strict=True)
    return Lengths(plain(Path(path).name), rho, right, wrong)


def _row(refuse: Callable[[str], NoReturn], header: Sequence[str], line: int, row: Sequence[str]) -> list[float]:
    if len(row) != len(header):
        refuse(f"line {line} has {len(row)} columns, must have {len(header)}")
    values = []
    for name, text in zip(header, row, strict=True):
        try:
            value = number(text)
        except ValueError:
            refuse(f"line {line}, column {name}: {text.strip()[:40]!r} is not a number")
        low, high = (0.0, 1.0) if name == "rho" else (SHORTEST, LONGEST)
        if not (low < value < high):
            refuse(f"line {line}, column {name}: must lie between {low:g} and {high:g}, is {value:g}")
        values.append(value)
    return values
