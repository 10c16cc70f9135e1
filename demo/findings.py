"""What the demonstration found: responses until a held-out success is reached, with intervals over seeds."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy
from scipy import stats

from demo.tables import ADVISED, REFERENCE
from figures.style import label
from rl.records.metrics import TIMING_FILE, read_timing
from weightopt.files import replace_file
from weightopt.table import WeightTable


def responses_to_reach(run: pd.DataFrame, level: float) -> float:
    """Responses at which held-out success first reaches `level`, interpolated between evaluations; NaN if never."""
    rows = run.sort_values("responses")
    x, y = rows["responses"].to_numpy(dtype=float), rows["success"].to_numpy(dtype=float)
    above = np.flatnonzero(y >= level)
    if above.size == 0:
        return math.nan
    i = int(above[0])
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (level - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1]))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over seeds (needs at least 2)."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def levels(first: Any, last: Any) -> list[float]:
    """A quarter, half and three quarters of the way from the start to the highest end of a table, in whole percents."""
    low, high = first.mean(), last.groupby("table").mean().max()
    way = {round(low + share * max(high - low, 0.0), 2) for share in (0.25, 0.5, 0.75)}
    return sorted(level for level in way if level > low) or [math.floor(100 * low + 1) / 100]


def write_report(
    folder: Path,
    frame: pd.DataFrame,
    tables: Mapping[str, Path],
    seconds: Mapping[str, float],
) -> str:
    """Write ``report.md`` into `folder` and return the result table for the terminal."""
    last: Any = pd.Series(frame.sort_values("responses").groupby(["table", "seed"]).last()["success"])
    first: Any = pd.Series(frame.sort_values("responses").groupby(["table", "seed"]).first()["success"])
    reach = {level: _reach(frame, level) for level in levels(first, last)}
    others = [table for table in tables if table != REFERENCE]
    headings = [*(label(table) for table in tables), *(f"{label(table)} / {label(REFERENCE)}" for table in others)]
    lines = [f"| held-out success | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    for level, values in reach.items():
        cells = [_cell(values[table]) for table in tables]
        cells += [_ratio(values[table], values[REFERENCE]) for table in others]
        lines.append(f"| {level:.0%} | {' | '.join(cells)} |")
    result = "\n".join(lines)
    seeds = int(frame.groupby("table")["seed"].nunique().to_numpy().min())
    over = "one seed" if seeds == 1 else f"mean over {seeds} seeds [95 % t-interval]"
    heading = f"Responses sampled until held-out success is reached: {over}"
    ends = "\n".join(
        f"- {label(table)}: {first[table].mean():.1%} before, {last[table].mean():.1%} at the end "
        f"(seeds: {', '.join(f'{value:.1%}' for value in last[table])})"
        for table in tables
    )
    text = f"""# Demonstration: the advised weight table beside two named ones

{_verdict(reach, last)}

## {heading}

{result}

Held-out success:

{ends}

![held-out success against responses](training.png)

The plotted numbers are in [training.csv](training.csv), each run's metrics under [runs](runs).

## The tables

{_tables(tables)}

The advised one is what `weightopt advise` gives for a pilot of one step from the same start model, on prompts that no
run has; the command is printed above. From a start below 10 % it limits crowding: what a kind of problem presses the
policy with may hardly grow with its success. That bounds how fast a more successful kind gets ahead in the model; in
trained networks kinds were still lost. Its certificate is for one prompt and an exact
step. A network trained with Adam on many prompts is neither, so a win or a loss here is a measurement, not a test of
the certificate. All runs share one start model and one learning rate; the intervals are over seeds of the training
alone, and a first crossing of a noisy curve comes a little early.

## How long it took

{_durations(folder, seconds)}

Python {platform.python_version()}, torch {importlib.metadata.version("torch")}, numpy {np.__version__},
scipy {scipy.__version__}, {os.cpu_count()} cores, {platform.machine()}. One thread a run; the same seeds on the same
machine give the same numbers.
"""
    replace_file(folder / "report.md", text.encode())
    parts = (heading, result, "Held-out success:", ends, _verdict(reach, last), _durations(folder, seconds))
    return "\n\n".join(parts)


def _reach(frame: pd.DataFrame, level: float) -> dict[str, np.ndarray]:
    """For each table the responses to reach `level`, one number a seed, in the order of the seeds."""
    return {
        str(table): np.array([responses_to_reach(run, level) for _, run in rows.groupby("seed", sort=True)])
        for table, rows in frame.groupby("table")
    }


def _cell(values: np.ndarray) -> str:
    reached = values[~np.isnan(values)]
    if values.size == 1 and reached.size:
        return f"{values[0]:,.0f}"
    if reached.size < values.size or reached.size < 2:
        return f"reached by {reached.size} of {values.size} seeds"
    mean, low, high = interval(reached.tolist())
    return f"{mean:,.0f} [{max(low, 0):,.0f}, {high:,.0f}]"


def _log_ratio(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float] | None:
    """Interval of ln(ours/theirs), paired by seed; None where a seed did not reach the level or began above it."""
    if np.isnan(ours).any() or np.isnan(theirs).any() or min(ours.min(), theirs.min()) <= 0 or len(ours) < 2:
        return None
    return interval(np.log(ours / theirs).tolist())


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> str:
    found = _log_ratio(ours, theirs)
    return "–" if found is None else "{:.2f} [{:.2f}, {:.2f}]".format(*(math.exp(x) for x in found))


def _verdict(reach: Mapping[float, Mapping[str, np.ndarray]], last: Any) -> str:
    """Made from the numbers: for each other table speed where every run arrives, and success at the end."""
    others = [table for table in next(iter(reach.values())) if table != ADVISED]
    if len(next(iter(reach.values()))[ADVISED]) == 1:
        ends = ", ".join(f"{label(table)} at {last[table].iloc[0]:.1%}" for table in others)
        return (
            "One run a table shows how it works, not which table is better: the difference between two runs is mostly "
            f"luck. Here the advised table ends at {last[ADVISED].iloc[0]:.1%}, {ends}."
        )
    return "\n\n".join(_against(other, reach, last) for other in others)


def _against(other: str, reach: Mapping[float, Mapping[str, np.ndarray]], last: Any) -> str:
    """The advised table against another: at the end, and on the highest level that every run of both reached."""
    mean, low, high = (100 * x for x in interval((last[ADVISED] - last[other]).tolist()))
    verb = "ends higher than" if low > 0 else "ends lower than" if high < 0 else "ends level with"
    sentence = (
        f"**The advised table {verb} {label(other)}**: {mean:+.1f} points (paired 95 % interval {low:+.1f} to "
        f"{high:+.1f})."
    )
    for level in sorted(reach, reverse=True):
        found = _log_ratio(reach[level][ADVISED], reach[level][other])
        if found is not None:
            ratio, low, high = (math.exp(x) for x in found)
            return f"{sentence} It needs {ratio:.2f} [{low:.2f}, {high:.2f}] times the responses to reach {level:.0%}."
    return f"{sentence} Not every run of both reached {min(reach):.0%}."


def _tables(tables: Mapping[str, Path]) -> str:
    rows = []
    for path in tables.values():
        table = WeightTable.load(path)
        proof = "" if table.certificate is None else f", certified gap {table.certificate['gap']:.1e}"
        rows.append(f"- [{path.name}]({path.name}): {table.label}{proof}")
    return "\n".join(rows)


def _durations(folder: Path, seconds: Mapping[str, float]) -> str:
    """Seconds of this call (what was there already costs nothing) and of the runs, whenever they were made."""
    lines = [f"- {part}, in this call: {value:.0f} s" for part, value in seconds.items()]
    stages = ("sampling", "verifying", "learning", "hand_over", "evaluating")
    runs = [read_timing(path) for path in sorted(folder.glob(f"runs/*/*/{TIMING_FILE}"))]
    if runs:
        means = {stage: sum(getattr(step, stage) for run in runs for step in run) / len(runs) for stage in stages}
        parts = ", ".join(f"{stage.replace('_', '-')} {value:.0f} s" for stage, value in means.items())
        lines.append(f"- one run, mean of {len(runs)}: {sum(means.values()):.0f} s ({parts})")
    return "\n".join(lines)
