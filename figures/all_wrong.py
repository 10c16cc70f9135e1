"""The advantage -1 in all-wrong groups: off, on, and after a warm-up, in a simulated tabular world."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.frames import part
from figures.simulated import curves, simulate

TITLE = "The all-wrong rule, simulated"
WEIGHTING, START = "linear-r", 0.002
PROMPTS, SEEDS, STEPS, GROUP_SIZE, ANSWERS = 100, 5, 400, 8, 32
WARM_UP = 50
LEVEL = 0.5


class Case(NamedTuple):
    """A kind of policy update, and its name in the figure."""

    label: str
    gradient: str
    step_model: str
    step_size: float


CASES = (
    Case("natural gradient, η = 0.1", "natural", "outcome", 0.1),
    Case("plain gradient, η = 0.3", "vanilla", "ratio", 0.3),
    Case("plain gradient, η = 3", "vanilla", "ratio", 3.0),
)
RULES: dict[str, dict[str, Any]] = {
    "off": {"all_wrong": 0.0},
    "on": {"all_wrong": -1.0},
    "held back": {"all_wrong": -1.0, "warm_up": {"steps": WARM_UP, "shape": "hold"}},
    "ramp": {"all_wrong": -1.0, "warm_up": {"steps": 2 * WARM_UP, "shape": "ramp"}},
}
COLOURS = dict(zip(RULES, style.SPARE, strict=True))  # the weighting is one and the same
DASHES: dict[str, Any] = {"off": "solid", "on": "solid", "held back": (0, (5, 1.5)), "ramp": (0, (3, 1, 1, 1))}


def data() -> pd.DataFrame:
    """Columns part, case, rule, step, mean, low, high, reached.

    Part ``curve``: mean success by step over seeds with 95 % t-interval. Parts ``updates`` (to mean success ½) and
    ``lost`` (share of prompts never above ½): 95 % t-interval over seeds, none where a seed did not arrive.
    """
    frames = []
    for case in CASES:
        for rule, keys in RULES.items():
            run = simulate(
                {
                    "world": "tabular",
                    "weightings": [WEIGHTING],
                    "populations": [f"constant:{START}"],
                    "step_model": case.step_model,
                    "step_sizes": [case.step_size],
                    "prompts": PROMPTS,
                    "steps": STEPS,
                    "record_every": 4,
                    "seeds": SEEDS,
                    "group_size": GROUP_SIZE,
                    "tabular": {"answers": ANSWERS, "gradient": case.gradient},
                    "measures": {"targets": [LEVEL], "lifted": LEVEL},
                    **keys,
                }
            )
            where = {"case": case.label, "rule": rule}
            frames.append(curves(run.trajectories).assign(part="curve", **where))
            measures = {"updates": f"updates to mean success {LEVEL:g}", "lost": "prompts never lifted"}
            for name, measure in measures.items():
                row = part(run.summary, measure=measure)[["mean", "low", "high", "reached"]]
                frames.append(row.assign(part=name, **where))
    columns = ["part", "case", "rule", "step", "mean", "low", "high", "reached"]
    return pd.concat(frames, ignore_index=True).reindex(columns=columns)


def draw(frame: pd.DataFrame) -> Figure:
    """One panel per kind of update."""
    figure = style.page(style.WIDTH, 2.7)
    curve = part(frame, part="curve")
    panels = figure.subplots(1, curve["case"].nunique(), sharey=True, squeeze=False)[0]
    for axes, (case, rows) in zip(panels, curve.groupby("case", sort=False), strict=True):
        for rule, line in rows.groupby("rule", sort=False):
            colour = COLOURS[str(rule)]
            axes.fill_between(line["step"], line["low"], line["high"], color=colour, alpha=0.2, linewidth=0)
            axes.plot(
                line["step"],
                line["mean"],
                color=colour,
                linestyle=DASHES[str(rule)],
                linewidth=1.5,
                label=_label(str(rule)),
            )
        axes.set_xlim(0, STEPS)
        axes.set_ylim(0, 1)
        style.panel(axes, str(case), "updates", small=True)
    panels[0].set_ylabel("mean success", fontsize=8)
    style.legend_below(figure, panels[0], columns=4)
    return figure


def _label(rule: str) -> str:
    return {"held back": f"held back for {WARM_UP} updates", "ramp": f"ramp over {2 * WARM_UP} updates"}.get(rule, rule)


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    slow, fast = CASES[1].label, CASES[2].label
    return (
        f"A simulation, no language model: {PROMPTS} prompts with a softmax policy of their own over {ANSWERS} "
        f"answers, one of them right and started at ρ = {START:g}; groups of {GROUP_SIZE} at every update (regular "
        f"clock), Linear-R at scale 1, advantage 0 (off) or -1 (on) in all-wrong groups; {SEEDS} seeds, bands are 95 % "
        f"t-intervals; natural gradient: model E. Updates until mean success is {LEVEL:g}, off and on: {slow}, "
        f"{_updates(frame, slow, 'off')} and {_updates(frame, slow, 'on')}. Share of prompts never above {LEVEL:g} in "
        f"{STEPS} updates, {fast}: off {_lost(frame, fast, 'off')}, on {_lost(frame, fast, 'on')}, held back for "
        f"{WARM_UP} updates {_lost(frame, fast, 'held back')}: steps that large lose prompts to wrong answers. "
        f"Intervals: 95 % t-intervals over seeds."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Updates until mean success ½ and prompts never above it, with intervals."""
    found = {
        f"{case.label}, {_label(rule)}": {
            f"updates to {LEVEL:g}": _updates(frame, case.label, rule),
            f"never above {LEVEL:g}": _lost(frame, case.label, rule),
        }
        for case in CASES
        for rule in RULES
    }
    return pd.DataFrame(found).T.rename_axis("update, rule")


def _row(frame: pd.DataFrame, name: str, case: str, rule: str) -> Any:
    return part(frame, part=name, case=case, rule=rule).iloc[0]


def _updates(frame: pd.DataFrame, case: str, rule: str) -> str:
    row = _row(frame, "updates", case, rule)
    if row["reached"] < SEEDS:
        return f"reached by {row['reached']:.0f} of {SEEDS} seeds"
    return f"{row['mean']:.0f} [{row['low']:.0f}, {row['high']:.0f}]"


def _lost(frame: pd.DataFrame, case: str, rule: str) -> str:
    row = _row(frame, "lost", case, rule)
    return f"{row['mean']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"
