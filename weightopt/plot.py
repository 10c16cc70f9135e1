"""The picture of one solved weighting; the figures of the project live in `figures`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory import catalogue
from theory.clocks import Tabulated
from weightopt.answer import Answer
from weightopt.comparison import NAMES
from weightopt.curves.curve import CurveAnswer
from weightopt.palette import COLOURS, DASHES, INK
from weightopt.table import WeightTable

# What a picture may be called, and what matplotlib would write into it: its version and the date.
ENDINGS: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None},
}
TICKS = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


def draw_weights(curve: CurveAnswer, table: WeightTable, solved: Answer | None = None, ending: str = ".png") -> bytes:
    """The picture of `weights_figure` as the bytes of a file with one of `ENDINGS`."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "weightopt"}):  # names in the file, else drawn at random
        weights_figure(curve, table, solved).savefig(buffer, format=ending[1:], metadata=ENDINGS[ending])
    return buffer.getvalue()


def weights_figure(curve: CurveAnswer, table: WeightTable, solved: Answer | None = None) -> Any:
    """Clock, weight and effective weight over success probability, the axis even in log-odds; a matplotlib figure.

    The named weightings lie over the best curve, so that one that equals it is seen, each scaled to the same budget.
    Dots show where a group of M looks the table up, or the rows of a measured clock.

    Parameters
    ----------
    curve
        The best curve.
    table
        Its table, or the one that was solved for groups.
    solved
        The answer that the table is from, where it is not the curve; the picture states its certified gap.
    """
    from matplotlib.figure import Figure

    problem = curve.problem
    figure = Figure(figsize=(9.0, 3.4), dpi=200, layout="constrained")
    panels = figure.subplots(1, 3)
    rho = curve.grid()
    _clock(panels[0], curve, rho)
    weight = curve.weighting(rho)
    named = {name: _scaled(curve, catalogue.WEIGHTINGS[name], rho) for name in NAMES}
    group = np.array(table.rho) if table.group_size is not None else np.array([])
    at_group = np.array(table.weight) if table.group_size is not None else group
    inside = (group >= problem.start) & (group <= problem.target)
    dots = f"{'curve' if solved is None else 'solved table'} at K/{table.group_size}"
    for ax, power, title, label in (
        (panels[1], 0, "prompt weight", "ω"),
        (panels[2], 1, "effective weight", "ρ(1-ρ) ω"),
    ):
        factor = (rho * (1 - rho)) ** power
        ax.plot(rho, factor * weight, color=COLOURS["optimal"], linewidth=3.6, label="best curve")
        for name, values in named.items():
            look = {"color": COLOURS[name], "linestyle": DASHES[name], "label": catalogue.WEIGHTINGS[name].label}
            ax.plot(rho, factor * values, linewidth=1.2, **look)
        if inside.any():
            at = (group * (1 - group)) ** power * at_group
            look = {"color": INK, "markerfacecolor": "white", "markersize": 4.5}
            ax.plot(group[inside], at[inside], "o", label=dots, zorder=5, **look)
        ax.set_title(title, loc="left", fontsize=10, color=INK)
        ax.set_ylabel(label, fontsize=9, color=INK)
        ax.set_yscale("log" if power == 0 and weight.min() > 0 else "linear")
        if power:
            ax.set_ylim(bottom=0)
    for ax in panels:
        _log_odds(ax, problem.start, problem.target)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    certified, of = (curve, "curve") if solved is None else (solved, "table")
    figure.suptitle(
        f"{problem.clock.name} clock, {problem.start:g} → {problem.target:g}, curves at budget {problem.budget:g}; "
        f"certified gap of the {of} {certified.gap:.1e}",
        fontsize=9,
        color=INK,
    )
    return figure


def _clock(ax: Any, answer: CurveAnswer, rho: NDArray[np.float64]) -> None:
    """What a unit of update time costs; of a measured clock its rows, and what is taken to be between them."""
    clock = answer.problem.clock
    ax.plot(rho, clock(rho), color=INK, linewidth=1.6)
    title = "clock"
    if isinstance(clock, Tabulated):
        at = np.array([each for each in clock.measured.rho if rho[0] <= each <= rho[-1]])
        ax.plot(at, clock(at), "o", color=INK, markersize=3.5)
        title = "clock, as read"
    ax.set_title(title, loc="left", fontsize=10, color=INK)
    ax.set_ylabel("c(ρ), cost of a unit of update time", fontsize=9, color=INK)
    values = clock(rho)
    ax.set_yscale("log" if values.max() > 5 * values.min() else "linear")
    if ax.get_yscale() == "linear":
        ax.set_ylim(bottom=0)


def _scaled(answer: CurveAnswer, weighting: Any, rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """A named weighting that spends the budget of the problem, to the accuracy of a picture."""
    problem = answer.problem
    values = np.asarray(weighting(rho), dtype=float)
    density = 1.0 if problem.budget_density is None else problem.budget_density(rho)
    return values * problem.budget / float(np.trapezoid(values * density, rho))


def _log_odds(ax: Any, start: float, target: float) -> None:
    """Success probabilities as ticks of an axis even in log-odds."""
    ax.set_xscale("logit")
    span = np.log(target / (1 - target)) - np.log(start / (1 - start))
    odds = np.exp(0.03 * span)
    low, high = start / (1 - start) / odds, target / (1 - target) * odds
    ax.set_xlim(low / (1 + low), high / (1 + high))
    ticks = sorted({tick for tick in TICKS if start < tick < target} | {start, target})
    kept = [tick for tick in ticks if tick in (start, target) or _apart(tick, (start, target), span)]
    ax.set_xticks(kept, [f"{tick:g}" for tick in kept])
    ax.minorticks_off()
    ax.tick_params(labelsize=8)
    ax.set_xlabel("success probability ρ, even in log-odds", color=INK, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _apart(tick: float, ends: tuple[float, float], span: float) -> bool:
    """Whether the label of a tick has room beside those of the ends."""
    return all(abs(np.log(tick / (1 - tick)) - np.log(end / (1 - end))) > 0.09 * span for end in ends)
