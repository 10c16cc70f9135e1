"""What commands print and write: tables for people, JSON for machines, whole files, one sentence to refuse."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

LARGEST_WIDTH = 500

if TYPE_CHECKING:
    from weightopt.curves.curve import CurveAnswer
    from weightopt.table import WeightTable


def write(table: WeightTable, output: Path | None, csv: Path | None) -> None:
    """Write a table where --output and --csv say."""
    if output is not None:
        replace("--output", output, table.to_json().encode())
    if csv is not None:
        replace("--csv", csv, table.to_csv().encode())


def check_folders(**paths: Path | None) -> None:
    """Refuse the first path that cannot be written, or that two options share, before anything is written."""
    seen: set[Path] = set()
    for name, path in paths.items():
        if path is None:
            continue
        try:
            whole = path.resolve()
            writable = path.parent.is_dir() and os.access(path.parent, os.W_OK) and not path.is_dir()
        except (OSError, RuntimeError, ValueError):  # a name too long, links in a circle, a null byte
            refuse(f"--{name}: cannot write {path}; give a file in an existing, writable folder")
        if whole in seen:
            refuse(f"--{name}: {path} is named by another option already; give each file a name of its own")
        seen.add(whole)
        if not writable:
            refuse(f"--{name}: cannot write {path}; give a file in an existing, writable folder")


def replace(option: str, path: Path, data: bytes) -> None:
    """Write a file whole or not at all; refuse in the name of the option that asked for it."""
    from weightopt.files import replace_file

    try:
        replace_file(path, data)
    except OSError as error:
        refuse(f"{option}: cannot write {path} ({error.strerror}); give a file in an existing, writable folder")


def describe(table: WeightTable) -> None:
    """What a table says about itself; a file that `check` has not seen may say anything, or nothing."""
    kind = "curve, any group size" if table.group_size is None else f"groups of {table.group_size}"
    print(f"{''.join(c for c in table.label if c.isprintable())}: {kind}")
    said = {**table.provenance, **(table.certificate or {}), "checksum": table.checksum}
    for key in ("formula", "source", "scale", "method", "made_for", "time", "lower_bound", "gap", "checksum"):
        value = said.get(key)
        if isinstance(value, str | float | int) and (key, value) != ("scale", 1):
            text = f"{value:.12g}" if isinstance(value, float) else str(value)[:200]
            print(f"  {key.replace('_', ' '):<12} {''.join(c for c in text if c.isprintable())}")
        if key == "made_for" and (words := _limit_in_words(table)):
            print(f"  {'table':<12} {words}")


def _limit_in_words(table: WeightTable) -> str:
    """Of a table for groups with a crowding limit: whose growth is limited, and where; else empty."""
    if table.group_size is None or (table.problem or {}).get("crowding") is None:
        return ""
    from weightopt import kinds
    from weightopt.errors import ProblemError

    try:
        return getattr(kinds.read_problem(table.problem or {}), "design_in_words", "")
    except ProblemError:  # `check` says what is off
        return ""


def print_weights(table: WeightTable, answer: CurveAnswer | None = None) -> None:
    """A table a person can read: every K of a group up to 32, else a handful of success probabilities."""
    import numpy as np

    if table.group_size is not None:
        assert table.advantage_correct is not None
        assert table.advantage_wrong is not None
        shown = range(table.group_size + 1)
        if table.group_size > 32:
            shown = sorted({round(x) for x in np.linspace(0, table.group_size, 17)})
        rows = [
            (
                f"{k}/{table.group_size}",
                f"{table.weight[k - 1]:.4g}" if 0 < k < table.group_size else "",
                f"{table.advantage_correct[k]:.4g}" if k > 0 else "",
                f"{table.advantage_wrong[k]:.4g}" if k < table.group_size else "",
            )
            for k in shown
        ]
        print_table(None, ("correct", "weight ω", "advantage, correct", "advantage, wrong"), rows)
        return
    low, high = table.rho[0], table.rho[-1]
    rho = np.array([0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 0.999])
    if answer is not None:
        low, high = answer.problem.start, answer.problem.target
        rho = np.unique([low, *rho, high])
    rho = rho[(rho >= low) & (rho <= high)]
    weight = table(rho) if answer is None else answer.weighting(rho)
    rows = [(f"{r:.4g}", f"{w:.4g}", f"{r * (1 - r) * w:.4g}") for r, w in zip(rho, weight, strict=True)]
    ends = f"all wrong {table.all_wrong_advantage:.4g}, all right {table.all_right_advantage:.4g}"
    print_table(None, ("ρ", "weight ω", "effective weight"), rows, caption=f"advantages at the ends: {ends}")


def print_table(
    title: str | None, columns: tuple[str, ...], rows: list[tuple[str, ...]], caption: str | None = None
) -> None:
    """Print rows under column heads; the first column is words, the others are numbers."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    if title is not None:
        print(title)
    console = Console()
    # A table is printed whole: a terminal that is too narrow, or none, breaks its lines instead of its numbers.
    width = Measurement.get(console, console.options.update(max_width=LARGEST_WIDTH), table).maximum
    Console(width=max(console.width, width)).print(table)
    if caption is not None:
        print(caption)


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on one line."""
    print(json.dumps(document, ensure_ascii=False, allow_nan=False))


def refuse(sentence: str) -> NoReturn:
    """Bad input: one sentence on standard error, exit status 2."""
    fail(sentence, 2)


def fail(sentence: str, status: int) -> NoReturn:
    """One sentence on standard error and an exit status."""
    end = "" if sentence.endswith("?") else "."
    print(f"weightopt: {sentence.rstrip('.')}{end}", file=sys.stderr)
    raise SystemExit(status)
