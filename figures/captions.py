"""The page of all figures: a picture, a caption in which every number is computed, and a table where there are many."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

HEAD = """# Figures

Generated, do not edit:

    weightopt figures --captions docs/figures.md --runs studies/weightings/results/countdown-scratch

`weightopt figures NAME --output FOLDER` draws one: PNG, PDF and the plotted numbers as CSV, byte-identical when
repeated. Every number below is computed from those. The trained models of the last two figures are those of
[results](results.md).
"""


class Section(NamedTuple):
    """A figure on the page.

    Parameters
    ----------
    name, title
        Anchor of the section, and its heading.
    text
        The caption, or why there is no picture.
    picture
        Link to the picture.
    table
        More numbers than a sentence can hold; the name of its index stands in the corner.
    """

    name: str
    title: str
    text: str
    picture: str | None = None
    table: pd.DataFrame | None = None


def page(sections: Sequence[Section]) -> str:
    """The text of the page."""
    parts = [HEAD]
    for section in sections:
        parts.append(f"## {section.name}\n")
        if section.picture is not None:
            parts.append(f"![{section.title}]({section.picture})\n")
        parts.append(f"{_wrapped(f'**{_sentence(section.title)}** {section.text}')}\n")
        if section.table is not None:
            parts.append(f"{markdown(section.table)}\n")
    return "\n".join(parts)


def markdown(table: pd.DataFrame) -> str:
    """A table of texts, its index in front."""
    head = [str(table.index.name or ""), *(str(column) for column in table.columns)]
    rows = [[str(name), *row] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _sentence(title: str) -> str:
    return title if title.endswith("?") else f"{title}."


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
