"""Columns of numbers in CSV files: what counts as a number, and what a table is separated by instead of commas."""

from __future__ import annotations

import math
import re

NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def number(text: str) -> float:
    """A finite number in ASCII digits, without blanks around it; Python's own reader takes ``2_0`` and ``٢٠`` for 20.

    Raises
    ------
    ValueError
        If the text is anything else.
    """
    text = text.strip(" \t")
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]!r} is not a number")
    return value


def separated_by(header: list[str]) -> str:
    """What the columns of a file are separated by, if its header, read with commas, shows something else; or nothing.

    A clause to be put behind a sentence, with the comma before it.
    """
    line = ",".join(header)
    return next((f", separated by commas and not by {name}" for mark, name in SEPARATORS.items() if mark in line), "")
