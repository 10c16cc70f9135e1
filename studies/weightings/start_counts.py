"""How success is spread over the prompts of start models, as it was counted, and as tables are made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from weightopt.files import replace_file

MEASURED = "start.csv"  # a row for each prompt: difficulty, right, samples


def count_starts(folder: Path) -> pd.DataFrame:
    """How many prompts of each start model had so many right responses: columns seed, samples, right, prompts."""
    frames = [
        pd.read_csv(path).assign(seed=int(path.parent.name.removeprefix("seed-")))
        for path in sorted(folder.glob(f"seed-*/{MEASURED}"))
    ]
    counted: Any = pd.concat(frames).groupby(["seed", "samples", "right"]).size()
    return counted.rename("prompts").reset_index()


def write_rates(starts: Any, path: Path) -> None:
    """Write the pass rates of some start models out of `count_starts`, as ``weightopt population`` reads them."""
    frame = pd.DataFrame({"rho": starts["right"] / starts["samples"], "count": starts["prompts"]})
    replace_file(path, frame.to_csv(index=False).encode())
