"""What a page shows of a run, read from its folder: all that it has recorded, as plain values.

Nothing that is read is trusted: responses are a model's, and a folder may have been changed by anybody. What has the
wrong form is refused or left out; texts are passed on as they are, and the page shows them as text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from figures.report.stretches import reduced, shares, spans
from rl.records.layout import ABOUT
from rl.records.metrics import (
    METRICS_FILE,
    ROLLOUTS_FILE,
    TIMING_FILE,
    Metrics,
    StepRecord,
    TimingRecord,
    read_metrics,
    read_timing,
)
from weightopt.table import TableError, WeightTable

MOST_ROLLOUTS = 2000  # on a page, of all runs together
MOST_CHARACTERS = 4000  # of a prompt or a response
LARGEST_ABOUT = 2**22
STAGES = ("sampling", "verifying", "learning", "hand_over")
# Of a step, as they are recorded.
RECORDED = (
    "reward", "all_wrong", "all_right", "mean_abs_advantage", "all_wrong_factor", "learning_rate", "gradient_norm",
    "clip_factor", "entropy", "finished", "parsable", "log_ratio_mean", "log_ratio_max", "sampler_kl",
    "importance_truncated", "kl_per_token", "kl_per_response", "ratio_clipped", "distinct_responses", "timed_out",
    "failed", "left_out",
)  # fmt: skip


class ReportError(ValueError):
    """A folder is no run, or cannot be read; the message is one sentence."""


class Tables(NamedTuple):
    """The tables of a run for groups of its size, or why one is not there."""

    found: tuple[WeightTable, ...]
    missing: str


def run_folders(folders: list[Path]) -> list[Path]:
    """The runs that are named, each once: a folder of a run, or one that holds some, as RUNS/TABLE/SEED.

    Raises
    ------
    ReportError
        If a folder is neither.
    """
    found: list[Path] = []
    for folder in folders:
        if (folder / ABOUT).is_file():
            found.append(folder)
            continue
        inside = [path.parent for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/{ABOUT}"))]
        if not inside:
            raise ReportError(f"{str(folder)!r} holds no run: it has no {ABOUT}, nor have the folders in it")
        found += inside
    return list({path.resolve(): path for path in found}.values())


def read_run(folder: Path, *, rollouts: int) -> dict[str, Any]:
    """All that a page shows of one run, as JSON values.

    Parameters
    ----------
    folder
        Of the run; it may be going on.
    rollouts
        How many responses to keep.

    Raises
    ------
    ReportError
        If it holds no run, or what it holds cannot be understood; the file is named.
    """
    about = _about(folder)
    try:
        metrics = read_metrics(folder / METRICS_FILE)
        timing = read_timing(folder / TIMING_FILE) if (folder / TIMING_FILE).exists() else ()
        lines = list(_rollouts(folder / ROLLOUTS_FILE, rollouts, about["group_size"]))
    except FileNotFoundError:
        raise ReportError(f"{str(folder)!r} has recorded nothing yet: it has no {METRICS_FILE}") from None
    except OSError as error:
        raise ReportError(f"{str(folder)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ReportError(str(error)) from error
    size = about["group_size"]
    if any(len(step.success_histogram) != size + 1 for step in metrics.steps):
        raise ReportError(f"{folder / METRICS_FILE}: the groups of a step are not of {size} responses, as {ABOUT} says")
    histogram = _histogram(metrics, size)
    tables = _tables(about, folder)
    seconds = {record.step: record for record in timing}
    first, last = spans([step.step for step in metrics.steps])
    return {
        "folder": str(folder),
        **about,
        "steps": len(metrics.steps),
        "evaluations": _evaluations(metrics, seconds),
        "first": first,
        "last": last,
        "series": _series(metrics, seconds),
        "histogram": shares(histogram),
        "by_k": [int(count) for count in histogram.sum(axis=0)],
        "stages": {stage: sum(getattr(each, stage) for each in timing) for stage in (*STAGES, "evaluating")},
        "timed": len(timing),
        "warnings": [record.warning for record in metrics.evaluations if record.warning],
        "tables": [_table(table) for table in tables.found],
        "tables_missing": tables.missing,
        "rollouts": lines,
        "rollouts_recorded": (folder / ROLLOUTS_FILE).exists(),
    }


def _about(folder: Path) -> dict[str, Any]:
    """Configuration, table and versions, from ``run.json``."""
    path = folder / ABOUT
    try:
        if path.stat().st_size > LARGEST_ABOUT:
            raise ReportError(f"{path} is longer than {LARGEST_ABOUT:,} bytes: it is not that of a run")
        run = json.loads(path.read_text(encoding="utf-8"))
        config, table = run["config"], run["table"]
        size, seed, steps = config["rollout"]["group_size"], config["seed"], config["training"]["steps"]
        names = [str(each["name"]) for each in (table, *run.get("later_tables", []))]
        sums = [str(each["checksum"]) for each in (table, *run.get("later_tables", []))]
        files = [config["table"], *(str(each["table"]) for each in config.get("later_tables", []))]
        if not (isinstance(size, int) and isinstance(seed, int) and isinstance(steps, int) and 2 <= size <= 65536):
            raise TypeError
    except OSError as error:
        raise ReportError(f"{str(folder)!r} holds no run: its {ABOUT} cannot be read ({error.strerror})") from error
    except ReportError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
        raise ReportError(f"{str(folder)!r} holds no run: its {ABOUT} is not that of a run") from error
    return {
        "config": dict(_flat(config)),
        "versions": {str(key): str(value) for key, value in dict(run.get("versions") or {}).items()},
        "table": " → ".join(names),
        "table_files": [str(file) for file in files],
        "table_sums": sums,
        "seed": seed,
        "group_size": size,
        "steps_asked": steps,
    }


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a configuration under its whole key, as text."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value if isinstance(value, str) else json.dumps(value)


def _tables(about: Mapping[str, Any], folder: Path) -> Tables:
    """The tables that the run names: where it found them or beside it, if they are still those of its checksums."""
    found = []
    for name, checksum in zip(about["table_files"], about["table_sums"], strict=False):
        places = [
            Path(name),
            *(parent / part for parent in folder.resolve().parents for part in (name, Path(name).name)),
        ]
        for place in places:
            try:
                table = WeightTable.load(place).for_group(about["group_size"])
            except (TableError, OSError, ValueError):
                continue
            if table.checksum == checksum:
                found.append(table)
                break
        else:
            return Tables(tuple(found), f"{name} is not there any more, or has been changed since the run began")
    return Tables(tuple(found), "")


def _table(table: WeightTable) -> dict[str, Any]:
    """What a table says about itself, with its numbers; a certificate that is none is shown as it is."""
    certificate = dict(table.certificate or {})
    return {
        "name": table.name,
        "label": table.label,
        "checksum": table.checksum,
        "weight": list(table.weight),
        "correct": list(table.advantage_correct or ()),
        "wrong": list(table.advantage_wrong or ()),
        "certificate": {key: _text(value) for key, value in certificate.items()},
        "problem": dict(_flat(table.problem)) if table.problem else {},
        "provenance": dict(_flat(table.provenance)),
    }


def _text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)[:500]


def _evaluations(metrics: Metrics, timing: Mapping[int, TimingRecord]) -> dict[str, list[Any]]:
    """Held-out measurements, and what training had cost before each: responses, tokens, updates, seconds."""
    rows: dict[str, list[Any]] = {name: [] for name in ("step", "responses", "tokens", "updates", "seconds")}
    measures: dict[str, list[Any]] = {"success": [], "finished": [], "parsable": []}
    spent, total = {0: 0.0}, 0.0
    for step in sorted(timing):
        total += sum(getattr(timing[step], stage) for stage in STAGES)
        spent[step] = total
    # Runs of before tokens_so_far was recorded have the tokens of each step, and made one update a step.
    tokens = [0, *accumulate(step.tokens for step in metrics.steps)]
    for record in metrics.evaluations:
        rows["step"].append(record.step)
        rows["responses"].append(record.responses_so_far)
        rows["tokens"].append(
            tokens[min(record.step, len(tokens) - 1)] if record.tokens_so_far is None else record.tokens_so_far
        )
        rows["updates"].append(record.step if record.updates_so_far is None else record.updates_so_far)
        rows["seconds"].append(round(spent[record.step], 3) if record.step in spent else None)
        measures["success"].append([record.success, record.success_low, record.success_high])
        for name in ("finished", "parsable"):
            value = getattr(record, name)
            measures[name].append(None if value is None else [value, None, None])
        if record.greedy is not None:
            measures.setdefault("greedy", []).append(list(record.greedy))
        for k, estimate in record.pass_at.items():
            measures.setdefault(f"pass@{k}", []).append(list(estimate))
    count = len(metrics.evaluations)
    whole = {name: values for name, values in measures.items() if count == len(values) > 0 and None not in values}
    return rows | {"measures": whole}  # pyright: ignore[reportReturnType]


def _histogram(metrics: Metrics, size: int) -> np.ndarray:
    """Groups with K correct responses in each step, shape (steps, M + 1)."""
    return np.array([step.success_histogram for step in metrics.steps], dtype=float).reshape(-1, size + 1)


def _series(metrics: Metrics, timing: Mapping[int, TimingRecord]) -> dict[str, Any]:
    """Everything that is recorded of every step, and what follows from it, as stretches; only what is there."""
    steps = metrics.steps
    values: dict[str, list[Any]] = {name: [getattr(step, name) for step in steps] for name in RECORDED}
    values["silent"] = [step.all_wrong + step.all_right for step in steps]
    values["length"] = [step.tokens / max(_responses(step), 1) for step in steps]
    for stage in STAGES:
        values[f"seconds_{stage}"] = [getattr(timing.get(step.step), stage, None) for step in steps]
    seconds = [
        sum(getattr(timing[step.step], stage) for stage in STAGES) if step.step in timing else math.nan
        for step in steps
    ]
    values["seconds"] = list(seconds)
    values["responses_per_second"] = [_rate(_responses(step), time) for step, time in zip(steps, seconds, strict=True)]
    values["tokens_per_second"] = [_rate(step.tokens, time) for step, time in zip(steps, seconds, strict=True)]
    return {name: found for name, each in values.items() if (found := reduced(each)) is not None}


def _responses(step: StepRecord) -> int:
    return sum(step.success_histogram) * (len(step.success_histogram) - 1)


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else math.nan


def _rollouts(path: Path, most: int, group_size: int) -> Iterator[dict[str, Any]]:
    """Whole groups of recorded responses, at most `most` responses in all, evenly over the run."""
    if not path.exists():
        return
    with path.open("rb") as file:
        groups = -(-sum(1 for _ in file) // group_size)
    every = max(1, math.ceil(groups * group_size / max(most, 1)))
    with path.open("rb") as file:
        for number, text in enumerate(file):
            if (number // group_size) % every == 0 and text.endswith(b"\n"):  # else it is being written
                yield _rollout(text, path, number + 1)


def _rollout(text: bytes, path: Path, number: int) -> dict[str, Any]:
    """One response, whatever else the line may hold."""
    try:
        line = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict) or _whole(line.get("step")) is None:
        raise ReportError(f"{path}: line {number} is no response")
    return {
        "step": line["step"],
        "group": _whole(line.get("group")),
        "prompt": _cut(line.get("prompt")),
        "difficulty": _cut(line.get("difficulty")),
        "response": _cut(line.get("response")),
        "finished": bool(line.get("finished")),
        "correct": bool(line.get("correct")),
        "advantage": _advantage(line.get("advantage")),
    }


def _advantage(value: Any) -> float | str | None:
    """A number, the text of one that is not finite, or None for a group that was dropped."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        return value[:20]
    return value if math.isfinite(value) else repr(value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    more = len(text) - MOST_CHARACTERS
    return text if more <= 0 else f"{text[:MOST_CHARACTERS]} … ({more:,} more characters)"
