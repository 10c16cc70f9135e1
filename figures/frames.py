"""Rows of a frame: those with given values, and groups of them.

Results are typed `Any`: a type checker cannot know what a selection of a frame is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd


def part(frame: Any, **equal: Any) -> Any:
    """The rows in which columns have these values."""
    for column, value in equal.items():
        frame = frame[frame[column] == value]
    return frame


def groups(frame: Any, *columns: str) -> Iterator[tuple[Any, Any]]:
    """The values of one column, or of several as a tuple, in order of appearance, each with its rows."""
    yield from frame.groupby(columns[0] if len(columns) == 1 else list(columns), sort=False)


def lookup(frame: pd.DataFrame, index: list[str], column: str) -> Any:
    """A column as a series by sorted index."""
    return frame.set_index(index)[column].sort_index()
