"""Where the runs of a comparison lie: ``RUNS/TABLE/SEED/metrics.jsonl``."""

from __future__ import annotations

from pathlib import Path

from rl.metrics import METRICS_FILE


def run_files(runs: Path) -> list[tuple[str, str, Path]]:
    """Table, seed and metrics file of every run, in order.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    found = [(path.parts[-3], path.parts[-2], path) for path in sorted(runs.glob(f"*/*/{METRICS_FILE}"))]
    if not found:
        raise FileNotFoundError(f"no runs (TABLE/SEED/{METRICS_FILE}) under {runs}")
    return found
