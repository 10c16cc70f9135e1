"""Many problems at once: every combination of starts, targets, clocks and constraints, solved on all cores.

The rows come in the order of the combinations whatever the number of workers, and are appended as they are known, so
that a sweep that was interrupted goes on where it stopped and ends with the same bytes.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from weightopt.curves.curve import solve
from weightopt.curves.problem import Monotone, Problem
from weightopt.errors import ProblemError
from weightopt.files import replace_file
from weightopt.journal import JournalError, OtherResultsError, open_journal
from weightopt.spread import check_cluster, in_order, spread

COLUMNS = (
    "start", "target", "clock", "mobility", "min_weight", "max_weight", "max_ratio", "monotone",
    "status", "time", "lower_bound", "gap",
)  # fmt: skip
LARGEST = 1_000_000
CHUNK = 50  # rows that a worker is given at a time
PACKAGES = ("weightopt", "numpy", "scipy")


class Sweep(NamedTuple):
    """The values of every parameter; a row for each combination, the last parameter fastest.

    ``max_weight`` and ``max_ratio`` are ∞ and ``monotone`` None where there is no such constraint.
    """

    start: Sequence[float]
    target: Sequence[float]
    clock: Sequence[str]
    mobility: Sequence[str] = ("natural",)
    min_weight: Sequence[float] = (0.0,)
    max_weight: Sequence[float] = (math.inf,)
    max_ratio: Sequence[float] = (math.inf,)
    monotone: Sequence[Monotone | None] = (None,)

    @property
    def size(self) -> int:
        """Number of rows."""
        return math.prod(len(values) for values in self)

    def combinations(self) -> Iterator[dict[str, Any]]:
        """The parameters of every row in order."""
        for values in itertools.product(*self):
            yield dict(zip(self._fields, values, strict=True))

    def check(self) -> None:
        """Refuse values that are wrong in themselves; combinations that contradict each other become rows.

        Raises
        ------
        ProblemError
            With the parameter and its valid range.
        """
        if self.size > LARGEST:
            raise ProblemError("start", f"and the other lists make {self.size} combinations; the most is {LARGEST}")
        for field in self._fields:
            if not getattr(self, field):
                raise ProblemError(field, "must be given at least one value")
        for start in self.start:
            Problem(start, 1 - 1e-12, "regular")
        for target in self.target:
            Problem(1e-12, target, "regular")
        for clock in self.clock:
            Problem(0.1, 0.9, clock)
        for mobility in self.mobility:
            Problem(0.1, 0.9, "regular", mobility)
        # A width of 1e-6 has a mean weight of 1e6: what is refused here is refused for what it is.
        for bound in self.max_ratio:
            Problem(0.1, 0.9, "regular", max_ratio=bound)
        for least in self.min_weight:
            Problem(0.1, 0.9, "regular", budget=1e30, min_weight=least)
        for most in self.max_weight:
            Problem(0.1, 0.9, "regular", budget=1e-30, max_weight=most)
        for monotone in self.monotone:
            Problem(0.1, 0.9, "regular", monotone=monotone)


def solve_row(values: dict[str, Any]) -> tuple[str, ...]:
    """One row: the parameters, how it ended, and the numbers.

    ``status`` is optimal, uncertified (the numbers are then those of a weighting that may not be the best) or
    infeasible (no weighting of budget 1 meets the bounds, or the start is not below the target).
    """
    given = tuple("" if value is None or value == math.inf else str(value) for value in values.values())
    try:
        solution = solve(Problem(**values), throw=False)
    except ProblemError:
        return (*given, "infeasible", "", "", "")
    return (
        *given,
        solution.status.name.lower(),
        repr(solution.time),
        repr(solution.lower_bound),
        f"{solution.gap:.1e}",
    )


def run_sweep(
    sweep: Sweep,
    path: Path,
    workers: int,
    advance: Callable[[int], None],
    *,
    resume: bool = False,
    ray: str | None = None,
) -> dict[str, int]:
    """Solve a sweep into a CSV file.

    While it runs the rows go to ``path`` + ``.partial`` (see `weightopt.journal`), each on disk before the next is
    asked for; at the end they become `path`, whole or not at all.

    Parameters
    ----------
    sweep
        The values of every parameter.
    path
        In an existing folder.
    workers
        Processes, from 1.
    advance
        Told how many rows have been added.
    resume
        Go on with what is there of the same sweep.
    ray
        Address of a Ray cluster to spread over instead; see `weightopt.spread`.

    Returns
    -------
    dict of str to int
        How many rows ended with which status.

    Raises
    ------
    ProblemError
        If there is an unfinished sweep in the way, or none to resume; if the one to resume is of other values or other
        versions, has been changed by others, or is being written by another process.
    weightopt.spread.SpreadError
        If the cluster cannot be worked with.
    OSError
        If a file cannot be written; the rows before stay in the unfinished sweep.
    """
    sweep.check()
    check_cluster(ray)
    partial = path.with_name(path.name + ".partial")
    begun = partial.exists() and partial.stat().st_size > 0
    if begun and not resume:
        raise ProblemError("output", f"has an unfinished sweep beside it, {partial}; add --resume, or remove that file")
    if resume and not partial.exists():
        raise ProblemError("resume", f"needs an unfinished sweep, and there is no {partial}")
    try:
        with open_journal(partial, _fingerprint(sweep)) as journal:
            done = [tuple(row) for row in journal.entries]
            advance(len(done))
            left = ((values,) for values in itertools.islice(sweep.combinations(), len(done), None))
            solved = spread(solve_row, left, workers=workers, ray=ray, batch=CHUNK, packages=PACKAGES)
            for row in in_order(solved):
                journal.append(row)
                done.append(row)
                advance(1)
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(done)
            replace_file(path, text.getvalue().encode())
            partial.unlink()
    except OtherResultsError:
        raise ProblemError(
            "resume",
            f"needs the options, and the versions of {', '.join(PACKAGES)}, that {partial} was started with; "
            "use them, or remove that file",
        ) from None
    except JournalError as error:
        raise ProblemError("resume" if begun else "output", f"cannot be done: {error}") from None
    status = COLUMNS.index("status")
    return {name: sum(row[status] == name for row in done) for name in ("optimal", "uncertified", "infeasible")}


def sweep_lines(sweep: Sweep, workers: int, ray: str | None = None) -> Iterator[tuple[str, str]]:
    """The lines of the CSV file of a sweep, the header first, as they are known: for a pipe, which keeps nothing.

    Yields
    ------
    tuple of str
        The line with its end, and the status of its row; "" for the header.

    Raises
    ------
    ProblemError
        As `run_sweep`.
    """
    sweep.check()
    check_cluster(ray)

    def line(row: Sequence[str]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        return text.getvalue()

    yield line(COLUMNS), ""
    status = COLUMNS.index("status")
    every = ((values,) for values in sweep.combinations())
    for row in in_order(spread(solve_row, every, workers=workers, ray=ray, batch=CHUNK, packages=PACKAGES)):
        yield line(row), row[status]


def _fingerprint(sweep: Sweep) -> str:
    """Checksum of all that the rows follow from."""
    about = {"sweep": sweep._asdict(), "versions": {name: importlib.metadata.version(name) for name in PACKAGES}}
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
