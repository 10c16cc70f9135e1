"""Lines of a report: a label beside text, sums, and texts of which nobody knows what they hold."""

import textwrap
from collections.abc import Mapping, Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

# Columns of the labels and of whole lines; characters of a text that are shown.
LABEL, WIDTH, SHOWN = 10, 100, 2000


def entry(label: str, *paragraphs: str) -> list[str]:
    """A label and text beside it, in lines of bounded width."""
    lines = [line for text in paragraphs for line in textwrap.wrap(text, WIDTH - LABEL)]
    return [f"{label if number == 0 else '':<{LABEL}}{line}" for number, line in enumerate(lines)]


def sum_of(label: str, parts: Mapping[str, int | float], scale: float, unit: str) -> list[str]:
    """A sum and what it is made of, in one unit."""
    total = sum(parts.values()) / scale
    digits = 1 if total >= 10 else 2
    shown = ", ".join(f"{name} {value / scale:.{digits}f}" for name, value in parts.items() if value)
    return entry(label, f"{total:.{digits}f} {unit}: {shown}")


def table(label: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table beside its label; the first column is words, the others are numbers."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        drawn.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    screen = StringIO()
    Console(file=screen, width=WIDTH - LABEL, no_color=True).print(drawn)
    lines = [line.rstrip() for line in screen.getvalue().splitlines() if line.strip()]
    return [f"{label if number == 0 else '':<{LABEL}}{line}" for number, line in enumerate(lines)]


def quoted(label: str, text: str) -> list[str]:
    """A text behind a bar, line by line: blanks at the end of a line as dots, what does not print as its escape."""
    lines = []
    for line in (text if len(text) <= SHOWN else f"{text[:SHOWN]}…").split("\n"):
        plain = "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
        lines.append(plain.rstrip(" ") + "·" * (len(plain) - len(plain.rstrip(" "))))
    return [f"{label if number == 0 else '':<{LABEL}}│ {line}".rstrip() for number, line in enumerate(lines)]


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
