"""What `weightopt forecast` prints: the fit, and each weighting's run with the interval that one run falls into."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim import weighting
from sim.errors import UsageError
from sim.forecast import Fit, Forecast, best_table, fit, forecast, read_pilot
from sim.weighting import PromptWeights

STARTS = ("grpo", "sqrt-r")  # where the search for the best table begins


def run(
    pilot: Path,
    trained_with: str,
    names: Sequence[str],
    *,
    steps: int,
    pilot_steps: int,
    levels: Sequence[float],
    replicas: int,
    seed: int,
    best: Path | None,
    as_json: bool,
) -> None:
    """Fit, forecast, print.

    Raises
    ------
    UsageError
        If the pilot, a weighting or a level cannot be used; nothing has been written.
    """
    for level in levels:
        if not 0 < level < 1:
            raise UsageError(f"--level must be in (0, 1), got {level:g}")
    if best is not None and not best.parent.is_dir():
        raise UsageError(f"--best: there is no folder {str(best.parent)!r}")
    recorded = read_pilot(pilot).first(pilot_steps)
    tables: dict[str, PromptWeights] = {
        name: weighting.read(name, recorded.group_size) for name in dict.fromkeys([trained_with, *names])
    }
    fitted = fit(recorded, tables[trained_with].correct, tables[trained_with].wrong)
    if best is not None:
        begin = [(each.correct, each.wrong) for each in (weighting.read(name, recorded.group_size) for name in STARTS)]
        best_table(fitted, steps, begin, seed=seed)[0].save(best)
        tables[str(best)] = weighting.read(str(best), recorded.group_size)
    runs = {
        name: forecast(fitted, table.correct, table.wrong, steps, seed=seed, replicas=replicas)
        for name, table in tables.items()
    }
    rows = [_row(name, result, runs[trained_with], levels) for name, result in runs.items()]
    if as_json:
        print(json.dumps({"fit": _fit(fitted), "steps": steps, "forecasts": rows}, allow_nan=False))
    else:
        _print(fitted, steps, levels, rows)


def _row(name: str, result: Forecast, pilot: Forecast, levels: Sequence[float]) -> dict[str, Any]:
    """One weighting: means over simulated runs, and the range that 95 % of them fall into.

    The gain is over the pilot's weighting in the same world with the same random numbers.
    """
    row: dict[str, Any] = {
        "weighting": name,
        "success_at_the_end": _range(result.at_the_end()),
        "gain_at_the_end": _range(result.at_the_end() - pilot.at_the_end()),
        "success_over_the_run": _range(result.over_the_run()),
        "kinds_lost": float(result.lost().mean()),
        "runs_that_lose_a_kind": float((result.lost() > 0).mean()),
        "steps_to": {},
    }
    for level in levels:
        reached = result.steps_to(level)
        arrived = reached[np.isfinite(reached)]
        row["steps_to"][f"{level:g}"] = {
            "arrive": float(np.isfinite(reached).mean()),
            "median": float(np.median(arrived)) if arrived.size else None,
        }
    return row


def _range(values: NDArray[np.float64]) -> list[float]:
    return [float(values.mean()), *(float(value) for value in np.quantile(values, [0.025, 0.975]))]


def _fit(fitted: Fit) -> dict[str, Any]:
    deviations = np.sqrt(np.diag(fitted.covariance))
    return {
        "kinds": list(fitted.pilot.kinds),
        "shares": fitted.pilot.shares.tolist(),
        "pilot_steps": len(fitted.pilot.groups),
        "dispersion": fitted.dispersion,
        "parameters": {
            name: [float(mean), float(deviation)]
            for name, mean, deviation in zip(fitted.names, fitted.mean, deviations, strict=True)
        },
    }


def _print(fitted: Fit, steps: int, levels: Sequence[float], rows: Sequence[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    pilot = fitted.pilot
    told = ", ".join(f"{kind} {share:.0%}" for kind, share in zip(pilot.kinds, pilot.shares, strict=True))
    print(f"pilot: {len(pilot.groups)} steps of {pilot.prompts} groups of {pilot.group_size}; kinds: {told}")
    print(
        f"fit: residuals are {np.sqrt(fitted.dispersion):.1f} times binomial noise; intervals are widened by that and "
        "hold for one run"
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("weighting", overflow="fold")
    gain = f"over {rows[0]['weighting']}, points"
    heads = [f"success after {steps}", gain, "over the run", "kinds lost", *(f"steps to {each:g}" for each in levels)]
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        cells = [_percent(row["success_at_the_end"], " %"), "", _percent(row["success_over_the_run"], " %")]
        if row is not rows[0]:
            cells[1] = _percent(row["gain_at_the_end"], "", "+")
        cells.append(f"{row['kinds_lost']:.2f}")
        for arrival in row["steps_to"].values():
            whole = arrival["arrive"] == 1
            cells.append(f"{arrival['median']:.0f}" if whole else f"{arrival['arrive']:.0%} of runs arrive")
        table.add_row(row["weighting"], *cells)
    console = Console()
    Console(width=max(console.width, 120)).print(table)
    print(
        "The model: prompts of a kind are alike, and kinds share one habit. It is ours and not the paper's. What "
        "the pilot leaves undecided widens the intervals."
    )


def _percent(values: Sequence[float], unit: str, sign: str = "") -> str:
    mean, low, high = (f"{100 * value:{sign}.0f}" for value in values)
    return f"{mean}{unit} [{low}, {high}]"
