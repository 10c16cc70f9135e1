"""The tables of the ladder, computed from the rows that are kept; the words around them are written by hand.

A table stands between ``<!-- ladder N -->`` and ``<!-- end -->``; `rewrite` fills in those of all rungs whose rows are
kept. A cell says predicted → measured with its 95 % interval. It is bold where the interval at 95 % for all rows of
the rung at once misses the prediction, and has a star where only the interval for this row alone does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from figures.captions import markdown
from studies.ladder.rows import RESULTS, Rank, Row, read_ranks, read_rows, wider
from theory.catalogue import EVERYTHING

PAGE = Path("docs/results.md")
BLOCK = re.compile(r"(<!-- ladder ([0-9]) -->\n).*?(<!-- end -->)", re.DOTALL)
LABELS: Mapping[str, str] = {
    "table": "Solved table",
    "curve": "Solved curve at K/M",
    "population": "Population table",
    "single": "Solved table, one start",
    "push-0.5": "Push limit 0.5",
    "push-0.3": "Push limit 0.3",
    "push-0.15": "Push limit 0.15",
    "gradient-0.5": "Gradient limit 0.5",
}


def label(method: str) -> str:
    """How people read a method."""
    return LABELS.get(method) or (EVERYTHING[method].label if method in EVERYTHING else method)


def missed(row: Row, comparisons: int = 1) -> bool:
    """Whether the interval at 95 % for so many rows at once does not hold the prediction."""
    low, high = wider(row, comparisons)
    return not low <= row.predicted <= high


def table(rows: Sequence[Row], measure: str, comparisons: int, form: str = "{:.3f}") -> pd.DataFrame:
    """Methods down, settings across, a cell for each prediction of a measure."""
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.measure == measure:
            told, found, low, high = (form.format(value) for value in (row.predicted, row.measured, row.low, row.high))
            cell = f"{told} → {found} [{low}, {high}]"
            if missed(row, comparisons):
                cell = f"**{cell}**"
            elif missed(row):
                cell += "*"
            cells.setdefault(label(row.method), {})[row.setting] = cell
    return pd.DataFrame(cells).T.fillna("").rename_axis(measure)


def verdict(rows: Sequence[Row], ranks: Sequence[Rank], measure: str) -> str:
    """How many predictions came true, by how much the others were missed, and whether the order was right."""
    of = [row for row in rows if row.measure == measure]
    alone = [row for row in of if missed(row)]
    together = [row for row in of if missed(row, len(rows))]
    furthest = max(of, key=lambda row: abs(row.measured - row.predicted))
    said = (
        f"{measure}: {len(of) - len(alone)} of {len(of)} predictions lie in their own interval, "
        f"{len(of) - len(together)} in the simultaneous one; the furthest is {label(furthest.method)} in "
        f"{furthest.setting}, {furthest.predicted:.3f} predicted and {furthest.measured:.3f} measured."
    )
    orders = [
        f"{rank.setting} {rank.tau:.2f} [{rank.low:.2f}, {rank.high:.2f}]" for rank in ranks if rank.measure == measure
    ]
    return said + (f" Kendall's τ: {', '.join(orders)}." if orders else "")


def block(rung: int, rows: Sequence[Row], ranks: Sequence[Rank]) -> str:
    """What is reported of a rung: a table and a verdict for each measure."""
    rows = [row for row in rows if row.rung == rung]
    ranks = [rank for rank in ranks if rank.rung == rung]
    parts = []
    for measure in dict.fromkeys(row.measure for row in rows):
        parts += [markdown(table(rows, measure, len(rows))), verdict(rows, ranks, measure)]
    return "\n\n".join(parts)


def rewrite(page: str, results: Path = RESULTS) -> str:
    """The page with the blocks of all rungs that have rows computed anew."""
    rows, ranks = read_rows(results), read_ranks(results)
    told = {row.rung for row in rows}

    def fill(match: re.Match[str]) -> str:
        head, rung, tail = match.groups()
        return match.group() if int(rung) not in told else f"{head}{block(int(rung), rows, ranks)}\n{tail}"

    return BLOCK.sub(fill, page)
