"""The training steps of a run's ``metrics.jsonl``, read line by line and checked before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from weightopt.errors import ProblemError
from weightopt.files import read_file

METRICS = "metrics.jsonl"
MAX_BYTES = 64 * 2**20
LARGEST_COUNT = 10**6
LARGEST_TOKENS = 10**15

Counts = NDArray[np.int64]


class Step(NamedTuple):
    """What a step of a run says of success, of lengths, and of the loop.

    Attributes
    ----------
    line, step
        Line of the file, and number of the step; None where the line states none.
    histogram
        Shape (M+1,). Groups with K = 0..M correct.
    right, wrong
        Shape (M+1,). Tokens of the right and of the wrong responses of these groups; None in files without them.
    refilled
        Whether more groups were drawn than trained on.
    table
        Name of the weight table that held, if stated.
    """

    line: int
    step: int | None
    histogram: Counts
    right: Counts | None
    wrong: Counts | None
    refilled: bool
    table: str | None

    @property
    def group_size(self) -> int:
        """M."""
        return self.histogram.size - 1


class Run(NamedTuple):
    """A metrics file: its name, as a person may read it, its steps in order, and the option that names it."""

    path: str
    name: str
    steps: tuple[Step, ...]
    option: str = "metrics"

    def refuse(self, sentence: str) -> NoReturn:
        """Refuse the file with one sentence."""
        raise ProblemError(self.option, f"file {self.path}: {sentence}")

    def since(self, step: int | None, count: int = 1) -> tuple[Step, ...]:
        """`count` steps, or as many as there are, from number `step` on, or from the first; those of one group size."""
        first = 0
        if step is not None:
            first = next((at for at, each in enumerate(self.steps) if each.step == step), -1)
        if first < 0:
            self.refuse(f"holds no training step {step}")
        chosen = self.steps[first : first + count]
        return tuple(each for each in chosen if each.group_size == chosen[0].group_size)

    def latest(self, count: int) -> tuple[Step, ...]:
        """The last `count` steps, or as many as there are, those of the last one's group size."""
        chosen = self.steps[-count:]
        return tuple(each for each in chosen if each.group_size == chosen[-1].group_size)


def read_run(path: str, *, may_be_empty: bool = False, option: str = "metrics") -> Run:
    """Every training step of ``metrics.jsonl``, or of the one in a run's folder.

    A last line without its end is still being written, and is left out.

    Raises
    ------
    ProblemError
        If the file cannot be read, a line is not one of a run, or there is no training step, unless that may be.
    """
    file = Path(path) / METRICS if Path(path).is_dir() else Path(path)
    run = Run(path, plain(file.name), (), option)
    if file != Path(path) and not file.exists():
        raise ProblemError(option, f"{path} holds no {METRICS}; give the folder of a run")
    try:
        data = read_file(file, MAX_BYTES)
        if len(data) > MAX_BYTES:
            run.refuse(f"is larger than {MAX_BYTES >> 20} MiB; give the metrics.jsonl of a run")
        steps = tuple(_step(run, line, record) for line, record in _records(data))
    except OSError as error:
        run.refuse(f"cannot be read ({error.strerror}); give the metrics.jsonl of a run")
    except ProblemError:
        raise
    except (ValueError, RecursionError) as error:
        text = str(error)
        run.refuse(f"{text}; give the metrics.jsonl of a run" if text.startswith("line") else "is not UTF-8 text")
    if not steps and not may_be_empty:
        run.refuse("holds no training step")
    return run._replace(steps=steps)


def plain(name: str) -> str:
    """A file's name as one may print it."""
    return "".join(c for c in name if c.isprintable())[:80]


def _records(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    for at, line in enumerate(data.decode("utf-8").split("\n")[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError:
            raise ValueError(f"line {at} is not JSON") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {at} is not a JSON object")
        if record.get("kind") == "step":
            yield at, record


def _step(run: Run, line: int, record: dict[str, Any]) -> Step:
    histogram = _counts(record.get("success_histogram"), LARGEST_COUNT)
    if histogram is None or not 3 <= histogram.size <= 65537 or not histogram.any():
        run.refuse(f"line {line}, key success_histogram: must list the groups with K = 0..M correct, M at least 2")
    pairs, right, wrong = record.get("tokens_by_successes"), None, None
    if pairs is not None:
        fine = isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
        right, wrong = (_counts([pair[side] for pair in pairs] if fine else None, LARGEST_TOKENS) for side in (0, 1))
        if right is None or wrong is None or right.size != histogram.size:
            run.refuse(
                f"line {line}, key tokens_by_successes: must list, for groups with K = 0..M correct, the tokens of "
                "right and of wrong responses"
            )
    drawn, trained = record.get("groups_drawn"), record.get("groups_trained")
    number, table = record.get("step"), record.get("table")
    return Step(
        line=line,
        step=number if type(number) is int else None,
        histogram=histogram,
        right=right,
        wrong=wrong,
        refilled=type(drawn) is int and type(trained) is int and drawn > trained,
        table=table if isinstance(table, str) else None,
    )


def _counts(values: Any, most: int) -> Counts | None:
    """Whole numbers from 0 to `most`, or None."""
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value <= most for value in values):
        return None
    return np.array(values, dtype=np.int64)
