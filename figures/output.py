"""Writing a figure: the picture, for screens and for print, and the plotted numbers; the same bytes every time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from weightopt.files import replace_file

# No version strings and no dates: the same numbers, the same bytes.
PNG_METADATA = {"Software": None}
PDF_METADATA = {"Creator": None, "Producer": None, "CreationDate": None}

FONT_TYPE = 42  # TrueType, what print shops and search accept


class Written(NamedTuple):
    """The files of a figure."""

    png: Path
    pdf: Path
    csv: Path


def write(folder: Path, name: str, figure: Figure, frame: pd.DataFrame) -> Written:
    """Write ``name.png``, ``name.pdf`` and ``name.csv`` into an existing folder, each whole or not at all.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    files = Written(*(folder / f"{name}.{kind}" for kind in Written._fields))
    replace_file(files.csv, frame.to_csv(index=False, float_format="%.12g", lineterminator="\n").encode())
    replace_file(files.png, png(figure))
    replace_file(files.pdf, pdf(figure))
    return files


def png(figure: Figure, dpi: float | None = None) -> bytes:
    """The picture in pixels, at the figure's own resolution unless another is given."""
    _lay_out(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata=PNG_METADATA, dpi=dpi or figure.dpi)
    return picture.getvalue()


def pdf(figure: Figure) -> bytes:
    """The picture in lines, its fonts embedded."""
    _lay_out(figure)
    picture = io.BytesIO()
    with rc_context({"pdf.fonttype": FONT_TYPE}):
        figure.savefig(picture, format="pdf", metadata=PDF_METADATA)
    return picture.getvalue()


def _lay_out(figure: Figure) -> None:
    """Place the parts once, so that all pictures of a figure are the same, and the later ones quick."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
