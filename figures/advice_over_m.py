"""Advice over M: what named weightings and the best table found cost at equal tokens, and what the table saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.frames import groups
from theory.beta_rates import beta_binomial_masses
from weightopt.populations.advice import advise
from weightopt.populations.lengths import Lengths
from weightopt.populations.pass_rates import PRESETS
from weightopt.populations.starts import Counts, estimate

TITLE = "Which group size, and whether a table helps"
STARTS = ("from-scratch", "post-sft")
SIZES = (4, 8, 16, 64)
PROMPTS, RESPONSES = 128, 16  # of the pilot
RESAMPLES = 200
TOKENS = Lengths("right 200, wrong 2000", (0.5,), (200.0,), (2000.0,))
COSTS: dict[str, Lengths | None] = {"responses": None, "tokens": TOKENS}
SHOWN = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r", "maxrl")
THRESHOLD = 0.02


def data() -> pd.DataFrame:
    """Columns start, cost, group_size, weighting, ratio, low, high.

    The pilot's counts are those expected of a start distribution of the paper's regimes, in whole prompts. The ratio is
    to the least cost that was found for that start and cost. ``table`` is the best table found, ``bound`` the lower
    bound; in the rows ``saving`` the ratio is the share that the table saves against the best named weighting and low
    and high its 95 % interval, elsewhere they are missing.
    """
    rows = []
    for start in STARTS:
        expected = PROMPTS * beta_binomial_masses(*PRESETS[start], RESPONSES)
        prompts = np.rint(expected).astype(int)
        seen = np.flatnonzero(prompts)
        counts = Counts(start, seen, np.full(seen.size, RESPONSES), prompts[seen])
        starts = estimate(counts, resamples=RESAMPLES)
        for cost, lengths in COSTS.items():
            choices = advise(starts, SIZES, lengths=lengths).choices
            least = min(min(choice.answer.time, choice.named.time) for choice in choices)
            for choice in choices:
                at = (start, cost, choice.group_size)
                nothing = (float("nan"), float("nan"))
                rows += [(*at, row.weighting, row.time / least, *nothing) for row in choice.answer.rows]
                rows.append((*at, "table", choice.answer.time / least, *nothing))
                rows.append((*at, "bound", choice.answer.lower_bound / least, *nothing))
                rows.append((*at, "saving", choice.saving, choice.low, choice.high))
    return pd.DataFrame(rows, columns=["start", "cost", "group_size", "weighting", "ratio", "low", "high"])


def draw(frame: pd.DataFrame) -> Figure:
    """One row per start: costs at equal tokens on the left, what the table saves on the right."""
    figure = style.page(style.WIDTH, 4.8)
    starts = frame["start"].unique()
    grid = figure.subplots(len(starts), 2, sharex=True, squeeze=False)
    for (left, right), (start, rows) in zip(grid, groups(frame, "start"), strict=True):
        tokens = rows[rows["cost"] == "tokens"]
        of = {str(name): curve for name, curve in groups(tokens, "weighting")}
        for name in SHOWN:
            left.plot(of[name]["group_size"], of[name]["ratio"], **style.line(name))
        best = {**style.line("optimal"), "label": "best table found"}
        left.plot(of["table"]["group_size"], of["table"]["ratio"], **best)
        left.plot(
            of["bound"]["group_size"], of["bound"]["ratio"], color=style.FAINT, linewidth=0.8, label="lower bound"
        )
        style.panel(left, f"{start}: cost at equal tokens", "group size M", "tokens / least", small=True)
        right.axhline(0, color=style.INK, linewidth=0.5, zorder=0)
        right.axhspan(-100 * THRESHOLD, 100 * THRESHOLD, color="#EEEEEE", zorder=-1)
        for cost, colour, shift in (
            ("responses", style.COLOURS["grpo"], 0.96),
            ("tokens", style.COLOURS["sqrt-r"], 1.04),
        ):
            saving = rows[(rows["cost"] == cost) & (rows["weighting"] == "saving")]
            low, high = saving["ratio"] - saving["low"], saving["high"] - saving["ratio"]
            right.errorbar(
                saving["group_size"] * shift,
                100 * saving["ratio"],
                100 * np.maximum(0, np.array([low, high])),
                fmt="o",
                markersize=3.5,
                linewidth=1.2,
                color=colour,
                label=f"at equal {cost}",
            )
        style.panel(right, f"{start}: saved by the table", "group size M", "saved over the best named, %", small=True)
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            sizes = frame["group_size"].unique()
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    grid[0, 1].legend(frameon=False, fontsize=style.SMALL, loc="best")
    style.legend_below(figure, grid[0, 0], columns=4)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    parts = []
    for start in STARTS:
        for cost in COSTS:
            at: Any = frame[(frame["start"] == start) & (frame["cost"] == cost)]
            saving = at[at["weighting"] == "saving"]
            most = saving.loc[saving["ratio"].idxmax()]
            small, large = (
                at[(at["group_size"] == size) & (at["weighting"] == "table")]["ratio"].iloc[0]
                for size in (min(SIZES), max(SIZES))
            )
            parts.append(
                f"{start}, equal {cost}: the table saves at most {most['ratio']:.1%} [{most['low']:.1%}, "
                f"{most['high']:.1%}] (M = {most['group_size']}), and M = {max(SIZES)} saves {1 - large / small:.1%} "
                f"against M = {min(SIZES)}"
            )
    helps = frame[(frame["weighting"] == "saving") & (frame["low"] > 0) & (frame["ratio"] >= THRESHOLD)]
    asked = frame[frame["weighting"] == "saving"]
    return (
        f"What the model of `weightopt advise` says of a pilot of {PROMPTS} prompts with {RESPONSES} responses "
        f"each, whose counts are those expected of the starts from-scratch, Beta(0.3, 3), and post-sft, Beta(2, 2); "
        f"half of the way to success 1; mean squared advantage 1 in every step. Left: tokens, right answers "
        f"{TOKENS.right[0]:.0f} and wrong ones {TOKENS.wrong[0]:.0f}, relative to the least; the bound holds for "
        f"tables without advantages in uniform groups, by prompt and step. Right: what the best such table found saves "
        f"against the best named weighting in groups of the same size, which may have such advantages (Uniform-R has), "
        f"with its 95 % interval over the starts ({RESAMPLES} bootstrap samples of the prompts); "
        f"grey: within {THRESHOLD:.0%}, below which advice is that no table will help. It helps in {len(helps)} of "
        f"{len(asked)} cases. {'; '.join(parts)}. Independent prompts, equal responses a step for all M."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Savings with their intervals."""
    rows: dict[str, dict[str, str]] = {}
    for (start, cost, size), row in groups(frame[frame["weighting"] == "saving"], "start", "cost", "group_size"):
        at: Any = row.iloc[0]
        text = f"{at['ratio']:.1%} [{at['low']:.1%}, {at['high']:.1%}]"
        rows.setdefault(f"{start}, equal {cost}", {})[f"M = {size}"] = text
    return pd.DataFrame(rows).T.rename_axis("saved by the best table")
