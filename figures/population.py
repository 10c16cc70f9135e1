"""Many prompts under one budget per step: which weighting for which target, against the bound over all weights."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.frames import groups, lookup
from theory.catalogue import WEIGHTINGS
from weightopt import PopulationProblem
from weightopt.populations.lower_bounds import shortest_time
from weightopt.populations.pass_rates import from_preset
from weightopt.populations.passage import tabulate, time_of
from weightopt.populations.population import solve
from weightopt.populations.problem import ClockName

TITLE = "Which weighting for which target of a population"
PRESETS = ("from-scratch", "post-sft")
CLOCKS: tuple[ClockName, ...] = ("regular", "effective")
PROMPTS = 30
TARGETS = {
    "from-scratch": (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "post-sft": (0.55, 0.6, 0.7, 0.8, 0.9, 0.95),
}
SOLVED_FOR = (0.5, 0.9)  # targets at which the best shared weighting is sought
QUOTED = {"from-scratch": (0.3, 0.9), "post-sft": (0.6, 0.9)}
NOTE: dict[str, Any] = {"fontsize": style.SMALL, "color": style.INK}
MOST = 1.4  # where the panels end


def data() -> pd.DataFrame:
    """Columns start, mean (at the start), clock, target, weighting, ratio.

    The ratio is time to mean success over the lower bound over all weights, prompt by prompt and step by step, at equal
    KL budget a step. ``shared`` is the best shared weighting found, ``schedule`` weights by prompt and step that are
    known, at some targets; the optimum over all weights lies between 1 and ``known``, the least time that is known. In
    the regular clock it is 1.
    """
    rows = []
    for preset in PRESETS:
        start = from_preset(preset, PROMPTS)
        for clock in CLOCKS:
            for target in TARGETS[preset]:
                problem = PopulationProblem(start.source, start.rates, start.counts, target, "kl", clock)
                if target in SOLVED_FOR:
                    solution = solve(problem, names=style.NAMES)
                    ratios = {row.weighting: row.ratio for row in solution.rows}
                    schedule = solution.schedule / solution.certificate.lower_bound
                    ratios |= {"shared": solution.ratio, "schedule": schedule}
                else:
                    args = problem.norm, problem.theta, problem.share, target, clock
                    lower, ratios = shortest_time(*args, scheduled=False).lower, {}
                    for name in style.NAMES:
                        table = tabulate(problem, WEIGHTINGS[name], WEIGHTINGS[name].kinks)
                        ratios[name] = time_of(problem, table)[0] / lower
                ratios["known"] = 1.0 if clock == "regular" else min(ratios.values())
                rows += [(preset, problem.mean, clock, target, name, ratio) for name, ratio in ratios.items()]
    return pd.DataFrame(rows, columns=["start", "mean", "clock", "target", "weighting", "ratio"])


def draw(frame: pd.DataFrame) -> Figure:
    """One row per start, one column per clock; the grey band holds the optimum over all weights."""
    figure = style.page(style.WIDTH, 4.4)
    starts, clocks = frame["start"].unique(), frame["clock"].unique()
    grid = figure.subplots(len(starts), len(clocks), sharex="row", sharey=True, squeeze=False)
    for axes, ((start, clock), rows) in zip(grid.flat, groups(frame, "start", "clock"), strict=True):
        of = {str(name): curve for name, curve in groups(rows, "weighting")}
        axes.set_xlim(rows["target"].min(), rows["target"].max())
        axes.set_ylim(0.98, MOST)
        axes.axhline(1, color=style.INK, linewidth=0.5, zorder=0)
        axes.fill_between(
            of["known"]["target"], 1, of["known"]["ratio"], color="#CCCCCC", linewidth=0, label="optimum lies here"
        )
        for name in style.NAMES:
            axes.plot(of[name]["target"], of[name]["ratio"], **style.line(name))
        if above := [style.short(name) for name in style.NAMES if of[name]["ratio"].min() > MOST]:
            axes.text(0.99, 0.97, f"above: {', '.join(above)}", transform=axes.transAxes, ha="right", va="top", **NOTE)
        if "shared" in of:
            shared = of["shared"]
            axes.plot(
                shared["target"], shared["ratio"], "D", color=style.INK, markersize=3.5, label="best shared ω found"
            )
        title = f"{start}, mean {rows['mean'].iloc[0]:.2g}, {clock} clock"
        axes.locator_params(axis="x", nbins=5)
        style.panel(axes, title, "mean success to reach", small=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("time / lower bound", fontsize=8)
    style.legend_below(figure, grid[0, 0], columns=4)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    ratio = _ratios(frame)
    parts = []
    for start in PRESETS:
        for clock in CLOCKS:
            listed = []
            for target in QUOTED[start]:
                named = ratio.loc[start, clock, target][list(style.NAMES)]
                listed.append(f"{style.short(str(named.idxmin()))} to {target:g} ({named.min():.3f})")
            parts.append(f"{start}, {clock} clock, {' and '.join(listed)}")
    shared = frame[frame["weighting"] == "shared"]["ratio"].max()
    loose = frame[frame["weighting"] == "known"]["ratio"].max()
    return (
        f"Time until mean success reaches a target, over the lower bound on the time of all weights, prompt by prompt "
        f"and step by step; every step spends the same KL budget, the root of the mean of ρ(1-ρ)ω². Starts: "
        f"from-scratch Beta(0.3, 3), post-sft Beta(2, 2), {PROMPTS} prompts at quantile midpoints, floor 0.001; no "
        f"weight from 0.99 on. Regular clock: steps; effective clock: draws per prompt, each drawn until it succeeds. "
        f"In the regular clock the bound is the geodesic distance, which is attained; in the effective clock the "
        f"optimum lies between 1 and the least time known, the grey band (up to {loose:.3f}). Best named weighting: "
        f"{'; '.join(parts)}. The best shared ω(ρ) found, sought at "
        f"{' and '.join(f'{target:g}' for target in SOLVED_FOR)}, is within {shared - 1:.1%} of the bound. Panels end "
        f"at {MOST:g}. No sampling noise, no shared parameters."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Times over the bound at the quoted targets."""
    rows = {}
    for start in PRESETS:
        for clock in CLOCKS:
            for target in QUOTED[start]:
                named = _ratios(frame).loc[start, clock, target][list(style.NAMES)]
                rows[f"{start}, {clock} clock, to {target:g}"] = named.map("{:.3f}".format)
    return pd.DataFrame(rows).T.rename_axis("time / lower bound").rename(columns=style.label)


def _ratios(frame: pd.DataFrame) -> Any:
    return lookup(frame, ["start", "clock", "target", "weighting"], "ratio")
