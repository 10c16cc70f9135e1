"""The tables of docs/results.md, computed from the collected results; the words around them are written by hand.

A table stands between ``<!-- SETTING NAME -->`` and ``<!-- end -->``; `rewrite` fills in all that a page asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from figures.captions import markdown
from studies.weightings import prediction
from studies.weightings.collect import KINDS_FILE, OPERATORS_FILE
from studies.weightings.findings import Interval, arrived, difference, measures, ratio, tails
from studies.weightings.plan import Plan, Setting

PAGE = Path("docs/results.md")
BLOCK = re.compile(r"(<!-- ([a-z0-9-]+) ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Results:
    """The collected results of a setting.

    Attributes
    ----------
    evaluations, steps
        Rows of the runs that are compared; see `studies.weightings.collect`.
    runs
        Their measures; see `studies.weightings.findings.measures`.
    tuning
        Rows of the evaluations of the tuning runs.
    rates
        The learning rate of each method.
    starts
        Prompts with 0..samples right responses, summed over the seeds that are compared.
    """

    def __init__(self, plan: Plan, setting: Setting, folder: Path | None = None) -> None:
        here = (plan.results if folder is None else folder) / setting.name
        evaluations: Any = pd.read_csv(here / "evaluations.csv.xz")
        self.plan, self.setting, self.folder = plan, setting, here
        self.evaluations = evaluations[evaluations["phase"] == "evaluation"]
        self.tuning = evaluations[evaluations["phase"] == "tuning"]
        self.exploration: Any = evaluations[evaluations["phase"] == "exploration"]
        self.operators: Any = pd.read_csv(here / OPERATORS_FILE) if (here / OPERATORS_FILE).exists() else None
        self.steps = pd.read_csv(here / "steps.csv.xz")
        self.runs: Any = measures(self.evaluations, plan.levels)
        self.rates: Mapping[str, float] = pd.read_csv(here / "rates.csv").set_index("method")["rate"].to_dict()
        starts: Any = pd.read_csv(here / "starts.csv")
        self.tuning_starts = starts[starts["seed"].isin(plan.tuning_seeds)]
        starts = starts[starts["seed"].isin(plan.seeds)]
        self.starts = np.bincount(starts["right"], starts["prompts"], int(starts["samples"].max()) + 1).astype(float)

    def speed(self) -> pd.DataFrame:
        """Responses to each level and the ratio to the reference."""
        rows: dict[str, dict[str, str]] = {}
        for method, label in self.plan.labels.items():
            row: dict[str, str] = {"learning rate": f"{self.rates[method]:g}"}
            for level in self.plan.levels:
                there, of = arrived(self.runs, method, level)
                cell = f"{there} of {of} arrive"
                if there == of:
                    cell = f"{_geometric_mean(self.runs, method, level) / 1000:.1f} k"
                    against = ratio(self.runs, method, self.plan.reference, level)
                    if against is not None and method != self.plan.reference:
                        cell += f", {_text(against, '{:.2f}')}"
                row[f"{level:.0%}"] = cell
            rows[label] = row
        return _named(rows, "responses until held-out success is")

    def level(self) -> pd.DataFrame:
        """Success over the run and at its end, and how silent and how certain the policy has become."""
        tail = tails(self.steps, self.plan)
        rows: dict[str, dict[str, str]] = {}
        for method, label in self.plan.labels.items():
            own = self.runs[self.runs["method"] == method]
            row = {}
            for title, column in (("mean over the run", "area"), ("at the end", "end")):
                row[title] = f"{100 * own[column].mean():.1f} %"
                if method != self.plan.reference:
                    against = difference(self.runs, method, self.plan.reference, column)
                    row[title] += f", {_text(_times(against, 100), '{:+.1f}')}"
            row["entropy"] = f"{tail.loc[method, 'entropy']:.3f}"
            row["silent"] = f"{tail.loc[method, 'silent']:.0%}"
            row["all wrong"] = f"{tail.loc[method, 'all_wrong']:.0%}"
            rows[label] = row
        return _named(rows, "held-out success")

    def predicted(self) -> pd.DataFrame:
        """Ratios to the reference that the population model gives, beside the measured ones."""
        rho = prediction.population(self.starts)
        tables = self.plan.tables(self.setting, self.tuning_starts)
        rows: dict[str, dict[str, str]] = {label: {} for label in self.plan.labels.values()}
        levels = [level for level in self.plan.levels if level > rho.mean()]
        for scaling, title in (("advantage", "equal E[A²]"), ("kl", "equal KL")):
            times = {m: prediction.time_to_levels(rho, table, levels, scaling) for m, table in tables.items()}
            for method, label in self.plan.labels.items():
                for level, own, other in zip(levels, times[method], times[self.plan.reference], strict=True):
                    rows[label][f"{level:.0%}, {title}"] = f"{own / other:.2f}"
        for method, label in self.plan.labels.items():
            for level in levels:
                against = ratio(self.runs, method, self.plan.reference, level)
                rows[label][f"{level:.0%}, measured"] = "–" if against is None else _text(against, "{:.2f}")
        frame: Any = pd.DataFrame(rows).T
        order = [f"{level:.0%}, {what}" for level in levels for what in ("equal E[A²]", "equal KL", "measured")]
        return frame[order].rename_axis("responses over GRPO's")

    def explored(self) -> pd.DataFrame:
        """The methods that were run at more than one learning rate, and what they can do at the end, by operator."""
        operators: Any = self.operators.groupby(["method", "rate", "operator"])
        success, never = operators["success"].mean(), operators["never"].mean()
        rows: dict[str, dict[str, str]] = {}
        for (method, rate), of in self.exploration.groupby(["method", "rate"], sort=False):
            runs: Any = measures(of, self.plan.levels)
            row = {
                "mean over the run": f"{100 * runs['area'].mean():.1f} %",
                "at the end": f"{100 * runs['end'].mean():.1f} %",
            }
            for operator in sorted(self.operators["operator"].unique()):
                key = (method, rate, operator)
                row[f"`{operator}`"] = f"{100 * success[key]:.0f} % ({100 * never[key]:.0f} % never)"
            rows[f"{self.plan.labels[method]}, {rate:g}"] = row
        return _named(rows, "held-out success, learning rate")

    def kinds(self) -> pd.DataFrame:
        """Success by kind of problem at the end, and how many kinds a run has lost: those below 5 %."""
        kinds: Any = pd.read_csv(self.folder / KINDS_FILE)
        kinds = kinds[kinds["phase"] == "evaluation"]
        mean: Any = kinds.groupby(["method", "kind"])["success"].mean()
        lost: Any = kinds.assign(lost=kinds["success"] < LOST).groupby(["method", "seed"])["lost"].sum()
        rows = {
            label: {
                **{str(kind): f"{100 * mean[method, kind]:.0f} %" for kind in sorted(kinds["kind"].unique())},
                "kinds lost in a run": f"{lost[method].mean():.1f}",
            }
            for method, label in self.plan.labels.items()
        }
        return _named(rows, "held-out success at the end")

    def tuned(self) -> pd.DataFrame:
        """Mean held-out success of the tuning runs by learning rate."""
        area: Any = self.tuning.groupby(["method", "rate", "seed"])["success"].mean().groupby(["method", "rate"]).mean()
        rows = {
            label: {f"{rate:g}": f"{100 * area[method, rate]:.1f} %" for rate in self.setting.rates}
            for method, label in self.plan.labels.items()
        }
        return _named(rows, "mean held-out success at learning rate")


TABLES = ("speed", "level", "predicted", "explored", "kinds", "tuned")
LOST = 0.05  # success at the end below which a kind of problem is lost


def rewrite(plan: Plan, page: str, results: Path | None = None, only: Sequence[str] = TABLES) -> str:
    """The page with its tables, or only some of them, computed anew; settings without results are left as they are."""
    found: dict[str, Results] = {}

    def table(match: re.Match[str]) -> str:
        head, name, what, tail = match.groups()
        kept = (plan.results if results is None else results) / name
        if what not in only or name not in plan.settings or not kept.is_dir():
            return match.group()
        if name not in found:
            found[name] = Results(plan, plan.settings[name], results)
        frame: pd.DataFrame = getattr(found[name], what)()
        return f"{head}{markdown(frame)}\n{tail}"

    return BLOCK.sub(table, page)


def _geometric_mean(runs: Any, method: str, level: float) -> float:
    return float(np.exp(np.log(runs[runs["method"] == method][level].to_numpy(dtype=np.float64)).mean()))


def _text(interval: Interval, form: str) -> str:
    mean, low, high = (form.format(x) for x in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(mean=interval.mean * factor, low=interval.low * factor, high=interval.high * factor)


def _named(rows: Mapping[str, Mapping[str, str]], corner: str) -> pd.DataFrame:
    return pd.DataFrame(rows).T.rename_axis(corner)
