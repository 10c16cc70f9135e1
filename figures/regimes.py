"""From scratch and after supervised fine-tuning, in a simulated world of prompts that share skills."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.frames import groups, part
from figures.simulated import curves, simulate

TITLE = "From scratch and after fine-tuning, simulated"
NAMES = ("grpo", "rloo", "linear-r", "sqrt-r", "uniform-r")
# By start: levels of mean success to reach, and the ranges from which the scale of a weighting is taken.
LEVELS = {"scratch": (0.5, 0.8), "sft": (0.7, 0.9)}
BUDGETS = {"scratch": ((0.02, 0.8), (0.01, 0.9)), "sft": ((0.4, 0.9), (0.01, 0.9))}
READS = {"scratch": "from scratch", "sft": "after fine-tuning"}
PROMPTS, SKILLS, SEEDS, STEP_SIZE = 128, 32, 6, 0.05
STEPS = 200
SHOWN = {"scratch": 200, "sft": 80}  # later the natural gradient of solved prompts is no longer stable
SETTINGS: dict[str, Any] = {"world": "shared", "populations": ["beta:0.5,20,0.002"], "group_size": 16}


def data() -> pd.DataFrame:
    """Columns part, start, budget (its range), weighting, level, step, mean, low, high, reached.

    Part ``curve``: mean success by step, over seeds, 95 % t-interval; weights scaled over the first range. Part
    ``ratio``: updates to a level over GRPO's, paired by seed, 95 % t-interval.
    """
    frames = []
    for start, levels in LEVELS.items():
        for at, budget in enumerate(BUDGETS[start]):
            run = simulate(
                SETTINGS
                | {
                    "weightings": list(NAMES),
                    "step_sizes": [STEP_SIZE],
                    "equal_budget": list(budget),
                    "prompts": PROMPTS,
                    "steps": STEPS,
                    "record_every": 2,
                    "seeds": SEEDS,
                    "shared": {"skills": SKILLS, "skills_per_prompt": 4, "conflict": 0.1, "start": start},
                    "measures": {"targets": list(levels)},
                }
            )
            where = {"start": start, "budget": f"{budget[0]:g} to {budget[1]:g}"}
            if at == 0:
                shown = run.trajectories[run.trajectories["step"] <= SHOWN[start]]
                for name, rows in groups(shown, "weighting"):
                    frames.append(curves(rows).assign(part="curve", weighting=name, **where))
            for level in levels:
                rows = part(run.summary, measure=f"updates to mean success {level:g}")
                found = rows[["weighting", "reached"]].assign(part="ratio", level=level, **where)
                frames.append(found.assign(mean=rows["ratio"], low=rows["ratio_low"], high=rows["ratio_high"]))
    columns = ["part", "start", "budget", "weighting", "level", "step", "mean", "low", "high", "reached"]
    return pd.concat(frames, ignore_index=True).reindex(columns=columns)


def draw(frame: pd.DataFrame) -> Figure:
    """Above: mean success by update. Below: updates to a level, relative to GRPO's."""
    figure = style.page(style.WIDTH, 4.4)
    grid = figure.subplots(2, 2, gridspec_kw={"height_ratios": [1.25, 1]})
    for (above, below), (start, rows) in zip(grid.T, groups(frame, "start"), strict=True):
        for name, curve in groups(part(rows, part="curve"), "weighting"):
            above.fill_between(
                curve["step"], curve["low"], curve["high"], color=style.COLOURS[str(name)], alpha=0.2, linewidth=0
            )
            above.plot(curve["step"], curve["mean"], **style.line(str(name)))
        above.set_ylim(0, 1)
        above.set_xlim(left=0)
        style.panel(above, READS[str(start)], "updates", small=True)
        _forest(below, part(rows, part="ratio"))
    grid[0, 0].set_ylabel("mean success", fontsize=8)
    style.legend_below(figure, grid[0, 0], columns=3)
    style.foot(figure)
    return figure


def _forest(axes: Axes, rows: Any) -> None:
    """One row per weighting except GRPO, two levels each; weights scaled over the first range."""
    names = [name for name in rows["weighting"].unique() if name != "grpo"]
    levels = list(rows["level"].unique())
    rows = part(rows, budget=rows["budget"].iloc[0])
    axes.axvline(1, color=style.INK, linewidth=0.6)
    for (i, name), (k, level) in ((a, b) for a in enumerate(names) for b in enumerate(levels)):
        row = part(rows, weighting=name, level=level).iloc[0]
        y, colour = i + 0.3 * (k - 0.5), style.COLOURS[name]
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.2)
        axes.plot(row["mean"], y, "os"[k], color=colour, markersize=4.5)
    axes.set_yticks(range(len(names)), [style.short(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xticks([0.6, 0.8, 1, 1.25, 1.6], ["0.6", "0.8", "1", "1.25", "1.6"])
    axes.set_xlim(0.55, 2)
    axes.minorticks_off()
    style.panel(axes, "", f"updates / GRPO's: ● to {levels[0]:g}, ■ to {levels[1]:g}", small=True)
    axes.tick_params(axis="y", length=0)


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    first = part(frame, part="curve", step=0).groupby("start", sort=False)["mean"].first()
    ratio = _ratios(frame)
    level = LEVELS["sft"][0]
    own, wide = (ratio.loc[("sft", f"{low:g} to {high:g}", level, "linear-r")] for low, high in BUDGETS["sft"])
    return (
        f"{PROMPTS} prompts, four of {SKILLS} shared skills each, a tenth of the signs in conflict, natural gradient; "
        f"groups of 16 at every update, so updates count responses too (regular clock); η = {STEP_SIZE:g} for all, "
        f"{SEEDS} seeds. Mean success starts at {first['scratch']:.3f} from scratch, and at {first['sft']:.2f}, spread "
        f"out, after fine-tuning on half of the prompts. Above: mean over seeds, 95 % t-interval. Below: updates "
        f"relative to GRPO's, paired by seed, 95 % t-interval. Each weighting is scaled to the drift budget 1 "
        f"between the mean success at the start and the higher level. The scale decides: after fine-tuning, to "
        f"{level:g}, Linear-R takes {_text(own)} times GRPO's updates so, and {_text(wide)} where weights are scaled "
        f"over 0.01 to 0.9 (table). Step sizes were not tuned by weighting."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Updates relative to GRPO's, with intervals."""
    found, ratio = {}, _ratios(frame)
    for start, levels in LEVELS.items():
        for low, high in BUDGETS[start]:
            for level in levels:
                where = start, f"{low:g} to {high:g}", level
                found[f"{READS[start]}, scaled over {low:g} to {high:g}, to {level:g}"] = {
                    style.label(name): _text(ratio.loc[(*where, name)]) for name in NAMES if name != "grpo"
                }
    return pd.DataFrame(found).T.rename_axis("updates / GRPO's")


def _ratios(frame: pd.DataFrame) -> Any:
    return part(frame, part="ratio").set_index(["start", "budget", "level", "weighting"]).sort_index()


def _text(row: Any) -> str:
    if row["reached"] < SEEDS:
        return f"reached by {row['reached']:.0f} of {SEEDS} seeds"
    if row["mean"] != row["mean"]:  # not a number
        return "GRPO not by all seeds"
    return f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
