"""Writing a figure: the picture and the plotted numbers side by side, the same bytes every time."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from weightopt.table import replace_file


def write(folder: Path, name: str, figure: Figure, frame: pd.DataFrame) -> tuple[Path, Path]:
    """Write ``name.png`` and ``name.csv`` into an existing folder, each whole or not at all.

    Returns
    -------
    (png, csv) : pair of Path

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})  # no version string: same numbers, same bytes
    png, csv = folder / f"{name}.png", folder / f"{name}.csv"
    replace_file(csv, frame.to_csv(index=False, float_format="%.12g", lineterminator="\n").encode())
    replace_file(png, picture.getvalue())
    return png, csv
