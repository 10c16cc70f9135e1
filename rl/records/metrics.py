"""What a run writes down as it goes, one JSON object a line, and how to read it back.

``metrics.jsonl`` holds only what follows from configuration and seed: the same run gives the same bytes. Wall-clock
time goes into ``timing.jsonl``. Reading needs neither torch nor anything else of the training stack.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"
ROLLOUTS_FILE = "rollouts.jsonl"
STAGES = ("sampling", "verifying", "learning", "hand_over", "evaluating")
RECORD_FILES = (METRICS_FILE, TIMING_FILE, ROLLOUTS_FILE)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What training has drawn so far, all groups counted, those that dynamic sampling dropped as well, and its updates.

    Any two runs can be compared by any of these. Evaluations are not training and are not counted.
    """

    groups: int = 0
    responses: int = 0
    tokens: int = 0
    updates: int = 0

    def so_far(self) -> dict[str, int]:
        """As the fields of a record."""
        return {f"{name}_so_far": count for name, count in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One step, from 1: a batch, and the updates made from it, one by default.

    Shares, histograms, ``reward`` and ``entropy`` are over all groups drawn, so that they estimate the policy's success
    whether or not groups are dropped; what concerns the update is over the groups trained on. What is counted "so far"
    counts this step. Of several updates a norm is the largest and a factor the smallest. The fields with a default of
    None or empty are absent in files of earlier versions.

    Attributes
    ----------
    tokens
        Tokens sampled in this step, end tokens included.
    groups_drawn, groups_trained
        They differ with dynamic sampling only.
    left_out
        Prompts that the task proposed in this step and that do not fit into the model's context.
    table
        Name of the table that held; one that was followed has its copy in ``tables/``.
    all_wrong_factor
        What the table's advantage of all-wrong groups was multiplied by.
    success_histogram
        Number of groups with K correct, K = 0..M.
    tokens_by_successes
        Tokens of the right and of the wrong responses in groups with K correct, K = 0..M: with the histogram, the mean
        length of either as a function of success.
    all_wrong, all_right
        Shares of the groups.
    mean_abs_advantage
        Mean of abs(A) over all responses of a full batch; a group that is missing from it counts as 0.
    distinct_responses
        Rows the gradient was computed from: equal responses to a prompt count once, those of advantage 0 not at all.
    gradient_norm
        Euclidean, before clipping.
    clip_factor
        What a gradient, and so all weights of the update, was multiplied by: bound / norm, or 1 if it was not clipped.
    updates_clipped
        Updates of the step whose gradient was clipped.
    ratio_clipped
        Share of the tokens, over all updates but the first, that had no gradient because the clip of the ratio acted:
        of those whose advantage is not 0. None with one update a step, or without any such token.
    entropy
        Mean of -log p over the sampled tokens, nats: a sample estimate of the policy's entropy per token.
    finished
        Share of responses that ended before the length limit.
    log_ratio_mean, log_ratio_max
        Of d, the trainer's minus the sampler's log-probability of a sampled token, nats: mean, and largest absolute
        value. These four are over the tokens of the responses the gradient was computed from; None without any.
    lag
        Steps by which the weights that drew the responses were behind those that learned from them: 1 with
        ``sampler.ahead``, but for the first step, else 0.
    sampler_kl
        Mean of exp(d) - 1 - d, an estimate of KL(sampler ‖ trainer) per token, nats.
    importance_truncated
        Share of tokens whose importance weight was cut to the cap; 0 without importance sampling.
    kl_per_token, kl_per_response
        Estimates of KL(policy ‖ reference), nats, of the policy before the first update of the step: the sum over the
        sampled tokens of exp(-d) - 1 + d, d the policy's minus the reference's log-probability, divided by tokens and
        by responses. None without a penalty.
    parsable
        Share of responses in which an answer could be read, right or wrong: the score of the form, never a reward. A
        response that was cut counts as none.
    timed_out, failed
        Responses that count as wrong because the verifier ran out of time, and because it failed.
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
    groups_so_far: int | None = None
    tokens_so_far: int | None = None
    groups_drawn: int | None = None
    groups_trained: int | None = None
    left_out: int | None = None
    table: str | None = None
    table_checksum: str | None = None
    all_wrong_factor: float | None = None
    learning_rate: float | None = None
    clip_factor: float | None = None
    log_ratio_mean: float | None = None
    log_ratio_max: float | None = None
    sampler_kl: float | None = None
    importance_truncated: float | None = None
    updates_so_far: int | None = None
    updates_clipped: int | None = None
    ratio_clipped: float | None = None
    lag: int | None = None
    kl_per_token: float | None = None
    kl_per_response: float | None = None
    parsable: float | None = None
    timed_out: int | None = None
    failed: int | None = None
    tokens_by_successes: tuple[tuple[int, int], ...] | None = None
    histogram_by_difficulty: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One measurement on held-out prompts, after so many steps; intervals are 95 % bootstrap intervals over prompts.

    Attributes
    ----------
    success
        Mean over prompts of the share of correct responses: pass@1.
    prompts, samples
        Held-out prompts, and responses to each.
    pass_at
        For each k asked for, as text, the unbiased estimate of pass@k and its interval.
    greedy
        Share of prompts whose most probable response is correct, and its interval; None if not asked for.
    finished, parsable, timed_out, failed
        As of a `StepRecord`; greedy responses are not counted.
    warning
        If the verifier failed or ran out of time on more than half of what it was shown, and before the first step
        also if in more than half of the responses no answer could be read: what is wrong with them, and an example.
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
    groups_so_far: int | None = None
    tokens_so_far: int | None = None
    updates_so_far: int | None = None
    pass_at: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    greedy: tuple[float, float, float] | None = None
    finished: float | None = None
    parsable: float | None = None
    timed_out: int | None = None
    failed: int | None = None
    warning: str | None = None


@dataclass(frozen=True, kw_only=True)
class TimingRecord:
    """Wall-clock seconds of one step, by stage.

    They are: drawing prompts and sampling; verifying and weighing; learning; handing the weights to the sampler, with
    its proof; evaluating.

    They are not in ``metrics.jsonl`` since no two runs share them, and not cumulative: a run that was interrupted adds
    up those of the steps that count.
    """

    step: int
    sampling: float
    verifying: float
    learning: float
    evaluating: float
    hand_over: float = 0.0

    @classmethod
    def from_seconds(cls, step: int, seconds: Mapping[str, float]) -> "TimingRecord":
        """From the seconds spent in each stage; a stage that is absent took none."""
        return cls(step=step, **{stage: round(seconds.get(stage, 0.0), 4) for stage in STAGES})


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Everything a metrics file holds, in order of step."""

    steps: tuple[StepRecord, ...]
    evaluations: tuple[EvaluationRecord, ...]


KINDS: Mapping[str, type] = {"step": StepRecord, "evaluation": EvaluationRecord, "timing": TimingRecord}


def line_of(record: StepRecord | EvaluationRecord | TimingRecord) -> dict[str, Any]:
    """The line of a record, as JSON."""
    (kind,) = (name for name, type_ in KINDS.items() if isinstance(record, type_))
    return {"kind": kind, **asdict(record)}


def append_lines(path: Path, documents: Iterable[Mapping[str, Any]]) -> list[bytes]:
    """Append a line for each document and flush to the disk, nothing if one of them is not JSON; returns the lines."""
    lines = [json.dumps(document, allow_nan=False).encode() + b"\n" for document in documents]
    with path.open("ab") as file:
        file.write(b"".join(lines))
        file.flush()
        os.fsync(file.fileno())
    return lines


def read_metrics(path: Path) -> Metrics:
    """Read ``metrics.jsonl``; a last line without its end, left by a run that was killed, is ignored.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If a line is not a record of this version; the message names the file and the line.
    """
    found: dict[str, list[Any]] = {"step": [], "evaluation": []}
    for number, document in documents(path):
        if (kind := document.pop("kind", None)) not in found:
            raise ValueError(f"{path}: line {number} is of unknown kind {kind!r}")
        found[kind].append(_record(KINDS[kind], document, path, number))
    return Metrics(steps=tuple(found["step"]), evaluations=tuple(found["evaluation"]))


def read_timing(path: Path) -> tuple[TimingRecord, ...]:
    """Read ``timing.jsonl``; raises like `read_metrics`."""
    return tuple(
        _record(TimingRecord, {key: value for key, value in document.items() if key != "kind"}, path, number)
        for number, document in documents(path)
    )


def documents(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number, from 1, and the document of each whole line: an object with a number of steps, at least.

    Raises like `read_metrics`.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                document = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: line {number} is not JSON") from error
            if not isinstance(document, dict) or not _fits(document.get("step"), int):
                raise ValueError(f"{path}: line {number} is no record of a step")
            yield number, document


def _record(type_: Any, document: Mapping[str, Any], path: Path, number: int) -> Any:
    """A record of ``type_``, if the document has the keys and the kinds of values that one has."""
    known, values = _hints(type_), {key: _frozen(value) for key, value in document.items()}
    needed = {each.name for each in fields(type_) if each.default is MISSING and each.default_factory is MISSING}
    if wrong := sorted((values.keys() - known.keys()) | (needed - values.keys())):
        raise ValueError(f"{path}: line {number} has other keys than this version writes: {wrong[0]!r}")
    if wrong := sorted(key for key, value in values.items() if not _fits(value, known[key])):
        raise ValueError(f"{path}: line {number} has a {wrong[0]!r} that cannot be one: {document[wrong[0]]!r:.40}")
    return type_(**values)


# What the fields of a record are; found out once, since a run has many lines.
_hints = cache(get_type_hints)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON, with its lists as tuples, is what an annotation of a record says."""
    inner = get_args(hint)
    if get_origin(hint) is UnionType:
        return any(_fits(value, each) for each in inner)
    if get_origin(hint) is tuple:
        hints = [inner[0]] * len(value) if isinstance(value, tuple) and inner[-1] is Ellipsis else inner
        return isinstance(value, tuple) and len(value) == len(hints) and all(map(_fits, value, hints))
    if get_origin(hint) is Mapping:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)


def _frozen(value: Any) -> Any:
    """Lists, at any depth, as the tuples they were written from."""
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
