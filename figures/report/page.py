"""One HTML file from one or several runs: data, Plotly's own script and ours, and a policy that forbids all requests.

Whatever a run has recorded is data to the page and never markup: it stands in one JSON document, in which ``<`` is
written as an escape, and is shown as text. The scripts are named by their checksums in the page's content security
policy, so that a browser runs no other, and nothing may be fetched from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figures import style
from figures.estimates import interval
from figures.report.runs import MOST_CHARACTERS, MOST_ROLLOUTS, read_run
from figures.report.stretches import MOST

HERE = Path(__file__).resolve().parent
SEEDS = 2  # from which on there is an interval over seeds
# Keys by which two runs of one setting may differ: the seed, and where files are.
OWN = ("seed", "table", "later_tables", "start_model", "threads", "tracking.run", "training.keep_checkpoints")
COSTS = ("responses", "tokens", "updates", "seconds")


def write_page(folders: Sequence[Path]) -> str:
    """The page of the runs in these folders.

    Raises
    ------
    ReportError
        If a run cannot be read.
    """
    from plotly.offline import get_plotlyjs

    runs = [read_run(folder, rollouts=MOST_ROLLOUTS // len(folders)) for folder in folders]
    return assembled(_document(runs), get_plotlyjs())


def assembled(document: Mapping[str, Any], plotly: str) -> str:
    """The page from its data and Plotly's script."""
    scripts = [plotly, (HERE / "page.js").read_text(encoding="utf-8")]
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {_sums(scripts)}"
    data = json.dumps(document, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "POLICY": policy,
        "STYLE": (HERE / "page.css").read_text(encoding="utf-8"),
        "DATA": data,
        "PLOTLY": scripts[0],
        "SCRIPT": scripts[1],
    }
    pieces = (HERE / "page.html").read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def _sums(scripts: Sequence[str]) -> str:
    sums = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return " ".join(f"'sha256-{each}'" for each in sums)


def _document(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All that the page shows, as JSON."""
    settings, of = _settings(runs)
    names = _distinct([f"{settings[i]['name']}, seed {run['seed']}" for run, i in zip(runs, of, strict=True)], runs)
    for run, name, setting in zip(runs, names, of, strict=True):
        run["name"], run["setting"] = name, setting
        run["share"] = _share(run)
    for number, setting in enumerate(settings):
        setting["mean"] = _mean([run for run in runs if run["setting"] == number])
        setting["runs"] = of.count(number)
    return {
        "runs": runs,
        "settings": settings,
        "differences": _differences(runs),
        "stretches": MOST,
        "characters": MOST_CHARACTERS,
    }


def _settings(runs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """What runs differ in but for their seeds, with name and look; and which of these each run is of."""
    keys = [(*tuple(sorted((k, v) for k, v in run["config"].items() if k not in OWN)), run["table"]) for run in runs]
    different = list(dict.fromkeys(keys))
    first = {key: runs[keys.index(key)] for key in different}
    tables = [first[key]["table"] for key in different]
    varied = [key for key, *values in _differences([first[key] for key in different]) if key not in OWN]
    settings, tints = [], style.colours(list(dict.fromkeys(tables)))
    spare = iter([colour for colour in (*style.SPARE, *style.COLOURS.values()) if colour not in tints.values()])
    for number, (key, table) in enumerate(zip(different, tables, strict=True)):
        repeated = tables.index(table) < number
        more = [f"{name.rpartition('.')[2]} {first[key]['config'].get(name, '–')}" for name in varied[:2]]
        label = style.label(table) if " → " not in table else table
        name = ", ".join([label, *(more if tables.count(table) > 1 else [])])
        settings.append(
            {
                "name": name,
                "table": table,
                "colour": next(spare, style.INK) if repeated else tints[table],
                "dash": _dash(table) if not repeated else ("dash", "dot", "longdash", "dashdot")[number % 4],
            }
        )
    return settings, [different.index(key) for key in keys]


def _dash(table: str) -> str:
    """The dash pattern of a weighting, as Plotly writes it."""
    pattern = style.DASHES.get(table, "solid")
    return pattern if isinstance(pattern, str) else ",".join(f"{2 * length:g}px" for length in pattern[1])


def _distinct(names: list[str], runs: list[dict[str, Any]]) -> list[str]:
    """The names, with the folders where two are the same."""
    return [
        name if names.count(name) == 1 else f"{name} ({run['folder']})" for name, run in zip(names, runs, strict=True)
    ]


def _differences(runs: list[dict[str, Any]]) -> list[list[str]]:
    """Keys of the configuration, and versions, whose values differ between runs: the key, and the value of each."""
    rows = []
    for part, prefix in (("config", ""), ("versions", "version of ")):
        for key in dict.fromkeys(key for run in runs for key in run[part]):
            values = [run[part].get(key, "–") for run in runs]
            if len(set(values)) > 1:
                rows.append([f"{prefix}{key}", *values])
    return rows


def _mean(runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean and 95 % t-interval over the seeds of a setting at the steps that all have measured; None of one seed."""
    if len({run["seed"] for run in runs}) < SEEDS:
        return None
    steps = [run["evaluations"]["step"] for run in runs]
    common = [step for step in steps[0] if all(step in other for other in steps)]
    at = [[of.index(step) for step in common] for of in steps]
    found: dict[str, Any] = {"step": common, "measures": {}}
    for cost in COSTS:
        paid = [[run["evaluations"][cost][i] for i in where] for run, where in zip(runs, at, strict=True)]
        columns = list(zip(*paid, strict=True))
        found[cost] = [None if None in column else float(np.mean(column)) for column in columns]
    for measure in runs[0]["evaluations"]["measures"]:
        if not common or not all(measure in run["evaluations"]["measures"] for run in runs):
            continue
        values = np.array(
            [
                [run["evaluations"]["measures"][measure][i][0] for i in where]
                for run, where in zip(runs, at, strict=True)
            ]
        )
        found["measures"][measure] = [[float(x) for x in row] for row in zip(*interval(values), strict=True)]
    return found


def _share(run: Mapping[str, Any]) -> list[float] | None:
    """Share of all |advantage| that groups with K correct responses had; None where the table is not known.

    The recorded histogram is over all groups drawn, and the table that of the first step: with later tables, or rules
    that change the advantage of all-wrong groups, there is no such share to be computed.
    """
    if len(run["tables"]) != 1 or len(run["table_files"]) != 1 or not run["by_k"]:
        return None
    if (
        run["config"].get("weighting.all_wrong") != "table"
        or run["config"].get("weighting.estimate", "group") != "group"
    ):
        return None
    table = run["tables"][0]
    size = run["group_size"]
    k = np.arange(size + 1)
    correct, wrong = np.abs(table["correct"]), np.abs(table["wrong"])
    total = np.array(run["by_k"]) * (k * correct + (size - k) * wrong)
    return [float(x) for x in total / total.sum()] if total.sum() > 0 else None
