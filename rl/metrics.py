"""What a run writes down as it goes, one JSON object a line, and how to read it back.

``metrics.jsonl`` holds only what follows from configuration and seed: the same run gives the same bytes. Wall-clock
time goes into ``timing.jsonl``. Reading needs neither torch nor anything else of the training stack.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from weightopt.table import replace_file

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One update.

    Attributes
    ----------
    step
        Number of this update, from 1.
    responses_so_far
        Training responses sampled up to and including this step.
    tokens
        Tokens sampled in this step, end tokens included.
    reward
        Share of correct responses.
    success_histogram
        Number of groups with K correct, K = 0..M.
    all_wrong, all_right
        Share of groups with none correct, and with all correct.
    mean_abs_advantage
        Mean of abs(A) over all responses.
    distinct_responses
        Rows the gradient was computed from: equal responses to a prompt count once, those of advantage 0 not at all.
    gradient_norm
        Euclidean norm before clipping.
    clipped
        Whether the gradient was clipped.
    entropy
        Mean of -log p over the sampled tokens, nats: a sample estimate of the policy's entropy per token.
    finished
        Share of responses that ended before the length limit.
    """

    step: int
    responses_so_far: int
    tokens: int
    reward: float
    success_histogram: tuple[int, ...]
    all_wrong: float
    all_right: float
    mean_abs_advantage: float
    distinct_responses: int
    gradient_norm: float
    clipped: bool
    entropy: float
    finished: float


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One measurement on held-out prompts.

    Attributes
    ----------
    step, responses_so_far
        Updates made and training responses sampled before it.
    success
        Mean over prompts of the share of correct responses.
    success_low, success_high
        Its 95 % bootstrap interval over prompts.
    by_difficulty
        The same mean for each stratum of the task.
    prompts, samples, temperature
        Held-out prompts, responses to each, and the temperature they were sampled at.
    """

    step: int
    responses_so_far: int
    success: float
    success_low: float
    success_high: float
    by_difficulty: Mapping[str, float]
    prompts: int
    samples: int
    temperature: float


@dataclass(frozen=True, kw_only=True)
class TimingRecord:
    """Wall-clock seconds of one step: drawing prompts and sampling, verifying and weighing, learning, evaluating."""

    step: int
    sampling: float
    verifying: float
    learning: float
    evaluating: float

    @classmethod
    def from_clock(cls, step: int, clock: Sequence[float]) -> "TimingRecord":
        """From the five readings of a clock, in seconds, before and between and after the four stages."""
        sampling, verifying, learning, evaluating = (round(after - before, 4) for before, after in pairwise(clock))
        return cls(step=step, sampling=sampling, verifying=verifying, learning=learning, evaluating=evaluating)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Everything a metrics file holds, in order of step."""

    steps: tuple[StepRecord, ...]
    evaluations: tuple[EvaluationRecord, ...]


KINDS: Mapping[str, type] = {"step": StepRecord, "evaluation": EvaluationRecord, "timing": TimingRecord}


def append_record(path: Path, record: StepRecord | EvaluationRecord | TimingRecord) -> None:
    """Add one line to a file of records, and see it to the disk: no checkpoint may be safe before its records are."""
    (kind,) = (name for name, type_ in KINDS.items() if isinstance(record, type_))
    line = json.dumps({"kind": kind, **asdict(record)}, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(path: Path) -> Metrics:
    """Read ``metrics.jsonl``; a last line without its end, left by a run that was killed, is ignored.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If a line is not a record of this version.
    """
    steps: list[StepRecord] = []
    evaluations: list[EvaluationRecord] = []
    for document in _documents(path):
        match document.pop("kind", None):
            case "step":
                histogram = tuple(document.pop("success_histogram"))
                steps.append(_record(StepRecord, {**document, "success_histogram": histogram}, path))
            case "evaluation":
                evaluations.append(_record(EvaluationRecord, document, path))
            case kind:
                raise ValueError(f"{path}: a line of unknown kind {kind!r}")
    return Metrics(steps=tuple(steps), evaluations=tuple(evaluations))


def read_timing(path: Path) -> tuple[TimingRecord, ...]:
    """Read ``timing.jsonl``; raises like `read_metrics`."""
    return tuple(
        _record(TimingRecord, {key: value for key, value in document.items() if key != "kind"}, path)
        for document in _documents(path)
    )


def truncate_records(path: Path, *, keep: Callable[[int], bool]) -> None:
    """Keep the whole lines whose step ``keep`` accepts; a file that does not exist stays absent."""
    if path.exists():
        kept = [line for line in _whole_lines(path) if keep(json.loads(line)["step"])]
        replace_file(path, "".join(line + "\n" for line in kept).encode())


def _documents(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is not JSON") from error


def _whole_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _record(type_: Any, document: Mapping[str, Any], path: Path) -> Any:
    try:
        return type_(**document)
    except TypeError as error:
        raise ValueError(f"{path}: a record with other keys than this version writes: {error}") from error
