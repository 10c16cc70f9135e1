"""Small charts made of block characters."""

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = " ▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], *, width: int, top: float | None = None) -> str:
    """A row of bars, one a value, from 0 to ``top``.

    Parameters
    ----------
    values
        At least 0 each. More of them than ``width`` are averaged in ``width`` stretches of (nearly) equal length.
    width
        Characters, at least 1.
    top
        Value of a full bar, by default the largest one. A value above 0 shows as more than nothing.
    """
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    return columns(values, height=1, top=top)[0]


def columns(values: Sequence[float], *, height: int, top: float | None = None) -> list[str]:
    """Upright bars, one character wide, as ``height`` lines from above; see `sparkline`."""
    full = max(values, default=0.0) if top is None else top
    levels = [min(max(math.ceil(8 * height * value / full), value > 0), 8 * height) if full else 0 for value in values]
    return ["".join(BLOCKS[min(max(level - 8 * row, 0), 8)] for level in levels) for row in reversed(range(height))]
