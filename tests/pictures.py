"""What a reader would see wrong in a picture: text that touches other text, or runs over the edge of the page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

APART = 3.0  # pixels between texts of one line
SLACK = 1.0  # pixels by which boxes of two lines may overlap, and by which one may leave the page: a box holds air
TILTED = 8.0  # pixels by which the box of a slanting text may overlap another: its corners are empty


def faults(figure: Figure) -> list[str]:
    """A sentence for each pair of texts that touch, and for each text that is cut off."""
    found, page = list(_texts(figure)), figure.bbox
    said = [
        f"{first.get_text()!r} touches {second.get_text()!r}"
        for (first, a), (second, b) in combinations(found, 2)
        if _overlap(a.intervalx, b.intervalx) > (TILTED if _slants(first) or _slants(second) else -APART)
        and _overlap(a.intervaly, b.intervaly) > (TILTED if _slants(first) or _slants(second) else SLACK)
    ]
    edges = Bbox.from_extents(page.x0 - SLACK, page.y0 - SLACK, page.x1 + SLACK, page.y1 + SLACK)
    cut = [
        text.get_text()
        for text, box in found
        if not (edges.contains(box.x0, box.y0) and edges.contains(box.x1, box.y1))
    ]
    return said + [f"{text!r} is cut off" for text in cut]


def _texts(figure: Figure) -> Iterator[tuple[Text, Bbox]]:
    """Every text that is drawn, with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    unseen = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _unseen(axis)}
    for text in figure.findobj(Text):
        off = text.axes is not None and not (text.axes.get_visible() and text.axes.axison)
        if text.get_visible() and text.get_text().strip() and text not in unseen and not off:
            yield text, text.get_window_extent(canvas.get_renderer())


def _unseen(axis: Axis) -> Iterator[Text]:
    """Labels that an axis holds and does not draw: on its other side, and of ticks beyond its limits."""
    low, high = sorted(axis.get_view_interval())
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
        yield tick.label2
        if not low <= tick.get_loc() <= high:
            yield tick.label1


def _overlap(first: Any, second: Any) -> float:
    return float(min(max(first), max(second)) - max(min(first), min(second)))


def _slants(text: Text) -> bool:
    return text.get_rotation() % 90 != 0
